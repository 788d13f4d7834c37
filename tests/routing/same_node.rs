//! Between workloads of one process no tunnel is made, and everything is judged, told and cut as if there were one.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::system::{LIMIT, Subnet, System, app, wait_for};

const CONFIG: &str = r#"
[metrics]
listen = "@9:15020"

[[node]]
name = "node-1"
inbound = ["@11:15006"]

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node.workload]]
name = "shop/other"
hbone = "@2:15008"
socks = "@2:15080"

[[node.workload]]
name = "shop/api"
hbone = "@11:15008"

[[node.workload]]
name = "shop/pages"
hbone = "@12:15008"

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

[[workloadEntry]]
name = "other"
namespace = "shop"
serviceAccount = "other"
address = "@2"

[[workloadEntry]]
name = "api"
namespace = "shop"
serviceAccount = "api"
address = "@11"
labels = { app = "api" }

[[workloadEntry]]
name = "pages"
namespace = "shop"
serviceAccount = "pages"
address = "@12"
labels = { app = "pages" }

[[serviceEntry]]
name = "api"
namespace = "shop"
hosts = ["api"]
ports = [{ number = 80, name = "tcp", protocol = "TCP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }

[[serviceEntry]]
name = "pages"
namespace = "shop"
hosts = ["pages"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "pages" }

[[authorizationPolicy]]
name = "web-only"
namespace = "shop"
action = "ALLOW"
selector.matchLabels = { app = "api" }
rules = [{ from = [{ source.principals = ["cluster.local/ns/shop/sa/web"] }], to = [{ operation.ports = ["8080"] }] }]

[[authorizationPolicy]]
name = "no-admin"
namespace = "shop"
action = "DENY"
selector.matchLabels = { app = "pages" }
rules = [{ to = [{ operation.paths = ["/admin"] }] }]
"#;

const WEB: &str = "cluster.local/ns/shop/sa/web";

/// An app that sends back what it gets.
async fn echo(subnet: Subnet) {
    let listener = TcpListener::bind(subnet.at(11, 8080)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok()
            });
        }
    });
}

async fn system() -> System {
    let subnet = Subnet::free();
    echo(subnet).await;
    app(subnet.at(12, 8080), "pages").await;
    System::start(subnet, CONFIG).await
}

/// The record of one side of a connection from `client` to `api`: `open` or `close`.
async fn record(system: &System, kind: &str, event: &str) -> Value {
    let wanted = |r: &Value| {
        let api = r["destination"]["workload"] == "shop/api";
        r["kind"] == kind && r["event"] == event && r["role"] == "node" && api
    };
    system.record(wanted).await
}

async fn echoes(stream: &mut TcpStream) -> bool {
    let mut back = [0; 4];
    stream.write_all(b"ping").await.is_ok()
        && stream.read_exact(&mut back).await.is_ok()
        && back == *b"ping"
}

/// How a connection that was cut looks to its client.
async fn end(stream: &mut TcpStream) -> ErrorKind {
    let mut rest = [0; 8];
    let read = timeout(LIMIT, stream.read(&mut rest));
    match read.await.expect("in time") {
        Ok(read) => panic!("{read} bytes, not a break"),
        Err(error) => error.kind(),
    }
}

/// Says of both records what a tunnel would say. What differs: the address that the inbound side sees is the client's own,
/// where a tunnel would show the socket that the process dialled itself with.
fn both_sides(outbound: &Value, inbound: &Value) {
    for side in [outbound, inbound] {
        assert_eq!(side["verdict"], "allow", "{side}");
        assert_eq!(side["source"]["principal"], WEB, "{side}");
        assert_eq!(side["generation"], outbound["generation"], "{side}");
        assert_eq!(side["bytes"], outbound["bytes"], "{side}");
        assert_eq!(side["traceId"], outbound["traceId"], "{side}");
    }
    assert!(outbound["traceId"].is_string(), "{outbound}");
    assert_eq!(inbound["source"]["address"], outbound["source"]["address"]);
    assert_eq!(
        inbound["source"]["forwardedFor"],
        outbound["source"]["address"]
    );
    let baggage = &inbound["source"]["baggage"];
    assert_eq!(baggage["namespace"], "shop", "{inbound}");
    assert_eq!(inbound["policy"], "shop/web-only", "{inbound}");
    assert_eq!(inbound["rule"], 0, "{inbound}");
    assert_eq!(inbound["destination"]["service"], "shop/api", "{inbound}");
    assert_eq!(inbound["destination"]["port"], 8080, "{inbound}");
    assert_eq!(outbound["destination"]["service"], "api:80", "{outbound}");
}

