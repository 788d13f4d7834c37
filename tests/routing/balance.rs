//! Which endpoint takes a request: by what it has to do, by a key, by how it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringgate::cli::os;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::system::{Subnet, System, get, head, wait_for};

pub(crate) const CONFIG: &str = r#"
[admin]
listen = "@1:15000"

[[node]]
name = "node-1"

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node.workload]]
name = "shop/api-a"
hbone = "@11:15008"

[[node.workload]]
name = "shop/api-b"
hbone = "@12:15008"

[[waypoint]]
gateway = "shop/wp"
hbone = "@20:15008"

[[gateway]]
name = "wp"
namespace = "shop"
gatewayClassName = "istio-waypoint"
address = "@20"

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

[[workloadEntry]]
name = "api-a"
namespace = "shop"
serviceAccount = "api"
address = "@11"
labels = { app = "api" }

[[workloadEntry]]
name = "api-b"
namespace = "shop"
serviceAccount = "api"
address = "@12"
labels = { app = "api" }
"#;

/// A service of both apps behind the waypoint, and what its rule says.
pub(crate) fn service(name: &str, policy: &str) -> String {
    format!(
        r#"
[[serviceEntry]]
name = "{name}"
namespace = "shop"
labels = {{ "istio.io/use-waypoint" = "wp" }}
hosts = ["{name}"]
ports = [{{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }}]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = {{ app = "api" }}

[[destinationRule]]
name = "{name}"
namespace = "shop"
host = "{name}"
trafficPolicy.{policy}
"#
    )
}

/// Answers with its name: `/bad` with 503, `/hold` never if it is the one who holds.
async fn app(subnet: Subnet, host: u8, name: &'static str, holds: bool) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(subnet.at(host, 8080)).await.unwrap();
    let held = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&held);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let Some(head) = head(&mut stream).await else {
                    return;
                };
                if holds && head.starts_with("GET /hold ") {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::pending::<()>().await;
                }
                let bad = head.starts_with("GET /bad") && (holds || head.contains("/bad/all"));
                let status = if bad { 503 } else { 200 };
                let answer = format!(
                    "HTTP/1.1 {status} Told\r\ncontent-length: 1\r\nconnection: close\r\n\r\n{name}"
                );
                os::ignore(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
    held
}

/// Two apps, of which `a` holds and fails.
async fn system(services: &str) -> (System, Arc<AtomicUsize>) {
    system_with(services, |config| config).await
}

/// As `system`, with what `edit` makes of the usual configuration.
pub(crate) async fn system_with(
    services: &str,
    edit: impl FnOnce(String) -> String,
) -> (System, Arc<AtomicUsize>) {
    let subnet = Subnet::free();
    let held = app(subnet, 11, "a", true).await;
    app(subnet, 12, "b", false).await;
    let system = System::start(subnet, &edit([CONFIG, services].concat())).await;
    (system, held)
}

