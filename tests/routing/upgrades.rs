//! What a retry keeps, and what an endpoint has to do while WebSockets are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ringgate::cli::os;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::balance::{ask, page, service, system_with};
use crate::system::{LIMIT, Subnet, System, app, head, wait_for};

const AGAIN: &str = r#"
[[httpRoute]]
name = "again"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "again" }]

[[httpRoute.rules]]
retry = { attempts = 2, codes = [503], backoff = "1ms" }
backendRefs = [{ name = "again", port = 80 }]
"#;

/// The second app's own service, which denies all.
const OWN: &str = r#"
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

/// The second app is of a service of its own, too.
fn one_of_its_own(config: &str) -> String {
    let b = "address = \"@12\"\nlabels = { app = \"api\" }";
    assert!(config.contains(b), "{config}");
    config.replace(
        b,
        "address = \"@12\"\nlabels = { app = \"api\", one = \"b\" }",
    )
}

#[tokio::test]
async fn where_nobody_else_may_be_asked_it_goes_back() {
    let services = [
        service("again", "loadBalancer.simple = \"ROUND_ROBIN\""),
        AGAIN.to_owned(),
        OWN.to_owned(),
    ];
    let (system, _) = system_with(&services.concat(), |config| one_of_its_own(&config)).await;
    let mut kept = 0;
    for _ in 0..6 {
        // The other endpoint denies all: the one that answers is asked again, and its last answer is the answer.
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
    assert_eq!(record["attempts"], 3, "{record}");
}

/// There are more of the others than are looked at for one request.
#[tokio::test]
async fn it_goes_back_from_many_that_are_not_alike() {
    let others = (31..44).map(|host| {
        format!(
            r#"
[[workloadEntry]]
name = "other-{host}"
namespace = "shop"
serviceAccount = "api"
address = "@{host}"
labels = {{ app = "api", one = "b" }}
"#
        )
    });
    let services = [
        service("again", "loadBalancer.simple = \"ROUND_ROBIN\""),
        AGAIN.to_owned(),
        OWN.to_owned(),
        others.collect(),
    ];
    let heavy = |config: String| {
        let a = "address = \"@11\"\nlabels = { app = \"api\" }";
        let b = "address = \"@12\"\nlabels = { app = \"api\" }";
        assert!(config.contains(a) && config.contains(b), "{config}");
        // Half of all requests come to it first.
        let config = config.replace(a, &format!("{a}\nweight = 14"));
        config.replace(b, "address = \"@12\"\nlabels = { app = \"no\" }")
    };
    let (system, _) = system_with(&services.concat(), heavy).await;
    let mut kept = 0;
    for _ in 0..8 {
        let (head, body) = ask(&system, "again", "/bad", "x: y").await;
        if head.starts_with("HTTP/1.1 503 ") {
            assert_eq!(body, "a", "{head}");
            kept += 1;
            let fits = |r: &Value| r["role"] == "waypoint" && r["status"] == 503;
            let record = system.record(fits).await;
            assert_eq!(record["attempts"], 3, "{record}");
        }
    }
    assert!(kept > 1, "all came to one that denies first");
}

/// Answers 503 when it is told to, then, asked once more, half an answer, and the rest when it is told again.
async fn held(address: SocketAddr, go: Arc<Notify>) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (go, count) = (Arc::clone(&go), Arc::clone(&count));
            tokio::spawn(async move {
                while head(&mut stream).await.is_some() {
                    if count.fetch_add(1, Ordering::SeqCst) == 0 {
                        go.notified().await;
                        let refusal = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
                        os::ignore(stream.write_all(refusal).await);
                        continue;
                    }
                    let half = b"HTTP/1.1 200 Yes\r\ncontent-length: 8\r\n\r\nhalf";
                    os::ignore(stream.write_all(half).await);
                    go.notified().await;
                    os::ignore(stream.write_all(b"rest").await);
                }
            });
        }
    });
    asked
}

/// A retry that a policy of today forbids leads back to where the request was, and it is judged as what it is there.
#[tokio::test]
async fn what_goes_back_is_judged_by_where_it_goes() {
    let subnet = Subnet::free();
    let go = Arc::new(Notify::new());
    let asked = held(subnet.at(11, 8080), Arc::clone(&go)).await;
    let config = [
        &one_of_its_own(crate::balance::CONFIG),
        AGAIN,
        &service("again", "loadBalancer.simple = \"ROUND_ROBIN\""),
    ]
    .concat();
    app(subnet.at(12, 8080), "b").await;
    let system = System::start(subnet, &config).await;
    let reload = async |more: &str| {
        let before = page(&system, "/generation").await;
        system.reload(&[&config, OWN, more].concat());
        wait_for(async || (page(&system, "/generation").await != before).then_some(())).await;
    };
    let mut stream = loop {
        let (code, mut stream) = system.socks("again", 80).await;
        assert_eq!(code, 0);
        let request = "GET / HTTP/1.1\r\nhost: again\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        // Not whether it is readable: that may be about what was read before.
        let mut first = [0];
        let answered = async { stream.peek(&mut first).await.unwrap() };
        let holds = async {
            wait_for(async || (asked.load(Ordering::SeqCst) > 0).then_some(())).await;
        };
        tokio::select! {
            () = holds => break stream,
            _ = answered => {}
        }
    };
    // What it would go to instead is forbidden now.
    reload("").await;
    let denied = async || {
        let head = ask(&system, "secret", "/", "x: y").await.0;
        head.starts_with("HTTP/1.1 403 ").then_some(())
    };
    wait_for(denied).await;
    go.notify_one();
    let begun = timeout(LIMIT, head(&mut stream)).await.expect("in time");
    let begun = begun.unwrap();
    assert!(begun.starts_with("HTTP/1.1 200 "), "{begun}");
    // What is open is judged by each of them.
    for n in 0..3 {
        reload(&service(
            &format!("more-{n}"),
            "loadBalancer.simple = \"RANDOM\"",
        ))
        .await;
    }
    go.notify_one();
    let mut rest = String::new();
    let read = timeout(LIMIT, stream.read_to_string(&mut rest)).await;
    read.expect("in time").unwrap();
    assert_eq!(rest, "halfrest");
    let fits = |r: &Value| r["role"] == "waypoint" && r["bytes"]["sent"] == 8;
    let record = system.record(fits).await;
    assert_eq!(record["attempts"], 2, "{record}");
    assert_eq!(record["close"], "done", "{record}");
    assert_eq!(record["destination"]["workload"], "shop/api-a", "{record}");
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
