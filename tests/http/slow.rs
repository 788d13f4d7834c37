//! Clients that take their time: bodies that stop or trickle, answers that nobody reads; over HTTP/1 and HTTP/2. And those
//! that wait for the server behind, who are left alone.

use std::time::Duration;

use crate::answer;
use crate::backend::{BODY, FLOOD, FLOOD_BYTES, WAIT};
use crate::frames::{SETTINGS, WINDOW_UPDATE, frame};
use crate::stream::{Ended, Streams};
use crate::system::{PLACES, Place, System};

crate::on_both!(
    bodies_have_their_time,
    answers_are_read,
    who_reads_slowly_is_waited_for,
    who_waits_is_left_alone,
);

fn with(io: &str, limits: &str) -> System {
    System::with(io, |config| format!("{config}\n[limits]\n{limits}\n"))
}

/// Between two pieces of what is slow.
const PIECE: Duration = Duration::from_millis(50);
/// Pieces after which the test gives up.
const PIECES: usize = 600;

fn get(place: Place, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", place.host())
}

fn fields<'f>(place: Place, method: &'f [u8], path: &'f str) -> [(&'f [u8], &'f [u8]); 4] {
    [
        (b":method", method),
        (b":scheme", b"https"),
        (b":authority", place.host().as_bytes()),
        (b":path", path.as_bytes()),
    ]
}

/// The record of a path that ended for being slow; no other hop of ours has one.
fn told(system: &System, place: Place, path: &str, reason: &str) {
    let slow = |r: &serde_json::Value| r["request"]["path"] == path && r["close"] == "timeout";
    let record = system.record(slow);
    assert_eq!(record["reason"], reason);
    let mut records = system.records();
    records.retain(slow);
    assert!(
        records.len() == 1 && record["role"] == place.role(),
        "{records:#?}"
    );
}

/// Whether a connection goes on.
fn goes_on(streams: &mut Streams, place: Place, stream: u32) -> bool {
    streams.head(stream, &fields(place, b"GET", "/api/probe"), true);
    streams.answer(stream).status == 200
}

fn bodies_have_their_time(io: &str) {
    const REASON: &str = "request body is too slow (limits.requestBodyTimeout)";
    let system = with(io, "requestBodyTimeout = \"1s\"");
    let slow = |path: &str| {
        let records = system.records();
        let slow = |r: &serde_json::Value| r["request"]["path"] == path && r["close"] == "timeout";
        records.iter().any(slow)
    };
    for place in PLACES {
        let path = |kind: &str| format!("/api/slow/{}/{kind}", place.role());
        // One that stops, and one that never stops but never gets anywhere either.
        for (kind, trickles) in [("stops", false), ("trickles", true)] {
            system.backend(place).says(&[]);
            let mut conn = system.connect(place);
            let head = format!(
                "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 100000\r\n\r\n",
                path(kind),
                place.host()
            );
            conn.send(head.as_bytes());
            for _ in 0..if trickles { PIECES } else { 0 } {
                std::thread::sleep(PIECE);
                if !conn.send(b"y") || slow(&path(kind)) {
                    break;
                }
            }
            let status = answer::head(&mut conn).map(|head| head.status);
            // Who still sends when we are gone may lose the answer to a reset.
            assert!(
                status == Some(408) || trickles && status.is_none(),
                "{place:?}, {kind}: {status:?}"
            );
            assert!(conn.is_over(), "{place:?}, {kind}: held");
            told(&system, place, &path(kind), REASON);
            let kind = format!("{kind}-h2");
            let mut streams = Streams::open(&system, place);
            streams.head(1, &fields(place, b"POST", &path(&kind)), false);
            for _ in 0..if trickles { PIECES } else { 0 } {
                std::thread::sleep(PIECE);
                streams.data(1, b"y", false);
                if slow(&path(&kind)) {
                    break;
                }
            }
            assert_eq!(streams.answer(1).status, 408, "{place:?}, {kind}");
            told(&system, place, &path(&kind), REASON);
            assert!(goes_on(&mut streams, place, 3), "{place:?}, {kind}");
            let seen = system.backend(place).seen();
            assert!(
                seen.iter().all(|m| !m.whole || m.target() == "/api/probe"),
                "{seen:?}"
            );
        }
    }
    system.healthy();
}

