//! Active health checks (`trafficPolicy.healthCheck`), by HTTP, TCP and gRPC, through HBONE and to the outside.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use ringgate::cli::os;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::balance::{CONFIG, ask, page, service};
use crate::system::{Subnet, System, head, wait_for};

const HTTP: &str = "healthCheck = { interval = \"40ms\", timeout = \"10s\", unhealthyThreshold = 2, \
    healthyThreshold = 2, httpHealthCheck = { path = \"/healthz\" } }";

/// What is asked of an app: how often it was checked, and what it answers to that.
#[derive(Debug)]
struct App {
    status: AtomicUsize,
    checks: AtomicUsize,
    heads: Mutex<String>,
}

impl App {
    /// Answers with its name, and `/healthz` by its status.
    async fn start(address: SocketAddr, name: &'static str) -> Arc<Self> {
        let this = Arc::new(Self {
            status: AtomicUsize::new(200),
            checks: AtomicUsize::new(0),
            heads: Mutex::default(),
        });
        let listener = TcpListener::bind(address).await.unwrap();
        let shared = Arc::clone(&this);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let app = Arc::clone(&shared);
                tokio::spawn(async move {
                    while let Some(head) = head(&mut stream).await {
                        let mut status = 200;
                        if head.contains(" /healthz ") {
                            status = app.status.load(Ordering::SeqCst);
                            app.checks.fetch_add(1, Ordering::SeqCst);
                            *app.heads.lock().await = head;
                        }
                        let answer =
                            format!("HTTP/1.1 {status} Told\r\ncontent-length: 1\r\n\r\n{name}");
                        os::ignore(stream.write_all(answer.as_bytes()).await);
                    }
                });
            }
        });
        this
    }

    fn says(&self, status: usize) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::SeqCst)
    }
}

