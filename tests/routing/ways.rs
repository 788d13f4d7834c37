//! Which way traffic takes, and what judges it there.

use serde_json::Value;

use crate::system::{Subnet, System, app, get};

const CONFIG: &str = r#"
[[node]]
name = "node-1"
inbound = ["@14:15006"]

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

[[node.workload]]
name = "shop/ledger"
hbone = "@14:15008"

[[node]]
name = "node-2"
outboundTrafficPolicy = "ALLOW_ANY"

[[node.workload]]
name = "shop/free"
hbone = "@2:15008"
socks = "@2:15080"

[[waypoint]]
gateway = "shop/wp"
hbone = "@20:15008"

[[gateway]]
name = "wp"
namespace = "shop"
gatewayClassName = "istio-waypoint"
address = "@20"
labels = { "istio.io/waypoint-for" = "workload" }

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

[[workloadEntry]]
name = "free"
namespace = "shop"
serviceAccount = "free"
address = "@2"

[[workloadEntry]]
name = "api-a"
namespace = "shop"
serviceAccount = "api"
address = "@11"
labels = { app = "api" }
weight = 3

[[workloadEntry]]
name = "api-b"
namespace = "shop"
serviceAccount = "api"
address = "@12"
labels = { app = "api" }

# Nobody is there.
[[workloadEntry]]
name = "api-c"
namespace = "shop"
serviceAccount = "api"
address = "@13"
labels = { app = "api" }
weight = 4

[[workloadEntry]]
name = "ledger"
namespace = "shop"
serviceAccount = "ledger"
address = "@14"
labels = { app = "ledger", "istio.io/use-waypoint" = "wp" }

