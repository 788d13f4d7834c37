//! Peer authentication becomes STRICT while something is open in plaintext.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::system::{Subnet, System, app};

const CONFIG: &str = r#"
[[peerAuthentication]]
name = "default"
namespace = "shop"
mtls.mode = "PERMISSIVE"

[[node]]
name = "node-1"
inbound = ["@11:8080", "@12:8080"]

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node.workload]]
name = "shop/bytes"
hbone = "@11:15008"
app = { "8080" = "@11:18080" }

[[node.workload]]
name = "shop/pages"
hbone = "@12:15008"
app = { "8080" = "@12:18080" }

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"

[[workloadEntry]]
name = "bytes"
namespace = "shop"
serviceAccount = "bytes"
address = "@11"

[[workloadEntry]]
name = "pages"
namespace = "shop"
serviceAccount = "pages"
address = "@12"
labels = { app = "pages" }

[[authorizationPolicy]]
name = "no-admin"
namespace = "shop"
action = "DENY"
selector.matchLabels = { app = "pages" }
rules = [{ to = [{ operation.paths = ["/admin"] }] }]
"#;

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            drop(tokio::io::copy(&mut from, &mut to).await);
        });
    }
}

/// The head of the next answer and its body, which is the rest of what came with it.
async fn answer(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = vec![0; 4096];
    let n = stream.read(&mut seen).await.unwrap();
    String::from_utf8_lossy(&seen[..n]).into_owned()
}

#[tokio::test]
async fn a_reload_to_strict_ends_what_is_open_in_plaintext() {
    let subnet = Subnet::free();
    let listener = TcpListener::bind(subnet.at(11, 18080)).await.unwrap();
    tokio::spawn(echo(listener));
    app(subnet.at(12, 18080), "page").await;
    let system = System::start(subnet, CONFIG).await;
    let mut bytes = TcpStream::connect(subnet.at(11, 8080)).await.unwrap();
    bytes.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    bytes.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
    let mut pages = TcpStream::connect(subnet.at(12, 8080)).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: pages\r\n\r\n";
    let said = answer(&mut pages, request).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");

    system.reload(&CONFIG.replace("PERMISSIVE", "STRICT"));
    let ended = tokio::time::timeout(crate::system::LIMIT, bytes.read(&mut back)).await;
    let ended = ended.expect("what is open in plaintext is ended");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    // The connection was kept for another request: that one is refused, and no third is taken.
    let said = answer(&mut pages, request).await;
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(crate::system::LIMIT, pages.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is kept");
    let record = system
        .record(|r| r["kind"] == "request" && r["verdict"] == "deny")
        .await;
    assert_eq!(record["close"], "plaintext_refused", "{record}");
}
