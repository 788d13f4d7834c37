//! HTTP/1.1 request smuggling: what two parsers could read differently is refused, and nothing behind it is served.

use std::time::Duration;

use crate::system::System;

crate::both!(
    ambiguous_requests,
    clear_requests,
    pipelined_after_denial,
    expectations
);

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: customer-api\r\n\r\n";

/// Requests that must be refused as a whole: head after the request line, and what follows.
const REFUSED: &[(&str, &str)] = &[
    (
        "content-length: 4\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
        "0\r\n\r\n",
    ),
    ("content-length: 0\r\ncontent-length: 48\r\n", ""),
    ("content-length: 5\r\ncontent-length: 5\r\n", "hello"),
    ("content-length: 5, 5\r\n", "hello"),
    ("content-length: +5\r\n", "hello"),
    ("content-length: -1\r\n", ""),
    ("content-length: 0x5\r\n", "hello"),
    ("content-length: 5 \t5\r\n", "hello"),
    ("content-length:\r\n", ""),
    ("content-length: 18446744073709551616\r\n", ""),
    ("content-length : 5\r\n", "hello"),
    ("content-length\t: 5\r\n", "hello"),
    (" content-length: 5\r\n", "hello"),
    ("content-length: 5\n", "hello"),
    ("x: y\ncontent-length: 5\r\n", "hello"),
    ("x: y\rcontent-length: 5\r\n", "hello"),
    ("x: y\r\n content-length: 5\r\n", "hello"),
    ("transfer-encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    (
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "0\r\n\r\n",
    ),
    (
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "0\r\n\r\n",
    ),
    ("transfer-encoding: identity\r\n", ""),
    ("transfer-encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("transfer-encoding: identity, chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: xchunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: \x0bchunked\r\n", "0\r\n\r\n"),
    ("transfer-encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    ("transfer-encoding: chunked,\r\n", "0\r\n\r\n"),
    ("transfer-encoding:\r\n", "0\r\n\r\n"),
    ("transfer-encoding : chunked\r\n", "0\r\n\r\n"),
    ("transfer encoding: chunked\r\n", "0\r\n\r\n"),
    (": empty\r\n", ""),
    ("x\x00y: z\r\n", ""),
    ("x: a\x00b\r\n", ""),
    ("x: a\x1bb\r\n", ""),
    ("x: a\x7fb\r\n", ""),
    ("no colon here\r\n", ""),
    ("host: customer-api\r\n", ""),
    ("host: other\r\n", ""),
    ("connection: content-length\r\ncontent-length: 48\r\n", ""),
    ("connection: host\r\n", ""),
];

/// Request lines that must be refused.
const LINES: &[&str] = &[
    "get /x HTTP/1.1",
    "GET  /x HTTP/1.1",
    "GET /x  HTTP/1.1",
    "GET\t/x\tHTTP/1.1",
    "GET /x HTTP/1.2",
    "GET /x HTTP/2.0",
    "GET /x HTTP/0.9",
    "GET /x http/1.1",
    "GET /x HTTP/1.1 HTTP/1.1",
    "GET /x",
    "GET /a b HTTP/1.1",
    "GET /\u{e9} HTTP/1.1",
    " GET /x HTTP/1.1",
    "G@T /x HTTP/1.1\x00",
    "GET customer-api/x HTTP/1.1",
    "GET * HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET ftp://customer-api/x HTTP/1.1",
    "GET http://other/x HTTP/1.1",
    "GET http://user@customer-api/x HTTP/1.1",
    "GET http:///x HTTP/1.1",
    "GET http:/x HTTP/1.1",
    "CONNECT customer-api:80 HTTP/1.1",
    "CONNECT / HTTP/1.1",
    "PRI * HTTP/1.1",
];

/// Chunked bodies that must be refused.
const CHUNKS: &[&str] = &[
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\x00\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    ";\r\nhello\r\n0\r\n\r\n",
    "\r\n5\r\nhello\r\n0\r\n\r\n",
    "0\r\nx: y\n\r\n\r\n",
    "0\r\n bad: y\r\n\r\n",
];

fn refused(system: &System, what: &str, bytes: &str) {
    let mut conn = system.via("frontend");
    conn.send(bytes.as_bytes());
    conn.send(SMUGGLED.as_bytes());
    // What still waits for more is told that there is none.
    conn.half_close();
    let answer = conn.response();
    let status = answer.as_ref().map_or(0, |a| a.status);
    assert!(
        matches!(status, 0 | 400 | 408 | 431 | 501 | 502),
        "{what:?}: answered {status}"
    );
    assert!(
        conn.response().is_none(),
        "{what:?}: served another request after it"
    );
    let seen = system.customer.take();
    assert!(
        !seen.iter().any(|s| s.target.contains("smuggled")),
        "{what:?}: {seen:?}"
    );
}

fn ambiguous_requests(system: &System) {
    for (fields, body) in REFUSED {
        let bytes = format!("POST /x HTTP/1.1\r\nhost: customer-api\r\n{fields}\r\n{body}");
        refused(system, fields, &bytes);
    }
    for line in LINES {
        refused(
            system,
            line,
            &format!("{line}\r\nhost: customer-api\r\n\r\n"),
        );
    }
    for body in CHUNKS {
        let bytes = format!(
            "POST /x HTTP/1.1\r\nhost: customer-api\r\ntransfer-encoding: chunked\r\n\r\n{body}"
        );
        refused(system, body, &bytes);
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(70_000));
    let head = "POST /x HTTP/1.1\r\nhost: customer-api\r\ntransfer-encoding: chunked\r\n\r\n";
    refused(
        system,
        "a chunk extension without end",
        &format!("{head}{long}"),
    );
    let old = "POST /x HTTP/1.0\r\nhost: customer-api\r\ntransfer-encoding: chunked\r\nconnection: keep-alive\r\n\r\n0\r\n\r\n";
    refused(system, "HTTP/1.0 with a transfer coding", old);
    refused(system, "no host", "GET /x HTTP/1.1\r\n\r\n");
    let bad_line = "GET /x HTTP/1.1\nhost: customer-api\n\n";
    refused(system, "bare line feeds", bad_line);
}

/// Unusual and yet of one meaning: exactly this reaches the backend.
fn clear_requests(system: &System) {
    let chunked = "POST /x HTTP/1.1\r\nhost: customer-api\r\ntransfer-encoding: chunked\r\n\r\n";
    let inner = SMUGGLED.len();
    for (bytes, body) in [
        (format!("{chunked}5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"), "hello".to_owned()),
        (format!("{chunked}00005\r\nhello\r\n000\r\n\r\n"), "hello".to_owned()),
        (format!("{chunked}{inner:X}\r\n{SMUGGLED}\r\n0\r\n\r\n"), SMUGGLED.to_owned()),
        (
            format!("POST /x HTTP/1.1\r\nhost: customer-api\r\ncontent-length: {inner}\r\n\r\n{SMUGGLED}"),
            SMUGGLED.to_owned(),
        ),
        (format!("GET /x HTTP/1.1\r\nhost: customer-api\r\ncontent-length: {inner}\r\n\r\n{SMUGGLED}"), SMUGGLED.to_owned()),
        ("POST /x HTTP/1.1\r\nhost: customer-api\r\nTransfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n".to_owned(), String::new()),
        ("GET http://customer-api/x HTTP/1.1\r\nhost: customer-api\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n".to_owned(), String::new()),
        ("\r\n\r\nGET /x HTTP/1.1\r\nhost: customer-api\r\n\r\n".to_owned(), String::new()),
    ] {
        let mut conn = system.via("frontend");
        conn.send(bytes.as_bytes());
        let status = conn.response().map_or(0, |a| a.status);
        let seen = system.customer.take();
        if status == 400 {
            assert!(bytes.starts_with('\r'), "{bytes:?}: refused");
            continue;
        }
        assert_eq!(status, 200, "{bytes:?}");
        assert_eq!(seen.len(), 1, "{bytes:?}: {seen:?}");
        let seen = &seen[0];
        assert_eq!((seen.target.as_str(), String::from_utf8_lossy(&seen.body)), ("/x", body.into()), "{bytes:?}");
        let framings = seen.all("content-length").len() + seen.all("transfer-encoding").len();
        assert!(framings <= 1, "{bytes:?}: framed twice: {seen:?}");
        for gone in ["upgrade", "http2-settings", "connection"] {
            assert!(seen.all(gone).is_empty(), "{gone} was forwarded: {seen:?}");
        }
    }
    // Trailers were not judged and go no further.
    let mut conn = system.via("frontend");
    let trailers = "x-forwarded-client-cert: URI=spiffe://evil\r\nauthorization: Bearer x\r\nx-jwt-sub: root\r\ncontent-length: 9\r\n";
    conn.send(format!("{chunked}1\r\na\r\n0\r\n{trailers}\r\n").as_bytes());
    assert_eq!(conn.response().unwrap().status, 200);
    let seen = system.customer.take().pop().unwrap();
    let passed: Vec<_> = seen
        .headers
        .iter()
        .filter(|(name, _)| name.starts_with("trailer"))
        .collect();
    assert!(passed.is_empty(), "{passed:?}");
}

/// A denied request with a body: the body is no request, whatever it looks like.
fn pipelined_after_denial(system: &System) {
    let inner = SMUGGLED.len();
    for head in [
        format!(
            "POST /admin/x HTTP/1.1\r\nhost: customer-api\r\ncontent-length: {inner}\r\n\r\n{SMUGGLED}"
        ),
        format!(
            "POST /admin/x HTTP/1.1\r\nhost: customer-api\r\nexpect: 100-continue\r\ncontent-length: {inner}\r\n\r\n{SMUGGLED}"
        ),
        format!(
            "POST /admin/x HTTP/1.1\r\nhost: customer-api\r\ntransfer-encoding: chunked\r\n\r\n{inner:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"
        ),
        format!("CONNECT customer-api:80 HTTP/1.1\r\nhost: customer-api:80\r\n\r\n{SMUGGLED}"),
    ] {
        let mut conn = system.via("frontend");
        conn.send(head.as_bytes());
        let status = conn.response().map_or(0, |a| a.status);
        assert!(matches!(status, 400 | 403), "{head:?}: {status}");
        drop(conn.response());
        std::thread::sleep(Duration::from_millis(50));
        let seen = system.customer.targets();
        assert!(seen.is_empty(), "{head:?}: {seen:?}");
    }
    // Without a body the connection goes on, and each request is judged by itself.
    let mut conn = system.via("frontend");
    conn.send(b"GET /admin/x HTTP/1.1\r\nhost: customer-api\r\n\r\nGET /a HTTP/1.1\r\nhost: customer-api\r\n\r\nGET /admin HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    let statuses: Vec<u16> = (0..3)
        .map(|_| conn.response().map_or(0, |a| a.status))
        .collect();
    assert_eq!(statuses, [403, 200, 403]);
    assert_eq!(system.customer.targets(), ["/a"]);
}

fn expectations(system: &System) {
    let mut conn = system.via("frontend");
    conn.send(b"POST /x HTTP/1.1\r\nhost: customer-api\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(conn.response().unwrap().status, 100);
    conn.send(b"hello");
    assert_eq!(conn.response().unwrap().status, 200);
    // A length of zero with an expectation has no body to wait for: what follows is the next request.
    conn.send(b"POST /y HTTP/1.1\r\nhost: customer-api\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\nGET /z HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    let statuses: Vec<u16> = (0..2)
        .map(|_| conn.response().map_or(0, |a| a.status))
        .collect();
    assert_eq!(statuses, [200, 200]);
    let seen = system.customer.take();
    let targets: Vec<&str> = seen.iter().map(|s| s.target.as_str()).collect();
    assert_eq!(targets, ["/x", "/y", "/z"]);
    // It goes on to the upstream (RFC 9110 section 10.1.1) where there is a body to wait for, and nowhere else.
    assert!(
        seen.iter()
            .all(|s| s.all("expect").is_empty() == (s.target != "/x")),
        "{seen:?}"
    );
}
