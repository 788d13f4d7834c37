//! Every rule of a session, frame by frame.

use super::*;
use crate::hbone::frame::MAX_WINDOW;
use crate::hbone::head::{Fields, Kept};

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
        Self::begun(Settings::SERVER)
    }

    /// A client with a tunnel that is open, and its stream.
    fn client() -> (Self, u32) {
        let mut tested = Self::begun(Settings::CLIENT);
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
        .filter_map(|event| match event {
            Event::Request { id, head, .. } => Some((*id, head.authority.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(heads.len(), 2);
    assert_eq!((heads[0].0, heads[1].0), (1, 3));
    assert_eq!(heads[0].1, heads[1].1);
    // The same at the other end: half an answer, and one more tunnel.
    let mut client = Tested::begun(Settings::CLIENT);
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
    let mut client = Tested::new(Settings::CLIENT);
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
        Tested::new(Settings::SERVER).sent(),
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
        let mut tested = Tested::new(Settings::SERVER);
        let got = tested.take(input).map_err(|e| e.code);
        assert_eq!(got, Err(Code::PROTOCOL_ERROR));
    }
    let mut tested = Tested::new(Settings::SERVER);
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
    let mut tested = Tested::begun(Settings::CLIENT);
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
            Event::End { id: 5 },
        ]
    );
}

#[test]
fn connection_errors() {
    let (server, client) = (Settings::SERVER, Settings::CLIENT);
    let any = |input: &[u8], code| {
        breaks(server, input, code);
        breaks(client, input, code);
    };
    let (protocol, size) = (Code::PROTOCOL_ERROR, Code::FRAME_SIZE_ERROR);
    any(
        &FrameHead {
            len: (1 << 20) + 1,
            kind: 0,
            flags: 0,
            stream: 1,
        }
        .bytes(),
        size,
    );
    any(&frame(kind::DATA, 0, 0, b"x"), protocol);
    any(&frame(kind::DATA, 0, 9, b"x"), protocol);
    any(&frame(kind::DATA, 0, 2, b"x"), protocol);
    any(&frame(kind::DATA, flag::PADDED, 1, b""), size);
    any(&frame(kind::DATA, flag::PADDED, 1, &[1]), protocol);
    any(&frame(kind::DATA, flag::PADDED, 1, &[255; 255]), protocol);
    any(&frame(kind::HEADERS, flag::END_HEADERS, 0, b""), protocol);
    any(&frame(kind::HEADERS, flag::END_HEADERS, 2, b""), protocol);
    any(&frame(kind::HEADERS, 0xc, 1, b""), size);
    any(&frame(kind::HEADERS, 0xc, 1, &[1]), protocol);
    any(&frame(kind::HEADERS, 0x24, 1, &[0; 4]), size);
    any(
        &frame(kind::HEADERS, 4, 1, &[0x80]),
        Code::COMPRESSION_ERROR,
    );
}

#[test]
fn connection_errors_of_other_frames() {
    let (server, client) = (Settings::SERVER, Settings::CLIENT);
    let any = |input: &[u8], code| {
        breaks(server, input, code);
        breaks(client, input, code);
    };
    let (protocol, size) = (Code::PROTOCOL_ERROR, Code::FRAME_SIZE_ERROR);
    let flow = Code::FLOW_CONTROL_ERROR;
    any(&frame(kind::PRIORITY, 0, 0, &[0; 5]), protocol);
    any(&frame(kind::PRIORITY, 0, 1, &[0; 4]), size);
    any(&frame(kind::RST_STREAM, 0, 0, &[0; 4]), protocol);
    any(&frame(kind::RST_STREAM, 0, 1, &[0; 3]), size);
    any(&reset(9, Code::CANCEL), protocol);
    any(&reset(2, Code::CANCEL), protocol);
    any(&frame(kind::SETTINGS, 0, 1, b""), protocol);
    any(&frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), size);
    any(&frame(kind::SETTINGS, 0, 0, &[0; 5]), size);
    any(
        &frame(kind::SETTINGS, 0, 0, &[0; 1026]),
        Code::ENHANCE_YOUR_CALM,
    );
    any(&settings(&[(setting::ENABLE_PUSH, 2)]), protocol);
    any(&settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]), flow);
    any(&settings(&[(setting::MAX_FRAME_SIZE, 16_383)]), protocol);
    any(&settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)]), protocol);
    any(
        &frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 4]),
        protocol,
    );
    any(&frame(kind::PING, 0, 1, &[0; 8]), protocol);
    any(&frame(kind::PING, 0, 0, &[0; 7]), size);
    any(&frame(kind::GOAWAY, 0, 1, &[0; 8]), protocol);
    any(&frame(kind::GOAWAY, 0, 0, &[0; 7]), size);
    let goes = |last: u8| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
    any(&[goes(1), goes(3)].concat(), protocol);
    any(&frame(kind::WINDOW_UPDATE, 0, 1, &[0; 3]), size);
    any(&update(0, 0), protocol);
    any(&update(0, 0x7fff_ffff), flow);
    any(&update(9, 1), protocol);
    any(
        &frame(kind::CONTINUATION, flag::END_HEADERS, 1, b""),
        protocol,
    );
    any(
        &[
            frame(kind::HEADERS, 0, 1, b""),
            frame(kind::PING, 0, 0, &[0; 8]),
        ]
        .concat(),
        protocol,
    );
    any(
        &[
            frame(kind::HEADERS, 0, 1, b""),
            frame(kind::CONTINUATION, 4, 3, b""),
        ]
        .concat(),
        protocol,
    );
    breaks(client, &settings(&[(setting::ENABLE_PUSH, 1)]), protocol);
    breaks(client, &answer(9, 200, 0), protocol);
    // A window that is wide already, and a setting that makes it wider.
    let wide = [
        update(1, u32::try_from(MAX_WINDOW - 65_535).unwrap()),
        settings(&[(4, 65_536)]),
    ]
    .concat();
    any(&wide, flow);
}

