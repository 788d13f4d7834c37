//! Upstreams that lie: what they send is one answer to one request, or a 502.

use std::io::Write;
use std::time::Duration;

use crate::system::{Seen, System, ok};

crate::both!(lying_answers, poisoned_connections, early_answers);

/// The customer-api backend: `/lie/..` tells which lie, everything else is answered truly.
pub(crate) fn script(seen: &Seen, out: &mut dyn Write) -> bool {
    let say = |out: &mut dyn Write, text: &str| {
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_ok()
    };
    let Some(lie) = seen
        .target
        .split('?')
        .next()
        .and_then(|t| t.strip_prefix("/lie/"))
    else {
        return ok(seen, out);
    };
    match lie {
        "endless-head" => {
            say(out, "HTTP/1.1 200 OK\r\n");
            while say(
                out,
                "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
            ) {}
            false
        }
        "endless-1xx" => {
            while say(out, "HTTP/1.1 100 Continue\r\n\r\n") {}
            false
        }
        "endless-body" => {
            say(out, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
            let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
            while say(out, &chunk) {}
            false
        }
        "endless-trailers" => {
            say(
                out,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
            );
            while say(
                out,
                "x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n",
            ) {}
            false
        }
        "endless-chunk-line" => {
            say(
                out,
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;",
            );
            while say(
                out,
                "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
            ) {}
            false
        }
        "slow" => {
            std::thread::sleep(Duration::from_secs(20));
            ok(seen, out)
        }
        "switch" => say(
            out,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
        ),
        "twice" => say(
            out,
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntruthHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned",
        ),
        "twice-slowly" => {
            say(out, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntruth");
            std::thread::sleep(Duration::from_millis(300));
            say(out, "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned")
        }
        "body-on-204" => say(
            out,
            "HTTP/1.1 204 No Content\r\ncontent-length: 8\r\n\r\npoisoned",
        ),
        "body-on-304" => say(
            out,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 8\r\n\r\npoisoned",
        ),
        "body-on-head" => say(out, "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npoisoned"),
        "hints" => say(
            out,
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntruth",
        ),
        "early" => say(
            out,
            "HTTP/1.1 413 Content Too Large\r\ncontent-length: 5\r\n\r\nlarge",
        ),
        other => {
            let text = LIES
                .iter()
                .chain(CUT)
                .find(|(name, _)| *name == other)
                .map_or("", |(_, text)| text);
            say(out, text);
            false
        }
    }
}

/// Answers after which the upstream closes.
const LIES: &[(&str, &str)] = &[
    ("silent", ""),
    (
        "101",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\npoisoned",
    ),
    (
        "cl-and-te",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "two-lengths",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    ),
    (
        "bad-length",
        "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\nhello",
    ),
    (
        "minus-length",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
    ),
    (
        "te-gzip",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "te-old",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\r\n\r\n"),
    ("no-status", "HTTP/1.1 OK\r\n\r\n"),
    ("status-99", "HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n"),
    ("version", "HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n"),
    (
        "fold",
        "HTTP/1.1 200 OK\r\nx: y\r\n z\r\ncontent-length: 0\r\n\r\n",
    ),
    ("bare-lf", "HTTP/1.1 200 OK\nx: y\ncontent-length: 0\n\n"),
    (
        "nul",
        "HTTP/1.1 200 OK\r\nx: a\x00b\r\ncontent-length: 0\r\n\r\n",
    ),
    ("cut-head", "HTTP/1.1 200 OK\r\nx: y\r\n"),
];

/// Answers that begin truly and break off in the body.
const CUT: &[(&str, &str)] = &[
    (
        "cut-length",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
    ),
    (
        "cut-chunk",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhello",
    ),
    (
        "cut-chunks",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ),
    (
        "bad-chunk",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n",
    ),
];

fn lying_answers(system: &System) {
    for (lie, _) in LIES {
        let (status, body) = system.call("frontend", &format!("/lie/{lie}"));
        assert_eq!(status, 502, "{lie}: {}", String::from_utf8_lossy(&body));
    }
    for lie in ["endless-head", "endless-1xx"] {
        let (status, _) = system.call("frontend", &format!("/lie/{lie}"));
        assert_eq!(status, 502, "{lie}");
        system.victim_is_served();
    }
    for lie in [
        "endless-trailers",
        "endless-chunk-line",
        "cut-length",
        "cut-chunk",
        "cut-chunks",
        "bad-chunk",
    ] {
        let mut conn = system.via("frontend");
        conn.send(format!("GET /lie/{lie} HTTP/1.1\r\nhost: customer-api\r\n\r\n").as_bytes());
        let answer = conn.response();
        assert!(
            answer
                .as_ref()
                .is_none_or(|a| a.status == 502 || !a.complete),
            "{lie}: looks complete: {answer:?}"
        );
        assert!(conn.is_over(), "{lie}: the connection goes on");
    }
}

/// What an upstream says unasked is nobody's answer.
fn poisoned_connections(system: &System) {
    for lie in [
        "twice",
        "twice-slowly",
        "body-on-204",
        "body-on-304",
        "body-on-head",
    ] {
        let mut conn = system.via("frontend");
        let method = if lie == "body-on-head" { "HEAD" } else { "GET" };
        conn.send(format!("{method} /lie/{lie} HTTP/1.1\r\nhost: customer-api\r\n\r\n").as_bytes());
        // A HEAD's answer announces a body that does not come.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(conn.exactly(1).expect("a whole head"));
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if lie.starts_with("twice") {
            assert_eq!(conn.exactly(5).unwrap(), b"truth", "{lie}");
        }
        if lie == "body-on-204" {
            assert!(!head.contains("content-length"), "{head}");
        }
        std::thread::sleep(Duration::from_millis(500));
        for n in 0..5 {
            conn.send(format!("GET /after/{n} HTTP/1.1\r\nhost: customer-api\r\n\r\n").as_bytes());
            let answer = conn.response().unwrap();
            assert_eq!(
                String::from_utf8_lossy(&answer.body),
                format!("GET /after/{n}\n"),
                "{lie}"
            );
            let (status, body) = system.call("frontend", "/other");
            assert_eq!(
                (status, &*String::from_utf8_lossy(&body)),
                (200, "GET /other\n"),
                "{lie}"
            );
        }
    }
    let mut conn = system.via("frontend");
    conn.send(b"GET /lie/hints HTTP/1.1\r\nhost: customer-api\r\n\r\n");
    assert_eq!(conn.response().unwrap().status, 103);
    let answer = conn.response().unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"truth"[..]));
}

fn early_answers(system: &System) {
    let mut conn = system.via("frontend");
    conn.send(
        b"POST /lie/early HTTP/1.1\r\nhost: customer-api\r\ncontent-length: 1000000\r\n\r\nhello",
    );
    let answer = conn.response().unwrap();
    assert_eq!((answer.status, &*answer.body), (413, &b"large"[..]));
    assert!(
        conn.is_over(),
        "the rest of the body would be read as a request"
    );
    system.victim_is_served();
}