/// Head and body of the answer to a GET with one more field.
pub(crate) async fn ask(system: &System, host: &str, path: &str, field: &str) -> (String, String) {
    let (code, mut stream) = system.socks(host, 80).await;
    assert_eq!(code, 0);
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{field}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

#[tokio::test]
async fn who_has_less_to_do_gets_more() {
    let services = service("least", "loadBalancer.simple = \"LEAST_REQUEST\"");
    let (system, held) = system(&services).await;
    let system = Arc::new(system);
    let done = Arc::new(AtomicUsize::new(0));
    for n in 1..=80 {
        let (one, count) = (Arc::clone(&system), Arc::clone(&done));
        tokio::spawn(async move {
            assert_eq!(ask(&one, "least", "/hold", "x: y").await.1, "b");
            count.fetch_add(1, Ordering::SeqCst);
        });
        // Each has come to its app before the next one goes.
        wait_for(async || {
            let all = held.load(Ordering::SeqCst) + done.load(Ordering::SeqCst);
            (all >= n).then_some(())
        })
        .await;
    }
    // In turn it would be forty.
    let held = held.load(Ordering::SeqCst);
    assert!((1..=30).contains(&held), "{held}");
}

#[tokio::test]
async fn a_key_goes_to_one_endpoint() {
    let services = [
        service(
            "keyed",
            "loadBalancer.consistentHash = { httpHeaderName = \"x-user\", maglev = { tableSize = 251 } }",
        ),
        service(
            "asked",
            "loadBalancer.consistentHash.httpQueryParameterName = \"user\"",
        ),
        service(
            "sticky",
            "loadBalancer.consistentHash.httpCookie = { name = \"stay\", ttl = \"3600s\", path = \"/\" }",
        ),
        // Who calls is the same for all.
        service("near", "loadBalancer.consistentHash.useSourceIp = true"),
        service("none", "loadBalancer.simple = \"ROUND_ROBIN\""),
    ]
    .concat();
    let (system, _) = system(&services).await;
    let mut seen = String::new();
    for user in 0..12 {
        let field = format!("x-user: user-{user}");
        let path = format!("/?user={user}");
        for (host, path) in [("keyed", "/"), ("asked", path.as_str())] {
            let first = ask(&system, host, path, &field).await.1;
            for _ in 0..2 {
                assert_eq!(
                    ask(&system, host, path, &field).await.1,
                    first,
                    "{host} {user}"
                );
            }
            seen.push_str(&first);
        }
    }
    assert!(seen.contains('a') && seen.contains('b'), "{seen}");
    let mut seen = String::new();
    // That all cookies lead to one of two endpoints by chance does not happen.
    for _ in 0..32 {
        let (head, first) = ask(&system, "sticky", "/", "x: y").await;
        let given = head.lines().find_map(|l| l.strip_prefix("set-cookie: "));
        let given = given.unwrap_or_else(|| panic!("{head}"));
        let (cookie, rest) = given.split_once(';').unwrap();
        assert_eq!(rest, " Max-Age=3600; Path=/; HttpOnly");
        // Whose client has come by TLS gets it back by TLS alone.
        let (head, _) = ask(&system, "sticky", "/", "x-forwarded-proto: https").await;
        assert!(head.contains("; HttpOnly; Secure\r\n"), "{head}");
        assert!(cookie.starts_with("stay="), "{cookie}");
        for _ in 0..3 {
            let (head, body) = ask(&system, "sticky", "/", &format!("cookie: {cookie}")).await;
            assert_eq!(body, first);
            assert!(!head.contains("set-cookie"), "{head}");
        }
        seen.push_str(&first);
    }
    assert!(seen.contains('a') && seen.contains('b'), "{seen}");
    for (host, both) in [("near", false), ("none", true)] {
        let mut seen = String::new();
        for _ in 0..8 {
            seen.push_str(&ask(&system, host, "/", "x: y").await.1);
        }
        assert_eq!(
            seen.contains('a') && seen.contains('b'),
            both,
            "{host}: {seen}"
        );
    }
}

#[tokio::test]
async fn who_has_enough_to_do_gets_no_more() {
    let services = [
        service(
            "narrow",
            "connectionPool = { tcp.maxConnections = 2, http.http2MaxRequests = 5 }",
        ),
        service("few", "connectionPool.http.http2MaxRequests = 1"),
        // Bytes, straight to the node.
        service("bytes", "connectionPool.tcp.maxConnections = 1")
            .replace("protocol = \"HTTP\"", "protocol = \"TCP\"")
            .replace("= \"wp\"", "= \"none\""),
    ]
    .concat();
    let (system, held) = system(&services).await;
    let system = Arc::new(system);
    let mut before = 0;
    for (host, most, told) in [
        ("narrow", 2, "`maxConnections` of shop/narrow is reached"),
        ("few", 1, "`http2MaxRequests` of shop/few is reached"),
    ] {
        for _ in 0..200 {
            // It is held by the one app, or has its answer from the other.
            let now = held.load(Ordering::SeqCst);
            if now == before + most {
                break;
            }
            let one = Arc::clone(&system);
            let asked = tokio::spawn(async move { ask(&one, host, "/hold", "x: y").await });
            wait_for(async || {
                (held.load(Ordering::SeqCst) > now || asked.is_finished()).then_some(())
            })
            .await;
            if asked.is_finished() {
                let (head, body) = asked.await.unwrap();
                assert_eq!(body, "b", "{host} is limited too early: {head}");
            }
        }
        before += most;
        assert_eq!(held.load(Ordering::SeqCst), before, "{host}");
        let (head, body) = ask(&system, host, "/", "x: y").await;
        assert!(
            head.starts_with("HTTP/1.1 503 ") && body == "overflow",
            "{head} {body}"
        );
        let fits = |r: &Value| r["close"] == "overflow" && r["reason"] == told;
        let record = system.record(fits).await;
        assert_eq!(record["status"], 503, "{record}");
    }
    let (code, first) = system.socks("bytes", 80).await;
    assert_eq!(code, 0);
    assert_eq!(system.socks("bytes", 80).await.0, 1);
    let metrics = page(&system, "/metrics").await;
    assert!(
        metrics.contains("ringgate_upstream_overflows_total 3\n"),
        "{metrics}"
    );
    drop(first);
    // Its place is free again.
    wait_for(async || (system.socks("bytes", 80).await.0 == 0).then_some(())).await;
}

/// A page of the admin endpoint.
pub(crate) async fn page(system: &System, path: &str) -> String {
    let stream = TcpStream::connect(system.subnet.at(1, 15000))
        .await
        .unwrap();
    get(stream, "admin", path).await.1
}

#[tokio::test]
async fn who_answers_with_errors_is_left_out() {
    let rule = "outlierDetection = { consecutiveGatewayErrors = 2, baseEjectionTime = \"600s\", maxEjectionPercent = 50 }";
    let services = [service("watched", rule), service("other", rule)].concat();
    let (system, _) = system(&services).await;
    let mut bad = 0;
    for _ in 0..12 {
        let (head, body) = ask(&system, "watched", "/bad", "x: y").await;
        let failed = head.starts_with("HTTP/1.1 503 ");
        assert_eq!(failed, body == "a", "{head}");
        bad += u32::from(failed);
    }
    assert_eq!(bad, 2);
    // It is out for requests of any kind, and for this service alone.
    for _ in 0..4 {
        assert_eq!(ask(&system, "watched", "/", "x: y").await.1, "b");
    }
    let mut seen = String::new();
    for _ in 0..4 {
        seen.push_str(&ask(&system, "other", "/", "x: y").await.1);
    }
    assert!(seen.contains('a'), "{seen}");
    let metrics = page(&system, "/metrics").await;
    assert!(
        metrics.contains("ringgate_endpoint_ejections_total{reason=\"answers\"} 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("ringgate_endpoints_ejected 1\n"),
        "{metrics}"
    );
    let told: Value = serde_json::from_str(&page(&system, "/endpoints").await).unwrap();
    let of = |service: &str| {
        let all = told.as_array().unwrap();
        let one = all.iter().find(|s| s["service"] == service).unwrap();
        let out = |e: &&Value| e["ejectedForMs"].as_u64().unwrap() > 0;
        let endpoints = one["endpoints"].as_array().unwrap();
        let names = endpoints
            .iter()
            .filter(out)
            .map(|e| e["endpoint"].to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(of("shop/watched"), ["\"shop/api-a\""], "{told}");
    assert_eq!(of("shop/other"), [""; 0], "{told}");
    // The other half stays, whatever it answers.
    for _ in 0..6 {
        let (head, body) = ask(&system, "watched", "/bad/all", "x: y").await;
        assert!(head.starts_with("HTTP/1.1 503 ") && body == "b", "{head}");
    }
    assert!(
        page(&system, "/metrics")
            .await
            .contains("ringgate_endpoints_ejected 1\n")
    );
}
