//! Bodies that are longer than memory, answers that come bit by bit, deadlines.

use std::time::Duration;

use crate::answer;
use crate::backend::{BODY, CLOSE, DRAIN, FLOOD, FLOOD_BYTES, WAIT};
use crate::client::Conn;
use crate::system::{PLACES, Place, System};

crate::both!(
    events_one_by_one,
    a_long_answer,
    a_long_request,
    deadlines_of_calls
);

/// Reads chunks until their content ends with `end`.
fn until(conn: &mut Conn, end: &str) {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(end) {
        got.extend(conn.exactly(1).expect("more of the answer"));
    }
}

/// The first event is there before the second one is sent.
fn events_one_by_one(system: &System) {
    for place in PLACES {
        let backend = system.backend(place);
        let head =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\r\n";
        backend.says(&[
            BODY,
            head,
            WAIT,
            "data: one\n\n",
            WAIT,
            "data: two\n\n",
            CLOSE,
        ]);
        let mut conn = system.connect(place);
        let request = format!(
            "GET /api/events HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n",
            place.host()
        );
        conn.send(request.as_bytes());
        let head = answer::head(&mut conn).expect("a head, before any event");
        assert_eq!(head.one("content-type"), Some("text/event-stream"));
        backend.go();
        until(&mut conn, "data: one\n\n");
        backend.go();
        until(&mut conn, "data: two\n\n");
        until(&mut conn, "0\r\n\r\n");
    }
}

/// How much the process may grow while a body of `FLOOD_BYTES` passes.
const ROOM: usize = 64 << 20;

fn a_long_answer(system: &System) {
    let place = Place::Waypoint;
    let before = system.resident();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n");
    system.backend(place).says(&[BODY, &head, FLOOD]);
    let mut conn = system.connect(place);
    conn.send(b"GET /api/long HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    let head = answer::head(&mut conn).expect("an answer");
    assert_eq!(
        head.one("content-length"),
        Some(FLOOD_BYTES.to_string().as_str())
    );
    // A reader that does not read: what is sent meanwhile is held nowhere.
    std::thread::sleep(Duration::from_secs(2));
    let grown = system.resident().saturating_sub(before);
    assert!(grown < ROOM, "grew by {grown} bytes");
    let (mut read, mut most) = (0, 0);
    while read < FLOOD_BYTES {
        let piece = (FLOOD_BYTES - read).min(16 << 20);
        assert!(
            conn.exactly(piece).is_some(),
            "broke off after {read} bytes"
        );
        read += piece;
        most = most.max(system.resident().saturating_sub(before));
    }
    assert!(most < ROOM, "grew by {most} bytes");
}

fn a_long_request(system: &System) {
    let place = Place::Waypoint;
    let before = system.resident();
    let backend = system.backend(place);
    backend.says(&[
        WAIT,
        DRAIN,
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ]);
    let mut conn = system.connect(place);
    let head = format!(
        "POST /api/long HTTP/1.1\r\nhost: customer-api\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n"
    );
    conn.patience(Duration::from_secs(120));
    conn.wait_to_send(Duration::from_secs(120));
    let go = backend.clone();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        go.go();
    });
    assert!(conn.send(head.as_bytes()));
    let piece = vec![b'x'; 1 << 20];
    let (mut sent, mut most) = (0, 0);
    while sent < FLOOD_BYTES {
        assert!(conn.send(&piece), "broke off after {sent} bytes");
        sent += piece.len();
        if sent % (32 << 20) == 0 {
            most = most.max(system.resident().saturating_sub(before));
        }
    }
    let answer = answer::read(&mut conn, "POST").expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    late.join().unwrap();
    assert!(most < ROOM, "grew by {most} bytes");
}

/// gRPC's own deadline ends a call whose server is late, in the words of gRPC.
fn deadlines_of_calls(system: &System) {
    for place in PLACES {
        let backend = system.backend(place);
        backend.says(&[BODY, WAIT, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]);
        let mut conn = system.connect(place);
        let head = format!(
            "POST /api/svc/Call HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc\r\ngrpc-timeout: 300m\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0",
            place.host()
        );
        conn.send(head.as_bytes());
        let answer = answer::read(&mut conn, "POST").expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.one("grpc-status"), Some("4"), "{answer:?}");
        assert_eq!(answer.one("content-type"), Some("application/grpc"));
        let record = system.record(|r| {
            r["role"] == place.role()
                && r["request"]["path"] == "/api/svc/Call"
                && r["close"] == "upstream_timeout"
        });
        assert_eq!(record["reason"], "deadline of the call is over");
        backend.go();
        // Without one, or with one that is far, the server has its time.
        backend.says(&["HTTP/1.1 200 OK\r\ngrpc-status: 0\r\ncontent-length: 0\r\n\r\n"]);
        for more in ["", "grpc-timeout: 1H\r\n", "grpc-timeout: x\r\n"] {
            let mut conn = system.connect(place);
            let head = format!(
                "POST /api/svc/Call HTTP/1.1\r\nhost: {}\r\ncontent-type: application/grpc\r\n{more}content-length: 0\r\n\r\n",
                place.host()
            );
            conn.send(head.as_bytes());
            let answer = answer::read(&mut conn, "POST").expect("an answer");
            assert_eq!(answer.one("grpc-status"), Some("0"), "{more}: {answer:?}");
        }
    }
}
