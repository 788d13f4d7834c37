//! Every rule of a session, frame by frame.

use super::*;
use crate::h2::frame::{self, FrameHead, MAX_STREAM, MAX_WINDOW, PREFACE, flag, kind, setting};
use crate::h2::hpack::{self, Decoder};
use crate::h2::{Flood, OpenError};
use crate::hbone::head::{Fields, Kept};

mod bounds;
mod errors;
mod windows;

/// A session with what it told.
struct Tested {
    session: Session,
    events: Vec<Event>,
    data: Vec<u8>,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::put(&mut out, kind, flags, stream, payload);
    out
}

fn settings(pairs: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = pairs
        .iter()
        .flat_map(|(id, v)| [&id.to_be_bytes()[..], &v.to_be_bytes()].concat())
        .collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

fn update(stream: u32, more: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn reset(stream: u32, code: Code) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.0.to_be_bytes())
}

fn connect_block() -> Vec<u8> {
    let mut block = Vec::new();
    let fields = Fields::default();
    let head = ConnectHead {
        authority: "a.b:80",
        fields: &fields,
    };
    head.encode(&mut block);
    block
}

fn connect(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &connect_block())
}

fn answer(stream: u32, status: u16, flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    ResponseHead::new(status).encode(&mut block);
    frame(kind::HEADERS, flag::END_HEADERS | flags, stream, &block)
}

impl Tested {
    fn new(own: Settings) -> Self {
        Self {
            session: Session::new(own),
            events: Vec::new(),
            data: Vec::new(),
        }
    }

    /// A session after the settings of both sides; nothing of it is left in the output.
    fn begun(own: Settings) -> Self {
        let mut tested = Self::new(own);
        if own.side == Side::Server {
            tested.take(PREFACE).unwrap();
        }
        tested.take(&settings(&[])).unwrap();
        tested.sent();
        tested
    }

    fn server() -> Self {
        Self::begun(SERVER)
    }

    /// A client with a tunnel that is open, and its stream.
    fn client() -> (Self, u32) {
        let mut tested = Self::begun(CLIENT);
        let id = tested.open();
        tested.take(&answer(id, 200, 0)).unwrap();
        tested.sent();
        tested.events.clear();
        (tested, id)
    }

    fn open(&mut self) -> u32 {
        let fields = Fields::default();
        let head = ConnectHead {
            authority: "a.b:80",
            fields: &fields,
        };
        self.session.open(&head).unwrap()
    }

    fn take(&mut self, input: &[u8]) -> Result<(), ConnectionError> {
        let (events, data) = (&mut self.events, &mut self.data);
        self.session.receive(1, input, &mut |event| {
            if let Event::Data { range, .. } = &event {
                data.extend_from_slice(&input[range.clone()]);
            }
            events.push(event);
        })
    }

    /// The fields of a block that was sent.
    fn fields(block: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        let each = |name: &[u8], value: &[u8]| found.push((name.to_vec(), value.to_vec()));
        Decoder::default().decode(block, each).unwrap();
        found
    }

    /// The frames that were sent: kind, flags, stream, payload.
    fn sent(&mut self) -> Vec<(u8, u8, u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        self.session.take_output(&mut bytes);
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        if let Some(after) = rest.strip_prefix(&PREFACE[..]) {
            rest = after;
        }
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            let head = FrameHead::parse(*head);
            let (payload, after) = after.split_at(head.len as usize);
            frames.push((head.kind, head.flags, head.stream, payload.to_vec()));
            rest = after;
        }
        assert!(rest.is_empty());
        frames
    }

    /// Streams that were reset, and why.
    fn resets(&mut self) -> Vec<(u32, Code)> {
        let sent = self.sent();
        let resets = sent.iter().filter(|f| f.0 == kind::RST_STREAM);
        resets
            .map(|(.., id, p)| (*id, Code(u32::from_be_bytes(p[..4].try_into().unwrap()))))
            .collect()
    }
}

/// What breaks the connection, and with which code; `input` follows an open stream 1.
fn breaks(own: Settings, input: &[u8], code: Code) {
    let mut tested = match own.side {
        Side::Client => Tested::client().0,
        Side::Server => {
            let mut tested = Tested::server();
            tested.take(&connect(1)).unwrap();
            tested.sent();
            tested
        }
    };
    let got = tested.take(input).map_err(|e| e.code);
    assert_eq!(got, Err(code), "{input:x?}");
    let sent = tested.sent();
    let (kind, _, id, payload) = sent.last().unwrap();
    assert_eq!((*kind, *id), (kind::GOAWAY, 0));
    assert_eq!(payload[4..8], code.0.to_be_bytes());
    // Nothing more is taken.
    assert!(tested.take(&frame(kind::PING, 0, 0, &[0; 8])).is_err());
    assert!(tested.sent().is_empty() && tested.session.is_finished());
}

