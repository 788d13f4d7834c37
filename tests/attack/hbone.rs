//! The HTTP/2 of a tunnel's connection, frame by frame: floods that must cost the attacker more than us, and heads that
//! are none.

use std::time::{Duration, Instant};

use crate::client::{Conn, client, stolen};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, field, frame, read,
};
use crate::system::System;

crate::both!(floods, resets, malformed_heads, errors, slow_preface);

/// The port of the waypoint's tunnels, as frontend-service.
fn open(system: &System) -> Conn {
    let conn = Conn::plain(&system.layout.at(13, 15008));
    let config = client(&["h2"], Some(stolen(system, "frontend-service")));
    let mut conn = conn.tls(config, "customer-api").unwrap();
    conn.send(PREFACE);
    conn
}

fn connect(id: u32) -> Vec<u8> {
    let fields: [(&[u8], &[u8]); 2] = [
        (b":method", b"CONNECT"),
        (b":authority", b"customer-api:80"),
    ];
    frame(HEADERS, END_HEADERS, id, &block(&fields))
}

/// Sends `piece` over and over until it is cut off, while the victim is served.
fn cut_off(system: &System, what: &str, first: &[u8], mut piece: impl FnMut(u32) -> Vec<u8>) {
    let mut conn = open(system);
    conn.send(first);
    conn.patience(Duration::from_millis(500));
    conn.wait_to_send(Duration::from_secs(10));
    let until = Instant::now() + Duration::from_secs(60); // on a busy machine
    let mut n = 0;
    let mut batch = || -> Vec<u8> {
        (0..200)
            .flat_map(|_| {
                n += 1;
                piece(n)
            })
            .collect()
    };
    while conn.send(&batch()) {
        assert!(Instant::now() < until, "{what} are taken without end");
    }
    assert!(conn.is_over(), "{what}");
    system.victim_is_served();
}