/// What is held of the endpoints of a service, by their names.
async fn held(system: &System, service: &str) -> Vec<(String, Option<bool>)> {
    let all: Value = serde_json::from_str(&page(system, "/endpoints").await).unwrap();
    let one = all.as_array().unwrap().iter();
    let service = format!("shop/{service}");
    let one = one.clone().find(|s| s["service"] == service).unwrap();
    let endpoint = |e: &Value| {
        let name = e["endpoint"].as_str().unwrap().to_owned();
        (name, e["healthy"].as_bool())
    };
    one["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(endpoint)
        .collect()
}

/// Waits until that is held of an endpoint.
async fn becomes(system: &System, service: &str, endpoint: &str, want: Option<bool>) {
    wait_for(async || {
        let all = held(system, service).await;
        let found = all.iter().find(|(name, _)| name == endpoint).unwrap();
        (found.1 == want).then_some(())
    })
    .await;
}

/// Who answers so many requests.
async fn answers(system: &System, service: &str, times: usize) -> String {
    let mut seen = String::new();
    for _ in 0..times {
        seen += &ask(system, service, "/", "x: y").await.1;
    }
    seen
}

/// Each of the apps answers some of the calls, however chance has it.
async fn all_answer(system: &System, service: &str, apps: &str) {
    let mut seen = String::new();
    while !apps.chars().all(|app| seen.contains(app)) {
        assert!(seen.len() < 60, "{apps}: {seen}");
        seen += &answers(system, service, 1).await;
    }
}

async fn system(driver: &str, services: &[String]) -> (System, [Arc<App>; 2]) {
    let subnet = Subnet::free();
    let apps = [
        App::start(subnet.at(11, 8080), "a").await,
        App::start(subnet.at(12, 8080), "b").await,
    ];
    (start(subnet, driver, services).await, apps)
}

async fn start(subnet: Subnet, driver: &str, services: &[String]) -> System {
    System::start(subnet, &config(driver, services)).await
}

fn config(driver: &str, services: &[String]) -> String {
    format!("io = \"{driver}\"\n{CONFIG}{}", services.concat())
}

async fn out_and_back(driver: &str) {
    let services = [
        service("checked", HTTP),
        service("other", "loadBalancer.simple = \"ROUND_ROBIN\""),
    ];
    let (system, [a, b]) = system(driver, &services).await;
    for endpoint in ["shop/api-a", "shop/api-b"] {
        becomes(&system, "checked", endpoint, Some(true)).await;
    }
    all_answer(&system, "checked", "ab").await;
    let asked = a.heads.lock().await.clone();
    for want in [
        "GET /healthz HTTP/1.1\r\n",
        "host: checked\r\n",
        "user-agent: ringgate-health-check\r\n",
    ] {
        assert!(asked.contains(want), "{asked}");
    }
    a.says(503);
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    assert_eq!(answers(&system, "checked", 8).await, "bbbbbbbb");
    // It is a word about this service; others know nothing of it.
    all_answer(&system, "other", "a").await;
    assert_eq!(held(&system, "other").await[0].1, None);
    let fits = |r: &Value| r["healthCheck"] == "unhealthy";
    let record = system.record(fits).await;
    for (at, want) in [
        ("/role", "waypoint"),
        ("/instance", "shop/wp"),
        ("/kind", "outbound"),
        ("/source/principal", "cluster.local/ns/shop/sa/wp"),
        ("/destination/service", "shop/checked"),
        ("/destination/workload", "shop/api-a"),
        ("/reason", "answered 503"),
    ] {
        assert_eq!(record.pointer(at).unwrap(), want, "{at}: {record}");
    }
    assert_eq!(record["status"], 503);
    let metrics = page(&system, "/metrics").await;
    let line = |endpoint: &str, value: u8| {
        format!(
            "ringgate_endpoint_healthy{{service=\"shop/checked\",port=\"80\",endpoint=\"shop/{endpoint}\"}} {value}\n"
        )
    };
    for want in [line("api-a", 0), line("api-b", 1)] {
        assert!(metrics.contains(&want), "{want}{metrics}");
    }
    a.says(200);
    becomes(&system, "checked", "shop/api-a", Some(true)).await;
    all_answer(&system, "checked", "a").await;
    system
        .record(|r| r["healthCheck"] == "healthy" && r["status"] == 200)
        .await;
    // Nobody is left, and so all are asked.
    a.says(500);
    b.says(404);
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    becomes(&system, "checked", "shop/api-b", Some(false)).await;
    all_answer(&system, "checked", "ab").await;
}

#[tokio::test]
async fn who_fails_is_left_out_and_comes_back_io_uring() {
    out_and_back("io_uring").await;
}

#[tokio::test]
async fn who_fails_is_left_out_and_comes_back_epoll() {
    out_and_back("epoll").await;
}

/// Without the rule nothing is held, nothing is asked, and the endpoint takes part again.
#[tokio::test]
async fn a_reload_takes_the_check_back() {
    let (system, [a, _b]) = system("auto", &[service("checked", HTTP)]).await;
    a.says(503);
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    system.reload(&config(
        "auto",
        &[service("checked", "loadBalancer.simple = \"ROUND_ROBIN\"")],
    ));
    becomes(&system, "checked", "shop/api-a", None).await;
    all_answer(&system, "checked", "a").await;
    // One may have been under way.
    let before = a.checks();
    system.reload(&config("auto", &[service("checked", HTTP)]));
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    assert!(a.checks() > before);
    // What is good is another thing now.
    let wider = HTTP.replace(
        "path = \"/healthz\"",
        "path = \"/healthz\", expectedStatuses = [{ start = 500, end = 504 }]",
    );
    system.reload(&config("auto", &[service("checked", &wider)]));
    becomes(&system, "checked", "shop/api-a", Some(true)).await;
    becomes(&system, "checked", "shop/api-b", Some(false)).await;
}

/// Too many are ill: health is not looked at.
#[tokio::test]
async fn below_the_least_share_all_are_asked() {
    let rule = format!("outlierDetection.minHealthPercent = 60\ntrafficPolicy.{HTTP}");
    let (system, [a, _b]) = system("auto", &[service("checked", &rule)]).await;
    a.says(503);
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    all_answer(&system, "checked", "ab").await;
}

/// An app that does not listen, behind a node that does.
#[tokio::test]
async fn a_connection_is_enough_for_tcp() {
    let rule = "healthCheck = { interval = \"40ms\", timeout = \"10s\", tcpHealthCheck = {} }";
    let subnet = Subnet::free();
    App::start(subnet.at(11, 8080), "a").await;
    let system = start(subnet, "auto", &[service("checked", rule)]).await;
    becomes(&system, "checked", "shop/api-a", Some(true)).await;
    becomes(&system, "checked", "shop/api-b", Some(false)).await;
    assert_eq!(answers(&system, "checked", 6).await, "aaaaaa");
    // The gateway was told so by the node of the app.
    let record = system.record(|r| r["healthCheck"] == "unhealthy").await;
    assert_eq!(record["close"], "upstream_connect", "{record}");
    let node = |r: &Value| {
        let from = &r["source"]["principal"];
        r["role"] == "node"
            && from == "cluster.local/ns/shop/sa/wp"
            && r["close"] == "upstream_connect"
    };
    system.record(node).await;
    App::start(subnet.at(12, 8080), "b").await;
    becomes(&system, "checked", "shop/api-b", Some(true)).await;
    all_answer(&system, "checked", "b").await;
}

/// A check is no way around a policy: it is the gateway's own call, and judged where it arrives.
#[tokio::test]
async fn a_check_is_judged_as_any_call_of_the_gateway() {
    let denied = "\n[[authorizationPolicy]]\nname = \"not-the-waypoint\"\nnamespace = \"shop\"\n\
        selector.matchLabels = { app = \"api\" }\naction = \"DENY\"\n\
        rules = [{ from = [{ source.principals = [\"cluster.local/ns/shop/sa/wp\"] }] }]\n";
    let services = [service("checked", HTTP), denied.to_owned()];
    let (system, [a, _b]) = system("auto", &services).await;
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    assert_eq!(a.checks(), 0, "it came through");
    let record = system.record(|r| r["healthCheck"] == "unhealthy").await;
    assert_eq!(record["close"], "denied", "{record}");
    let node = |r: &Value| r["role"] == "node" && r["policy"] == "shop/not-the-waypoint";
    let at_node = system.record(node).await;
    assert_eq!(at_node["verdict"], "deny", "{at_node}");
}

/// A gRPC server that answers `Check` with a state, by the service that is asked for.
async fn grpc(address: SocketAddr, state: Arc<AtomicUsize>, asked: Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (state, asked) = (Arc::clone(&state), Arc::clone(&asked));
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    return;
                };
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    let (state, asked) = (Arc::clone(&state), Arc::clone(&asked));
                    tokio::spawn(async move {
                        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                        let mut body = request.into_body();
                        let mut got = Vec::new();
                        while let Some(Ok(piece)) = body.data().await {
                            got.extend_from_slice(&piece);
                        }
                        *asked.lock().await = got;
                        let head = Response::builder()
                            .header("content-type", "application/grpc")
                            .body(())
                            .unwrap();
                        let mut send = answer.send_response(head, false).unwrap();
                        let state = u8::try_from(state.load(Ordering::SeqCst)).unwrap();
                        let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, state]);
                        os::ignore(send.send_data(message, false));
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        os::ignore(send.send_trailers(trailers));
                    });
                }
            });
        }
    });
}