#[test]
fn closed_streams_of_a_server() {
    let mut tested = Tested::server();
    tested.take(&[connect(1), connect(5)].concat()).unwrap();
    for id in [1, 5] {
        tested.session.respond(id, &ResponseHead::new(503), true);
    }
    tested.session.forget(1);
    assert_eq!(tested.resets(), [(1, Code::NO_ERROR)]);
    // What was under way when we reset it is passed over, and its bytes count as read.
    tested.take(&frame(kind::DATA, 0, 1, b"late")).unwrap();
    tested.take(&update(1, 5)).unwrap();
    tested.take(&reset(1, Code::CANCEL)).unwrap();
    tested.take(&connect(1)).unwrap();
    assert!(tested.sent().is_empty());
    // A stream that the client has passed over is closed.
    let got = tested.take(&connect(3)).map_err(|e| e.code);
    assert_eq!(got, Err(Code::STREAM_CLOSED));
}

#[test]
fn stream_errors_of_a_server() {
    let check = |input: &[Vec<u8>], want: &[(u32, Code)]| {
        let mut tested = Tested::server();
        tested.take(&input.concat()).unwrap();
        assert_eq!(tested.resets(), want, "{input:x?}");
        // The connection goes on.
        tested.take(&connect(99)).unwrap();
        assert!(matches!(
            tested.events.last(),
            Some(Event::Request { id: 99, .. })
        ));
    };
    let ended = frame(kind::HEADERS, 5, 1, &connect_block());
    let data = frame(kind::DATA, 0, 1, b"x");
    check(&[ended.clone(), data.clone()], &[(1, Code::STREAM_CLOSED)]);
    check(&[ended, connect(1)], &[(1, Code::STREAM_CLOSED)]);
    check(&[connect(1), connect(1)], &[(1, Code::PROTOCOL_ERROR)]);
    check(&[connect(1), update(1, 0)], &[(1, Code::PROTOCOL_ERROR)]);
    let wide = [connect(1), update(1, 0x7fff_ffff)];
    check(&wide, &[(1, Code::FLOW_CONTROL_ERROR)]);
    let mut get = vec![0x82, 0x86];
    check(
        &[frame(kind::HEADERS, 4, 1, &get)],
        &[(1, Code::PROTOCOL_ERROR)],
    );
    get.push(0x84);
    check(&[frame(kind::HEADERS, 4, 1, &get)], &[]);
    let mut large = connect_block();
    large.extend_from_slice(&[0x40, 1, b'x', 127, 0x81, 0x1e]);
    large.extend_from_slice(&[b'y'; 127 + 1 + (0x1e << 7)]);
    large.extend_from_slice(&[0xbe; 100]);
    check(
        &[frame(kind::HEADERS, 4, 1, &large)],
        &[(1, Code::ENHANCE_YOUR_CALM)],
    );
    // Reset by the peer, then more of it.
    check(&[connect(1), reset(1, Code::CANCEL), data], &[]);
    let many: Vec<_> = (0..201).map(|n| connect(n * 2 + 1)).collect();
    let mut tested = Tested::server();
    tested.take(&many.concat()).unwrap();
    assert_eq!(tested.resets(), [(401, Code::REFUSED_STREAM)]);
    assert_eq!(tested.session.open_streams(), 200);
}

