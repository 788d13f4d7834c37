//! Limits on by default, made small: who takes too much is refused with a reason, who was there before goes on.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::answer;
use crate::client::{Conn, client, stolen};
use crate::system::{PLACES, Place, System, probe};
use crate::websocket;

fn with(io: &str, limits: &str) -> System {
    System::with(io, |config| format!("{config}\n[limits]\n{limits}\n"))
}

crate::on_both!(
    heads_have_their_time,
    bodies_have_a_limit,
    requests_of_a_connection,
    connections_of_a_source,
    memory_has_a_ceiling,
);

fn heads_have_their_time(io: &str) {
    let system = with(io, "requestHeadersTimeout = \"600ms\"");
    for place in PLACES {
        // One that stops, and one that never stops but never ends either.
        for trickles in [false, true] {
            let slow = |r: &serde_json::Value| r["role"] == place.role() && r["close"] == "timeout";
            let before = system.records().iter().filter(|r| slow(r)).count();
            let mut conn = system.connect(place);
            conn.send(
                format!("GET /api/slow HTTP/1.1\r\nhost: {}\r\nx: ", place.host()).as_bytes(),
            );
            for _ in 0..if trickles { 40 } else { 0 } {
                std::thread::sleep(Duration::from_millis(50));
                conn.send(b"y");
            }
            let status = answer::head(&mut conn).map(|head| head.status);
            // Who still sends when we are gone may lose the answer to a reset.
            assert!(
                status == Some(408) || trickles && status.is_none(),
                "{place:?}: {status:?}"
            );
            assert!(conn.is_over(), "{place:?}: held");
            let mut records = Vec::new();
            let more = system.within(Duration::from_secs(20), || {
                records = system.records();
                records.retain(|r| slow(r));
                records.len() > before
            });
            assert!(more, "{place:?}: no record of its own");
            for record in &records[before..] {
                assert_eq!(record["reason"], "request head is too slow");
            }
        }
        // Between two requests there is time.
        let mut conn = system.connect(place);
        assert_eq!(probe(&mut conn, place), Some(200));
        std::thread::sleep(Duration::from_millis(900));
        assert_eq!(probe(&mut conn, place), Some(200), "{place:?}: idle");
    }
    system.healthy();
}

fn bodies_have_a_limit(io: &str) {
    let system = System::with(io, |config| {
        // Of a rule on paths its source alone is left for a CONNECT, which has none.
        let (before, last) = config.split_once("name = \"none-to-the-partner\"").unwrap();
        let nobody = "from = [{ source.principals = [\"cluster.local/ns/none/sa/none\"] }], to =";
        let last = last.replace("to =", nobody);
        format!(
            "{before}name = \"none-to-the-partner\"{last}\n[limits]\nmaxRequestBodyBytes = 10\n"
        )
    });
    for place in PLACES {
        let post = |framing: &str, body: &str| {
            system.backend(place).says(&[]);
            let mut conn = system.connect(place);
            let head = format!(
                "POST /api/b HTTP/1.1\r\nhost: {}\r\n{framing}\r\n\r\n",
                place.host()
            );
            conn.send((head + body).as_bytes());
            let answer = answer::read(&mut conn, "POST");
            let status = answer.as_ref().map(|a| a.status);
            let text = answer.filter(|a| a.status == 413).map(|a| a.text());
            assert!(
                text.is_none_or(|text| text == "body_too_large"),
                "{place:?}: {framing}"
            );
            let seen = system.backend(place).seen();
            (status, seen.iter().filter(|m| m.whole).count())
        };
        assert_eq!(
            post("content-length: 10", "0123456789"),
            (Some(200), 1),
            "{place:?}"
        );
        assert_eq!(
            post("content-length: 11", "0123456789a"),
            (Some(413), 0),
            "{place:?}"
        );
        assert_eq!(
            post("content-length: 999999999999", ""),
            (Some(413), 0),
            "{place:?}"
        );
        let chunked = "transfer-encoding: chunked";
        assert_eq!(
            post(chunked, "a\r\n0123456789\r\n0\r\n\r\n"),
            (Some(200), 1),
            "{place:?}"
        );
        let long = "5\r\n01234\r\n6\r\n012345\r\n0\r\n\r\n";
        assert_eq!(post(chunked, long), (Some(413), 0), "{place:?}");
        let record = system.record(|r| r["role"] == place.role() && r["close"] == "body_too_large");
        assert_eq!(
            (&record["status"], &record["request"]["path"]),
            (&413.into(), &"/api/b".into())
        );
        let why = "body is longer than the limit (limits.maxRequestBodyBytes)";
        assert_eq!(record["reason"], why);
    }
    tunnels_have_none(&system);
    system.healthy();
}

/// What a client says through the explicit proxy is no body.
fn tunnels_have_none(system: &System) {
    let identity = stolen(system, "frontend-service");
    let mut conn = Conn::plain(&system.layout.at(30, 15081))
        .tls(client(&["http/1.1"], Some(identity)), "egress")
        .unwrap();
    let target = format!("{}:80", Place::Egress.host());
    conn.send(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes());
    let status = answer::head(&mut conn).map(|head| head.status);
    let tunnel = || system.record(|r| r["request"]["method"] == "CONNECT");
    assert_eq!(status, Some(200), "{:#?}", tunnel());
    let name = ServerName::try_from(Place::Egress.host()).unwrap();
    let mut tls = ClientConnection::new(client(&["http/1.1"], None), name).unwrap();
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).unwrap();
    conn.send(&hello);
    // The server's handshake record.
    assert_eq!(conn.exactly(1).as_deref(), Some(&[22][..]));
}

