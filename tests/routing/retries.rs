//! Times of routes, and requests that are sent once more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringgate::cli::os;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::routes::CONFIG;
use crate::system::{Subnet, System, head};

const ROUTES: &str = r#"
[[httpRoute]]
name = "reviews"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "reviews" }]

[[httpRoute.rules]]
name = "retried"
matches = [{ path.value = "/" }]
retry = { attempts = 2, codes = [503], backoff = "1ms" }
timeouts = { backendRequest = "2s", request = "20s" }
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "any"
matches = [{ path.value = "/any" }]
retry = { attempts = 2, codes = [503], backoff = "1ms", dangerous_anyMethod = true }
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "timed"
matches = [{ path.value = "/timed" }]
timeouts.request = "1s"
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "idle"
matches = [{ path.value = "/idle" }]
timeouts.idle = "1s"
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "plain"
matches = [{ path.value = "/plain" }]
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
name = "never"
matches = [{ path.value = "/never" }]
retry.attempts = 0
backendRefs = [{ name = "reviews", port = 80 }]
"#;

/// An app of which the first `bad` requests go wrong as their path says: it answers 503, is silent, or breaks off. The rest
/// is answered with the body that came.
async fn flaky(address: SocketAddr, bad: usize) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(address).await.unwrap();
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, nth < bad));
        }
    });
    seen
}

async fn serve(mut stream: TcpStream, bad: bool) {
    let Some(head) = head(&mut stream).await else {
        return;
    };
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |n| n.parse().unwrap())];
    os::ignore(stream.read_exact(&mut body).await);
    if bad && head.contains("/silent") {
        os::ignore(stream.read_u8().await);
        return;
    }
    if bad && head.contains("/broken") {
        return;
    }
    let status = if bad {
        "503 Service Unavailable"
    } else {
        "200 OK"
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    os::ignore(stream.write_all(answer.as_bytes()).await);
    os::ignore(stream.write_all(&body).await);
}