/// Heads of ours and a head of the peer that is not yet whole have nothing to do with each other.
#[test]
fn a_head_is_written_while_the_peers_is_incomplete() {
    let block = connect_block();
    let (some, rest) = block.split_at(block.len() / 2);
    let mut server = Tested::server();
    server.take(&connect(1)).unwrap();
    server.take(&frame(kind::HEADERS, 0, 3, some)).unwrap();
    assert!(server.session.respond(1, &ResponseHead::new(200), false));
    let sent = server.sent();
    assert_eq!(sent.len(), 1);
    let status = (b":status".to_vec(), b"200".to_vec());
    assert_eq!(Tested::fields(&sent[0].3), [status]);
    server
        .take(&frame(kind::CONTINUATION, flag::END_HEADERS, 3, rest))
        .unwrap();
    let heads: Vec<_> = server
        .events
        .iter()
        .filter_map(|event| {
            let Event::Request { id, head, .. } = event else {
                return None;
            };
            Some((*id, head.authority.clone()))
        })
        .collect();
    assert_eq!(heads.len(), 2);
    assert_eq!((heads[0].0, heads[1].0), (1, 3));
    assert_eq!(heads[0].1, heads[1].1);
    // The same at the other end: half an answer, and one more tunnel.
    let mut client = Tested::begun(CLIENT);
    let first = client.open();
    let mut answer = Vec::new();
    ResponseHead::new(200).encode(&mut answer);
    answer.extend_from_slice(&[0, 1, b'x', 1, b'y']);
    client
        .take(&frame(kind::HEADERS, 0, first, &answer[..2]))
        .unwrap();
    client.sent();
    client.open();
    assert_eq!(client.sent()[0].3, block);
    client
        .take(&frame(
            kind::CONTINUATION,
            flag::END_HEADERS,
            first,
            &answer[2..],
        ))
        .unwrap();
    assert!(matches!(
        &client.events[..],
        [Event::Response { id, head }] if *id == first && head.status == 200
    ));
}

#[test]
fn both_sides_begin_with_ztunnels_settings() {
    let mut client = Tested::new(CLIENT);
    assert!(client.session.output().starts_with(PREFACE));
    let set = |pairs: &[(u16, u32)]| settings(pairs)[9..].to_vec();
    let (window, frame_bytes) = (4 << 20, 1 << 20);
    let want = [(2, 0), (4, window), (5, frame_bytes), (6, 16 << 10)];
    let more = 16_711_681_u32.to_be_bytes().to_vec();
    assert_eq!(
        client.sent(),
        [
            (kind::SETTINGS, 0, 0, set(&want)),
            (kind::WINDOW_UPDATE, 0, 0, more.clone())
        ]
    );
    let want = [(3, 200), (4, window), (5, frame_bytes), (6, 64 << 10)];
    assert_eq!(
        Tested::new(SERVER).sent(),
        [
            (kind::SETTINGS, 0, 0, set(&want)),
            (kind::WINDOW_UPDATE, 0, 0, more)
        ]
    );
}

#[test]
fn a_connection_begins_with_preface_and_settings() {
    for input in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nXX",
        &[&PREFACE[..], &connect(1)].concat(),
        &[&PREFACE[..], &frame(kind::SETTINGS, flag::ACK, 0, b"")].concat(),
    ] {
        let mut tested = Tested::new(SERVER);
        let got = tested.take(input).map_err(|e| e.code);
        assert_eq!(got, Err(Code::PROTOCOL_ERROR));
    }
    let mut tested = Tested::new(SERVER);
    for byte in [&PREFACE[..], &settings(&[(99, 7)]), &connect(1)].concat() {
        tested.take(&[byte]).unwrap();
    }
    assert!(matches!(
        &tested.events[..],
        [Event::Request { id: 1, head, end: false }] if &*head.authority == "a.b:80"
    ));
    assert!(
        tested
            .sent()
            .contains(&(kind::SETTINGS, flag::ACK, 0, vec![]))
    );
}

