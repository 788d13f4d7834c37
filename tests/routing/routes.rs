//! Routes at a waypoint, an egress gateway and an ingress.

use std::net::SocketAddr;

use ringgate::cli::os;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::system::{Subnet, System, head};

pub(crate) const CONFIG: &str = r#"
[[node]]
name = "node-1"

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node.workload]]
name = "shop/v1"
hbone = "@11:15008"

[[node.workload]]
name = "shop/v2"
hbone = "@12:15008"

[[waypoint]]
gateway = "shop/wp"
hbone = "@20:15008"

[[egress]]
gateway = "shop/out"
hbone = "@21:15008"

[[gateway]]
name = "wp"
namespace = "shop"
gatewayClassName = "istio-waypoint"
address = "@20"

[[gateway]]
name = "out"
namespace = "shop"
gatewayClassName = "ringgate-egress"
address = "@21"

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

[[workloadEntry]]
name = "v1"
namespace = "shop"
serviceAccount = "reviews"
address = "@11"
labels = { app = "reviews", version = "v1" }

[[workloadEntry]]
name = "v2"
namespace = "shop"
serviceAccount = "reviews"
address = "@12"
labels = { app = "reviews", version = "v2" }

[[serviceEntry]]
name = "reviews"
namespace = "shop"
labels = { "istio.io/use-waypoint" = "wp" }
hosts = ["reviews"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "reviews", version = "v1" }

[[serviceEntry]]
name = "reviews-v2"
namespace = "shop"
labels = { "istio.io/use-waypoint" = "wp" }
hosts = ["reviews-v2"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { version = "v2" }

[[serviceEntry]]
name = "partner"
namespace = "shop"
labels = { "istio.io/use-waypoint" = "out" }
hosts = ["partner.example"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 9000 }]
resolution = "STATIC"
endpoints = [{ address = "@50" }]

[[authorizationPolicy]]
name = "partner"
namespace = "shop"
action = "ALLOW"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [{ to = [{ operation.paths = ["/public/*", "/v1/*"] }] }]
"#;

const ROUTES: &str = r#"
[[httpRoute]]
name = "reviews"
namespace = "shop"
parentRefs = [{ kind = "Service", name = "reviews" }]

[[httpRoute.rules]]
name = "moved"
matches = [{ path.value = "/old" }]
filters = [{ type = "RequestRedirect", requestRedirect = { hostname = "new.example", path = { type = "ReplacePrefixMatch", replacePrefixMatch = "/new" }, statusCode = 301 } }]

[[httpRoute.rules]]
name = "canary"
matches = [{ headers = [{ name = "x-canary", value = "yes" }] }]
backendRefs = [{ name = "reviews-v2", port = 80 }]

[[httpRoute.rules]]
matches = [{ path.value = "/edit" }]
filters = [
  { type = "RequestHeaderModifier", requestHeaderModifier = { set = [{ name = "x-set", value = "ours" }], remove = ["x-gone"] } },
  { type = "ResponseHeaderModifier", responseHeaderModifier = { add = [{ name = "x-answer", value = "told" }], remove = ["x-secret"] } },
  { type = "URLRewrite", urlRewrite = { hostname = "inner.example", path = { type = "ReplacePrefixMatch", replacePrefixMatch = "/inner" } } },
]
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute.rules]]
matches = [{ path.value = "/split" }]
backendRefs = [{ name = "reviews", port = 80, weight = 3 }, { name = "reviews-v2", port = 80 }]

[[httpRoute.rules]]
matches = [{ path = { type = "RegularExpression", value = "/id/[0-9]+" } }]
backendRefs = [{ name = "reviews", port = 80 }]

[[httpRoute]]
name = "partner"
namespace = "shop"
parentRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner" }]
rules = [
  { matches = [{ path.value = "/public" }], filters = [{ type = "URLRewrite", urlRewrite.path = { type = "ReplacePrefixMatch", replacePrefixMatch = "/v1" } }], backendRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner", port = 80 }] },
  { matches = [{ path.value = "/public/secret" }], filters = [{ type = "URLRewrite", urlRewrite.path = { type = "ReplaceFullPath", replaceFullPath = "/secret" } }], backendRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "partner", port = 80 }] },
]
"#;

/// An app that answers with its name and the head that it got.
async fn echo(address: SocketAddr, name: &'static str) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Some(head) = head(&mut stream).await else {
                    return;
                };
                let body = format!("{name}\n{head}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nx-secret: 1\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                os::ignore(stream.write_all(answer.as_bytes()).await);
            });
        }
    });
}