#[test]
fn stream_errors_of_a_client() {
    let check = |input: &[Vec<u8>], want: Code| {
        let mut tested = Tested::begun(Settings::CLIENT);
        let id = tested.open();
        tested.take(&input.concat()).unwrap();
        assert_eq!(tested.resets(), [(id, want)], "{input:x?}");
        let reset = Event::Reset {
            id,
            code: want,
            ours: true,
        };
        assert_eq!(tested.events.last(), Some(&reset));
        assert_eq!((tested.session.room(id), tested.session.open), (None, 0));
    };
    let protocol = Code::PROTOCOL_ERROR;
    check(&[frame(kind::DATA, 0, 1, b"x")], protocol);
    check(&[answer(1, 101, 0)], protocol);
    check(&[answer(1, 100, flag::END_STREAM)], protocol);
    check(&[answer(1, 200, 0), answer(1, 200, 0)], protocol);
    check(
        &[answer(1, 200, 0), answer(1, 200, flag::END_STREAM)],
        protocol,
    );
    check(&[answer(1, 503, 0), answer(1, 503, 0)], protocol);
    check(&[frame(kind::HEADERS, 4, 1, &connect_block())], protocol);
    let ended = answer(1, 200, flag::END_STREAM);
    check(&[ended.clone(), answer(1, 200, 0)], Code::STREAM_CLOSED);
    check(&[ended, frame(kind::DATA, 0, 1, b"x")], Code::STREAM_CLOSED);
}

#[test]
fn receive_windows() {
    let (mut tested, id) = Tested::client();
    let window = Settings::CLIENT.window;
    let piece = vec![0; 1 << 20];
    for _ in 0..4 {
        tested.take(&frame(kind::DATA, 0, id, &piece)).unwrap();
    }
    assert!(tested.sent().is_empty(), "nothing is released by itself");
    tested.session.release(id, window / 2 - 1);
    assert!(tested.sent().is_empty());
    tested.session.release(id, 1);
    let update = (window / 2).to_be_bytes().to_vec();
    assert_eq!(tested.sent(), [(kind::WINDOW_UPDATE, 0, id, update)]);
    // Half of it may come again, and no byte more.
    for _ in 0..2 {
        tested.take(&frame(kind::DATA, 0, id, &piece)).unwrap();
    }
    tested.take(&frame(kind::DATA, 0, id, b"x")).unwrap();
    assert_eq!(tested.resets(), [(id, Code::FLOW_CONTROL_ERROR)]);
}

#[test]
fn slow_streams_do_not_stop_the_others() {
    let mut tested = Tested::server();
    let many: Vec<_> = (0..21).map(|n| connect(n * 2 + 1)).collect();
    tested.take(&many.concat()).unwrap();
    tested.sent();
    let piece = vec![0; 1 << 20];
    let fill = |tested: &mut Tested, n: u32| {
        for _ in 0..4 {
            let taken = tested.take(&frame(kind::DATA, 0, n * 2 + 1, &piece));
            tested.data.clear();
            taken?;
        }
        Ok::<(), ConnectionError>(())
    };
    // Four full streams are as much as the whole window; what goes back lets the others go on.
    (0..4).for_each(|n| fill(&mut tested, n).unwrap());
    let updates: Vec<_> = tested.sent().into_iter().map(|f| (f.0, f.2)).collect();
    assert_eq!(updates, [(kind::WINDOW_UPDATE, 0)]);
    // Until they hold all that one connection may hold; there is no single stream to blame then.
    let failed = (4..21).find_map(|n| Some((n, fill(&mut tested, n).err()?)));
    let (full, error) = failed.unwrap();
    assert_eq!(error.code, Code::FLOW_CONTROL_ERROR);
    assert!((18..=20).contains(&full), "{full} streams");
    let least = full * Settings::SERVER.window;
    assert!(least <= 16 * (1 << 20) + limits::HBONE_ADVANCE_BYTES);
}

