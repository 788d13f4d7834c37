//! Peers that take their time to hold what is not theirs: bodies that trickle, answers that nobody reads, WebSockets on which
//! nothing moves; many at a time, over HTTP/1 and over many streams of one HTTP/2 connection. What they hold ends within the
//! limits, nothing of it counts as complete, and others are served all the while.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::client::{Conn, client, stolen};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame, get, read,
};
use crate::system::{HELD_BYTES, System};

crate::on_both!(
    bodies_that_trickle,
    answers_that_nobody_reads,
    websockets_that_idle,
);

/// Attackers of each kind.
const MANY: usize = 30;
/// How long it may take until all of them are gone.
const LONG: Duration = Duration::from_secs(60);

/// A connection to the waypoint itself.
fn connect(system: &System, alpn: &str) -> Conn {
    let conn = Conn::plain(&system.layout.at(13, 8443));
    let config = client(&[alpn], Some(stolen(system, "frontend-service")));
    let conn = conn.tls(config, "customer-api").unwrap();
    conn.patience(LONG);
    conn
}

/// Streams of an attacker, which are numbered so.
fn streams() -> impl Iterator<Item = u32> {
    (0..MANY as u32).map(|n| 2 * n + 1)
}

/// How many of the requests that the waypoint had for a path were ended because they were too slow: by itself, as its record
/// says, or by the next hop, which has the same times and may be first, as the records of both say.
fn ended(system: &System, path: &str, reason: &str) -> usize {
    let records = system.records();
    let of_path: Vec<_> = (records.iter())
        .filter(|r| r["request"]["path"] == path)
        .collect();
    let slow = |r: &serde_json::Value| r["close"] == "timeout" && r["reason"] == reason;
    let behind = |id: &serde_json::Value| {
        of_path
            .iter()
            .any(|r| r["role"] == "node" && slow(r) && r["request"]["id"] == *id)
    };
    of_path
        .iter()
        .filter(|r| r["role"] == "waypoint")
        .filter(|r| slow(r) || r["close"] == "upstream_reset" && behind(&r["request"]["id"]))
        .count()
}

/// Waits until all attackers on a path are gone, while others are served; `goes_on` is what they do meanwhile.
fn all_end(system: &System, path: &str, reason: &str, mut goes_on: impl FnMut()) {
    let over = system.within(LONG, || {
        goes_on();
        system.victim_is_served();
        ended(system, path, reason) == MANY
    });
    assert!(over, "{path}: {} of {MANY}", ended(system, path, reason));
}

fn gives_back(system: &System, before: usize) {
    let back = system.within(Duration::from_secs(20), || {
        system.descriptors() <= before + 10
    });
    let now = system.descriptors();
    assert!(back, "{now} descriptors, {before} before");
}

fn bodies_that_trickle(io: &str) {
    const REASON: &str = "request body is too slow (limits.requestBodyTimeout)";
    let system = System::with(io, "\n[limits]\nrequestBodyTimeout = \"1s\"\n");
    system.victim_is_served();
    let before = system.descriptors();
    let mut all: Vec<Conn> = Vec::new();
    // A server of HTTP/1 takes no calls of gRPC, whatever a client says that it makes.
    for kind in ["text/plain", "application/grpc"].iter().cycle().take(MANY) {
        let mut conn = connect(&system, "http/1.1");
        let head = format!(
            "POST /slow/h1 HTTP/1.1\r\nhost: customer-api\r\ncontent-type: {kind}\r\ncontent-length: 1000000\r\n\r\n"
        );
        conn.send(head.as_bytes());
        all.push(conn);
    }
    all_end(&system, "/slow/h1", REASON, || {
        for conn in &mut all {
            conn.send(b"y");
        }
    });
    for conn in &mut all {
        assert!(conn.is_over(), "held");
    }
    // All of them on one connection, which goes on.
    let mut conn = connect(&system, "h2");
    conn.send(PREFACE);
    let post = block(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"customer-api"),
        (b":path", b"/slow/h2"),
    ]);
    for id in streams() {
        conn.send(&frame(HEADERS, END_HEADERS, id, &post));
    }
    all_end(&system, "/slow/h2", REASON, || {
        for id in streams() {
            conn.send(&frame(DATA, 0, id, b"y"));
        }
    });
    let mut answered = 0;
    while answered < MANY {
        let (kind, _, id, block) = read(&mut conn).expect("the connection goes on");
        assert_ne!(kind, GOAWAY);
        if kind == HEADERS {
            // Not in the static table: a literal, or what was added to the dynamic one.
            assert_ne!(block[0], 0x88, "{id}: it counts as complete");
            answered += 1;
        }
    }
    let id = 2 * MANY as u32 + 1;
    let request = get("customer-api", "/after");
    conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &request));
    loop {
        let (kind, _, stream, block) = read(&mut conn).expect("the connection goes on");
        if kind == HEADERS && stream == id {
            assert_eq!(block[0], 0x88);
            break;
        }
    }
    drop((conn, all));
    let seen = system.customer.take();
    let seen: Vec<_> = seen.iter().filter(|s| s.target.contains("slow")).collect();
    assert!(seen.is_empty(), "taken for whole: {seen:?}");
    gives_back(&system, before);
    system.healthy();
}

