//! Bodies that authorizers see.

use crate::system::{MOST_OF_BODY, System};

crate::both!(whole, partial, raw, too_long);

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