#[tokio::test]
async fn a_grpc_server_says_how_it_is() {
    let rule = "healthCheck = { interval = \"40ms\", timeout = \"10s\", unhealthyThreshold = 1, \
        healthyThreshold = 1, grpcHealthCheck.serviceName = \"shop.Ledger\" }";
    let subnet = Subnet::free();
    let state = Arc::new(AtomicUsize::new(1));
    let asked = Arc::new(Mutex::new(Vec::new()));
    grpc(subnet.at(11, 8080), Arc::clone(&state), Arc::clone(&asked)).await;
    let service = service("checked", rule).replace("protocol = \"HTTP\"", "protocol = \"GRPC\"");
    let system = start(subnet, "auto", &[service]).await;
    becomes(&system, "checked", "shop/api-a", Some(true)).await;
    assert_eq!(*asked.lock().await, b"\0\0\0\0\x0d\x0a\x0bshop.Ledger");
    becomes(&system, "checked", "shop/api-b", Some(false)).await;
    state.store(2, Ordering::SeqCst);
    becomes(&system, "checked", "shop/api-a", Some(false)).await;
    let fits = |r: &Value| {
        r["healthCheck"] == "unhealthy" && r["reason"] == "does not serve (NOT_SERVING)"
    };
    system.record(fits).await;
    state.store(1, Ordering::SeqCst);
    becomes(&system, "checked", "shop/api-a", Some(true)).await;
}