/// Status and body of the answer.
async fn asked(system: &System, method: &str, path: &str, body: &str) -> (u16, String) {
    let (code, mut stream) = system.socks("reviews", 80).await;
    assert_eq!(code, 0);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let within = tokio::time::timeout(Duration::from_secs(60), read).await;
    within.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn system(bad: usize) -> (System, Arc<AtomicUsize>) {
    let subnet = Subnet::free();
    let seen = flaky(subnet.at(11, 8080), bad).await;
    (
        System::start(subnet, &format!("{CONFIG}{ROUTES}")).await,
        seen,
    )
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_until_it_is_answered() {
    for path in ["/", "/silent", "/broken"] {
        let (system, seen) = system(2).await;
        assert_eq!(asked(&system, "GET", path, "").await.0, 200, "{path}");
        assert_eq!(seen.load(Ordering::Relaxed), 3, "{path}");
        let at_waypoint = |r: &serde_json::Value| r["role"] == "waypoint" && r["kind"] == "request";
        let record = system.record(at_waypoint).await;
        assert_eq!(record["attempts"], 3, "{record}");
        let app = system.subnet.at(11, 8080).to_string();
        assert_eq!(record["destination"]["endpoint"], app, "{record}");
    }
}

#[tokio::test]
async fn a_small_body_goes_along_each_time() {
    let (system, seen) = system(1).await;
    let answer = asked(&system, "PUT", "/", "all of it").await;
    assert_eq!(answer, (200, "all of it".to_owned()));
    assert_eq!(seen.load(Ordering::Relaxed), 2);
    // However often it is sent, the client has sent it once.
    let at_waypoint = |r: &serde_json::Value| r["role"] == "waypoint" && r["kind"] == "request";
    let record = system.record(at_waypoint).await;
    assert_eq!(
        (&record["attempts"], &record["bytes"]["received"]),
        (&2.into(), &9.into())
    );
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let (system, seen) = system(1).await;
    assert_eq!(asked(&system, "POST", "/", "once").await.0, 503);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
    // Not more often than the route says.
    let (system, seen) = self::system(9).await;
    assert_eq!(asked(&system, "GET", "/", "").await.0, 503);
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    // Unless its route does.
    let (system, _) = self::system(1).await;
    let answer = asked(&system, "POST", "/any", "twice").await;
    assert_eq!(answer, (200, "twice".to_owned()));
}

#[tokio::test]
async fn times_of_a_route_end_it_with_504() {
    let (system, seen) = system(9).await;
    for (path, why) in [
        ("/timed/silent", "timeout of the request"),
        ("/idle/silent", "answer stalls"),
    ] {
        let (status, body) = asked(&system, "GET", path, "").await;
        assert_eq!((status, body.as_str()), (504, "upstream_timeout"), "{path}");
        let of_it = |r: &serde_json::Value| r["status"] == 504 && r["request"]["path"] == path;
        let record = system.record(of_it).await;
        assert!(record.to_string().contains(why), "{record}");
        assert_eq!(record["bytes"]["sent"], body.len(), "{record}");
    }
    assert_eq!(seen.load(Ordering::Relaxed), 2);
}

/// An app that answers the first request of each connection and breaks off at the second one.
async fn tired(address: SocketAddr) -> Arc<AtomicUsize> {
    let seen = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind(address).await.unwrap();
    let count = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                if head(&mut stream).await.is_none() {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                os::ignore(stream.write_all(answer).await);
                if head(&mut stream).await.is_some() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    seen
}

/// A kept connection that ends when its next request is sent: how often that is sent then, and what is told of it.
#[tokio::test]
async fn a_kept_connection_that_breaks_is_no_secret() {
    let subnet = Subnet::free();
    let seen = tired(subnet.at(11, 8080)).await;
    let system = System::start(subnet, &format!("{CONFIG}{ROUTES}")).await;
    let mut before = 0;
    for (nth, (method, path, status, sent, attempts)) in [
        ("GET", "/plain", 200, 1, None),
        ("GET", "/plain", 200, 2, Some(2)),
        ("HEAD", "/plain", 200, 2, Some(2)),
        // To do it twice may be to do something else.
        ("DELETE", "/plain", 502, 1, None),
        ("POST", "/plain", 200, 1, None),
        ("PUT", "/plain", 502, 1, None),
        ("GET", "/plain", 200, 1, None),
        // Whose rule wants none is never sent twice, and with a rule all of it counts.
        ("GET", "/never", 502, 1, None),
        ("GET", "/", 200, 1, None),
        ("DELETE", "/", 200, 2, Some(2)),
        ("GET", "/", 200, 2, Some(2)),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("{path}?{nth}");
        assert_eq!(
            asked(&system, method, &path, "").await.0,
            status,
            "{method} {path}"
        );
        let now = seen.load(Ordering::Relaxed);
        assert_eq!(now - before, sent, "{method} {path}");
        before = now;
        let of_it =
            |r: &serde_json::Value| r["role"] == "waypoint" && r["request"]["path"] == *path;
        let record = system.record(of_it).await;
        assert_eq!(record["attempts"].as_u64(), attempts, "{record}");
    }
}

#[tokio::test]
async fn a_port_that_a_service_does_not_have_is_told() {
    let (system, _) = system(0).await;
    for host in ["reviews", "reviews-v2"] {
        assert_ne!(system.socks(host, 81).await.0, 0);
        let reason = format!("`shop/{host}` has no port 81, only 80");
        let record = system.record(|r| r["reason"] == *reason).await;
        assert_eq!(record["close"], "no_route", "{record}");
    }
    assert_ne!(system.socks("nobody", 81).await.0, 0);
    let reason =
        "destination `nobody:81` is not in the registry, outboundTrafficPolicy is REGISTRY_ONLY";
    system.record(|r| r["reason"] == reason).await;
}
