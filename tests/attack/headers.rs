//! Header fields that only we may set: what a client sends under those names does not arrive.

use ringgate::cli::drill::token::{Flaw, mint};

use crate::client::{Conn, client};
use crate::system::System;

crate::both!(spoofed_fields, spoofed_at_the_edge, many_fields);

const SPOOFS: &[&str] = &[
    "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/evil",
    "X-FORWARDED-CLIENT-CERT: By=y;URI=spiffe://cluster.local/ns/evil",
    "x_forwarded_client_cert: URI=spiffe://cluster.local/ns/evil",
    "x-forwarded_client-cert: URI=spiffe://cluster.local/ns/evil",
    "x-envoy-original-path: /evil",
    "x_envoy_original_path: /evil",
    "x-envoy-internal: evil",
    "x-istio-attributes: evil",
    "x-jwt-sub: evil",
    "x_jwt_sub: evil",
    "x-jwt_sub: evil",
    "x-forwarded-client-cert-chain: evil",
];

fn fields() -> String {
    SPOOFS.iter().map(|line| format!("{line}\r\n")).collect()
}

fn spoofed_fields(system: &System) {
    for more in [
        "",
        "connection: x-forwarded-for-evil, x-jwt-sub, x-role\r\nx-role: evil\r\n",
    ] {
        let mut conn = system.via("frontend");
        conn.send(
            format!(
                "GET /s HTTP/1.1\r\nhost: customer-api\r\n{}{more}\r\n",
                fields()
            )
            .as_bytes(),
        );
        assert_eq!(conn.response().unwrap().status, 200);
        let seen = system.customer.take().pop().unwrap();
        let evil: Vec<_> = seen
            .headers
            .iter()
            .filter(|(name, v)| v.contains("evil") && name != "x-forwarded-client-cert-chain")
            .collect();
        assert!(evil.is_empty(), "{evil:?}");
        let xfcc = seen.all("x-forwarded-client-cert");
        assert_eq!(xfcc.len(), 1, "{xfcc:?}");
        assert!(!xfcc[0].contains("evil"), "{xfcc:?}");
    }
    for named in [
        "x-forwarded-client-cert",
        "X-Forwarded-For",
        "x-forwarded-host",
        "x-real-ip",
        "authorization",
        "cookie",
    ] {
        let mut conn = system.via("frontend");
        conn.send(
            format!("GET /s HTTP/1.1\r\nhost: customer-api\r\nconnection: {named}\r\n\r\n")
                .as_bytes(),
        );
        assert_eq!(conn.response().unwrap().status, 400, "{named}");
        assert!(system.customer.take().is_empty(), "{named}");
    }
}

fn spoofed_at_the_edge(system: &System) {
    let token = mint(&system.file("state/idp/key.pem"), Flaw::None).unwrap();
    let conn = Conn::plain(&system.layout.at(20, 8443));
    let mut conn = conn
        .tls(client(&["http/1.1"], None), "portal.example.test")
        .unwrap();
    let more = "x-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\nx-forwarded-host: evil\r\nx_forwarded_for: 6.6.6.6\r\nx-forwarded-proto: evil\r\n";
    let head = format!(
        "GET /api/s HTTP/1.1\r\nhost: portal.example.test:8443\r\nauthorization: Bearer {token}\r\n{}{more}\r\n",
        fields()
    );
    conn.send(head.as_bytes());
    let answer = conn.response().unwrap();
    assert_eq!(
        answer.status,
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    let seen = system.customer.take().pop().unwrap();
    let evil = |v: &str| v.contains("evil") || v.contains("6.6.6.6");
    let evil: Vec<_> = seen
        .headers
        .iter()
        .filter(|(name, v)| evil(v) && name != "x-forwarded-client-cert-chain")
        .collect();
    assert!(evil.is_empty(), "{evil:?}");
    assert_eq!(seen.all("x-jwt-sub"), ["user-7"]);
}

fn many_fields(system: &System) {
    let many: String = (0..200).map(|n| format!("a{n}: b\r\n")).collect();
    let long = format!("a: {}\r\n", "b".repeat(70_000));
    let name = format!("{}: b\r\n", "a".repeat(70_000));
    for fields in [many, long, name] {
        let mut conn = system.via("frontend");
        conn.send(format!("GET /m HTTP/1.1\r\nhost: customer-api\r\n{fields}\r\n").as_bytes());
        let status = conn.response().map_or(0, |a| a.status);
        assert!(
            matches!(status, 0 | 400 | 431),
            "{status}: {}",
            &fields[..20]
        );
        assert!(system.customer.take().is_empty());
    }
    let mut conn = system.via("frontend");
    conn.send(
        format!(
            "GET /{} HTTP/1.1\r\nhost: customer-api\r\n\r\n",
            "a".repeat(20_000)
        )
        .as_bytes(),
    );
    assert_eq!(conn.response().unwrap().status, 414);
}
