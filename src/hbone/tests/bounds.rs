//! What a peer may ask for, and the end of a connection in order.

use super::*;

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
            assert!(taken <= limits::H2_IDLE_FRAMES, "{what}");
        };
        assert_eq!(error.code, Code::ENHANCE_YOUR_CALM, "{what}");
    }
    // Streams that are opened and reset at once, and streams that we are made to reset.
    for with in [reset as fn(u32, Code) -> Vec<u8>, |id, _| update(id, 0)] {
        let mut tested = Tested::server();
        let cut = (0..limits::H2_IDLE_FRAMES).find(|n| {
            let id = n * 2 + 1;
            let cut = tested.take(&[connect(id), with(id, Code::CANCEL)].concat());
            tested.session.forget(id);
            cut.is_err()
        });
        let most = limits::H2_IDLE_FRAMES / limits::H2_RESET_COST;
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
    let mut tested = Tested::begun(CLIENT);
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
    let mut tested = Tested::begun(CLIENT);
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
