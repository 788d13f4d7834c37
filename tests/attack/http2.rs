//! HTTP/2: what cannot be a request, and floods that must cost the attacker more than us.

use std::time::{Duration, Instant};

use crate::client::{Conn, client, stolen};
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, field, frame, get, instead, read, with, without,
};
use crate::system::System;

crate::both!(malformed_requests, floods, rapid_reset, header_memory);

/// HTTP/2 over direct mTLS at the waypoint, as frontend-service.
fn open(system: &System) -> Conn {
    let conn = Conn::plain(&system.layout.at(13, 8443));
    let config = client(&["h2"], Some(stolen(system, "frontend-service")));
    let mut conn = conn.tls(config, "customer-api").unwrap();
    conn.send(PREFACE);
    conn
}

/// What answers stream 1: its status if it can be read off, 0 for a reset or the end.
fn outcome(conn: &mut Conn) -> u16 {
    while let Some((kind, _, stream, payload)) = read(conn) {
        match kind {
            // Statuses of the static table (RFC 7541 appendix A); others are literals on index 8.
            HEADERS if stream == 1 => {
                return match payload[0] {
                    0x88 => 200,
                    0x8c => 400,
                    0x8d => 404,
                    _ => 1,
                };
            }
            RST_STREAM if stream == 1 => return 0,
            GOAWAY => return 0,
            _ => {}
        }
    }
    0
}