#[test]
fn a_tunnel_from_head_to_end() {
    let mut tested = Tested::server();
    tested.take(&connect(1)).unwrap();
    assert_eq!(tested.session.data_head(1, 1, false), None, "before 200");
    let mut head = ResponseHead::new(200);
    head.fields = head.fields.with(Kept::Baggage, "b");
    assert!(tested.session.respond(1, &head, false));
    assert!(!tested.session.respond(1, &head, false), "twice");
    tested.take(&frame(kind::DATA, 0, 1, b"hello")).unwrap();
    let padded = [&[3][..], b"more", &[0; 3]].concat();
    let flags = flag::PADDED | flag::END_STREAM;
    tested.take(&frame(kind::DATA, flags, 1, &padded)).unwrap();
    assert_eq!(tested.data, b"hellomore");
    assert_eq!(tested.events.last(), Some(&Event::End { id: 1 }));
    // Half closed: our side goes on.
    assert!(tested.session.data_head(1, 3, false).is_some());
    assert_eq!(tested.session.open_streams(), 1);
    assert!(tested.session.data_head(1, 0, true).is_some());
    assert_eq!(tested.session.open_streams(), 0);
    assert_eq!(tested.session.data_head(1, 1, false), None);
    tested.session.forget(1);
    assert!(tested.resets().is_empty(), "a closed stream is not reset");
    assert!(tested.session.streams.is_empty());
}

#[test]
fn a_client_sees_the_answer() {
    let mut tested = Tested::begun(CLIENT);
    let ids = [tested.open(), tested.open(), tested.open()];
    assert_eq!(ids, [1, 3, 5]);
    let early = [answer(1, 100, 0), answer(1, 103, 0), answer(1, 200, 0)];
    tested.take(&early.concat()).unwrap();
    tested.take(&answer(3, 503, flag::END_STREAM)).unwrap();
    tested.take(&answer(5, 401, 0)).unwrap();
    tested.take(&frame(kind::DATA, 0, 5, b"no")).unwrap();
    let mut trailer = Vec::new();
    hpack::put(&mut trailer, b"x", b"y");
    let flags = flag::END_HEADERS | flag::END_STREAM;
    tested
        .take(&frame(kind::HEADERS, flags, 5, &trailer))
        .unwrap();
    let head = ResponseHead::new;
    assert_eq!(
        tested.events,
        [
            Event::Interim {
                id: 1,
                head: head(100)
            },
            Event::Interim {
                id: 1,
                head: head(103)
            },
            Event::Response {
                id: 1,
                head: head(200)
            },
            Event::Response {
                id: 3,
                head: head(503)
            },
            Event::End { id: 3 },
            Event::Response {
                id: 5,
                head: head(401)
            },
            Event::Data {
                id: 5,
                range: 9..11
            },
            Event::Trailers { id: 5, fields: () },
            Event::End { id: 5 },
        ]
    );
}

#[test]
fn heads_in_many_frames() {
    let block = connect_block();
    let (first, rest) = block.split_at(3);
    let mut tested = Tested::server();
    let padded = [&[2, 0, 0, 0, 0, 16][..], first, &[0; 2]].concat();
    let flags = flag::PADDED | flag::PRIORITY | flag::END_STREAM;
    tested
        .take(&frame(kind::HEADERS, flags, 1, &padded))
        .unwrap();
    tested.take(&frame(kind::CONTINUATION, 0, 1, b"")).unwrap();
    tested
        .take(&frame(kind::CONTINUATION, flag::END_HEADERS, 1, rest))
        .unwrap();
    assert!(matches!(
        &tested.events[..],
        [Event::Request { id: 1, head, end: true }] if head.connect
    ));
    // Ours, towards a peer of short frames.
    let fields = Fields::default().with(Kept::Baggage, "b".repeat(40_000));
    let head = ConnectHead {
        authority: "a.b:80",
        fields: &fields,
    };
    let mut client = Tested::begun(CLIENT);
    client.session.open(&head).unwrap();
    let sent = client.sent();
    let kinds: Vec<_> = sent.iter().map(|f| (f.0, f.1, f.3.len())).collect();
    assert_eq!(kinds.len(), 3);
    assert_eq!(kinds[0], (kind::HEADERS, 0, 16_384));
    assert_eq!(
        (kinds[2].0, kinds[2].1),
        (kind::CONTINUATION, flag::END_HEADERS)
    );
    // A peer that shrinks its table is told that we have none, once.
    client.take(&settings(&[(1, 0)])).unwrap();
    client.sent();
    client.open();
    assert_eq!(client.sent()[0].3[0], hpack::NO_TABLE);
    client.open();
    assert_ne!(client.sent()[0].3[0], hpack::NO_TABLE);
}
