//! WebSocket over HTTP/2 (RFC 8441): offered, judged as the GET that it stands for, an HTTP/1.1 upgrade at the backend,
//! bytes as they are afterwards.

use std::time::Duration;

use crate::backend::{BODY, ECHO, SWITCH, WAIT};
use crate::stream::{Answer, Ended, Streams};
use crate::system::{PLACES, Place, System};
use crate::websocket::{FORBIDDEN, ROUTES, record};

crate::both!(
    bytes_both_ways,
    nothing_before_the_switch,
    only_a_switch_is_success,
    cut_by_policy,
    ends_with_its_peers
);
crate::on_both!(idle, times_of_a_route, a_rule_forbids_them);

const CANCEL: u32 = 8;

type Fields<'f> = Vec<(&'f [u8], &'f [u8])>;

fn request(place: Place, path: &str) -> Fields<'_> {
    vec![
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"https"),
        (b":authority", place.host().as_bytes()),
        (b":path", path.as_bytes()),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-protocol", b"chat"),
        (b"origin", b"https://portal.example.test"),
    ]
}

/// An open WebSocket on a stream, whose other side sends everything back.
fn open(system: &System, place: Place, path: &str) -> Streams {
    system.backend(place).says(&[BODY, SWITCH, ECHO]);
    let mut streams = Streams::open(system, place);
    streams.head(1, &request(place, path), false);
    let answer = streams.begun(1);
    assert_eq!(
        (answer.status, answer.ended),
        (200, Ended::Open),
        "{place:?}: {answer:?}"
    );
    assert_eq!(answer.all("sec-websocket-protocol"), ["chat"]);
    for name in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(answer.all(name).is_empty(), "{place:?}: {answer:?}");
    }
    streams
}

/// Whether bytes come back.
fn echoes(streams: &mut Streams, bytes: &[u8]) -> bool {
    let mut answer = Answer::default();
    streams.data(1, bytes, false);
    streams.until(1, &mut answer, |a| a.body.len() >= bytes.len());
    answer.body == bytes
}

fn bytes_both_ways(system: &System) {
    for place in PLACES {
        let path = format!("/api/ws2/{}", place.role());
        let mut streams = open(system, place, &path);
        assert!(
            streams.settings.contains(&(8, 1)),
            "not offered: {:?}",
            streams.settings
        );
        assert!(echoes(&mut streams, b"\x81\x05hello"));
        assert!(echoes(
            &mut streams,
            b"GET /api/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
        ));
        let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in large.chunks(30_000) {
            assert!(echoes(&mut streams, piece), "{place:?}");
        }
        // Other streams of the connection go on as ever.
        let mut ordinary = request(place, "/api/probe");
        ordinary.retain(|(name, _)| *name != b":protocol");
        ordinary[0].1 = b"GET";
        streams.head(3, &ordinary, true);
        assert_eq!(streams.answer(3).status, 200);
        let seen = system.backend(place).seen();
        let seen: Vec<_> = seen.iter().filter(|m| m.target() == path).collect();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].line, format!("GET {path} HTTP/1.1"));
        assert_eq!(seen[0].all("upgrade"), ["websocket"]);
        assert_eq!(seen[0].all("connection"), ["upgrade"]);
        assert_eq!(seen[0].all("sec-websocket-version"), ["13"]);
        assert_eq!(seen[0].all("sec-websocket-key").len(), 1);
        for name in ["content-length", "transfer-encoding", "expect"] {
            assert!(seen[0].all(name).is_empty(), "{seen:?}");
        }
        let opened = record(system, place, &path, "open");
        assert_eq!(
            (
                &opened["status"],
                &opened["verdict"],
                &opened["request"]["method"]
            ),
            (&200.into(), &"allow".into(), &"GET".into())
        );
        // An end in order, from the client and back.
        streams.end(1);
        assert_eq!(streams.answer(1).ended, Ended::Whole, "{place:?}");
        let closed = record(system, place, &path, "close");
        let bytes = &closed["bytes"];
        assert!(bytes["received"].as_u64() >= Some(300_000), "{closed}");
        assert!(bytes["sent"].as_u64() >= Some(300_000), "{closed}");
        assert_eq!(closed["close"], "done", "{closed}");
    }
}

fn nothing_before_the_switch(system: &System) {
    let early = b"GET /api/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for place in PLACES {
        let backend = system.backend(place);
        backend.says(&[BODY, WAIT, SWITCH, ECHO]);
        let mut streams = Streams::open(system, place);
        streams.head(1, &request(place, "/api/early"), false);
        streams.data(1, early, false);
        let came = system.within(Duration::from_secs(10), || backend.seen().len() == 1);
        assert!(came, "{place:?}: the request does not arrive");
        backend.go();
        let mut answer = Answer::default();
        streams.until(1, &mut answer, |a| a.body.len() >= early.len());
        assert_eq!((answer.status, &answer.body[..]), (200, &early[..]));
        assert_eq!(
            backend.seen().len(),
            1,
            "{place:?}: it was taken for a request"
        );
        // And if the upstream does not switch, nobody hears it at all.
        let refusal = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
        backend.says(&[BODY, WAIT, refusal]);
        let mut streams = Streams::open(system, place);
        streams.head(1, &request(place, "/api/early"), false);
        streams.data(1, early, false);
        backend.go();
        let answer = streams.answer(1);
        assert_eq!((answer.status, &answer.body[..]), (404, &b"no"[..]));
        assert_eq!(backend.seen().len(), 1, "{:?}", backend.seen());
    }
}

