//! The egress gateway: the partner's one call and nothing else, however it is spelt.

use crate::client::{Conn, client, stolen};
use crate::system::System;

crate::both!(through_the_tunnel, explicit_proxy);

fn through_the_tunnel(system: &System) {
    let call = |who: u8, head: &str| {
        let proxy = system.layout.at(who, 15080);
        let Ok(mut conn) = Conn::socks(&proxy, "partner.example.test", 80) else {
            return 0;
        };
        conn.send(head.as_bytes());
        conn.response().map_or(0, |a| a.status)
    };
    let good = "GET /v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n";
    assert_eq!(call(1, good), 200);
    let seen = system.partner.take();
    assert_eq!(
        (seen.len(), seen[0].target.as_str(), seen[0].all("host")),
        (1, "/v1/rates?currency=eur", vec!["partner.example.test"])
    );
    assert!(
        seen[0].all("x-forwarded-client-cert").is_empty(),
        "{seen:?}"
    );
    assert_ne!(call(2, good), 200, "reviews-service");
    for (line, host) in [
        ("GET /v1/rates?currency=eur", "evil.example.test"),
        ("GET /v1/rates?currency=eur", "customer-api"),
        ("GET /v1/rates?currency=eur", "127.0.0.1"),
        ("GET /v1/rates?currency=eur", "partner.example.test.evil"),
        ("GET /v1/rates?currency=eur", "partner.example.test:8443"),
        ("GET /v1/rates", "partner.example.test"),
        ("GET /v1/rates?currency=usd", "partner.example.test"),
        (
            "GET /v1/rates?currency=eur&currency=usd",
            "partner.example.test",
        ),
        (
            "GET /v1/rates?currency=usd&currency=eur",
            "partner.example.test",
        ),
        ("GET /v1/rates?currency=eur%26x", "partner.example.test"),
        ("GET /v1/rates?Currency=eur", "partner.example.test"),
        (
            "GET /v1/rates?currency=eur&%63urrency=usd",
            "partner.example.test",
        ),
        ("GET /v1/rates?currency", "partner.example.test"),
        ("GET /v1/rates/?currency=eur", "partner.example.test"),
        (
            "GET /v1/rates/../admin?currency=eur",
            "partner.example.test",
        ),
        (
            "GET /v1/rates%2f..%2fadmin?currency=eur",
            "partner.example.test",
        ),
        ("GET /V1/rates?currency=eur", "partner.example.test"),
        ("POST /v1/rates?currency=eur", "partner.example.test"),
        ("HEAD /v1/rates?currency=eur", "partner.example.test"),
        ("TRACE /v1/rates?currency=eur", "partner.example.test"),
        (
            "GET http://evil.example.test/v1/rates?currency=eur",
            "evil.example.test",
        ),
        (
            "GET http://evil.example.test/v1/rates?currency=eur",
            "partner.example.test",
        ),
        (
            "GET http://partner.example.test/v1/rates?currency=eur",
            "evil.example.test",
        ),
        ("CONNECT partner.example.test:80", "partner.example.test"),
        ("GET #/v1/rates?currency=eur", "partner.example.test"),
        ("GET /?/v1/rates&currency=eur", "partner.example.test"),
    ] {
        let status = call(1, &format!("{line} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_ne!(status, 200, "{line}, host {host}");
        assert!(
            system.partner.take().is_empty(),
            "{line}, host {host}: reached the partner"
        );
    }
    // Method override is the backend's business, but one request is one request.
    let two = format!("{good}GET /admin HTTP/1.1\r\nhost: partner.example.test\r\n\r\n");
    assert_eq!(call(1, &two), 200);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(system.partner.targets(), ["/v1/rates?currency=eur"]);
}

fn explicit_proxy(system: &System) {
    let proxy = system.layout.at(30, 15081);
    let partner = system.layout.at(40, 8443);
    let heads = |good: bool| {
        let mut heads = vec![
            "GET http://evil.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: evil.example.test\r\n\r\n".to_owned(),
            "GET http://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: evil.example.test\r\n\r\n".to_owned(),
            "GET http://x@partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n".to_owned(),
            "GET http://partner.example.test:8443/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test:8443\r\n\r\n".to_owned(),
            "GET http://partner.example.test:22/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test:22\r\n\r\n".to_owned(),
            "GET https://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n".to_owned(),
            "GET ftp://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n".to_owned(),
            format!("GET http://{partner}/v1/rates?currency=eur HTTP/1.1\r\nhost: {partner}\r\n\r\n"),
            format!("CONNECT {partner} HTTP/1.1\r\nhost: {partner}\r\n\r\n"),
        ];
        for target in [
            "partner.example.test:80",
            "partner.example.test:443",
            "partner.example.test:8443",
            "partner.example.test:22",
            "partner.example.test",
            "127.0.0.1:80",
            "2130706433:80",
            "0x7f000001:80",
            "0177.0.0.1:80",
            "127.1:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "localhost:80",
            "localhost.:80",
            "169.254.169.254:80",
            "customer-api:80",
            "0.0.0.0:80",
            "/",
            "*",
            "http://partner.example.test:80",
        ] {
            heads.push(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\nGET /early HTTP/1.1\r\nhost: partner.example.test\r\n\r\n"));
        }
        if !good {
            heads.push("GET http://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n".to_owned());
        }
        heads
    };
    // Nobody, in plaintext.
    for head in heads(false) {
        let mut conn = Conn::plain(&proxy);
        conn.send(head.as_bytes());
        conn.half_close();
        let status = conn.response().map_or(0, |a| a.status);
        assert!(matches!(status, 400 | 403 | 404), "{head}: {status}");
        assert!(
            conn.response().is_none() || !head.starts_with("CONNECT"),
            "{head}: goes on"
        );
        assert!(system.partner.take().is_empty(), "{head}");
    }
    // frontend-service over mTLS: the good one, and no other.
    let identity = stolen(system, "frontend-service");
    for (head, good) in heads(true).into_iter().map(|h| (h, false)).chain([(
        "GET http://partner.example.test/v1/rates?currency=eur HTTP/1.1\r\nhost: partner.example.test\r\n\r\n".to_owned(),
        true,
    )]) {
        let pair = (identity.0.clone(), identity.1.clone_key());
        let mut conn = Conn::plain(&proxy).tls(client(&["http/1.1"], Some(pair)), "egress").unwrap();
        conn.send(head.as_bytes());
        let status = conn.response().map_or(0, |a| a.status);
        assert_eq!(status == 200, good, "{head}: {status}");
        assert_eq!(system.partner.take().len(), usize::from(good), "{head}: {status}");
    }
}