#[test]
fn what_slow_streams_had_in_advance_comes_back() {
    for (forgets, step) in [(false, 100_000), (false, 1 << 20), (true, 1)] {
        let (mut tested, id) = Tested::client();
        let all = 3 << 20;
        for _ in 0..3 {
            tested
                .take(&frame(kind::DATA, 0, id, &vec![0; 1 << 20]))
                .unwrap();
        }
        let advance = limits::HBONE_ADVANCE_BYTES;
        let given = all - limits::HBONE_CHARGED_BYTES;
        assert_eq!(tested.session.advance, advance - given);
        let mut left = all;
        while left > 0 {
            tested.session.release(id, step.min(left));
            left = left.saturating_sub(step);
            if forgets {
                tested.session.forget(id);
                break;
            }
        }
        assert_eq!(tested.session.advance, advance);
        // Every byte is back in the connection's window, and none twice.
        assert_eq!(tested.session.receive.free(8 << 20), Some((8 << 20) + all));
    }
}

#[test]
fn padding_counts_and_is_given_back() {
    let (mut tested, id) = Tested::client();
    let frame = frame(
        kind::DATA,
        flag::PADDED,
        id,
        &[&[255][..], &[0; 255]].concat(),
    );
    for _ in 0..8192 {
        tested.take(&frame).unwrap();
        tested.session.flood = Flood::default();
    }
    let updates: u32 = tested
        .sent()
        .iter()
        .filter(|f| f.2 == id)
        .map(|f| u32::from_be_bytes(f.3[..4].try_into().unwrap()))
        .sum();
    assert_eq!(updates, 2 << 20);
    assert!(tested.data.is_empty());
}

