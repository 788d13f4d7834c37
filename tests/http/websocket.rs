//! WebSocket over HTTP/1.1: nothing before the upstream's 101, bytes as they are afterwards, cut by policy and by idleness,
//! and recorded.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;

use crate::answer;
use crate::backend::{BODY, ECHO, WAIT};
use crate::client::Conn;
use crate::system::{PLACES, Place, System};

crate::both!(
    bytes_both_ways,
    nothing_before_the_switch,
    cut_by_policy,
    ends_with_its_peers
);
crate::on_both!(idle, times_of_a_route, a_rule_forbids_them);

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\nx-a: 1\r\nconnection: x-a\r\n\r\n";

fn request(place: Place, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n\r\n",
        place.host()
    )
}

/// An open WebSocket whose other side sends everything back.
pub(crate) fn open(system: &System, place: Place, path: &str) -> Conn {
    system.backend(place).says(&[BODY, SWITCH, ECHO]);
    let mut conn = system.connect(place);
    conn.send(request(place, path).as_bytes());
    let head = answer::head(&mut conn).expect("an answer");
    assert_eq!(head.status, 101, "{head:?}");
    conn
}

/// Whether bytes come back.
pub(crate) fn echoes(conn: &mut Conn, bytes: &[u8]) -> bool {
    conn.send(bytes);
    conn.exactly(bytes.len()).is_some_and(|got| got == bytes)
}

/// The record of an event of what went to a path.
pub(crate) fn record(system: &System, place: Place, path: &str, event: &str) -> Value {
    system.record(|r| {
        r["role"] == place.role() && r["request"]["path"] == path && r["event"] == event
    })
}

fn bytes_both_ways(system: &System) {
    for place in PLACES {
        let path = format!("/api/ws/{}", place.role());
        let mut conn = open(system, place, &path);
        assert!(echoes(&mut conn, b"\x81\x05hello"));
        // Frames, requests, anything: nobody looks at it.
        assert!(echoes(
            &mut conn,
            b"GET /api/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
        ));
        let large: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in large.chunks(50_000) {
            assert!(echoes(&mut conn, piece));
        }
        let seen = system.backend(place).seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].all("upgrade"), ["websocket"]);
        assert_eq!(seen[0].all("connection"), ["upgrade"]);
        assert_eq!(seen[0].all("sec-websocket-protocol"), ["chat"]);
        let opened = record(system, place, &path, "open");
        assert_eq!(
            (&opened["status"], &opened["verdict"]),
            (&101.into(), &"allow".into())
        );
        drop(conn);
        let closed = record(system, place, &path, "close");
        let bytes = &closed["bytes"];
        assert!(bytes["received"].as_u64() >= Some(300_000), "{closed}");
        assert!(bytes["sent"].as_u64() >= Some(300_000), "{closed}");
    }
}