fn floods(system: &System) {
    let before = system.resident();
    cut_off(system, "CONTINUATION", &frame(HEADERS, 0, 1, b""), |_| {
        frame(CONTINUATION, 0, 1, b"")
    });
    let mut crumb = Vec::new();
    field(&mut crumb, b"x", &[b'y'; 100]);
    cut_off(system, "header blocks", &frame(HEADERS, 0, 1, b""), |_| {
        frame(CONTINUATION, 0, 1, &crumb)
    });
    cut_off(system, "SETTINGS", b"", |_| {
        frame(SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64")
    });
    cut_off(system, "PING", b"", |_| frame(PING, 0, 0, b"12345678"));
    cut_off(system, "small updates", b"", |_| {
        frame(WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x01")
    });
    cut_off(system, "empty DATA", &connect(1), |_| {
        frame(DATA, 0, 1, b"")
    });
    cut_off(system, "unknown frames", b"", |_| {
        frame(0xbb, 0, 0, b"unknown")
    });
    let mut indexed = vec![0x40, 1, b'x', 127, 0x81 | 0x80, 0x1e];
    indexed.extend_from_slice(&vec![b'y'; 127 + 1 + (0x1e << 7)]);
    indexed.extend_from_slice(&[0xbe; 10_000]);
    cut_off(system, "header lists", b"", |n| {
        frame(HEADERS, END_HEADERS, n * 2 - 1, &indexed)
    });
    let grown = system.resident().saturating_sub(before);
    assert!(grown < 100 << 20, "grew by {grown} bytes");
}

/// Streams that are opened and reset at once (CVE-2023-44487), and streams that we are made to reset.
fn resets(system: &System) {
    let before = system.descriptors();
    cut_off(system, "resets", b"", |n| {
        let id = n * 2 - 1;
        [connect(id), frame(RST_STREAM, 0, id, b"\x00\x00\x00\x08")].concat()
    });
    cut_off(system, "errors", b"", |n| {
        let id = n * 2 - 1;
        [
            connect(id),
            frame(WINDOW_UPDATE, 0, id, b"\x00\x00\x00\x00"),
        ]
        .concat()
    });
    let returned = system.within(Duration::from_secs(8), || {
        system.descriptors() <= before + 20
    });
    assert!(returned, "descriptors stay");
}

/// What answers stream 1: the first byte of its header block, 0 for a reset or the end.
fn outcome(conn: &mut Conn) -> u8 {
    while let Some((kind, _, stream, payload)) = read(conn) {
        match kind {
            HEADERS if stream == 1 => return payload[0],
            RST_STREAM if stream == 1 => return 0,
            GOAWAY => return 0,
            _ => {}
        }
    }
    0
}

fn malformed_heads(system: &System) {
    type Field = (&'static [u8], &'static [u8]);
    const METHOD: Field = (b":method", b"CONNECT");
    const TO: Field = (b":authority", b"customer-api:80");
    let send = |fields: &[Field]| {
        let mut conn = open(system);
        conn.send(&frame(HEADERS, END_HEADERS, 1, &block(fields)));
        outcome(&mut conn)
    };
    assert_eq!(send(&[METHOD, TO]), 0x88, "200");
    for (what, fields) in [
        ("no authority", &[METHOD][..]),
        ("no method", &[TO]),
        ("a scheme", &[METHOD, TO, (b":scheme", b"https")]),
        ("a path", &[METHOD, TO, (b":path", b"/")]),
        ("a protocol", &[METHOD, TO, (b":protocol", b"websocket")]),
        ("two authorities", &[METHOD, TO, TO]),
        ("upper case name", &[METHOD, TO, (b"X", b"y")]),
        ("CR LF in a value", &[METHOD, TO, (b"x", b"y\r\nz: a")]),
        (
            "NUL in the authority",
            &[METHOD, (b":authority", b"customer-api\0:80")],
        ),
        ("late pseudo header", &[METHOD, (b"x", b"y"), TO]),
        ("connection", &[METHOD, TO, (b"connection", b"close")]),
        (
            "a request",
            &[
                (b":method", b"GET"),
                TO,
                (b":scheme", b"http"),
                (b":path", b"/x"),
            ],
        ),
    ] {
        assert_ne!(send(fields), 0x88, "{what}");
    }
    assert!(system.customer.take().is_empty());
}

/// Each breaks the connection, and GOAWAY says why.
fn errors(system: &System) {
    for (what, input, code) in [
        ("DATA on 0", frame(DATA, 0, 0, b"x"), 1),
        ("DATA on an idle stream", frame(DATA, 0, 1, b"x"), 1),
        ("even stream", connect(2), 1),
        ("short PING", frame(PING, 0, 0, b"x"), 6),
        (
            "block that is none",
            frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
            9,
        ),
        (
            "window too large",
            frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
            3,
        ),
        ("push promise", frame(5, END_HEADERS, 1, b"\0\0\0\x02"), 1),
        ("closed stream", [connect(3), connect(1)].concat(), 5),
        (
            "half a block",
            [
                frame(HEADERS, END_STREAM, 1, b""),
                frame(PING, 0, 0, b"12345678"),
            ]
            .concat(),
            1,
        ),
    ] {
        let mut conn = open(system);
        conn.send(&input);
        let mut said = None;
        while let Some((kind, _, _, payload)) = read(&mut conn) {
            if kind == GOAWAY {
                said = Some(payload[7]);
            }
        }
        assert_eq!(said, Some(code), "{what}");
    }
    system.victim_is_served();
}

/// A client that shows its certificate, and holds back the first bytes of HTTP/2 until that is revoked.
fn slow_preface(system: &System) {
    let conn = Conn::plain(&system.layout.at(13, 15008));
    let config = client(&["h2"], Some(stolen(system, "reviews-service")));
    let mut conn = conn.tls(config, "customer-api").unwrap();
    // Its settings come when the server has taken the certificate.
    assert_eq!(read(&mut conn).map(|(kind, ..)| kind), Some(SETTINGS));
    let told = |count: &str| {
        let line = format!("\nringgate_revocations {count}\n");
        system.within(Duration::from_secs(60), || {
            let metrics = system.admin("/metrics");
            metrics.is_some_and(|(_, body)| String::from_utf8_lossy(&body).contains(&line))
        })
    };
    let path = system.layout.config();
    let before = std::fs::read_to_string(&path).unwrap();
    let revoked = "[[revocation]]\nid = \"spiffe://cluster.local/ns/default/sa/reviews-service\"\n";
    std::fs::write(&path, format!("{before}\n{revoked}")).unwrap();
    assert!(told("1"), "{}", system.log());
    conn.send(PREFACE);
    conn.patience(Duration::from_secs(20));
    assert!(conn.is_over(), "a connection of a revoked peer stays open");
    let recorded = system.within(Duration::from_secs(20), || {
        system.records().iter().any(|r| r["close"] == "revoked")
    });
    assert!(recorded, "{:#?}", system.records().last());
    std::fs::write(&path, before).unwrap();
    assert!(told("0"), "{}", system.log());
}
