//! `connectionPool`: how connections to a service are made, waited for and used again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringgate::cli::os;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::balance::{CONFIG, ask, service};
use crate::system::{Subnet, System, head, wait_for};

/// A workload whose node takes connections and says nothing.
const SILENT: &str = r#"
[[workloadEntry]]
name = "mute"
namespace = "shop"
serviceAccount = "mute"
address = "@13"
labels = { app = "mute" }
"#;

/// A service of the silent one.
fn mute(name: &str, policy: &str) -> String {
    service(name, policy).replace("app = \"api\"", "app = \"mute\"")
}

/// Takes connections and says nothing; how many there were.
async fn silent(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let taken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    taken
}

/// An app that answers many requests on a connection with the number of the connection: `/bad` with 503, and the second one
/// of those, and `/hold`, never.
async fn counting(address: SocketAddr) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let (bad, all) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
    let count = Arc::clone(&bad);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let nth = all.fetch_add(1, Ordering::SeqCst) + 1;
            let bad = Arc::clone(&bad);
            tokio::spawn(async move {
                while let Some(head) = head(&mut stream).await {
                    let mut status = 200;
                    if head.starts_with("GET /bad") {
                        status = 503;
                        if bad.fetch_add(1, Ordering::SeqCst) == 1 {
                            std::future::pending::<()>().await;
                        }
                    }
                    let body = nth.to_string();
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 {status} Told\r\ncontent-length: {length}\r\n\r\n{body}");
                    os::ignore(stream.write_all(answer.as_bytes()).await);
                }
            });
        }
    });
    count
}

async fn system(services: &[String]) -> (System, Subnet) {
    let subnet = Subnet::free();
    let config = [CONFIG, SILENT, &services.concat()].concat();
    (System::start(subnet, &config).await, subnet)
}

const ONE: &str = r#"
[[workloadEntry]]
name = "api-a"
namespace = "shop"
serviceAccount = "api"
address = "@11"
labels = { app = "api" }
"#;

#[tokio::test]
async fn a_connect_takes_as_long_as_it_may() {
    let services = [
        mute("quick", "connectionPool.tcp.connectTimeout = \"200ms\""),
        mute("patient", "connectionPool.tcp.maxConnections = 9"),
    ];
    let (system, subnet) = system(&services).await;
    silent(subnet.at(13, 15008)).await;
    // Both from the same moment on: what is usual is fifty times as long.
    let (quick, patient) = (
        ask(&system, "quick", "/", "x: y"),
        ask(&system, "patient", "/", "x: y"),
    );
    let first = tokio::select! {
        biased;
        (head, _) = quick => head,
        (head, _) = patient => panic!("that has 10 s: {head}"),
    };
    assert!(first.starts_with("HTTP/1.1 504 "), "{first}");
    let fits = |r: &Value| r["close"] == "upstream_timeout" && r["role"] == "waypoint";
    let record = system.record(fits).await;
    assert!(
        record["reason"].to_string().contains("timed out"),
        "{record}"
    );
}

#[tokio::test]
async fn so_many_wait_for_a_connection() {
    let services = [mute(
        "pending",
        "connectionPool.http.http1MaxPendingRequests = 1",
    )];
    let (system, subnet) = system(&services).await;
    let taken = silent(subnet.at(13, 15008)).await;
    let system = Arc::new(system);
    let one = Arc::clone(&system);
    let waits = tokio::spawn(async move { ask(&one, "pending", "/", "x: y").await });
    wait_for(async || (taken.load(Ordering::SeqCst) == 1).then_some(())).await;
    let (head, body) = ask(&system, "pending", "/", "x: y").await;
    assert!(
        head.starts_with("HTTP/1.1 503 ") && body == "overflow",
        "{head} {body}"
    );
    let told = "`http1MaxPendingRequests` of shop/pending is reached";
    let fits = |r: &Value| r["close"] == "overflow" && r["reason"] == told;
    system.record(fits).await;
    waits.abort();
}

/// The bodies of the answers on one connection of a client, with `pause` between requests.
async fn asked(system: &System, host: &str, requests: usize, pause: Duration) -> String {
    let (code, mut stream) = system.socks(host, 80).await;
    assert_eq!(code, 0);
    let mut bodies = String::new();
    for nth in 0..requests {
        if nth > 0 {
            tokio::time::sleep(pause).await;
        }
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        bodies.push_str(&answer(&mut stream).await.1);
    }
    bodies
}