#[test]
fn send_windows() {
    let (mut tested, id) = Tested::client();
    assert_eq!(
        tested.session.room(id),
        Some(16_384),
        "the peer's longest frame"
    );
    tested.take(&settings(&[(5, 1 << 20)])).unwrap();
    assert_eq!(tested.session.room(id), Some(65_535));
    assert_eq!(tested.session.data_head(id, 65_536, false), None);
    assert_eq!(
        tested.session.data_head(id, 0, false),
        None,
        "moves nothing"
    );
    let head = tested.session.data_head(id, 65_000, false).unwrap();
    assert_eq!(FrameHead::parse(head).len, 65_000);
    // The setting takes back what is spent already: the window is negative.
    tested.take(&settings(&[(4, 1000)])).unwrap();
    assert_eq!(tested.session.room(id), Some(0));
    tested.take(&update(id, 64_500)).unwrap();
    assert_eq!(tested.session.room(id), Some(500));
    tested.take(&update(id, 100_000)).unwrap();
    assert_eq!(tested.session.room(id), Some(535), "the connection's");
    tested.take(&update(0, 1 << 20)).unwrap();
    assert_eq!(tested.session.room(id), Some(100_500));
    let rooms: Vec<_> = tested
        .events
        .iter()
        .filter(|e| matches!(e, Event::Room { .. }))
        .collect();
    assert_eq!(rooms.len(), 3, "{rooms:?}");
    // A new stream begins with the new window.
    let other = tested.open();
    assert_eq!(tested.session.room(other), Some(1000));
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
    let mut client = Tested::begun(Settings::CLIENT);
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

#[test]
fn floods_are_cut() {
    let mut headers = vec![frame(kind::HEADERS, 0, 3, &[])];
    headers.extend(vec![frame(kind::CONTINUATION, 0, 3, &[]); 20]);
    let empty = frame(kind::DATA, 0, 1, b"");
    let pad = frame(kind::DATA, flag::PADDED, 1, &[0]);
    for (what, first, piece) in [
        ("CONTINUATION", vec![], headers.concat()),
        (
            "long block",
            vec![],
            [
                frame(kind::HEADERS, 0, 3, &[0; 60_000]),
                frame(kind::CONTINUATION, 0, 3, &[0; 60_000]),
            ]
            .concat(),
        ),
        ("PING", vec![], frame(kind::PING, 0, 0, &[0; 8])),
        (
            "PING answers",
            vec![],
            frame(kind::PING, flag::ACK, 0, &[0; 8]),
        ),
        ("SETTINGS", vec![], settings(&[(3, 100)])),
        (
            "SETTINGS answers",
            vec![],
            frame(kind::SETTINGS, flag::ACK, 0, b""),
        ),
        ("empty DATA", connect(1), empty),
        ("padding", connect(1), pad.repeat(100)),
        ("small updates", vec![], update(0, 1)),
        ("PRIORITY", vec![], frame(kind::PRIORITY, 0, 1, &[0; 5])),
        ("unknown", vec![], frame(0xbb, 0, 0, b"unknown")),
        ("GOAWAY", vec![], frame(kind::GOAWAY, 0, 0, &[0; 8])),
    ] {
        let mut tested = Tested::server();
        tested.take(&first).unwrap();
        let mut taken = 0_u32;
        let error = loop {
            if let Err(error) = tested.take(&piece) {
                break error;
            }
            tested.sent();
            taken += 1;
            assert!(taken <= limits::HBONE_IDLE_FRAMES, "{what}");
        };
        assert_eq!(error.code, Code::ENHANCE_YOUR_CALM, "{what}");
    }
    // Streams that are opened and reset at once, and streams that we are made to reset.
    for with in [reset as fn(u32, Code) -> Vec<u8>, |id, _| update(id, 0)] {
        let mut tested = Tested::server();
        let cut = (0..limits::HBONE_IDLE_FRAMES).find(|n| {
            let id = n * 2 + 1;
            let cut = tested.take(&[connect(id), with(id, Code::CANCEL)].concat());
            tested.session.forget(id);
            cut.is_err()
        });
        let most = limits::HBONE_IDLE_FRAMES / limits::HBONE_RESET_COST;
        assert!(cut.is_some_and(|n| n > 100 && n <= most), "{cut:?}");
    }
}

#[test]
fn honest_traffic_is_no_flood() {
    let (mut tested, id) = Tested::client();
    tested.take(&update(0, 1 << 30)).unwrap();
    tested.take(&update(id, 1 << 30)).unwrap();
    for _ in 0..50_000 {
        // Each of our frames is answered with an update of its size, as some peers do.
        assert!(tested.session.data_head(id, 100, false).is_some());
        tested
            .take(&[update(id, 100), update(0, 1024)].concat())
            .unwrap();
        tested.take(&frame(kind::DATA, 0, id, b"answer")).unwrap();
        tested.session.release(id, 6);
        tested.events.clear();
        tested.sent();
    }
}

#[test]
fn pings() {
    let (mut tested, _) = Tested::client();
    tested.take(&frame(kind::PING, 0, 0, b"12345678")).unwrap();
    let answer = (kind::PING, flag::ACK, 0, b"12345678".to_vec());
    assert_eq!(tested.sent(), [answer]);
    tested.session.ping();
    tested.session.ping();
    let asked = tested.sent();
    assert_eq!(asked.len(), 1, "one at a time");
    tested
        .take(&frame(kind::PING, flag::ACK, 0, b"87654321"))
        .unwrap();
    assert!(tested.events.is_empty());
    tested
        .take(&frame(kind::PING, flag::ACK, 0, &asked[0].3))
        .unwrap();
    assert_eq!(tested.events, [Event::Pong]);
    tested.session.ping();
    assert_eq!(tested.sent().len(), 1);
}

#[test]
fn a_server_goes_gracefully() {
    let mut tested = Tested::server();
    tested.take(&connect(1)).unwrap();
    tested.session.drain();
    tested.session.drain();
    let sent = tested.sent();
    assert_eq!(
        sent[0],
        (kind::GOAWAY, 0, 0, vec![0x7f, 255, 255, 255, 0, 0, 0, 0])
    );
    assert_eq!((sent[1].0, sent.len()), (kind::PING, 2));
    // What was under way is taken, until the peer has seen it.
    tested.take(&connect(3)).unwrap();
    tested
        .take(&frame(kind::PING, flag::ACK, 0, &sent[1].3))
        .unwrap();
    assert_eq!(
        tested.sent(),
        [(kind::GOAWAY, 0, 0, vec![0, 0, 0, 3, 0, 0, 0, 0])]
    );
    tested.take(&connect(5)).unwrap();
    tested.take(&frame(kind::DATA, 0, 5, b"x")).unwrap();
    tested.take(&reset(5, Code::CANCEL)).unwrap();
    assert_eq!(tested.events.len(), 2, "{:?}", tested.events);
    assert!(!tested.session.is_finished());
    tested.session.forget(1);
    tested.session.forget(3);
    assert!(tested.session.is_finished());
}

#[test]
fn a_client_hears_that_the_server_goes() {
    let mut tested = Tested::begun(Settings::CLIENT);
    let ids = [tested.open(), tested.open(), tested.open()];
    let goes = |last: u8| frame(kind::GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0, b'x', b'y']);
    tested
        .take(&frame(
            kind::GOAWAY,
            0,
            0,
            &[127, 255, 255, 255, 0, 0, 0, 0],
        ))
        .unwrap();
    assert_eq!(tested.session.room_for_streams(), 0);
    tested.take(&goes(3)).unwrap();
    let refused = Event::Reset {
        id: ids[2],
        code: Code::REFUSED_STREAM,
        ours: false,
    };
    assert_eq!(tested.events.last(), Some(&refused));
    let fields = Fields::default();
    let head = ConnectHead {
        authority: "a:1",
        fields: &fields,
    };
    assert_eq!(tested.session.open(&head), Err(OpenError::GoingAway));
    assert!(!tested.session.is_finished());
    tested.session.forget(ids[0]);
    tested.session.forget(ids[1]);
    assert!(tested.session.is_finished());
    tested.session.drain();
    assert!(tested.sent().iter().any(|f| f.0 == kind::GOAWAY));
}

