//! Copies of requests: judged as requests of their own, sent beside them, and in nobody's way.

use std::net::SocketAddr;
use std::sync::Arc;

use ringgate::cli::os;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::balance::page;
use crate::routes::CONFIG;
use crate::system::{LIMIT, Subnet, System, app, head, wait_for};

const ROUTES: &str = r#"
[[httpRoute]]
name = "reviews"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "reviews" }]

[[httpRoute.rules]]
name = "some"
matches = [{ path.value = "/none" }]
filters = [{ type = "RequestMirror", requestMirror = { backendRef = { name = "reviews-v2", port = 80 }, fraction = { numerator = 0, denominator = 7 } } }]
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "copied"
filters = [
  { type = "RequestHeaderModifier", requestHeaderModifier.set = [{ name = "x-route", value = "copied" }] },
  { type = "RequestMirror", requestMirror.backendRef = { name = "reviews-v2", port = 80 } },
]
backendRefs = [{ name = "reviews", port = 80 }]

[[authorizationPolicy]]
name = "no-secrets"
namespace = "shop"
action = "DENY"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "reviews-v2" }]
rules = [{ to = [{ operation.paths = ["/secret"] }] }]
"#;

type Seen = Arc<Mutex<Vec<(String, String)>>>;

/// An app that notes heads and bodies, and answers with 418 and more than is ever kept, but `/silent` never.
async fn noting(address: SocketAddr) -> Seen {
    let listener = TcpListener::bind(address).await.unwrap();
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(note(stream, Arc::clone(&notes)));
        }
    });
    seen
}

async fn note(mut stream: TcpStream, seen: Seen) {
    while let Some(head) = head(&mut stream).await {
        let mut lines = head.lines();
        let length = lines.find_map(|l| l.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |n| n.parse().unwrap())];
        os::ignore(stream.read_exact(&mut body).await);
        let body = String::from_utf8(body).unwrap();
        let silent = head.contains("/silent");
        seen.lock().await.push((head, body));
        if silent {
            std::future::pending::<()>().await;
        }
        let answer = "HTTP/1.1 418 Mirrored\r\ncontent-length: 100000\r\n\r\n";
        os::ignore(stream.write_all(answer.as_bytes()).await);
        os::ignore(stream.write_all(&[b'x'; 100_000]).await);
    }
}

async fn asked(system: &System, method: &str, path: &str, body: &str) -> (u16, String) {
    let (code, mut stream) = system.socks("reviews", 80).await;
    assert_eq!(code, 0);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn system() -> (System, Seen) {
    let subnet = Subnet::free();
    app(subnet.at(11, 8080), "v1").await;
    let seen = noting(subnet.at(12, 8080)).await;
    let config = [CONFIG, ROUTES].concat();
    (System::start(subnet, &config).await, seen)
}

/// The record of the copy of what went to a path.
async fn copy(system: &System, path: &str) -> Value {
    let fits =
        |r: &Value| r["mirror"] == true && r["request"]["path"] == path && r["event"] == "close";
    system.record(fits).await
}

#[tokio::test]
async fn a_copy_goes_its_own_way() {
    let (system, seen) = system().await;
    // What may not be repeated is copied all the same.
    let answer = asked(&system, "POST", "/m?q=1", "all of it").await;
    assert_eq!(answer, (200, "v1".to_owned()));
    let record = copy(&system, "/m?q=1").await;
    assert_eq!(record["status"], 418, "{record}");
    assert_eq!(record["close"], "done", "{record}");
    assert_eq!(record["verdict"], "allow", "{record}");
    assert_eq!(record["route"], "shop/reviews/copied", "{record}");
    assert!(record.to_string().contains("shop/reviews-v2"), "{record}");
    {
        let seen = seen.lock().await;
        let [(head, body)] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert!(head.starts_with("POST /m?q=1 HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nhost: reviews\r\n"), "{head}");
        assert!(head.contains("\r\nx-route: copied\r\n"), "{head}");
        assert_eq!(body, "all of it");
    }
    let itself = |r: &Value| r["mirror"].is_null() && r["role"] == "waypoint";
    let record = system.record(itself).await;
    assert_eq!(record["status"], 200, "{record}");
    // Without a body, and for none of the requests of another rule.
    assert_eq!(asked(&system, "GET", "/none", "").await.0, 200);
    assert_eq!(asked(&system, "GET", "/get", "").await.0, 200);
    copy(&system, "/get").await;
    let lines: Vec<String> = seen.lock().await.iter().map(|(h, _)| h.clone()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].starts_with("GET /get HTTP/1.1\r\n"), "{lines:?}");
}

