//! What breaks a connection or a stream of it, and with which code.

use super::*;

#[test]
fn connection_errors() {
    let (server, client) = (SERVER, CLIENT);
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
    let (server, client) = (SERVER, CLIENT);
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
        let mut tested = Tested::begun(CLIENT);
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
