//! What a retry keeps, and what an endpoint has to do while WebSockets are open.

use std::net::SocketAddr;

use ringgate::cli::os;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::balance::{ask, page, service, system_with};
use crate::system::{Subnet, System, head, wait_for};

const RETRIED: &str = r#"
[[httpRoute]]
name = "again"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "again" }]

[[httpRoute.rules]]
retry = { attempts = 2, codes = [503], backoff = "1ms" }
backendRefs = [{ name = "again", port = 80 }]

[[serviceEntry]]
name = "secret"
namespace = "shop"
labels = { "istio.io/use-waypoint" = "wp" }
hosts = ["secret"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { one = "b" }

[[authorizationPolicy]]
name = "nobody"
namespace = "shop"
action = "DENY"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "secret" }]
rules = [{}]
"#;

#[tokio::test]
async fn where_nobody_else_may_be_asked_the_answer_stays() {
    let services = [
        service("again", "loadBalancer.simple = \"ROUND_ROBIN\""),
        RETRIED.to_owned(),
    ];
    let edit = |config: String| {
        let b = "address = \"@12\"\nlabels = { app = \"api\" }";
        assert!(config.contains(b), "{config}");
        config.replace(
            b,
            "address = \"@12\"\nlabels = { app = \"api\", one = \"b\" }",
        )
    };
    let (system, _) = system_with(&services.concat(), edit).await;
    let mut kept = 0;
    for _ in 0..6 {
        // The other endpoint denies all: the one that answers has said what there is to say.
        let (head, body) = ask(&system, "again", "/bad", "x: y").await;
        let status = head.split(' ').nth(1).unwrap().to_owned();
        assert!(["403", "503"].contains(&status.as_str()), "{head}");
        if status == "503" {
            assert_eq!(body, "a", "{head}");
            kept += 1;
        }
    }
    assert!(kept > 0, "all came to the one that denies first");
    let fits = |r: &Value| r["role"] == "waypoint" && r["status"] == 503;
    let record = system.record(fits).await;
    assert_eq!(record["close"], "done", "{record}");
    assert!(record["attempts"].is_null(), "{record}");
}

/// Switches, and holds what it has.
async fn sockets(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                head(&mut stream).await;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                os::ignore(stream.write_all(answer.as_bytes()).await);
                head(&mut stream).await;
            });
        }
    });
}

/// An open WebSocket.
async fn socket(system: &System, host: &str) -> TcpStream {
    let (code, mut stream) = system.socks(host, 80).await;
    assert_eq!(code, 0);
    let request = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

/// What the endpoints of a service have to do, together.
async fn active(system: &System, service: &str) -> u64 {
    let told: Value = serde_json::from_str(&page(system, "/endpoints").await).unwrap();
    let all = told.as_array().unwrap();
    let one = all.iter().find(|s| s["service"] == service).unwrap();
    let endpoints = one["endpoints"].as_array().unwrap();
    endpoints
        .iter()
        .map(|e| e["active"].as_u64().unwrap())
        .sum()
}

#[tokio::test]
async fn open_websockets_are_something_to_do() {
    let subnet = Subnet::free();
    sockets(subnet.at(11, 8080)).await;
    sockets(subnet.at(12, 8080)).await;
    let services = service("least", "loadBalancer.simple = \"LEAST_REQUEST\"");
    let config = [crate::balance::CONFIG, &services].concat();
    let system = System::start(subnet, &config).await;
    let mut open = Vec::new();
    for n in 1..=4 {
        open.push(socket(&system, "least").await);
        assert_eq!(active(&system, "shop/least").await, n);
    }
    open.pop();
    wait_for(async || (active(&system, "shop/least").await == 3).then_some(())).await;
    drop(open);
    wait_for(async || (active(&system, "shop/least").await == 0).then_some(())).await;
}
