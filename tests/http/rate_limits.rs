//! Local rate limits: who has used up his tokens is told so, others are not touched, and a denied call costs none.

use std::process::Command;

use crate::answer::{self, Answer};
use crate::system::{PLACES, Place, System};

/// At each place three calls an hour to paths of their own, and as many to those that policy denies.
const LIMITS: &str = r#"
[[rateLimit]]
name = "per-client"
namespace = "edge"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "public" }]
rules = [{ to = [{ operation.paths = ["/api/limited*", "/api/denied*"] }] }]
by = ["remote.ip", "request.headers[x-tenant]"]
tokenBucket = { maxTokens = 3, fillInterval = "1h" }

[[rateLimit]]
name = "per-caller"
namespace = "default"
selector.matchLabels = { "istio.io/gateway-name" = "customer-api" }
rules = [{ from = [{ source.principals = ["*/frontend-service"] }], to = [{ operation.paths = ["/api/limited*", "/api/denied*"] }] }]
by = ["source.principal", "request.headers[x-tenant]"]
tokenBucket = { maxTokens = 3, fillInterval = "1h" }

[[rateLimit]]
name = "per-path"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [{ to = [{ operation.paths = ["/api/limited*", "/api/denied*"] }] }]
by = ["source.principal", "request.headers[x-tenant]"]
tokenBucket = { maxTokens = 3, fillInterval = "1h" }
"#;

crate::on_both!(each_has_his_own_and_no_more);

fn limit_of(place: Place) -> &'static str {
    match place {
        Place::Ingress => "per-client",
        Place::Waypoint => "per-caller",
        Place::Egress => "per-path",
    }
}

fn call(system: &System, place: Place, path: &str, more: &str) -> Answer {
    let mut conn = system.connect(place);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\n{more}content-length: 5\r\n\r\n\0\0\0\0\0",
        place.host()
    );
    conn.send(head.as_bytes());
    answer::read(&mut conn, "POST").expect("an answer")
}

fn each_has_his_own_and_no_more(io: &str) {
    let system = System::with(io, |config| format!("{config}{LIMITS}"));
    for place in PLACES {
        let call = |path: &str, more: &str| call(&system, place, path, more);
        // A denied call takes no token, however often it is made.
        for _ in 0..5 {
            assert_eq!(call("/api/denied/a", "").status, 403, "{place:?}");
        }
        for n in 0..3 {
            let answer = call(&format!("/api/limited/{n}"), "");
            assert_eq!(answer.status, 200, "{place:?} {n}: {answer:?}");
        }
        let over = call("/api/limited/over", "");
        refused(&over, place);
        let record = system
            .record(|r| r["role"] == place.role() && r["request"]["path"] == "/api/limited/over");
        assert_eq!(
            (&record["status"], &record["close"], &record["verdict"]),
            (&429.into(), &"limit".into(), &"allow".into()),
            "{record}"
        );
        let name = limit_of(place);
        let reason = record["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("/{name}`")), "{reason}");
        let seen = system.backend(place).seen();
        assert!(
            !seen.iter().any(|m| m.target() == "/api/limited/over"),
            "{place:?}: it was sent on"
        );
        // gRPC has its own words for it, all of them in the head.
        let grpc = call("/api/limited/over", "content-type: application/grpc\r\n");
        assert_eq!(
            (grpc.status, grpc.one("grpc-status"), grpc.body.len()),
            (200, Some("8"), 0),
            "{grpc:?}"
        );
        assert!(grpc.one("retry-after").is_some(), "{grpc:?}");
        system.record(|r| r["grpcStatus"] == 8 && r["role"] == place.role());
        // Who is somebody else has his own, and what no limit counts has no limit.
        assert_eq!(call("/api/limited/b", "x-tenant: b\r\n").status, 200);
        for _ in 0..5 {
            assert_eq!(call("/api/free", "").status, 200);
        }
    }
    over_http2(&system);
    outlives_a_reload(&system);
    system.healthy();
}

fn refused(answer: &Answer, place: Place) {
    let name = limit_of(place);
    assert_eq!(answer.status, 429, "{place:?}: {answer:?}");
    assert_eq!(answer.text(), "too many requests");
    let wait: u64 = answer.one("retry-after").unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait}");
    let (left, policy) = (answer.one("ratelimit"), answer.one("ratelimit-policy"));
    assert_eq!(left, Some(&*format!("\"{name}\";r=0;t={wait}")));
    assert_eq!(policy, Some(&*format!("\"{name}\";q=3;w=10800")));
}

/// The same client over HTTP/2: its tokens are the same.
fn over_http2(system: &System) {
    let address = system.layout.at(20, 8443);
    let (ip, port) = address.rsplit_once(':').unwrap();
    let host = Place::Ingress.host();
    let get = |path: &str, more: &[&str]| {
        let output = Command::new("curl")
            .args(["-sk", "--http2", "-m", "30", "-o", "/dev/null", "-D", "-"])
            .args(["--resolve", &format!("{host}:{port}:{ip}")])
            .args(more)
            .arg(format!("https://{host}:{port}{path}"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mine = ["-H", "x-tenant: h2"];
    for n in 0..3 {
        let head = get(&format!("/api/limited/{n}"), &mine);
        assert!(head.starts_with("HTTP/2 200"), "{n}: {head}");
    }
    let over = get("/api/limited/over", &mine);
    assert!(over.starts_with("HTTP/2 429"), "{over}");
    assert!(
        over.contains("\nratelimit: \"per-client\";r=0;t="),
        "{over}"
    );
    let grpc = get(
        "/api/limited/over",
        &["-H", "x-tenant: h2", "-H", "content-type: application/grpc"],
    );
    assert!(grpc.starts_with("HTTP/2 200"), "{grpc}");
    assert!(grpc.contains("\ngrpc-status: 8\r\n"), "{grpc}");
}

/// Who has none left has none after a reload that is about something else; a limit that changes begins anew.
fn outlives_a_reload(system: &System) {
    let status = || call(system, Place::Waypoint, "/api/limited/again", "").status;
    assert_eq!(status(), 429);
    system.reload(|config| {
        config.replace(
            "name = \"none-at-the-edge\"",
            "name = \"none-anew-at-the-edge\"",
        )
    });
    assert_eq!(status(), 429);
    system.reload(|config| config.replace("maxTokens = 3", "maxTokens = 4"));
    assert_eq!(status(), 200);
}