#[test]
fn streams_are_bounded_by_the_peer_and_by_their_numbers() {
    let mut tested = Tested::begun(Settings::CLIENT);
    tested.take(&settings(&[(3, 2)])).unwrap();
    let first = tested.open();
    tested.open();
    let fields = Fields::default();
    let head = ConnectHead {
        authority: "a:1",
        fields: &fields,
    };
    assert_eq!(tested.session.open(&head), Err(OpenError::Full));
    assert_eq!(tested.session.room_for_streams(), 0);
    tested.session.forget(first);
    assert_eq!(tested.session.room_for_streams(), 1);
    tested.session.next = MAX_STREAM;
    assert_eq!(tested.session.open(&head), Ok(MAX_STREAM));
    tested.take(&settings(&[(3, 10)])).unwrap();
    assert_eq!(tested.session.open(&head), Err(OpenError::Exhausted));
    let mut server = Tested::server();
    assert_eq!(server.session.open(&head), Err(OpenError::GoingAway));
    server.take(&connect(MAX_STREAM)).unwrap();
    assert_eq!(server.session.open_streams(), 1);
}

#[test]
fn a_reset_by_the_peer_is_told_once() {
    let (mut tested, id) = Tested::client();
    tested
        .take(&frame(kind::DATA, 0, id, b"last words"))
        .unwrap();
    tested.take(&reset(id, Code(77)).repeat(2)).unwrap();
    let last = Event::Reset {
        id,
        code: Code(77),
        ours: false,
    };
    assert_eq!(tested.events.len(), 2);
    assert_eq!(tested.events.last(), Some(&last));
    assert_eq!(tested.session.data_head(id, 1, false), None);
    tested.session.release(id, 10);
    tested.session.reset(id, Code::CANCEL);
    tested.session.forget(id);
    assert!(tested.sent().is_empty(), "a closed stream knows no reset");
}

#[test]
fn data_of_a_stream_that_is_given_up_within_a_frame() {
    let (mut tested, id) = Tested::client();
    let bytes = frame(kind::DATA, flag::END_STREAM, id, &[7; 100]);
    tested.take(&bytes[..59]).unwrap();
    assert_eq!(tested.data.len(), 50);
    tested.session.forget(id);
    assert_eq!(tested.resets(), [(id, Code::CANCEL)]);
    tested.take(&bytes[59..]).unwrap();
    assert_eq!(tested.data.len(), 50);
    // Every byte is back in the connection's window.
    assert_eq!(tested.session.receive.free(8 << 20), Some((8 << 20) + 100));
}