/// The whole answer to a request with more fields.
async fn asked(system: &System, host: &str, path: &str, more: &str) -> String {
    let (code, mut stream): (u8, TcpStream) = system.socks(host, 80).await;
    assert_eq!(code, 0);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn system(more: &str) -> System {
    let subnet = Subnet::free();
    echo(subnet.at(11, 8080), "v1").await;
    echo(subnet.at(12, 8080), "v2").await;
    echo(subnet.at(50, 9000), "partner").await;
    System::start(subnet, &format!("{CONFIG}{ROUTES}{more}")).await
}

#[tokio::test]
async fn a_waypoint_routes_by_rule_and_weight() {
    let system = system("").await;
    let canary = asked(&system, "reviews", "/", "x-canary: yes\r\n").await;
    assert!(canary.contains("\r\n\r\nv2\nGET / HTTP/1.1"), "{canary}");
    let record = system
        .record(|r| r["role"] == "waypoint" && r["kind"] == "request")
        .await;
    assert_eq!(record["route"], "shop/reviews/canary", "{record}");
    let found = asked(&system, "reviews", "/id/77", "").await;
    assert!(found.contains("\r\n\r\nv1\n"), "{found}");
    // No rule is for it.
    let nowhere = asked(&system, "reviews", "/id/x", "").await;
    assert!(nowhere.starts_with("HTTP/1.1 404"), "{nowhere}");
    let mut v2 = 0;
    for _ in 0..40 {
        let answer = asked(&system, "reviews", "/split", "").await;
        v2 += u32::from(answer.contains("\r\n\r\nv2\n"));
    }
    assert!((7..=13).contains(&v2), "{v2}");
}

#[tokio::test]
async fn filters_change_what_is_sent_and_answered() {
    let system = system("").await;
    let answer = asked(
        &system,
        "reviews",
        "/edit/a?q=1",
        "x-gone: 1\r\nx-set: theirs\r\n",
    )
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        body.starts_with("v1\nGET /inner/a?q=1 HTTP/1.1\r\n"),
        "{body}"
    );
    assert!(body.contains("host: inner.example\r\n"), "{body}");
    assert!(
        body.contains("x-set: ours\r\n") && !body.contains("theirs"),
        "{body}"
    );
    assert!(!body.contains("x-gone"), "{body}");
    assert!(
        head.contains("x-answer: told") && !head.contains("x-secret"),
        "{head}"
    );
    let moved = asked(&system, "reviews", "/old/a?b", "").await;
    assert!(moved.starts_with("HTTP/1.1 301"), "{moved}");
    assert!(
        moved.contains("location: http://new.example/new/a?b\r\n"),
        "{moved}"
    );
    let record = system.record(|r| r["status"] == 301).await;
    assert_eq!(record["verdict"], "allow", "{record}");
}

#[tokio::test]
async fn a_route_is_no_way_around_policy() {
    let deny = |service: &str, path: &str| {
        format!(
            "[[authorizationPolicy]]\nname = \"deny-{service}\"\nnamespace = \"shop\"\naction = \"DENY\"\n\
             targetRefs = [{{ group = \"networking.istio.io\", kind = \"ServiceEntry\", name = \"{service}\" }}]\n\
             rules = [{{ to = [{{ operation.paths = [\"{path}\"] }}] }}]\n"
        )
    };
    let both = format!(
        "{}{}",
        deny("reviews-v2", "/split"),
        deny("reviews", "/inner/a")
    );
    let system = system(&both).await;
    let mut seen = [0; 2];
    for _ in 0..12 {
        let answer = asked(&system, "reviews", "/split", "").await;
        seen[usize::from(answer.starts_with("HTTP/1.1 403"))] += 1;
        assert!(!answer.contains("\r\n\r\nv2\n"), "{answer}");
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    // What is sent is judged, not only what was asked for.
    let inner = asked(&system, "reviews", "/edit/a", "").await;
    assert!(inner.starts_with("HTTP/1.1 403"), "{inner}");
    let other = asked(&system, "reviews", "/edit/b", "").await;
    assert!(other.starts_with("HTTP/1.1 200"), "{other}");
}

#[tokio::test]
async fn an_egress_gateway_judges_what_leaves() {
    let system = system("").await;
    let answer = asked(&system, "partner.example", "/public/a", "").await;
    assert!(
        answer.contains("\r\n\r\npartner\nGET /v1/a HTTP/1.1"),
        "{answer}"
    );
    // Outside is no workload: the record tells who answered by address.
    let at_egress = |r: &serde_json::Value| r["role"] == "egress" && r["status"] == 200;
    let record = system.record(at_egress).await;
    let to = &record["destination"];
    let partner = system.subnet.at(50, 9000).to_string();
    assert_eq!(
        (&to["endpoint"], &to["workload"]),
        (&partner.into(), &serde_json::Value::Null),
        "{record}"
    );
    // Allowed as it was asked for, and not as it would be sent.
    let secret = asked(&system, "partner.example", "/public/secret", "").await;
    assert!(secret.starts_with("HTTP/1.1 403"), "{secret}");
    let denied = system
        .record(|r| r["role"] == "egress" && r["status"] == 403)
        .await;
    assert_eq!(denied["destination"].get("endpoint"), None, "{denied}");
}