const EGRESS: &str = r#"
[[egress]]
gateway = "shop/out"
hbone = "@30:15008"

[[gateway]]
name = "out"
namespace = "shop"
gatewayClassName = "ringgate-egress"
address = "@30"
"#;

/// A service outside, whose endpoints are these hosts, and whoever may call it.
fn outside(name: &str, hosts: &[u8], rule: &str) -> String {
    let endpoint = |host: &u8| format!("{{ address = \"@{host}\" }}");
    let endpoints: Vec<String> = hosts.iter().map(endpoint).collect();
    let endpoints = endpoints.join(", ");
    format!(
        r#"
[[serviceEntry]]
name = "{name}"
namespace = "shop"
labels = {{ "istio.io/use-waypoint" = "out" }}
hosts = ["{name}.test"]
ports = [{{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }}]
location = "MESH_EXTERNAL"
resolution = "STATIC"
endpoints = [{endpoints}]

[[destinationRule]]
name = "{name}"
namespace = "shop"
host = "{name}.test"
trafficPolicy.{rule}

[[authorizationPolicy]]
name = "{name}"
namespace = "shop"
targetRefs = [{{ group = "networking.istio.io", kind = "ServiceEntry", name = "{name}" }}]
rules = [{{}}]
"#
    )
}

/// An egress gateway checks what is outside.
#[tokio::test]
async fn what_is_outside_is_checked_by_its_egress_gateway() {
    let subnet = Subnet::free();
    let a = App::start(subnet.at(31, 8080), "a").await;
    App::start(subnet.at(32, 8080), "b").await;
    let services = [EGRESS.to_owned(), outside("partner", &[31, 32], HTTP)];
    let system = start(subnet, "auto", &services).await;
    let ip = |host: u8| subnet.ip(host).to_string();
    becomes(&system, "partner", &ip(31), Some(true)).await;
    a.says(503);
    becomes(&system, "partner", &ip(31), Some(false)).await;
    assert_eq!(answers(&system, "partner.test", 6).await, "bbbbbb");
    let asked = a.heads.lock().await.clone();
    assert!(asked.contains("host: partner.test\r\n"), "{asked}");
}

/// As many endpoints as there are checks at a time, and more, which never answer.
#[tokio::test]
async fn who_is_silent_does_not_hold_up_the_checks_of_others() {
    let subnet = Subnet::free();
    let well = App::start(subnet.at(31, 8080), "a").await;
    let hosts: Vec<u8> = (101..=200).collect();
    let mut silent = Vec::new();
    for host in &hosts {
        silent.push(TcpListener::bind(subnet.at(*host, 8080)).await.unwrap());
    }
    let rule = HTTP.replace("40ms", "10ms").replace("10s", "1h");
    let services = [
        EGRESS.to_owned(),
        outside("aaa", &hosts, &rule),
        outside("zzz", &[31], HTTP),
    ];
    let _system = start(subnet, "auto", &services).await;
    wait_for(async || (well.checks() >= 30).then_some(())).await;
    drop(silent);
}