[[serviceEntry]]
name = "api"
namespace = "shop"
hosts = ["api.shop.svc.cluster.local"]
addresses = ["@100"]
ports = [{ number = 80, name = "tcp", protocol = "TCP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "api" }

[[serviceEntry]]
name = "ledger"
namespace = "shop"
hosts = ["ledger"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "ledger" }

[[serviceEntry]]
name = "nobody"
namespace = "shop"
hosts = ["nobody"]
addresses = ["@101"]
ports = [{ number = 80, name = "tcp", protocol = "TCP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "nobody" }

[[serviceEntry]]
name = "block"
namespace = "shop"
hosts = ["block.example"]
addresses = ["@64/26"]
ports = [{ number = 9000, name = "tcp", protocol = "TCP" }]
resolution = "NONE"

[[serviceEntry]]
name = "partner"
namespace = "shop"
hosts = ["partner.example"]
ports = [{ number = 5432, name = "tcp", protocol = "TCP" }]
resolution = "STATIC"
endpoints = [{ address = "@51" }, { address = "@50" }]

# A workload here, as if it were outside.
[[serviceEntry]]
name = "disguised"
namespace = "shop"
hosts = ["disguised.example"]
ports = [{ number = 8080, name = "tcp", protocol = "TCP" }]
resolution = "STATIC"
endpoints = [{ address = "@11" }]

[[authorizationPolicy]]
name = "no-admin"
namespace = "shop"
action = "DENY"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "wp" }]
rules = [{ to = [{ operation.paths = ["/admin"] }] }]
"#;

async fn system() -> System {
    let subnet = Subnet::free();
    for (host, port, name) in [
        (11, 8080, "a"),
        (12, 8080, "b"),
        (14, 8080, "ledger"),
        (70, 9000, "block"),
        (50, 5432, "partner"),
        (200, 9999, "unknown"),
    ] {
        app(subnet.at(host, port), name).await;
    }
    System::start(subnet, CONFIG).await
}

#[tokio::test]
async fn endpoints_take_turns_by_weight_and_dead_ones_are_passed_over() {
    let system = system().await;
    let mut seen = [0; 2];
    for n in 0..60 {
        // The full name, a short one and the address mean the same.
        let host = ["api.shop.svc.cluster.local", "api", "@"][n % 3];
        let host = host.replace('@', &system.subnet.ip(100).to_string());
        let answer = system.get(&host, 80, "/").await;
        let (status, body) = answer.unwrap_or_else(|code| panic!("{host}: reply {code}"));
        assert_eq!(status, 200);
        seen[usize::from(body == "b")] += 1;
    }
    let [a, b] = seen;
    assert!((40..=50).contains(&a) && b >= 10, "{seen:?}");
    let record = system.record(|r| r["kind"] == "outbound").await;
    assert!(record.to_string().contains("shop/api-"), "{record}");
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_a_reason() {
    let system = system().await;
    let vip = system.subnet.ip(101).to_string();
    for (host, port, reply) in [
        ("nobody", 80, 4),
        (vip.as_str(), 80, 4),
        ("api", 81, 4),
        ("stranger.example", 80, 2),
        ("192.0.2.77", 80, 2),
        ("::1", 80, 2),
    ] {
        let (got, _) = system.socks(host, port).await;
        assert_eq!(got, reply, "{host}:{port}");
    }
    let record = system
        .record(|r| r["destination"]["service"] == "nobody:80" && !r["close"].is_null())
        .await;
    assert!(
        record.to_string().contains("has no workload or endpoint"),
        "{record}"
    );
}

#[tokio::test]
async fn a_workloads_waypoint_holds_on_every_way_in() {
    let system = system().await;
    let own = system.subnet.ip(14).to_string();
    let through = |r: &Value| r["role"] == "waypoint" && r["kind"] == "request";
    // By its own address through the waypoint.
    assert_eq!(
        system.get(&own, 8080, "/").await,
        Ok((200, "ledger".to_owned()))
    );
    let record = system.record(through).await;
    assert_eq!(record["instance"], "shop/wp", "{record}");
    assert_eq!(system.get(&own, 8080, "/admin").await.unwrap().0, 403);
    // By its service, which has none: straight to the node.
    assert_eq!(
        system.get("ledger", 80, "/").await,
        Ok((200, "ledger".to_owned()))
    );
    assert_eq!(system.get("ledger", 80, "/admin").await.unwrap().0, 403);
    // What the waypoint has denied never came to the node, so this is of the second way.
    let denied =
        |r: &Value| r["kind"] == "request" && r["role"] == "node" && r["verdict"] == "deny";
    let record = system.record(denied).await;
    assert_eq!(record["instance"], "node-1", "{record}");
}

#[tokio::test]
async fn unknown_destinations_by_the_node() {
    let system = system().await;
    let stranger = system.subnet.ip(200).to_string();
    assert_eq!(system.socks(&stranger, 9999).await.0, 2);
    let (code, stream) = system.socks_at(2, &stranger, 9999).await;
    assert_eq!(code, 0);
    assert_eq!(
        get(stream, &stranger, "/").await,
        (200, "unknown".to_owned())
    );
    // Not even then to the process itself.
    let own = system.subnet.ip(20).to_string();
    assert_eq!(system.socks_at(2, &own, 15008).await.0, 2);
}

#[tokio::test]
async fn outside_services_by_block_and_by_name() {
    let system = system().await;
    let inside = system.subnet.ip(70).to_string();
    assert_eq!(
        system.get(&inside, 9000, "/").await,
        Ok((200, "block".to_owned()))
    );
    assert_eq!(system.socks(&inside, 9001).await.0, 4);
    // A name alone has no address there.
    assert_eq!(system.socks("block.example", 9000).await.0, 4);
    // No app behind this node is dialled in plaintext, past its policies.
    assert_eq!(system.socks("disguised.example", 8080).await.0, 2);
    let record = system.record(|r| r["close"] == "self_call").await;
    let asked = &record["destination"]["service"];
    assert_eq!(asked, "disguised.example:8080", "{record}");
    // The first endpoint is dead: the other one is tried at once.
    for _ in 0..6 {
        let answer = system.get("partner.example", 5432, "/").await;
        assert_eq!(answer, Ok((200, "partner".to_owned())));
    }
}
