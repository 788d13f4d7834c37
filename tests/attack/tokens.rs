//! End-user tokens that are none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ringgate::cli::drill::token::{Flaw, mint};
use ringgate::cli::os;
use serde_json::json;

use crate::client::{Conn, client};
use crate::system::System;

crate::both!(forged_tokens, refusals_read_as_envoys);

fn edge(system: &System, fields: &str) -> u16 {
    let conn = Conn::plain(&system.layout.at(20, 8443));
    let mut conn = conn
        .tls(client(&["http/1.1"], None), "portal.example.test")
        .unwrap();
    conn.send(
        format!("GET /api/t HTTP/1.1\r\nhost: portal.example.test:8443\r\n{fields}\r\n").as_bytes(),
    );
    conn.response().map_or(0, |a| a.status)
}

fn forged_tokens(system: &System) {
    let key = system.file("state/idp/key.pem");
    let good = mint(&key, Flaw::None).unwrap();
    assert_eq!(
        edge(system, &format!("authorization: Bearer {good}\r\n")),
        200
    );
    assert_eq!(system.customer.take().len(), 1);
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let claims = json!({"iss": "https://auth.example.test", "sub": "root", "iat": os::unix_s(), "exp": os::unix_s() + 600});
    let forged = B64.encode(claims.to_string());
    let with = |header: serde_json::Value| format!("{}.{forged}.", B64.encode(header.to_string()));
    let public = std::fs::read(system.file("state/idp/jwks.json")).unwrap();
    let confused = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("idp-1".to_owned());
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&public)).unwrap()
    };
    let nested = format!(
        "{{\"iss\":\"https://auth.example.test\",\"a\":{}{}}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let nested_header = format!(
        "{{\"alg\":\"ES256\",\"kid\":\"idp-1\",\"x\":{}{}}}",
        "{\"a\":".repeat(2000) + "1",
        "}".repeat(2000)
    );
    let mut bad = vec![
        mint(&key, Flaw::Expired).unwrap(),
        mint(&key, Flaw::Issuer).unwrap(),
        mint(&key, Flaw::Key).unwrap(),
        mint(&key, Flaw::AlgNone).unwrap(),
        with(json!({"alg": "none"})),
        with(json!({"alg": "None", "kid": "idp-1"})),
        with(json!({"alg": "nOnE", "kid": "idp-1"})) + signature,
        with(json!({"alg": "", "kid": "idp-1"})) + signature,
        with(json!({"alg": "ES256", "kid": "idp-1"})) + signature,
        with(json!({"alg": "ES256", "kid": "../../etc/passwd"})) + signature,
        with(json!({"alg": "ES256", "jku": "http://evil.example.test/", "kid": "x"})) + signature,
        format!("{header}.{forged}.{signature}"),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{header}.{payload}.{signature}A"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}.{payload}.{signature}.x"),
        format!("{header}.{payload}.{}", B64.encode([0_u8; 64])),
        format!("{header}.{}.{signature}", B64.encode(&nested)),
        format!("{}.{payload}.{signature}", B64.encode(&nested_header)),
        format!("{header}..{signature}"),
        "...".to_owned(),
        ".".to_owned(),
        "x".repeat(40_000),
        format!("{good},{good}"),
        confused,
    ];
    bad.push(format!(" {good} {good}"));
    for token in bad {
        let status = edge(system, &format!("authorization: Bearer {token}\r\n"));
        let shown: String = token.chars().take(60).collect();
        assert!(matches!(status, 400 | 401 | 403 | 431), "{shown}: {status}");
        assert!(
            system.customer.take().is_empty(),
            "{shown}: reached the backend"
        );
    }
    for fields in [
        format!(
            "authorization: Bearer {good}\r\nauthorization: Bearer {}\r\n",
            mint(&key, Flaw::Expired).unwrap()
        ),
        format!(
            "authorization: Bearer {}\r\nauthorization: Bearer {good}\r\n",
            mint(&key, Flaw::AlgNone).unwrap()
        ),
        format!("authorization: Basic {good}\r\n"),
        format!("x-authorization: Bearer {good}\r\n"),
        "authorization: Bearer\r\n".to_owned(),
        "authorization:\r\n".to_owned(),
        "x-jwt-sub: root\r\n".to_owned(),
    ] {
        let status = edge(system, &fields);
        let shown: String = fields.chars().take(60).collect();
        assert!(matches!(status, 400 | 401 | 403), "{shown}: {status}");
        assert!(
            system.customer.take().is_empty(),
            "{shown}: reached the backend"
        );
    }
}

/// The whole answer, as text.
fn whole(system: &System, request: &str) -> String {
    let conn = Conn::plain(&system.layout.at(20, 8443));
    let mut conn = conn
        .tls(client(&["http/1.1"], None), "portal.example.test")
        .unwrap();
    conn.send(request.as_bytes());
    String::from_utf8(conn.rest()).unwrap()
}

fn refusals_read_as_envoys(system: &System) {
    let key = system.file("state/idp/key.pem");
    let ask = |line: &str, fields: &str| {
        let host = "host: Portal.example.test:8443\r\nconnection: close";
        whole(
            system,
            &format!("{line} HTTP/1.1\r\n{host}\r\n{fields}\r\n"),
        )
    };
    let expired = format!(
        "authorization: Bearer {}\r\n",
        mint(&key, Flaw::Expired).unwrap()
    );
    let challenge = "www-authenticate: Bearer realm=\"https://portal.example.test:8443/api/t\", error=\"invalid_token\"\r\n";
    for line in ["GET /api/t", "GET /api/x/../t?access=1"] {
        let answer = ask(line, &expired);
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains(challenge), "{answer}");
    }
    let answer = ask("GET /api/t", &expired);
    assert!(answer.contains("content-type: text/plain\r\n"), "{answer}");
    assert!(answer.contains("content-length: 14\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nJwt is expired"), "{answer}");

    let grpc = format!("content-type: application/grpc\r\n{expired}");
    let answer = ask("POST /api/t", &grpc);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("grpc-status: 16\r\n"), "{answer}");
    assert!(
        answer.contains("grpc-message: Jwt is expired\r\n"),
        "{answer}"
    );
    assert!(answer.contains(challenge), "{answer}");

    // A preflight carries no credentials, so that none is judged; policy is, and lets only GET in.
    let preflight = "origin: https://a.example\r\naccess-control-request-method: GET\r\n";
    let answer = ask("OPTIONS /api/t", &format!("{preflight}{expired}"));
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.ends_with("RBAC: access denied"), "{answer}");
    let answer = ask("OPTIONS /api/t", &expired);
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(system.customer.take().is_empty());
}
