//! Service and shares of DNS, by sockets.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::net::{TcpSocket, UdpSocket};

use super::*;
use crate::config;
use crate::control::snapshot::Parts;

const CONFIG: &str = r#"
[process]
nameservers = ["127.83.27.53:5353"]

[authority]

[mesh]

[[node]]
name = "node-1"
dns = "127.83.27.1:15053"

[[node.workload]]
name = "shop/web"
hbone = "127.83.27.1:15008"
match = { mark = 71 }

[[node.workload]]
name = "shop/api"
hbone = "127.83.27.2:15008"
match = { mark = 72 }

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "127.83.27.1"

[[workloadEntry]]
name = "api"
namespace = "shop"
serviceAccount = "api"
address = "127.83.27.2"
"#;

#[tokio::test(start_paused = true)]
async fn a_listener_that_ends_is_served_again() {
    let (told, mut served) = tokio::sync::mpsc::unbounded_channel();
    let turn = Arc::new(AtomicUsize::new(0));
    let serve = move || {
        let (told, nth) = (told.clone(), turn.fetch_add(1, Ordering::Relaxed));
        async move {
            told.send(nth).unwrap();
            match nth {
                0 => panic!("a question that nobody thought of"),
                1 => {}
                _ => std::future::pending().await,
            }
        }
    };
    let address = "127.0.0.1:53".parse().unwrap();
    let task = tokio::spawn(kept(address, "UDP", serve));
    for nth in 0..3 {
        // By the paused clock: at once where nothing goes on.
        let again = timeout(Duration::from_secs(60), served.recv()).await;
        assert_eq!(again, Ok(Some(nth)));
    }
    task.abort();
}

/// A nameserver that answers what is asked for `good` and nothing else, and the DNS of a node that asks it; `third`: of its
/// addresses, another for each test.
async fn served(third: u8) -> SocketAddr {
    let text = CONFIG.replace("127.83.27.", &format!("127.83.{third}."));
    let config = config::parse(&[("c.toml".into(), text)], Path::new("")).unwrap();
    let parts = Parts {
        generation: 0,
        config: Arc::new(config),
        identities: Arc::default(),
        revocations: Arc::default(),
        keys: Arc::default(),
        oidc: BTreeMap::new(),
        resolved: Arc::default(),
        serving: Arc::default(),
        origination: Arc::default(),
        last: None,
        endpoints: None,
    };
    let process = Arc::new(parts.config.process.clone());
    let nameserver = process.nameservers[0];
    let udp = UdpSocket::bind(nameserver).await.unwrap();
    tokio::spawn(async move {
        let mut packet = [0; 512];
        while let Ok((len, from)) = udp.recv_from(&mut packet).await {
            if let Some(answer) = good(&packet[..len]) {
                udp.send_to(&answer, from).await.unwrap();
            }
        }
    });
    let tcp = TcpListener::bind(nameserver).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let asked = read(&mut stream).await.unwrap().unwrap();
                match good(&asked) {
                    Some(answer) => write(&mut stream, &answer).await.unwrap(),
                    None => std::future::pending().await,
                }
            });
        }
    });
    let server = DnsServer::bind(&process, None).unwrap().unwrap();
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::build(&parts).unwrap()));
    let (halt, halted) = watch::channel(false);
    tokio::spawn(async move {
        server.run(snapshot, halted).await;
        drop(halt);
    });
    process.nodes[0].dns.unwrap()
}

fn good(question: &[u8]) -> Option<Vec<u8>> {
    let mut answer = question.to_vec();
    answer[2] |= 0x80;
    question.windows(4).any(|w| w == b"good").then_some(answer)
}

/// For the address of a name of one label.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.push(u8::try_from(name.len()).unwrap());
    message.extend(name.bytes());
    message.extend([0, 0, 1, 0, 1]);
    message
}

const SERVFAIL: u8 = 2;

fn code(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

/// A socket of the workload with that `SO_MARK`.
async fn by_udp(mark: u32, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    SockRef::from(&socket).set_mark(mark).unwrap();
    socket.connect(server).await.unwrap();
    socket
}

async fn by_tcp(mark: u32, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    SockRef::from(&socket).set_mark(mark).unwrap();
    socket.connect(server).await.unwrap()
}

/// Both workloads have one address and one namespace.
#[tokio::test]
async fn a_flood_of_one_workload_leaves_places_to_another() {
    let server = served(27).await;
    let flood = by_udp(71, server).await;
    let mut packet = [0; 512];
    let mut sent = 0;
    // The first that is told at once that there is no place.
    loop {
        flood.send(&question("silent")).await.unwrap();
        sent += 1;
        assert!(sent < 100_000, "there is always a place");
        tokio::task::yield_now().await;
        if let Ok(len) = flood.try_recv(&mut packet) {
            assert_eq!(code(&packet[..len]), SERVFAIL);
            break;
        }
    }
    let other = by_udp(72, server).await;
    other.send(&question("good")).await.unwrap();
    let len = other.recv(&mut packet).await.unwrap();
    assert_eq!(code(&packet[..len]), 0, "after {sent}");
}

async fn ask(stream: &mut TcpStream, name: &str) -> Vec<u8> {
    write(stream, &question(name)).await.unwrap();
    read(stream).await.unwrap().expect("an answer")
}

#[tokio::test]
async fn idle_connections_of_one_workload_leave_places_to_another() {
    let server = served(28).await;
    let mut first = by_tcp(72, server).await;
    let mut idle = Vec::new();
    for _ in 0..=limits::DNS_CONNECTIONS {
        idle.push(by_tcp(71, server).await);
    }
    let mut second = by_tcp(72, server).await;
    assert_eq!(code(&ask(&mut second, "good").await), 0);
    assert_eq!(code(&ask(&mut first, "good").await), 0);
    // The newest of the others is served, the oldest is closed.
    let newest = idle.last_mut().unwrap();
    assert_eq!(code(&ask(newest, "good").await), 0);
    assert_eq!(read(&mut idle[0]).await.unwrap(), None);
}