#[tokio::test]
async fn a_copy_is_in_nobodys_way() {
    let (system, seen) = system().await;
    // It is never answered, and the request is.
    assert_eq!(asked(&system, "GET", "/silent", "").await.0, 200);
    wait_for(async || (seen.lock().await.len() == 1).then_some(())).await;
    // Too long to be kept.
    let long = "x".repeat(70_000);
    assert_eq!(asked(&system, "PUT", "/long", &long).await.0, 200);
    let record = copy(&system, "/long").await;
    assert_eq!(record["close"], "limit", "{record}");
    assert_eq!(record["reason"], "body is too long for a copy of it");
    assert_eq!(seen.lock().await.len(), 1);
}

#[tokio::test]
async fn a_copy_is_judged_for_where_it_goes() {
    let (system, seen) = system().await;
    assert_eq!(asked(&system, "GET", "/secret", "").await.0, 200);
    let record = copy(&system, "/secret").await;
    assert_eq!(record["verdict"], "deny", "{record}");
    assert_eq!(record["close"], "denied", "{record}");
    assert!(record.to_string().contains("no-secrets"), "{record}");
    // One that is sent comes after it.
    assert_eq!(asked(&system, "GET", "/open", "").await.0, 200);
    copy(&system, "/open").await;
    let seen = seen.lock().await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].0.starts_with("GET /open "), "{seen:?}");
}

const ASKED: &str = r#"
[admin]
listen = "@1:15000"

[[extensionProvider]]
name = "ask"
envoyExtAuthzHttp = { service = "authz.example", port = 9000, timeout = "20s" }

[[serviceEntry]]
name = "authz"
namespace = "shop"
hosts = ["authz.example"]
ports = [{ number = 9000, name = "http", protocol = "HTTP" }]
location = "MESH_EXTERNAL"
resolution = "STATIC"
endpoints = [{ address = "@40" }]

[[authorizationPolicy]]
name = "ask"
namespace = "shop"
action = "CUSTOM"
provider.name = "ask"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "reviews" }]
rules = [{ to = [{ operation.paths = ["/asked"] }] }]
"#;

/// A policy that changes while a provider is asked is heard before the copy goes.
#[tokio::test]
async fn a_copy_is_judged_by_the_policy_of_its_time() {
    let (answer, record) = changed_meanwhile("reviews-v2").await;
    assert_eq!(answer, (200, "v1".to_owned()));
    assert_eq!(record["close"], "policy_changed", "{record}");
}

/// A request that is refused takes its copies with it, which say so.
#[tokio::test]
async fn a_copy_of_what_is_refused_says_why() {
    let (answer, record) = changed_meanwhile("reviews").await;
    assert_eq!(answer.0, 403);
    assert_eq!(record["close"], "policy_changed", "{record}");
    assert!(record["status"].is_null(), "{record}");
}

/// The answer to a request and the record of its copy, where a policy of a service changed while a provider was asked.
async fn changed_meanwhile(service: &str) -> ((u16, String), Value) {
    let subnet = Subnet::free();
    app(subnet.at(11, 8080), "v1").await;
    let seen = noting(subnet.at(12, 8080)).await;
    let authorizer = TcpListener::bind(subnet.at(40, 9000)).await.unwrap();
    // Where a route changed the request, the provider would have been asked about another one.
    let mut routes: Vec<&str> = ROUTES.lines().collect();
    routes.retain(|line| !line.contains("RequestHeaderModifier"));
    let config = [CONFIG, &routes.join("\n"), ASKED].concat();
    let system = Arc::new(System::start(subnet, &config).await);
    let client = Arc::clone(&system);
    let request = tokio::spawn(async move { asked(&client, "GET", "/asked", "").await });
    let asks = tokio::time::timeout(LIMIT, authorizer.accept()).await;
    let (mut question, _) = asks.expect("in time").unwrap();
    head(&mut question).await.unwrap();
    let before = page(&system, "/generation").await;
    let rules = r#"name = "reviews-v2" }]
rules = [{ to = [{ operation.paths = ["/secret"] }] }]"#;
    assert!(config.contains(rules));
    let changed = rules.replace("/secret", "/asked");
    let changed = changed.replace("reviews-v2", service);
    system.reload(&config.replace(rules, &changed));
    wait_for(async || (page(&system, "/generation").await != before).then_some(())).await;
    let yes = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    question.write_all(yes).await.unwrap();
    let answer = request.await.unwrap();
    let record = copy(&system, "/asked").await;
    assert!(seen.lock().await.is_empty());
    (answer, record)
}