fn answers_that_nobody_reads(io: &str) {
    const REASON: &str = "client does not read its answer (limits.responseReadTimeout)";
    let system = System::with(io, "\n[limits]\nresponseReadTimeout = \"1s\"\n");
    system.victim_is_served();
    let (before, memory) = (system.descriptors(), system.resident());
    let mut all: Vec<Conn> = Vec::new();
    for _ in 0..MANY {
        let mut conn = connect(&system, "http/1.1");
        conn.send(b"GET /lie/endless-body HTTP/1.1\r\nhost: customer-api\r\n\r\n");
        all.push(conn);
    }
    all_end(&system, "/lie/endless-body", REASON, || {});
    for conn in &mut all {
        assert!(conn.end().is_some(), "it looks complete");
    }
    drop(all);
    gives_back(&system, before);
    // Windows that never open, or by a byte at a time, on one connection that is read.
    let mut conn = connect(&system, "h2");
    conn.send(PREFACE);
    conn.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let request = get("customer-api", "/lie/endless-body?h2");
    for id in streams() {
        conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, id, &request));
    }
    all_end(&system, "/lie/endless-body?h2", REASON, || {
        for id in streams().filter(|id| id % 4 == 1) {
            let one = 1_u32.to_be_bytes();
            conn.send(&frame(WINDOW_UPDATE, 0, id, &one));
        }
    });
    let mut reset = 0;
    while reset < MANY {
        let (kind, flags, _, _) = read(&mut conn).expect("the connection goes on");
        assert!(kind != DATA || flags & END_STREAM == 0, "it looks complete");
        reset += usize::from(kind == RST_STREAM);
    }
    let grown = system.resident().saturating_sub(memory);
    assert!(grown < HELD_BYTES, "grew by {grown} bytes");
    drop(conn);
    gives_back(&system, before);
    system.healthy();
}

fn websockets_that_idle(io: &str) {
    const REASON: &str = "stream is idle";
    let system = System::with(io, "\n[limits]\nstreamIdleTimeout = \"2s\"\n");
    system.victim_is_served();
    let before = system.descriptors();
    let open = |path: &str| {
        let mut conn = connect(&system, "http/1.1");
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: customer-api\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
        );
        conn.send(request.as_bytes());
        let head = conn.response();
        assert_eq!(head.map(|head| head.status), Some(101));
        conn
    };
    let mut all: Vec<Conn> = (0..MANY).map(|_| open("/lie/switch")).collect();
    let mut busy = open("/lie/switch?busy");
    let (enough, goes_on) = mpsc::channel::<()>();
    // By itself: what is looked at meanwhile may take its time.
    let talks = std::thread::spawn(move || {
        while goes_on.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
            assert!(busy.send(b"x"), "the busy one is cut");
        }
        busy
    });
    all_end(&system, "/lie/switch", REASON, || {});
    for conn in &mut all {
        assert!(conn.end().is_some(), "it looks complete");
    }
    drop(all);
    assert_eq!(ended(&system, "/lie/switch?busy", REASON), 0);
    // The busy one holds two, and what it said is no end.
    drop(enough);
    let mut busy = talks.join().unwrap();
    assert!(busy.send(b"x"), "the busy one is cut");
    drop(busy);
    gives_back(&system, before);
    system.healthy();
}