fn requests_of_a_connection(io: &str) {
    let system = with(io, "maxRequestsPerConnection = 3");
    for place in PLACES {
        let mut conn = system.connect(place);
        let head = format!("GET /api/probe HTTP/1.1\r\nhost: {}\r\n\r\n", place.host());
        conn.send(head.repeat(5).as_bytes());
        let answers: Vec<_> = (0..3)
            .map(|_| answer::read(&mut conn, "GET").unwrap())
            .collect();
        let close: Vec<_> = answers.iter().map(|a| a.one("connection")).collect();
        assert_eq!(close, [None, None, Some("close")], "{place:?}");
        assert!(answer::head(&mut conn).is_none(), "{place:?}: a fourth");
    }
    system.healthy();
}

/// A connection from an address of its own.
fn from(source: &str, to: &str) -> Conn {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address(source)).unwrap();
    socket.connect(&address(to)).unwrap();
    Conn::over(socket.into())
}

fn connections_of_a_source(io: &str) {
    let system = with(io, "maxConnectionsPerSource = 4");
    let open = || system.try_connect(Place::Ingress, "http/1.1");
    let serves = |conn: &mut Option<Conn>| {
        conn.as_mut()
            .is_some_and(|conn| probe(conn, Place::Ingress) == Some(200))
    };
    let mut held: Vec<Option<Conn>> = Vec::new();
    // Those that the start left behind may not be gone yet.
    let full = system.within(Duration::from_secs(10), || {
        let mut conn = open();
        if serves(&mut conn) {
            held.push(conn);
        }
        held.len() == 4
    });
    assert!(full, "{} connections", held.len());
    let tls = Conn::plain(&system.layout.at(20, 8443))
        .tls(client(&["http/1.1"], None), "portal.example.test");
    let kind = tls.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::ConnectionReset), "a fifth");
    let record = system.record(|r| r["role"] == "ingress" && r["close"] == "limit");
    let reason = record["reason"].as_str().unwrap();
    assert!(
        reason.ends_with("has 4 connections (limits.maxConnectionsPerSource)"),
        "{reason}"
    );
    assert!(
        held.iter_mut().all(serves),
        "those that were there are hurt"
    );
    // Another source has places of its own.
    let other = from(&system.layout.at(77, 0), &system.layout.at(20, 8443))
        .tls(client(&["http/1.1"], None), "portal.example.test");
    assert!(serves(&mut other.ok()), "another source is refused");
    assert_eq!(held.len(), 4);
    assert!(held.iter_mut().all(serves), "its places were theirs");
    // One that is free is taken again.
    drop(held.pop());
    let again = system.within(Duration::from_secs(10), || {
        let mut conn = open();
        serves(&mut conn)
    });
    assert!(again, "no place comes back");
    drop(held);
    system.healthy();
}

/// Heads that never end, of as many connections as it takes.
fn memory_has_a_ceiling(io: &str) {
    let system = with(
        io,
        "maxMemoryMib = 96\nmaxConnectionsPerSource = 100000\nrequestHeadersTimeout = \"10m\"",
    );
    let mut socket = websocket::open(&system, Place::Waypoint, "/api/ws/stays");
    let mut waiting = system.connect(Place::Waypoint);
    assert_eq!(probe(&mut waiting, Place::Waypoint), Some(200));
    let mut hogs = Vec::new();
    let part = format!(
        "GET /api/hog HTTP/1.1\r\nhost: customer-api\r\nx: {}",
        "y".repeat(60_000)
    );
    let full = system.within(Duration::from_secs(300), || {
        let hog = system.try_connect(Place::Waypoint, "http/1.1");
        let refused = hog.is_none();
        if let Some(mut hog) = hog {
            hog.send(part.as_bytes());
            hogs.push(hog);
        }
        refused
    });
    assert!(
        full,
        "{} connections, {} bytes",
        hogs.len(),
        system.resident()
    );
    let record = system.record(|r| r["close"] == "overload");
    assert_eq!(
        record["reason"],
        "the process is at its memory ceiling (limits.maxMemoryMib)"
    );
    // A request on a connection that was there: refused, and told when to come again.
    waiting.send(b"GET /api/new HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    let answer = answer::read(&mut waiting, "GET").expect("an answer");
    assert_eq!(
        (answer.status, answer.one("retry-after")),
        (503, Some("1")),
        "{answer:?}"
    );
    assert_eq!(answer.one("connection"), Some("close"));
    // What was open goes on.
    assert!(
        websocket::echoes(&mut socket, b"still here"),
        "old work is shed"
    );
    let held = system.resident();
    assert!(held < 256 << 20, "{held} bytes");
    drop(hogs);
    let serves = system.within(Duration::from_secs(30), || system.serves(Place::Waypoint));
    assert!(
        serves,
        "does not come back: {} bytes\n{}",
        system.resident(),
        system.log()
    );
    assert!(websocket::echoes(&mut socket, b"and still"));
    system.healthy();
}
