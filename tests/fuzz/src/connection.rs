//! An HTTP/2 connection that is given bytes: what it tells and what it sends, in whatever pieces they come.

use std::collections::BTreeMap;

use ringgate::h2::frame::{FrameHead, HEAD_BYTES, PREFACE};
use ringgate::h2::{Event, Heads, Session};

/// What a connection came to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Came {
    /// Everything that was told, payloads apart.
    told: Vec<String>,
    /// Of each stream.
    pub(crate) payloads: BTreeMap<u32, Vec<u8>>,
    /// Frames that were sent, answers apart.
    sent: Vec<(u8, Vec<u8>)>,
    failed: bool,
}

/// HEADERS and CONTINUATION: requests are answered when their piece has been read, so where that stands among the other
/// frames is a matter of the pieces.
const ANSWERS: [u8; 2] = [1, 9];

/// Runs a connection with the bytes whole and in pieces; it comes to the same.
pub(crate) fn same_in_pieces(of: &str, run: impl Fn(usize) -> Came) {
    let whole = run(usize::MAX);
    for pieces in [1, 7] {
        assert_eq!(whole, run(pieces), "{of}, pieces of {pieces}");
    }
}

/// Gives `data` to a connection; `each` hears of every event, and what it has come to so far.
pub(crate) fn drive<H: Heads>(
    mut session: Session<H>,
    data: &[u8],
    pieces: usize,
    mut each: impl FnMut(&mut Session<H>, &Event<H>, &Came),
) -> Came {
    let mut came = Came::default();
    for piece in data.chunks(pieces) {
        let mut events = Vec::new();
        let taken = session.receive(1, piece, &mut |event| events.push(event));
        came.failed = taken.is_err();
        for event in events {
            if let Event::Data { id, range } = &event {
                let payload = came.payloads.entry(*id).or_default();
                payload.extend_from_slice(&piece[range.clone()]);
            } else {
                came.told.push(format!("{event:?}"));
            }
            each(&mut session, &event, &came);
        }
        if came.failed {
            break;
        }
    }
    came.sent = frames(session.output());
    came
}

/// Takes what a connection sends apart, which is whole frames.
fn frames(output: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = output.strip_prefix(PREFACE).unwrap_or(output);
    let mut sent = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest
            .split_first_chunk::<HEAD_BYTES>()
            .expect("a whole head");
        let kind = FrameHead::parse(*head).kind;
        let len = usize::try_from(FrameHead::parse(*head).len).expect("a length");
        let (payload, after) = after.split_at_checked(len).expect("a whole frame");
        if !ANSWERS.contains(&kind) {
            sent.push((kind, payload.to_vec()));
        }
        rest = after;
    }
    sent
}
