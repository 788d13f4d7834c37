//! A service behind a waypoint, of whose workloads one has a waypoint of its own.

use std::net::SocketAddr;

use ringgate::cli::os;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::system::{LIMIT, Subnet, System, head};

const CONFIG: &str = r#"
[[node]]
name = "node-1"

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node.workload]]
name = "shop/guarded"
hbone = "@12:15008"

[[waypoint]]
gateway = "shop/of-service"
hbone = "@21:15008"

[[waypoint]]
gateway = "shop/of-workload"
hbone = "@22:15008"

[[gateway]]
name = "of-service"
namespace = "shop"
gatewayClassName = "istio-waypoint"
address = "@21"

[[gateway]]
name = "of-workload"
namespace = "shop"
gatewayClassName = "istio-waypoint"
address = "@22"
labels = { "istio.io/waypoint-for" = "workload" }

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

# Nobody is there.
[[workloadEntry]]
name = "dead"
namespace = "shop"
serviceAccount = "s"
address = "@11"
labels = { app = "s" }

[[workloadEntry]]
name = "guarded"
namespace = "shop"
serviceAccount = "s"
address = "@12"
labels = { app = "s", "istio.io/use-waypoint" = "of-workload" }

[[serviceEntry]]
name = "s"
namespace = "shop"
labels = { "istio.io/use-waypoint" = "of-service" }
hosts = ["s"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 8080 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "s" }

[[requestAuthentication]]
name = "tokens"
namespace = "shop"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "of-workload" }]
jwtRules = [{ issuer = "https://auth.example.test", jwks = '{"keys":[]}' }]
"#;

const DENY: &str = r#"
[[authorizationPolicy]]
name = "nobody"
namespace = "shop"
action = "DENY"
targetRefs = [{ group = "gateway.networking.k8s.io", kind = "Gateway", name = "of-workload" }]
rules = [{ from = [{ source.principals = ["*"] }] }]
"#;

/// An app that begins to answer every request, and goes on with `/long` until it is cut off.
async fn app(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
}

async fn serve(mut stream: TcpStream) {
    let Some(head) = head(&mut stream).await else {
        return;
    };
    let length = if head.starts_with("GET /long") {
        100
    } else {
        2
    };
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nok");
    os::ignore(stream.write_all(answer.as_bytes()).await);
    os::ignore(stream.read_u8().await);
}

async fn system() -> System {
    let subnet = Subnet::free();
    app(subnet.at(12, 8080)).await;
    System::start(subnet, CONFIG).await
}

/// The first bytes of the answer to a request, and the connection.
async fn asked(system: &System, path: &str, more: &str) -> (String, TcpStream) {
    let (code, mut stream) = system.socks("s", 80).await;
    assert_eq!(code, 0);
    let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = vec![0; 4096];
    let n = stream.read(&mut seen).await.unwrap();
    (String::from_utf8_lossy(&seen[..n]).into_owned(), stream)
}

#[tokio::test]
async fn a_retry_does_not_pass_by_the_token_rules_of_the_next_endpoint() {
    let system = system().await;
    let (mut refused, mut unreached) = (0, 0);
    for _ in 0..10 {
        let (said, _) = asked(&system, "/", "authorization: Bearer not-a-token\r\n").await;
        refused += usize::from(said.starts_with("HTTP/1.1 401"));
        unreached += usize::from(said.starts_with("HTTP/1.1 503"));
    }
    // Half of the first choices fall on the one that nobody is at, until it is left out.
    assert_eq!(refused + unreached, 10, "{refused} {unreached}");
    assert!(unreached > 0, "it was never tried");
}

#[tokio::test]
async fn what_is_open_through_a_services_waypoint_is_judged_by_where_it_went() {
    let system = system().await;
    let mut open = None;
    for _ in 0..10 {
        let (said, stream) = asked(&system, "/long", "").await;
        if said.starts_with("HTTP/1.1 200") {
            open = Some(stream);
            break;
        }
    }
    let mut stream = open.expect("one of the choices is alive");
    system.reload(&format!("{CONFIG}{DENY}"));
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(LIMIT, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it goes on");
    let record = system.record(|r| r["close"] == "policy_changed").await;
    assert_eq!(record["instance"], "shop/of-service", "{record}");
}