/// An answer of success would tell the client that it has a WebSocket.
fn only_a_switch_is_success(system: &System) {
    let wrong_accept = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for place in PLACES {
        for (says, status) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 502),
            ("HTTP/1.1 204 No Content\r\n\r\n", 502),
            (wrong_accept, 502),
            (
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
                502,
            ),
            (
                "HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n",
                426,
            ),
            (
                "HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
                302,
            ),
        ] {
            system.backend(place).says(&[BODY, says]);
            let mut streams = Streams::open(system, place);
            streams.head(1, &request(place, "/api/no"), false);
            assert_eq!(streams.answer(1).status, status, "{place:?}: {says:?}");
        }
        system.backend(place).says(&[BODY, SWITCH, ECHO]);
        let cases: [(&str, &[u8], &[u8], u16); 5] = [
            ("another protocol", b":protocol", b"connect-udp", 501),
            ("h2c", b":protocol", b"h2c", 501),
            ("two of them", b":protocol", b"websocket, h2c", 501),
            ("denied", b":path", b"/api/denied", 403),
            ("a length", b"content-length", b"0", 400),
        ];
        for (what, name, value, status) in cases {
            let mut fields = request(place, "/api/no");
            match fields.iter_mut().find(|(n, _)| *n == name) {
                Some(field) => field.1 = value,
                None => fields.push((name, value)),
            }
            let mut streams = Streams::open(system, place);
            streams.head(1, &fields, false);
            let answer = streams.answer(1);
            assert_eq!(answer.status, status, "{place:?}, {what}: {answer:?}");
        }
        assert!(
            system.backend(place).seen().is_empty(),
            "{:?}",
            system.backend(place).seen()
        );
    }
}

fn cut_by_policy(system: &System) {
    let path = "/api/ws2/policy";
    let mut streams = open(system, Place::Waypoint, path);
    let mut other = open(system, Place::Waypoint, "/api/ws2/other");
    assert!(echoes(&mut streams, b"before"));
    system.reload(|config| {
        format!(
            "{config}\n[[authorizationPolicy]]\nname = \"no-socket\"\nnamespace = \"default\"\nselector.matchLabels = {{ \"istio.io/gateway-name\" = \"customer-api\" }}\naction = \"DENY\"\nrules = [{{ to = [{{ operation = {{ methods = [\"GET\"], paths = [\"{path}\"] }} }}] }}]\n"
        )
    });
    assert_eq!(streams.answer(1).ended, Ended::Reset(CANCEL));
    let closed = record(system, Place::Waypoint, path, "close");
    assert_eq!(closed["close"], "policy_changed", "{closed}");
    assert!(echoes(&mut other, b"after"), "the other one is cut as well");
}

fn ends_with_its_peers(system: &System) {
    let before = system.descriptors();
    for round in 0..10 {
        for place in PLACES {
            let path = format!("/api/ws2/end/{round}/{}", place.role());
            let mut streams = open(system, place, &path);
            assert!(echoes(&mut streams, b"x"));
            if round % 2 == 0 {
                streams.reset(1);
            }
            drop(streams);
            let closed = record(system, place, &path, "close");
            assert_eq!(closed["close"], "downstream_reset", "{closed}");
        }
    }
    system.gives_back(before);
}

/// One that says nothing for longer than it may is cut.
fn idle(io: &str) {
    let system = System::with(io, |config| {
        format!("{config}\n[limits]\nstreamIdleTimeout = \"2s\"\n")
    });
    let mut quiet = open(&system, Place::Waypoint, "/api/ws2/quiet");
    let mut busy = open(&system, Place::Waypoint, "/api/ws2/busy");
    for _ in 0..14 {
        assert!(echoes(&mut busy, b"x"), "the busy one is cut");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(quiet.answer(1).ended, Ended::Reset(CANCEL));
    let closed = system.record(|r| {
        r["request"]["path"] == "/api/ws2/quiet" && r["close"] == "timeout" && r["event"] == "close"
    });
    assert_eq!(closed["reason"], "stream is idle");
    system.healthy();
}

fn times_of_a_route(io: &str) {
    let system = System::with(io, |config| format!("{config}{ROUTES}"));
    let mut free = open(&system, Place::Waypoint, "/api/free");
    for (path, why) in [
        ("/api/still", "stream is idle"),
        ("/api/long", "timeout of the stream"),
    ] {
        let mut streams = open(&system, Place::Waypoint, path);
        assert_eq!(streams.answer(1).ended, Ended::Reset(CANCEL), "{path}");
        let closed = system.record(|r| r["request"]["path"] == path && r["close"] == "timeout");
        assert_eq!(closed["reason"], why, "{closed}");
    }
    assert!(echoes(&mut free, b"x"), "without such a time it goes on");
    system.healthy();
}

fn a_rule_forbids_them(io: &str) {
    let system = System::with(io, |config| config + FORBIDDEN);
    for place in PLACES {
        let mut streams = Streams::open(&system, place);
        streams.head(1, &request(place, "/api/plain/socket"), false);
        assert_eq!(streams.answer(1).status, 403, "{place:?}");
        drop(open(&system, place, "/api/other/socket"));
    }
    system.healthy();
}
