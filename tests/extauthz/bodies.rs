//! Bodies that authorizers see.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::system::{MOST_OF_BODY, System, wire};

crate::both!(whole, partial, raw, too_long, in_crumbs);

fn whole(system: &System) {
    for (args, size) in [
        (vec!["--data", "12345678"], 8),
        (
            vec!["--data", "1234", "-H", "transfer-encoding: chunked"],
            4,
        ),
        (vec!["--data", "12345678", "-H", "expect: 100-continue"], 8),
        (vec!["--data", "1234567", "--http2-prior-knowledge"], 7),
        (vec![], 0),
    ] {
        let (_, seen) = system.passes("/http-body/a", &args);
        assert_eq!(seen.body.len(), size, "{args:?}");
        let asked = System::asked(&system.http);
        assert_eq!(
            (
                asked.body,
                asked
                    .headers
                    .iter()
                    .any(|(n, v)| n == "x-envoy-auth-partial-body" && v == "false")
            ),
            (seen.body, true)
        );
    }
    for args in [
        vec!["--data", "123456789"],
        vec!["--data", "123456789", "-H", "transfer-encoding: chunked"],
        vec!["--data", "123456789", "--http2-prior-knowledge"],
    ] {
        let asked = system.http.lock().unwrap().len();
        system.stopped("/http-body/a", &args, 413);
        assert_eq!(system.http.lock().unwrap().len(), asked, "{args:?}");
    }
    let answer = system.stopped("/http-body/deny", &["--data", "1234"], 418);
    assert_eq!(answer.body, "<p>no</p>");
}

fn partial(system: &System) {
    for (data, sees, partial) in [
        ("123", "123", "false"),
        ("1234", "1234", "false"),
        ("123456789", "1234", "true"),
    ] {
        for more in [
            &[][..],
            &["--http2-prior-knowledge"],
            &["-H", "expect: 100-continue"],
        ] {
            let args = [&["--data", data], more].concat();
            let (_, seen) = system.passes("/http-partial/a", &args);
            assert_eq!(seen.body, data.as_bytes(), "{args:?}");
            let asked = System::asked(&system.http);
            assert_eq!(asked.body, sees.as_bytes(), "{args:?}");
            assert_eq!(
                asked.all("x-envoy-auth-partial-body"),
                [partial],
                "{args:?}"
            );
            assert_eq!(
                asked.all("content-length"),
                [sees.len().to_string().as_str()]
            );
        }
    }
}

fn raw(system: &System) {
    // More than any window or buffer on the way takes at once.
    let file = system.layout.file("body");
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    let (_, seen) = system.passes("/grpc/a", &["--data-binary", &data]);
    assert!(seen.body == body);
    let http = System::asked(&system.grpc)
        .attributes
        .unwrap()
        .request
        .unwrap()
        .http
        .unwrap();
    assert!(http.raw_body == body);
    assert_eq!(
        (
            http.body.as_str(),
            http.headers["x-envoy-auth-partial-body"].as_str()
        ),
        ("", "false")
    );
}

/// For the process, though not for its authorizer, and found only while it is held.
fn too_long(system: &System) {
    let file = system.layout.file("body");
    std::fs::write(&file, vec![b'x'; MOST_OF_BODY + 1]).unwrap();
    let data = format!("@{}", file.display());
    let args = ["--data-binary", &data, "-H", "transfer-encoding: chunked"];
    system.stopped("/grpc/a", &args, 413);
    let record = system.record("waypoint", "/grpc/a");
    assert_eq!(record["close"], "body_too_large");
    assert_eq!(
        record["reason"],
        "body is longer than the limit (limits.maxRequestBodyBytes)"
    );
}

/// A body that is held is as large as it is, in however many pieces it comes.
fn in_crumbs(system: &System) {
    let before = system.most_resident();
    let mut stream = TcpStream::connect(system.layout.at(1, 15080)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(&wire::GREETING).unwrap();
    stream
        .write_all(&wire::connect("customer-api", 80))
        .unwrap();
    stream.read_exact(&mut [0; 12]).unwrap();
    let head = "POST /grpc/crumbs HTTP/1.1\r\nhost: customer-api\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let pieces = b"1\r\nx\r\n".repeat(1000);
    for _ in 0..1000 {
        stream.write_all(&pieces).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(
        answer.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    let seen = system
        .app
        .lock()
        .unwrap()
        .last()
        .cloned()
        .expect("the app was asked");
    assert_eq!(seen.body.len(), 1_000_000);
    // Two copies of it, what is on the way, and what the allocator keeps; a note of each piece is some 60 MB.
    let grown = system.most_resident().saturating_sub(before);
    assert!(grown < 40 << 20, "it grew by {grown} bytes");
}
