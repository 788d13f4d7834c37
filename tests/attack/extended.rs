//! Extended CONNECT (RFC 8441): what is none, what comes too early, and what would be another request at the server.

use crate::client::{Conn, client, stolen};
use crate::frames::{
    DATA, END_HEADERS, END_STREAM, Field, GOAWAY, HEADERS, PREFACE, RST_STREAM, block, frame, get,
    instead, read, with, without,
};
use crate::system::System;

crate::both!(malformed, before_its_time, what_follows);

const GOOD: [Field; 6] = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":authority", b"customer-api"),
    (b":path", b"/h2"),
    (b"sec-websocket-version", b"13"),
];

fn connect(system: &System) -> Conn {
    let conn = Conn::plain(&system.layout.at(13, 8443));
    let config = client(&["h2"], Some(stolen(system, "frontend-service")));
    conn.tls(config, "customer-api").unwrap()
}

/// What comes of stream 1: the first byte of an answer's block, 0 for a reset, `None` for the end of the connection.
fn outcome(conn: &mut Conn) -> Option<u8> {
    while let Some((kind, _, stream, payload)) = read(conn) {
        match kind {
            HEADERS if stream == 1 => return Some(payload[0]),
            RST_STREAM if stream == 1 => return Some(0),
            GOAWAY => return None,
            _ => {}
        }
    }
    None
}

/// `200`, in the static table.
const OK: u8 = 0x88;

fn malformed(system: &System) {
    let with = |name, value| with(&GOOD, &[(name, value)]);
    let instead = |name, value| instead(&GOOD, name, value);
    let without = |name: &[u8]| without(&GOOD, name);
    let cases: Vec<(&str, Vec<Field>)> = vec![
        ("with GET", instead(b":method", b"GET")),
        ("with POST", instead(b":method", b"POST")),
        ("with connect", instead(b":method", b"connect")),
        ("no method", without(b":method")),
        ("no scheme", without(b":scheme")),
        ("no authority", without(b":authority")),
        ("no path", without(b":path")),
        ("two protocols", with(b":protocol", b"websocket")),
        (
            "late protocol",
            [&without(b":protocol")[..], &[(b":protocol", b"websocket")]].concat(),
        ),
        ("empty protocol", instead(b":protocol", b"")),
        ("h2c", instead(b":protocol", b"h2c")),
        ("connect-ip", instead(b":protocol", b"connect-ip")),
        ("a list", instead(b":protocol", b"websocket, h2c")),
        ("a version", instead(b":protocol", b"websocket/13")),
        ("a space", instead(b":protocol", b"websocket ")),
        (
            "CR LF",
            instead(b":protocol", b"websocket\r\nx: y\r\n\r\nGET /smuggled"),
        ),
        ("NUL", instead(b":protocol", b"websocket\0")),
        (
            "path with CR LF",
            instead(b":path", b"/h2 HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled"),
        ),
        ("path with a space", instead(b":path", b"/h2 HTTP/1.1")),
        (
            "path without a slash",
            instead(b":path", b"customer-api:80"),
        ),
        ("connection", with(b"connection", b"upgrade")),
        ("upgrade", with(b"upgrade", b"websocket")),
        ("transfer-encoding", with(b"transfer-encoding", b"chunked")),
        ("a length", with(b"content-length", b"5")),
        ("no length", with(b"content-length", b"0")),
        ("another host", with(b"host", b"other")),
        ("denied", instead(b":path", b"/admin")),
        ("denied, spelt", instead(b":path", b"/x/../%61dmin")),
    ];
    for (what, fields) in cases {
        for end in [0, END_STREAM] {
            let mut conn = connect(system);
            conn.send(PREFACE);
            conn.send(&frame(HEADERS, END_HEADERS | end, 1, &block(&fields)));
            let outcome = outcome(&mut conn);
            assert_ne!(outcome, Some(OK), "{what}");
            assert!(outcome.is_some() || conn.is_over(), "{what}: nothing comes");
            let seen = system.customer.targets();
            assert!(seen.is_empty(), "{what}: {seen:?}");
        }
    }
}

/// A client may not even ask before it has said its settings (RFC 9113 section 3.4).
fn before_its_time(system: &System) {
    let magic = &PREFACE[..24];
    let ask = frame(HEADERS, END_HEADERS, 1, &block(&GOOD));
    for first in [
        [magic, &ask[..]].concat(),
        [magic, &ask, &PREFACE[24..]].concat(),
        ask.clone(),
    ] {
        let mut conn = connect(system);
        conn.send(&first);
        assert_eq!(outcome(&mut conn), None);
        assert!(conn.is_over(), "it stays open");
        let seen = system.customer.targets();
        assert!(seen.is_empty(), "{seen:?}");
    }
}

/// The server does not switch: what the client said behind its request is nobody's request.
fn what_follows(system: &System) {
    let smuggled = b"GET /smuggled HTTP/1.1\r\nhost: customer-api\r\n\r\n";
    for split in [false, true] {
        let mut conn = connect(system);
        conn.send(PREFACE);
        let ask = frame(HEADERS, END_HEADERS, 1, &block(&GOOD));
        conn.send(&[ask, frame(DATA, 0, 1, &smuggled[..20])].concat());
        if split {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        conn.send(&frame(DATA, END_STREAM, 1, &smuggled[20..]));
        // It answers 200, which would be a switch to this client.
        let outcome = outcome(&mut conn);
        assert!(outcome.is_some_and(|first| first != OK), "{outcome:?}");
        // The connection that carried it is not used for anybody else, or carries nothing of it.
        let next = get("customer-api", "/next");
        conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &next));
        while let Some((kind, _, stream, payload)) = read(&mut conn) {
            if kind == HEADERS && stream == 3 {
                assert_eq!(payload[0], OK);
                break;
            }
        }
        let seen = system.customer.targets();
        assert_eq!(seen, ["/h2", "/next"]);
    }
}