fn answers_are_read(io: &str) {
    const REASON: &str = "client does not read its answer (limits.responseReadTimeout)";
    let system = with(io, "responseReadTimeout = \"1s\"");
    let before = system.descriptors();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n");
    for place in PLACES {
        system.backend(place).says(&[BODY, &head, FLOOD]);
        let path = |kind: &str| format!("/api/unread/{}/{kind}", place.role());
        let open = |window: Option<u32>, kind: &str| {
            let mut streams = Streams::open(&system, place);
            if let Some(window) = window {
                let window = window.to_be_bytes();
                let setting = [&[0, 4], &window[..]].concat();
                streams.conn.send(&frame(SETTINGS, 0, 0, &setting));
            }
            streams.head(1, &fields(place, b"GET", &path(kind)), true);
            streams
        };
        let mut h1 = system.connect(place);
        h1.send(get(place, &path("h1")).as_bytes());
        let mut fills = open(None, "window-full");
        let mut shut = open(Some(0), "window-shut");
        let mut trickles = open(Some(0), "window-trickles");
        let mut carrier = open(Some(0x3fff_ffff), "nothing-read");
        for _ in 0..PIECES {
            std::thread::sleep(PIECE);
            let one = 1_u32.to_be_bytes();
            trickles.conn.send(&frame(WINDOW_UPDATE, 0, 1, &one));
            let told = path("window-trickles");
            let slow = |r: &serde_json::Value| r["request"]["path"] == told.as_str();
            if system.records().iter().any(slow) {
                break;
            }
        }
        let kinds = ["window-full", "window-shut", "window-trickles"];
        for kind in ["h1", "nothing-read"].iter().chain(&kinds) {
            told(&system, place, &path(kind), REASON);
        }
        assert!(h1.end().is_some(), "{place:?}: it looks complete");
        for streams in [&mut fills, &mut shut, &mut trickles] {
            let answer = streams.answer(1);
            let reset = matches!(answer.ended, Ended::Reset(_));
            assert!(reset, "{place:?}: {:?}", answer.ended);
            assert!(goes_on(streams, place, 3), "{place:?}");
        }
        let ended = carrier.answer(1).ended;
        assert!(
            matches!(ended, Ended::Connection(_)),
            "{place:?}: {ended:?}"
        );
        system.backend(place).says(&[]);
    }
    system.gives_back(before);
    system.healthy();
}

/// Also where another hop of ours lies between, which moves in lumps.
fn who_reads_slowly_is_waited_for(io: &str) {
    let system = with(io, "responseReadTimeout = \"2s\"");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {FLOOD_BYTES}\r\n\r\n");
    for place in PLACES {
        system.backend(place).says(&[BODY, &head, FLOOD]);
        let mut conn = system.connect(place);
        conn.send(get(place, "/api/steady").as_bytes());
        for _ in 0..40 {
            std::thread::sleep(PIECE * 2);
            assert!(conn.exactly(1_000_000).is_some(), "{place:?}: it is cut");
        }
        system.backend(place).says(&[]);
    }
}

fn who_waits_is_left_alone(io: &str) {
    const LONG: Duration = Duration::from_millis(2500);
    let system = with(
        io,
        "requestBodyTimeout = \"1s\"\nresponseReadTimeout = \"1s\"",
    );
    let begins = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for place in PLACES {
        // The server has nothing to say for a while.
        let backend = system.backend(place);
        backend.says(&[WAIT, begins, WAIT, "0\r\n\r\n"]);
        let mut conn = system.connect(place);
        conn.send(get(place, "/api/events").as_bytes());
        std::thread::sleep(LONG);
        backend.go();
        let begun = answer::head(&mut conn).map(|head| head.status);
        assert_eq!(begun, Some(200), "{place:?}");
        std::thread::sleep(LONG);
        backend.go();
        let rest = conn.exactly("5\r\nhello\r\n0\r\n\r\n".len());
        assert!(rest.is_some(), "{place:?}: events are cut");
        let mut streams = Streams::open(&system, place);
        streams.head(1, &fields(place, b"GET", "/api/events"), true);
        std::thread::sleep(LONG);
        backend.go();
        assert_eq!(streams.begun(1).status, 200, "{place:?}");
        std::thread::sleep(LONG);
        backend.go();
        assert_eq!(streams.answer(1).ended, Ended::Whole, "{place:?}");
        // Who has its answer already talks both ways.
        backend.says(&[begins, BODY, "0\r\n\r\n"]);
        let mut streams = Streams::open(&system, place);
        streams.head(1, &fields(place, b"POST", "/api/both"), false);
        assert_eq!(streams.begun(1).status, 200, "{place:?}");
        std::thread::sleep(LONG);
        streams.data(1, b"at last", true);
        let answer = streams.answer(1);
        assert_eq!(answer.ended, Ended::Whole, "{place:?}: {answer:?}");
        backend.says(&[]);
    }
    system.healthy();
}