#[tokio::test]
async fn what_is_allowed_passes_with_the_records_and_metrics_of_both_sides() {
    let system = system().await;
    let (code, mut stream) = system.socks("api", 80).await;
    assert_eq!(code, 0);
    assert!(echoes(&mut stream).await);
    let opened = [
        record(&system, "outbound", "open").await,
        record(&system, "connection", "open").await,
    ];
    both_sides(&opened[0], &opened[1]);
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    let closed = [
        record(&system, "outbound", "close").await,
        record(&system, "connection", "close").await,
    ];
    both_sides(&closed[0], &closed[1]);
    for side in &closed {
        assert_eq!(side["close"], "done", "{side}");
        assert_eq!(side["bytes"]["received"], 4, "{side}");
        assert_eq!(side["bytes"]["sent"], 4, "{side}");
    }
    for reporter in ["source", "destination"] {
        for name in [
            "istio_tcp_connections_opened_total",
            "istio_tcp_connections_closed_total",
        ] {
            let line = wait_for(async || {
                let at = TcpStream::connect(system.subnet.at(9, 15020)).await.ok()?;
                let (_, text) = crate::system::get(at, "metrics", "/metrics").await;
                let ours = |line: &&str| {
                    line.starts_with(name)
                        && line.contains(&format!("reporter=\"{reporter}\""))
                        && line
                            .contains("source_principal=\"spiffe://cluster.local/ns/shop/sa/web\"")
                        && line.contains("destination_workload=\"api\"")
                        && line.contains("connection_security_policy=\"mutual_tls\"")
                };
                text.lines().find(ours).map(str::to_owned)
            })
            .await;
            assert!(line.ends_with(" 1"), "{line}");
        }
    }
}

#[tokio::test]
async fn what_is_denied_is_refused_as_by_a_tunnel_and_recorded_on_both_sides() {
    let system = system().await;
    let (code, _) = system.socks_at(2, "api", 80).await;
    assert_eq!(code, 2);
    let inbound = record(&system, "connection", "close").await;
    assert_eq!(inbound["verdict"], "deny", "{inbound}");
    assert_eq!(inbound["close"], "denied", "{inbound}");
    assert_eq!(
        inbound["source"]["principal"],
        "cluster.local/ns/shop/sa/other"
    );
    let outbound = record(&system, "outbound", "close").await;
    assert_eq!(outbound["close"], "denied", "{outbound}");
    let reason = "far end answered 401 Unauthorized";
    assert_eq!(outbound["reason"], reason, "{outbound}");
    // A port that no rule allows, of a workload whose caller is allowed another.
    let own = system.subnet.ip(11).to_string();
    assert_eq!(system.socks(&own, 8081).await.0, 2);
}

#[tokio::test]
async fn a_policy_that_changes_cuts_it() {
    let system = system().await;
    let (code, mut stream) = system.socks("api", 80).await;
    assert_eq!(code, 0);
    assert!(echoes(&mut stream).await);
    system.reload(&CONFIG.replace("sa/web\"]", "sa/nobody\"]"));
    assert_eq!(end(&mut stream).await, ErrorKind::ConnectionReset);
    let inbound = record(&system, "connection", "close").await;
    assert_eq!(inbound["close"], "policy_changed", "{inbound}");
    let outbound = record(&system, "outbound", "close").await;
    assert_eq!(outbound["close"], "upstream_reset", "{outbound}");
    assert_eq!(
        outbound["reason"], "stream was reset: CONNECT_ERROR",
        "{outbound}"
    );
}

#[tokio::test]
async fn who_is_revoked_is_cut_and_refused() {
    // The caller: the inbound side hears of it. Whom it calls: the outbound side.
    for (whom, revoked, other, as_what) in [
        ("web", "connection", "outbound", "upstream_reset"),
        ("api", "outbound", "connection", "downstream_reset"),
    ] {
        let system = system().await;
        let (code, mut stream) = system.socks("api", 80).await;
        assert_eq!(code, 0);
        assert!(echoes(&mut stream).await);
        let table =
            format!("\n[[revocation]]\nid = \"spiffe://cluster.local/ns/shop/sa/{whom}\"\n");
        system.reload(&format!("{CONFIG}{table}"));
        assert_eq!(end(&mut stream).await, ErrorKind::ConnectionReset, "{whom}");
        let cut = record(&system, revoked, "close").await;
        assert_eq!(cut["close"], "revoked", "{whom}: {cut}");
        let broken = record(&system, other, "close").await;
        assert_eq!(broken["close"], as_what, "{whom}: {broken}");
        assert_ne!(system.socks("api", 80).await.0, 0, "{whom}");
        if whom == "web" {
            // The far end may have been the first to refuse it.
            let told = wait_for(async || {
                assert_ne!(system.socks("api", 80).await.0, 0, "{whom}");
                let told = system.record(|r| r["kind"] == "outbound" && r["close"] == "revoked");
                timeout(Duration::from_secs(1), told).await.ok()
            })
            .await;
            let reason = told["reason"].as_str().unwrap();
            assert!(reason.starts_with("own identity: "), "{told}");
        }
        // And back again.
        system.reload(CONFIG);
        wait_for(async || {
            let (code, mut stream) = system.socks("api", 80).await;
            (code == 0 && echoes(&mut stream).await).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn rules_of_http_are_judged_as_ever() {
    let system = system().await;
    let answer = system.get("pages", 80, "/").await;
    assert_eq!(answer, Ok((200, "pages".to_owned())));
    assert_eq!(system.get("pages", 80, "/admin").await.unwrap().0, 403);
    let denied = |r: &Value| r["kind"] == "request" && r["verdict"] == "deny";
    let record = system.record(denied).await;
    assert_eq!(record["policy"], "shop/no-admin", "{record}");
    assert_eq!(record["source"]["principal"], WEB, "{record}");
}
