//! Connections of tunnels: what a peer sends means the same in any pieces, and what we answer is made of whole frames.
//! Header blocks: read as another decoder reads them.

use std::collections::BTreeMap;

use ringgate::h2::frame::{FrameHead, HEAD_BYTES, PREFACE};
use ringgate::h2::hpack::{Decoder, HpackError};
use ringgate::hbone::head::Fields;
use ringgate::hbone::{CLIENT, ConnectHead, Event, ResponseHead, SERVER, Session};

/// What a connection came to.
#[derive(Debug, Default, PartialEq)]
struct Came {
    /// Everything that was told, payloads apart.
    told: Vec<String>,
    payloads: BTreeMap<u32, Vec<u8>>,
    sent: Vec<u8>,
    failed: bool,
}

/// Frames of a client behind its preface, and the same bytes as a server's.
pub fn run(data: &[u8]) {
    let begun = [PREFACE, data].concat();
    let server = |pieces: usize| {
        let mut session = Session::new(SERVER);
        drive(&mut session, begun.chunks(pieces), |session, event| {
            if let Event::Request { id, head, .. } = event {
                assert!(!head.connect || !head.authority.contains(['\r', '\n', '\0']));
                let status = if head.connect { 200 } else { 400 };
                session.respond(*id, &ResponseHead::new(status), !head.connect);
                session.data_head(*id, 10, false);
            }
        })
    };
    let client = |pieces: usize| {
        let mut session = Session::new(CLIENT);
        let fields = Fields::default();
        let head = ConnectHead {
            authority: "a:1",
            fields: &fields,
        };
        for _ in 0..3 {
            session.open(&head).expect("a new connection takes streams");
        }
        drive(&mut session, data.chunks(pieces), |_, _| {})
    };
    for pieces in [1, 7] {
        assert_eq!(
            server(usize::MAX),
            server(pieces),
            "server, pieces of {pieces}"
        );
        assert_eq!(
            client(usize::MAX),
            client(pieces),
            "client, pieces of {pieces}"
        );
    }
}

fn drive<'d>(
    session: &mut Session,
    input: impl Iterator<Item = &'d [u8]>,
    mut each: impl FnMut(&mut Session, &Event),
) -> Came {
    let mut came = Came::default();
    for piece in input {
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
            each(session, &event);
        }
        if came.failed {
            break;
        }
    }
    // When a stream is answered is a matter of the pieces; that frames are whole is not.
    let mut rest = session.output();
    rest = rest.strip_prefix(PREFACE).unwrap_or(rest);
    while !rest.is_empty() {
        let (head, after) = rest
            .split_first_chunk::<HEAD_BYTES>()
            .expect("a whole head");
        let head = FrameHead::parse(*head);
        let len = usize::try_from(head.len).expect("a length");
        let (payload, after) = after.split_at_checked(len).expect("a whole frame");
        if head.kind == 7 {
            came.sent.extend_from_slice(payload);
        }
        rest = after;
    }
    came
}

type Block = Vec<(Vec<u8>, Vec<u8>)>;

/// Two header blocks, the first byte being the length of the first.
pub fn hpack(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let (one, two) = rest.split_at(usize::from(*first).min(rest.len()));
    let (mut ours, mut other) = (Decoder::default(), loona_hpack::Decoder::new());
    other.set_max_allowed_table_size(4096);
    for block in [one, two] {
        let mut fields = Block::new();
        let got = ours.decode(block, |n, v| fields.push((n.to_vec(), v.to_vec())));
        let want = other.decode(block);
        match (got, want) {
            (Ok(()), Ok(want)) => assert_eq!(fields, want),
            // It wants a field behind a change of the size; the standard only wants the change before fields.
            (Ok(()), Err(loona_hpack::decoder::DecoderError::SizeUpdateAtEnd)) => {
                assert!(fields.is_empty());
            }
            (Ok(()), Err(want)) => panic!("it is refused elsewhere: {want}"),
            // It takes a change of the size behind fields.
            (Err(HpackError::Size), _) => return,
            (Err(_), Err(_)) => return,
            (Err(got), Ok(want)) => panic!("{got}, but elsewhere {want:?}"),
        }
    }
}