async fn answer(stream: &mut TcpStream) -> (String, String) {
    let head = head(stream).await.expect("an answer");
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn a_connection_is_used_again_as_often_as_it_may_be() {
    let at_a =
        |name: &str, policy: &str| service(name, policy).replace("app = \"api\"", "only = \"a\"");
    let services = [
        at_a("twice", "connectionPool.http.maxRequestsPerConnection = 2"),
        at_a(
            "fresh",
            "connectionPool.http = { idleTimeout = \"100ms\", maxRequestsPerConnection = 0 }",
        ),
        at_a("usual", "connectionPool.http.http2MaxRequests = 9"),
    ];
    let subnet = Subnet::free();
    let only = ONE.replace("app = \"api\"", "app = \"api\", only = \"a\"");
    let config = CONFIG.replace(ONE, &only);
    assert_ne!(config, CONFIG);
    counting(subnet.at(11, 8080)).await;
    let system = System::start(subnet, &[config, services.concat()].concat()).await;
    let none = Duration::ZERO;
    assert_eq!(asked(&system, "usual", 4, none).await, "1111");
    assert_eq!(asked(&system, "twice", 5, none).await, "22334");
    let idle = Duration::from_millis(400);
    let fresh = asked(&system, "fresh", 3, idle).await;
    let numbers: BTreeSet<char> = fresh.chars().collect();
    assert_eq!(numbers.len(), 3, "{fresh}");
}

#[tokio::test]
async fn bytes_may_be_idle_for_so_long() {
    let bytes = |name: &str, policy: &str| {
        let text = service(name, policy);
        let text = text.replace("protocol = \"HTTP\"", "protocol = \"TCP\"");
        text.replace("= \"wp\"", "= \"none\"")
    };
    let services = [
        bytes("short", "connectionPool.tcp.idleTimeout = \"300ms\""),
        bytes("usual", "connectionPool.tcp.maxConnections = 9"),
    ];
    let (system, subnet) = system(&services).await;
    silent(subnet.at(11, 8080)).await;
    silent(subnet.at(12, 8080)).await;
    let (code, mut short) = system.socks("short", 80).await;
    assert_eq!(code, 0);
    let (code, mut usual) = system.socks("usual", 80).await;
    assert_eq!(code, 0);
    short.write_all(b"x").await.unwrap();
    let ended = tokio::select! {
        biased;
        ended = short.read_u8() => ended,
        other = usual.read_u8() => panic!("that may be idle: {other:?}"),
    };
    // A reset: what either side has is not complete.
    let error = ended.unwrap_err().kind();
    assert_eq!(error, std::io::ErrorKind::ConnectionReset);
    let fits = |r: &Value| r["close"] == "timeout" && r["kind"] == "outbound";
    let record = system.record(fits).await;
    assert_eq!(record["reason"], "connection is idle", "{record}");
    assert_eq!(record["bytes"]["received"], 1, "{record}");
}

const RETRIES: &str = r#"
[[httpRoute]]
name = "again"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "again" }]

[[httpRoute.rules]]
retry = { attempts = 1, codes = [503], backoff = "1ms" }
backendRefs = [{ name = "again", port = 80 }]
"#;

#[tokio::test]
async fn so_many_are_sent_once_more_at_a_time() {
    let services = [
        service("again", "connectionPool.http.maxRetries = 1"),
        RETRIES.to_owned(),
    ];
    let subnet = Subnet::free();
    // Both endpoints are one app.
    let seen = counting(subnet.at(11, 8080)).await;
    relay(subnet.at(12, 8080), subnet.at(11, 8080)).await;
    let system = System::start(subnet, &[CONFIG, &services.concat()].concat()).await;
    let system = Arc::new(system);
    let one = Arc::clone(&system);
    let held = tokio::spawn(async move { ask(&one, "again", "/bad", "x: y").await });
    wait_for(async || (seen.load(Ordering::SeqCst) == 2).then_some(())).await;
    // The one that is sent once more is under way.
    let (head, _) = ask(&system, "again", "/bad", "x: y").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!(seen.load(Ordering::SeqCst), 3, "not once more");
    held.abort();
}

/// Another address of an app.
async fn relay(at: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut down, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut up = TcpStream::connect(to).await.unwrap();
                os::ignore(tokio::io::copy_bidirectional(&mut down, &mut up).await);
            });
        }
    });
}