fn malformed_requests(system: &System) {
    let good: [Field; 4] = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"customer-api"),
        (b":path", b"/h2"),
    ];
    let with = |more: &[Field]| with(&good, more);
    let instead = |name, value| instead(&good, name, value);
    let without = |name: &[u8]| without(&good, name);
    let send = |fields: &[Field], rest: &[u8]| {
        let mut conn = open(system);
        let flags = if rest.is_empty() {
            END_HEADERS | END_STREAM
        } else {
            END_HEADERS
        };
        conn.send(&[frame(HEADERS, flags, 1, &block(fields)), rest.to_vec()].concat());
        outcome(&mut conn)
    };
    assert_eq!(send(&good, b""), 200);
    assert_eq!(system.customer.targets(), ["/h2"]);
    // 417, which the static table has not; 400 it has.
    assert_eq!(send(&with(&[(b"expect", b"200-ok")]), b""), 1);
    for (what, fields) in [
        ("CR LF in a value", with(&[(b"x", b"a\r\ny: z")])),
        ("LF in a value", with(&[(b"x", b"a\ny: z")])),
        ("NUL in a value", with(&[(b"x", b"a\0b")])),
        ("CR LF in a name", with(&[(b"x\r\ny", b"a")])),
        ("colon in a name", with(&[(b"x: y", b"a")])),
        ("space in a name", with(&[(b"x y", b"a")])),
        ("upper case name", with(&[(b"X-Y", b"a")])),
        ("empty name", with(&[(b"", b"a")])),
        (
            "transfer-encoding",
            with(&[(b"transfer-encoding", b"chunked")]),
        ),
        ("connection", with(&[(b"connection", b"close")])),
        ("upgrade", with(&[(b"upgrade", b"h2c")])),
        ("te", with(&[(b"te", b"gzip")])),
        (
            "late pseudo header",
            with(&[(b"x", b"y"), (b":path", b"/admin")]),
        ),
        ("two paths", with(&[(b":path", b"/admin")])),
        ("two authorities", with(&[(b":authority", b"other")])),
        ("unknown pseudo header", with(&[(b":evil", b"x")])),
        ("status", with(&[(b":status", b"200")])),
        ("protocol", with(&[(b":protocol", b"websocket")])),
        ("other host", with(&[(b"host", b"other")])),
        ("an expectation", with(&[(b"expect", b"200-ok")])),
        (
            "two hosts",
            with(&[(b"host", b"customer-api"), (b"host", b"customer-api")]),
        ),
        (
            "two lengths",
            with(&[(b"content-length", b"0"), (b"content-length", b"5")]),
        ),
        ("no path", without(b":path")),
        ("no method", without(b":method")),
        ("no authority", without(b":authority")),
        ("empty path", instead(b":path", b"")),
        ("path without slash", instead(b":path", b"admin")),
        ("star", instead(b":path", b"*")),
        ("absolute path", instead(b":path", b"http://other/admin")),
        (
            "CR LF in path",
            instead(b":path", b"/h2 HTTP/1.1\r\nx: y\r\n\r\nGET /smuggled"),
        ),
        ("space in path", instead(b":path", b"/h2 HTTP/1.1")),
        (
            "CR LF in method",
            instead(b":method", b"GET /smuggled HTTP/1.1\r\nx:"),
        ),
        ("space in method", instead(b":method", b"GET /smuggled")),
        ("lower case method", instead(b":method", b"get")),
        (
            "CR LF in authority",
            instead(b":authority", b"customer-api\r\nx: y"),
        ),
        ("userinfo", instead(b":authority", b"user@customer-api")),
        (
            "path in authority",
            instead(b":authority", b"customer-api/admin?"),
        ),
        ("CR LF in scheme", instead(b":scheme", b"https\r\nx: y")),
        (
            "CONNECT",
            vec![
                (b":method", b"CONNECT"),
                (b":authority", b"customer-api:80"),
            ],
        ),
        ("CONNECT with a path", instead(b":method", b"CONNECT")),
        ("denied", instead(b":path", b"/admin")),
        ("denied, spelt", instead(b":path", b"/x/../%61dmin#")),
    ] {
        let status = send(&fields, b"");
        assert_ne!(status, 200, "{what}");
        let seen = system.customer.targets();
        assert!(seen.is_empty(), "{what}: {seen:?}");
    }
    // Lengths that are not the body's.
    let post: Vec<Field> = instead(b":method", b"POST");
    for (length, body) in [
        (&b"3"[..], &b"hello"[..]),
        (b"50", b"hello"),
        (b"0", b"hello"),
        (b"+5", b"hello"),
        (b"five", b"hello"),
        (b"", b"hello"),
    ] {
        let mut fields = post.clone();
        fields.push((b"content-length", length));
        let status = send(&fields, &frame(DATA, END_STREAM, 1, body));
        assert_ne!(status, 200, "length {length:?}");
        for seen in system.customer.take() {
            assert!(
                b"hello".starts_with(&seen.body[..]) && seen.target == "/h2",
                "length {length:?}: {seen:?}"
            );
        }
    }
    // A trailer is no way around.
    let trailer = block(&[
        (b"x-forwarded-client-cert", b"URI=spiffe://evil"),
        (b"x-jwt-sub", b"root"),
    ]);
    let rest = [
        frame(DATA, 0, 1, b"hello"),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailer),
    ]
    .concat();
    assert_eq!(send(&post, &rest), 200);
    let seen = system.customer.take().pop().unwrap();
    assert!(
        !seen.headers.iter().any(|(n, _)| n.starts_with("trailer")),
        "{seen:?}"
    );
    // Cookie crumbs are one cookie.
    assert_eq!(
        send(&with(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]), b""),
        200
    );
    assert_eq!(system.customer.take()[0].all("cookie"), ["a=1; b=2"]);
}

/// Sends `piece` over and over for at most two seconds, reading nothing, while the victim is served.
fn flood(system: &System, first: &[u8], mut piece: impl FnMut(u32) -> Vec<u8>) -> Conn {
    let mut conn = open(system);
    conn.send(first);
    conn.patience(Duration::from_millis(500));
    let until = Instant::now() + Duration::from_secs(2);
    let mut n = 0;
    while Instant::now() < until {
        let batch: Vec<u8> = (0..200)
            .flat_map(|_| {
                n += 1;
                piece(n)
            })
            .collect();
        if !conn.send(&batch) {
            break;
        }
    }
    system.victim_is_served();
    conn
}