fn nothing_before_the_switch(system: &System) {
    for place in PLACES {
        let backend = system.backend(place);
        backend.says(&[BODY, WAIT, SWITCH, ECHO]);
        let mut conn = system.connect(place);
        conn.send(request(place, "/api/early").as_bytes());
        // It cannot know yet that it may say this.
        conn.send(b"GET /api/smuggled HTTP/1.1\r\nhost: x\r\n\r\n");
        let came = system.within(Duration::from_secs(10), || backend.seen().len() == 1);
        assert!(came, "{place:?}: the request does not arrive");
        backend.go();
        let head = answer::head(&mut conn).expect("an answer");
        assert_eq!(head.status, 101);
        assert_eq!(head.one("upgrade"), Some("websocket"));
        assert_eq!(head.one("sec-websocket-protocol"), Some("chat"));
        assert!(head.all("x-a").is_empty(), "{head:?}");
        // What was said early is the first of what the other side hears.
        let early = b"GET /api/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        assert_eq!(conn.exactly(early.len()).as_deref(), Some(&early[..]));
        assert_eq!(
            backend.seen().len(),
            1,
            "{place:?}: it was taken for a request"
        );
        // And if the upstream does not switch, nobody hears it at all.
        backend.says(&[BODY, WAIT, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"]);
        let mut conn = system.connect(place);
        conn.send(request(place, "/api/early").as_bytes());
        conn.send(early);
        backend.go();
        let refused = answer::read(&mut conn, "GET").expect("an answer");
        assert_eq!((refused.status, refused.text().as_str()), (200, "no"));
        assert_eq!(refused.one("connection"), Some("close"));
        assert!(answer::head(&mut conn).is_none());
        assert_eq!(backend.seen().len(), 1, "{:?}", backend.seen());
    }
}

fn cut_by_policy(system: &System) {
    let path = "/api/ws/policy";
    let mut conn = open(system, Place::Waypoint, path);
    let mut other = open(system, Place::Waypoint, "/api/ws/other");
    assert!(echoes(&mut conn, b"before"));
    system.reload(|config| {
        format!(
            "{config}\n[[authorizationPolicy]]\nname = \"no-socket\"\nnamespace = \"default\"\nselector.matchLabels = {{ \"istio.io/gateway-name\" = \"customer-api\" }}\naction = \"DENY\"\nrules = [{{ to = [{{ operation.paths = [\"{path}\"] }}] }}]\n"
        )
    });
    assert_eq!(
        conn.end(),
        Some(ErrorKind::ConnectionReset),
        "it goes on, or looks complete"
    );
    let closed = record(system, Place::Waypoint, path, "close");
    assert_eq!(closed["close"], "policy_changed", "{closed}");
    assert!(echoes(&mut other, b"after"), "the other one is cut as well");
}

fn ends_with_its_peers(system: &System) {
    let before = system.descriptors();
    // Far more than may stay: one of each that is left behind shows.
    for round in 0..10 {
        for place in PLACES {
            let path = format!("/api/ws/end/{round}/{}", place.role());
            let mut conn = open(system, place, &path);
            assert!(echoes(&mut conn, b"x"));
            drop(conn);
            record(system, place, &path, "close");
        }
    }
    system.gives_back(before);
}

/// One that says nothing for longer than it may is cut; one that says something now and then is not.
fn idle(io: &str) {
    let system = System::with(io, |config| {
        format!("{config}\n[limits]\nstreamIdleTimeout = \"2s\"\n")
    });
    let mut quiet = open(&system, Place::Waypoint, "/api/ws/quiet");
    let mut busy = open(&system, Place::Waypoint, "/api/ws/busy");
    for _ in 0..14 {
        assert!(echoes(&mut busy, b"x"), "the busy one is cut");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(quiet.is_over(), "the quiet one is held");
    // Two hops of ours watch it; the one that is first says why, the other one that it was cut.
    let closed = system.record(|r| {
        r["request"]["path"] == "/api/ws/quiet" && r["close"] == "timeout" && r["event"] == "close"
    });
    assert_eq!(closed["reason"], "stream is idle");
    system.healthy();
}

/// Times that hold for WebSockets, too.
pub(crate) const ROUTES: &str = r#"
[[httpRoute]]
name = "sockets"
namespace = "default"
parentRefs = [{ kind = "Service", name = "customer-api" }]

[[httpRoute.rules]]
matches = [{ path.value = "/api/still" }]
timeouts.idle = "1s"
backendRefs = [{ name = "customer-api", port = 80 }]

[[httpRoute.rules]]
matches = [{ path.value = "/api/long" }]
timeouts.stream = "2s"
backendRefs = [{ name = "customer-api", port = 80 }]

[[httpRoute.rules]]
backendRefs = [{ name = "customer-api", port = 80 }]
"#;

fn times_of_a_route(io: &str) {
    let system = System::with(io, |config| format!("{config}{ROUTES}"));
    let mut free = open(&system, Place::Waypoint, "/api/free");
    for (path, why) in [
        ("/api/still", "stream is idle"),
        ("/api/long", "timeout of the stream"),
    ] {
        let mut conn = open(&system, Place::Waypoint, path);
        if path == "/api/long" {
            // That something moves does not help.
            let ended = system.within(Duration::from_secs(30), || {
                conn.send(b"x");
                conn.exactly(1).is_none()
            });
            assert!(ended, "it goes on");
        }
        assert!(conn.is_over(), "{path}");
        let fits = |r: &Value| r["request"]["path"] == path && r["close"] == "timeout";
        let closed = system.record(fits);
        assert_eq!(closed["reason"], why, "{closed}");
        assert_eq!(closed["role"], "waypoint", "{closed}");
    }
    assert!(echoes(&mut free, b"x"), "without such a time it goes on");
    system.healthy();
}

/// No WebSockets below `/api/plain/`, by the field that asks for one.
pub(crate) const FORBIDDEN: &str = r#"
[[authorizationPolicy]]
name = "no-websockets-at-the-edge"
namespace = "edge"
action = "DENY"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
rules = [{ to = [{ operation.paths = ["/api/plain/*"] }], when = [{ key = "request.headers[upgrade]", values = ["websocket"] }] }]

[[authorizationPolicy]]
name = "no-websockets"
namespace = "default"
action = "DENY"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
rules = [{ to = [{ operation.paths = ["/api/plain/*"] }], when = [{ key = "request.headers[upgrade]", values = ["WebSocket"] }] }]

[[authorizationPolicy]]
name = "no-websockets-to-the-partner"
namespace = "egress"
action = "DENY"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [{ to = [{ operation.paths = ["/api/plain/*"] }], when = [{ key = "request.headers[upgrade]", values = ["websocket"] }] }]
"#;

fn a_rule_forbids_them(io: &str) {
    let system = System::with(io, |config| config + FORBIDDEN);
    for place in PLACES {
        system.backend(place).says(&[]);
        let path = "/api/plain/socket";
        for (asks, status) in [
            (request(place, path), 403),
            (
                request(place, path).replace("upgrade: websocket", "UPGRADE: WebSocket"),
                403,
            ),
            // What is no request for one goes on without the field.
            (
                request(place, path).replace("upgrade: websocket", "upgrade: h2c"),
                200,
            ),
            (
                request(place, path).replace("connection: Upgrade\r\n", ""),
                200,
            ),
        ] {
            let mut conn = system.connect(place);
            conn.send(asks.as_bytes());
            let answer = answer::read(&mut conn, "GET").expect("an answer");
            assert_eq!(answer.status, status, "{place:?}: {asks}");
        }
        let seen = system.backend(place).seen();
        assert_eq!(seen.len(), 2, "{place:?}: {seen:?}");
        let fields = seen.iter().flat_map(|m| m.all("upgrade"));
        assert_eq!(fields.count(), 0, "{place:?}: {seen:?}");
        drop(open(&system, place, "/api/other/socket"));
    }
    system.healthy();
}
