//! Connections of requests: what a peer sends means the same in any pieces, no request with what a header cannot hold is
//! told, content is as long as it was announced, and what we answer is made of whole frames.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use ringgate::h2::frame::{FrameHead, HEAD_BYTES, PREFACE};
use ringgate::h2::message::Request;
use ringgate::h2::{Event, RequestHead, Requests, Session, Settings, Side};

const SETTINGS: Settings = Settings {
    side: Side::Server,
    window: 65_536,
    connection_window: 1 << 20,
    max_frame: 16_384,
    header_list: 65_536,
    max_streams: 100,
    charged: 8192,
    advance: 1 << 20,
    extended_connect: true,
    early_reset_ms: 1000,
};

/// What a connection came to.
#[derive(Debug, Default, PartialEq)]
struct Came {
    /// Everything that was told, payloads apart.
    told: Vec<String>,
    payloads: BTreeMap<u32, Vec<u8>>,
    lengths: BTreeMap<u32, u64>,
    failed: bool,
}

/// Frames of a client behind its preface, and the same bytes as a server's.
pub fn run(data: &[u8]) {
    let begun = [PREFACE, data].concat();
    let server = |pieces: usize| {
        let mut session = Session::<Requests>::new(SETTINGS);
        drive(&mut session, begun.chunks(pieces), |session, event| {
            if let Event::Request { id, head, .. } = event {
                check(head);
                session.take(*id);
                session.respond_interim(*id, StatusCode::EARLY_HINTS, &HeaderMap::new());
                session.respond(*id, StatusCode::OK, &head.headers, false);
                session.data_head(*id, 10, false);
            }
        })
    };
    let client = |pieces: usize| {
        let mut session = Session::<Requests>::new(Settings {
            side: Side::Client,
            ..SETTINGS
        });
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            let request = Request {
                method: &method,
                scheme: "https",
                authority: "a:1",
                path: "/",
                protocol: None,
                fields: std::iter::empty::<(&HeaderName, &HeaderValue)>(),
                length: None,
            };
            session
                .open(request, method == Method::GET)
                .expect("a new connection takes streams");
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

fn check(head: &RequestHead) {
    let texts = [&head.authority, &head.path, &head.protocol];
    let values = texts.into_iter().flatten().chain(head.headers.values());
    for value in values {
        assert!(!value.as_bytes().iter().any(|b| b"\r\n\0".contains(b)));
        assert_eq!(value.as_bytes().trim_ascii(), value.as_bytes());
    }
    for name in ["connection", "transfer-encoding", "upgrade", "keep-alive"] {
        assert!(!head.headers.contains_key(name));
    }
    assert!(head.oversized || head.method == Method::CONNECT || head.path.is_some());
}

fn drive<'d>(
    session: &mut Session<Requests>,
    input: impl Iterator<Item = &'d [u8]>,
    mut each: impl FnMut(&mut Session<Requests>, &Event<Requests>),
) -> Came {
    let mut came = Came::default();
    for piece in input {
        let mut events = Vec::new();
        let taken = session.receive(1, piece, &mut |event| events.push(event));
        came.failed = taken.is_err();
        for event in events {
            match &event {
                Event::Data { id, range } => {
                    let payload = came.payloads.entry(*id).or_default();
                    payload.extend_from_slice(&piece[range.clone()]);
                }
                Event::Request { id, head, .. } => {
                    let length = head.headers.get("content-length");
                    let length = length.and_then(|v| v.to_str().ok()?.parse().ok());
                    came.lengths.extend(length.map(|length| (*id, length)));
                }
                Event::End { id } => {
                    let got = came.payloads.get(id).map_or(0, Vec::len);
                    if let Some(length) = came.lengths.get(id) {
                        assert_eq!(u64::try_from(got).ok(), Some(*length));
                    }
                }
                Event::Malformed { .. }
                | Event::Interim { .. }
                | Event::Response { .. }
                | Event::Trailers { .. }
                | Event::Reset { .. }
                | Event::Room { .. }
                | Event::Pong
                | Event::GoAway { .. } => {}
            }
            if !matches!(event, Event::Data { .. }) {
                came.told.push(format!("{event:?}"));
            }
            each(session, &event);
        }
        if came.failed {
            break;
        }
    }
    let mut rest = session.output();
    rest = rest.strip_prefix(PREFACE).unwrap_or(rest);
    // A server of the test sends the heads of its DATA, and no DATA.
    while !rest.is_empty() {
        let (head, after) = rest
            .split_first_chunk::<HEAD_BYTES>()
            .expect("a whole head");
        let len = usize::try_from(FrameHead::parse(*head).len).expect("a length");
        rest = after.split_at_checked(len).expect("a whole frame").1;
    }
    came
}