fn floods(system: &System) {
    let before = system.resident();
    let open_headers = frame(HEADERS, 0, 1, &get("customer-api", "/flood"));
    let mut empty = flood(system, &open_headers, |_| frame(CONTINUATION, 0, 1, b""));
    assert!(empty.is_over(), "CONTINUATION frames without end are taken");
    let mut crumb = Vec::new();
    field(&mut crumb, b"x", &[b'y'; 100]);
    let mut full = flood(system, &open_headers, |_| frame(CONTINUATION, 0, 1, &crumb));
    assert!(full.is_over(), "a header block without end is taken");
    drop(flood(system, b"", |_| {
        frame(SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64")
    }));
    drop(flood(system, b"", |_| frame(PING, 0, 0, b"12345678")));
    drop(flood(system, b"", |_| {
        frame(WINDOW_UPDATE, 0, 0, b"\x00\x00\x00\x01")
    }));
    let post = block(&[
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":authority", b"customer-api"),
        (b":path", b"/flood"),
    ]);
    drop(flood(
        system,
        &frame(HEADERS, END_HEADERS, 1, &post),
        |_| frame(DATA, 0, 1, b""),
    ));
    drop(flood(system, b"", |_| frame(0xbb, 0, 0, b"unknown")));
    // Frames that make the server reset streams itself.
    let made = flood(system, b"", |n| {
        let id = n * 2 - 1;
        [
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                id,
                &get("customer-api", "/made"),
            ),
            frame(WINDOW_UPDATE, 0, id, b"\x00\x00\x00\x00"),
        ]
        .concat()
    });
    drop(made);
    let grown = system.resident().saturating_sub(before);
    assert!(grown < 200 << 20, "grew by {grown} bytes");
    system.victim_is_served();
}

/// Streams that are opened and reset at once (CVE-2023-44487), to an upstream that answers late.
fn rapid_reset(system: &System) {
    let before = system.descriptors();
    let get = |id| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            id,
            &get("customer-api", "/lie/slow"),
        )
    };
    let reset = |id| frame(RST_STREAM, 0, id, b"\x00\x00\x00\x08");
    drop(flood(system, b"", |n| {
        [get(n * 2 - 1), reset(n * 2 - 1)].concat()
    }));
    // In waves, so that each stream is taken before it is reset.
    let mut conn = open(system);
    let mut peak = 0;
    for wave in 0..20_u32 {
        let ids: Vec<u32> = (0..50).map(|n| (wave * 50 + n) * 2 + 1).collect();
        if !conn.send(&ids.iter().flat_map(|id| get(*id)).collect::<Vec<u8>>()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        peak = peak.max(system.descriptors());
        conn.send(&ids.iter().flat_map(|id| reset(*id)).collect::<Vec<u8>>());
    }
    assert!(peak <= before + 1300, "{peak} descriptors, {before} before");
    drop(conn);
    // What was reset is given up, long before the upstream answers.
    let returned = system.within(Duration::from_secs(8), || {
        system.descriptors() <= before + 50
    });
    assert!(
        returned,
        "{} descriptors, {before} before",
        system.descriptors()
    );
    system.victim_is_served();
}

/// One field of 4 KB, indexed once and named ever so often (CVE-2026-47774).
fn header_memory(system: &System) {
    let before = system.resident();
    let mut conn = open(system);
    conn.patience(Duration::from_millis(200));
    let mut first = get("customer-api", "/memory");
    first.extend_from_slice(&[0x40, 1, b'x', 127, 0x81 | 0x80, 0x1e]);
    first.extend_from_slice(&vec![b'y'; 127 + 1 + (0x1e << 7)]);
    first.extend_from_slice(&[0xbe; 8000]);
    conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first));
    for n in 1..50_u32 {
        let mut more = get("customer-api", "/memory");
        more.extend_from_slice(&[0xbe; 15_000]);
        if !conn.send(&frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &more)) {
            break;
        }
    }
    conn.end();
    assert!(
        system.customer.take().is_empty(),
        "a header list of megabytes is taken"
    );
    let grown = system.resident().saturating_sub(before);
    assert!(grown < 100 << 20, "grew by {grown} bytes");
    system.victim_is_served();
}
