//! Spellings of a denied path and of a host: what reaches the backend is what was judged.

use crate::system::System;

crate::both!(denied_paths, allowed_prefix, hosts);

/// Spellings of `/admin/x` that some server takes for it.
const SPELLINGS: [&str; 66] = [
    "/admin/x",
    "//admin/x",
    "///admin/x",
    "/admin//x",
    "/./admin/x",
    "/admin/./x",
    "/x/../admin/x",
    "/x/y/../../admin/x",
    "/../admin/x",
    "/../../admin/x",
    "/admin/../admin/x",
    "/%61dmin/x",
    "/%61%64%6d%69%6e/x",
    "/adm%69n/x",
    "/admin%2fx",
    "/admin%2Fx",
    "/%2fadmin/x",
    "/%2Fadmin/x",
    "/admin%5cx",
    "/admin\\x",
    "\\admin\\x",
    "/\\admin/x",
    "/x\\..\\admin/x",
    "/x/..\\admin/x",
    "/x%5c..%5cadmin/x",
    "/x/%2e%2e/admin/x",
    "/x/%2E%2E/admin/x",
    "/x/.%2e/admin/x",
    "/x/%2e./admin/x",
    "/%2e/admin/x",
    "/x/..;/admin/x",
    "/x/..;a=b/admin/x",
    "/x/%2e%2e;/admin/x",
    "/.;/admin/x",
    "/admin/x#",
    "/admin/x#/y",
    "/admin/x#?y",
    "/admin/x?",
    "/admin/x?y=z",
    "/admin/x?#",
    "/admin/x/",
    "/admin/x/.",
    "/admin/x/y/..",
    "/admin",
    "/admin?",
    "/admin#",
    "/%61dmin?x",
    "/admin/%78",
    "/admin%00/x",
    "/admin/x%00",
    "/admin%0a/x",
    "/admin/%0d%0a",
    "/%2561dmin/x",
    "/%252e%252e/admin/x",
    "/x/%252e%252e/admin/x",
    "/x%2f..%2fadmin/x",
    "/x%2f%2e%2e%2fadmin/x",
    "/%c0%afadmin/x",
    "/%u0061dmin/x",
    "/admin/x%",
    "/%",
    "/admin%20/x",
    "/admin/x;a=b",
    "http://customer-api/admin/x",
    "HTTP://CUSTOMER-API/admin/x",
    "http://customer-api//admin/x",
];

/// The path as a server reads it that decodes what is unreserved and resolves dots, once.
fn judged_denied(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap();
    path == "/admin" || path.starts_with("/admin/")
}

fn denied_paths(system: &System) {
    for spelling in SPELLINGS {
        let before = system.records().len();
        let (status, _) = system.call("frontend", spelling);
        let seen = system.customer.targets();
        if matches!(status, 400 | 403) {
            assert!(
                seen.is_empty(),
                "{spelling}: {status}, and yet the backend has {seen:?}"
            );
            continue;
        }
        assert_eq!(status, 200, "{spelling}");
        assert_eq!(seen.len(), 1, "{spelling}: {seen:?}");
        assert!(
            !judged_denied(&seen[0]),
            "{spelling}: the backend has {seen:?}"
        );
        assert!(
            !seen[0].contains('#') && !seen[0].contains("//") && !seen[0].contains('\\'),
            "{spelling}: {seen:?}"
        );
        // What is recorded as judged is what was sent.
        let recorded = system.within(std::time::Duration::from_secs(2), || {
            let text = serde_json::to_string(&system.records()[before..]).unwrap();
            text.contains(&format!("\"{}\"", seen[0].split('?').next().unwrap()))
                || text.contains(&format!("\"{}\"", seen[0]))
        });
        assert!(recorded, "{spelling}: no record says {seen:?}");
    }
}

/// reviews-service may call `/public/` alone.
fn allowed_prefix(system: &System) {
    assert_eq!(system.call("reviews", "/public/ok").0, 200);
    system.customer.take();
    for spelling in [
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/..;/secret",
        "/public\\..\\secret",
        "/public//../secret",
        "/public/./../secret",
        "/publi%63/../secret",
        "/public/..",
        "/public",
        "/PUBLIC/x",
        "/public%2f..%2fsecret",
        "/public/..%2fsecret",
        "/public/%2e%2e%2fsecret",
        "/public/..%5csecret",
        "/public/%252e%252e/secret",
        "/secret#/public/",
        "/secret?/public/",
        "/secret;/public/",
        "//public/../secret",
        "/x/../public/../secret",
        "http://customer-api/public/../secret",
        "http://customer-api/secret?/public/",
    ] {
        let (status, _) = system.call("reviews", spelling);
        for target in system.customer.targets() {
            assert!(
                target.starts_with("/public/"),
                "{spelling}: {status}, the backend has {target}"
            );
            let dots = |s: &str| matches!(s.split(';').next(), Some("." | ".."));
            assert!(
                !target.split('/').any(dots),
                "{spelling}: the backend has {target}"
            );
        }
    }
}

/// The host is read once: a spelling is either the same host or no host.
fn hosts(system: &System) {
    for (host, want) in [
        ("customer-api", 200),
        ("CUSTOMER-API", 200),
        ("customer-api.", 200),
        ("customer-api:80", 200),
        ("customer-api:", 400),
        ("customer-api:080000", 400),
        ("user@customer-api", 400),
        ("customer-api/x", 400),
        ("customer-api#x", 400),
        ("customer-api?x", 400),
        ("customer-api x", 400),
        ("", 400),
        (".", 400),
        ("[::1", 400),
        ("[customer-api]", 400),
        ("customer-api:99999", 400),
        ("customer-api,other", 200),
        ("customer-api\\", 400),
        ("customer-api%2e", 400),
        ("\u{fe}", 400),
    ] {
        let mut conn = system.via("frontend");
        conn.send(
            format!("GET /h HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes(),
        );
        let status = conn.response().map_or(0, |a| a.status);
        let seen = system.customer.take();
        assert_eq!(status, want, "{host:?}");
        assert_eq!(seen.len(), usize::from(want == 200), "{host:?}: {seen:?}");
        for seen in seen {
            let sent = seen.all("host").join("|");
            assert_eq!(
                sent,
                host.to_ascii_lowercase().replace("api.", "api"),
                "{host:?}"
            );
        }
    }
    let long = "a".repeat(300);
    assert_eq!(status_for(system, &format!("host: {long}\r\n")), 400);
    assert_eq!(
        status_for(system, "host: customer-api\r\nhost: customer-api\r\n"),
        400
    );
    assert!(system.customer.take().is_empty());
}

fn status_for(system: &System, fields: &str) -> u16 {
    let mut conn = system.via("frontend");
    conn.send(format!("GET /h HTTP/1.1\r\n{fields}\r\n").as_bytes());
    conn.response().map_or(0, |a| a.status)
}
