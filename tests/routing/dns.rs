//! DNS for captured workloads: names of the mesh, and everything else by a nameserver of the test's own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use ringgate::cli::os;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::system::{Subnet, System, app, get, wait_for};

const LIMIT: Duration = Duration::from_secs(10);

const CONFIG: &str = r#"
nameservers = ["@53:5353"]

[[node]]
name = "node-1"
dns = "@1:15053"
dnsSearch = ["corp.example"]

[[node.workload]]
name = "shop/web"
hbone = "@1:15008"
socks = "@1:15080"

[[node]]
name = "node-2"
dns = "@2:15053"
dnsUnknown = "REFUSE"

[[node.workload]]
name = "other/api"
hbone = "@2:15008"
dns = "@3:15053"

[[workloadEntry]]
name = "web"
namespace = "shop"
serviceAccount = "web"
address = "@1"
labels = { app = "web" }

[[workloadEntry]]
name = "spare"
namespace = "shop"
serviceAccount = "web"
address = "@9"
labels = { app = "web" }

[[workloadEntry]]
name = "api"
namespace = "other"
serviceAccount = "api"
address = "@2"

[[serviceEntry]]
name = "api"
namespace = "shop"
hosts = ["api.shop.svc.cluster.local"]
addresses = ["@100", "fd00::100"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "@50" }]

[[serviceEntry]]
name = "four"
namespace = "shop"
hosts = ["four.example"]
addresses = ["@101"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "@50" }]

[[serviceEntry]]
name = "web"
namespace = "shop"
hosts = ["web.shop.svc.cluster.local"]
labels = { "networking.istio.io/enable-autoallocate-ip" = "false" }
ports = [{ number = 8080, name = "http", protocol = "HTTP" }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "web" }

[[serviceEntry]]
name = "db"
namespace = "shop"
hosts = ["db.example"]
ports = [{ number = 5432, name = "tcp", protocol = "TCP" }]
resolution = "STATIC"
endpoints = [{ address = "@50" }]

[[serviceEntry]]
name = "wild"
namespace = "shop"
hosts = ["*.wild.example"]
ports = [{ number = 443, name = "tls", protocol = "TLS" }]
resolution = "STATIC"
endpoints = [{ address = "@50" }]
"#;

/// A nameserver that answers every question for an address with 192.0.2.1 and tells what it was sent; `big.example` is
/// too long for UDP, `deaf.example` is not answered by UDP.
async fn nameserver(at: SocketAddr) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let udp = UdpSocket::bind(at).await.unwrap();
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut packet = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut packet).await {
            counter.fetch_add(1, Ordering::SeqCst);
            let question = Message::from_vec(&packet[..len]).unwrap();
            let name = question.queries.first().map(|q| q.name().to_ascii());
            let answer = match name.as_deref() {
                Some("deaf.example.") => continue,
                Some("big.example.") => answer(&question, 60).truncate(),
                _ => answer(&question, 1),
            };
            udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    let tcp = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let question = receive(&mut stream).await;
            let answer = answer(&question, 60).to_vec().unwrap();
            os::ignore(send(&mut stream, &answer).await);
        }
    });
    asked
}

fn answer(question: &Message, records: u8) -> Message {
    let opcode = question.metadata.op_code;
    let mut answer = Message::response(question.metadata.id, opcode);
    answer.add_queries(question.queries.iter().cloned());
    if opcode != OpCode::Query {
        answer.metadata.response_code = ResponseCode::NotAuth;
        return answer;
    }
    for n in 1..=records {
        let data = RData::A(A::new(192, 0, 2, n));
        answer.add_answer(Record::from_rdata(
            question.queries[0].name().clone(),
            7,
            data,
        ));
    }
    answer
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream
        .write_u16(u16::try_from(message.len()).unwrap())
        .await?;
    stream.write_all(message).await
}

async fn receive(stream: &mut TcpStream) -> Message {
    let len = stream.read_u16().await.unwrap();
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await.unwrap();
    Message::from_vec(&message).unwrap()
}

async fn system() -> (System, Arc<AtomicUsize>) {
    let subnet = Subnet::free();
    let asked = nameserver(subnet.at(53, 5353)).await;
    app(subnet.at(50, 5432), "db").await;
    let system = System::start(subnet, CONFIG).await;
    (system, asked)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The bytes that come back for a datagram.
async fn raw(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    socket.send_to(message, server).await.unwrap();
    let mut packet = vec![0; 65_535];
    let received = tokio::time::timeout(LIMIT, socket.recv(&mut packet)).await;
    packet.truncate(received.expect("an answer").unwrap());
    packet
}

async fn by_udp(server: SocketAddr, message: &Message) -> Message {
    let answer = raw(server, &message.to_vec().unwrap()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.queries, message.queries);
    answer
}

/// The addresses of an answer, with its code where that is an error.
fn told(answer: &Message) -> String {
    let code = answer.metadata.response_code;
    if code != ResponseCode::NoError {
        return code.to_str().to_owned();
    }
    let addresses = answer.answers.iter().filter_map(|r| r.data.ip_addr());
    let mut addresses: Vec<String> = addresses.map(|ip| ip.to_string()).collect();
    addresses.sort();
    addresses.join(" ")
}

#[tokio::test]
async fn names_of_the_mesh_and_of_others() {
    let (system, _) = system().await;
    let ip = |host: u8| system.subnet.ip(host).to_string();
    let (vip, four) = (ip(100), ip(101));
    let mut web = [ip(1), ip(9)];
    web.sort();
    let web = web.join(" ");
    let nx = ResponseCode::NXDomain.to_str();
    for (at, name, kind, want) in [
        (
            1,
            "api.shop.svc.cluster.local.",
            RecordType::A,
            vip.as_str(),
        ),
        (1, "API.shop.SVC.cluster.local.", RecordType::A, &vip),
        (
            1,
            "api.shop.svc.cluster.local.",
            RecordType::AAAA,
            "fd00::100",
        ),
        (1, "api.", RecordType::A, &vip),
        (1, "api.shop.", RecordType::A, &vip),
        (1, "api.corp.example.", RecordType::A, &vip),
        (1, "four.example.", RecordType::A, &four),
        // There is an address of the other family alone: said at once.
        (1, "four.example.", RecordType::AAAA, ""),
        (1, "four.example.", RecordType::HTTPS, ""),
        (1, "four.example.", RecordType::TXT, "192.0.2.1"),
        (1, "web.", RecordType::A, &web),
        (1, "web.", RecordType::AAAA, ""),
        (1, "web.", RecordType::TXT, ""),
        (1, "x.wild.example.", RecordType::A, "192.0.2.1"),
        (1, "elsewhere.example.", RecordType::A, "192.0.2.1"),
        (2, "api.", RecordType::A, nx),
        (2, "api.shop.", RecordType::A, &vip),
        (2, "elsewhere.example.", RecordType::A, nx),
        (2, "x.wild.example.", RecordType::A, "192.0.2.1"),
        (3, "api.shop.", RecordType::A, &vip),
    ] {
        let server = system.subnet.at(at, 15053);
        let answer = by_udp(server, &question(name, kind)).await;
        assert_eq!(told(&answer), want, "{name} {kind} at {at}");
        let own = answer.answers.iter().chain(&answer.authorities);
        let ttls: Vec<u32> = own.map(|r| r.ttl).collect();
        let handed_on = told(&answer).starts_with("192.0.2.");
        let ttl = if handed_on { 7 } else { 30 };
        assert!(ttls.iter().all(|t| *t == ttl), "{name} {ttls:?}");
        // What is not there is said with how long that holds.
        assert!(!ttls.is_empty() || told(&answer) == nx, "{name} {kind}");
    }
}

#[tokio::test]
async fn a_port_of_a_service_by_its_name() {
    let (system, _) = system().await;
    let name = "_http._tcp.web.shop.svc.cluster.local.";
    let answer = by_udp(system.subnet.at(1, 15053), &question(name, RecordType::SRV)).await;
    let [record] = answer.answers.as_slice() else {
        panic!("{answer:?}");
    };
    assert!(record.data.to_string().contains("8080"), "{record}");
    assert_eq!(answer.additionals.len(), 2);
}

#[tokio::test]
async fn plain_tcp_by_name_has_an_address_that_leads_there() {
    let (system, _) = system().await;
    let server = system.subnet.at(1, 15053);
    let four = told(&by_udp(server, &question("db.example.", RecordType::A)).await);
    let six = told(&by_udp(server, &question("db.example.", RecordType::AAAA)).await);
    assert!(four.starts_with("240.240."), "{four}");
    assert!(six.starts_with("2001:2::"), "{six}");
    for address in [four, six] {
        let (code, stream) = system.socks(&address, 5432).await;
        assert_eq!(code, 0, "{address}");
        assert_eq!(get(stream, "db.example", "/").await, (200, "db".to_owned()));
    }
}

#[tokio::test]
async fn tcp_long_answers_and_other_opcodes() {
    let (system, asked) = system().await;
    let server = system.subnet.at(1, 15053);
    // Cut by UDP, whole by TCP; more than one question on a connection.
    let big = question("big.example.", RecordType::A);
    assert!(by_udp(server, &big).await.metadata.truncation);
    let mut stream = TcpStream::connect(server).await.unwrap();
    let own = question("api.shop.svc.cluster.local.", RecordType::A);
    for (message, records) in [(&own, 1), (&big, 60), (&own, 1)] {
        send(&mut stream, &message.to_vec().unwrap()).await.unwrap();
        assert_eq!(receive(&mut stream).await.answers.len(), records);
    }
    // Where UDP is not answered, TCP is.
    let deaf = question("deaf.example.", RecordType::A);
    let answer = by_udp(server, &deaf).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    let mut wide = deaf.clone();
    wide.set_edns(Edns::new())
        .edns
        .as_mut()
        .unwrap()
        .set_max_payload(4096);
    assert_eq!(by_udp(server, &wide).await.answers.len(), 60);
    // An update is the nameserver's business, and its answer the client's.
    let before = asked.load(Ordering::SeqCst);
    let mut update = Message::new(99, MessageType::Query, OpCode::Update);
    update.add_query(Query::query(
        Name::from_ascii("corp.example.").unwrap(),
        RecordType::SOA,
    ));
    let answer = by_udp(server, &update).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NotAuth);
    assert_eq!(asked.load(Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn what_is_no_question_is_answered_with_an_error_or_not_at_all() {
    let (system, _) = system().await;
    let server = system.subnet.at(1, 15053);
    let whole = question("api.", RecordType::A).to_vec().unwrap();
    // Cut behind the header.
    let answer = Message::from_vec(&raw(server, &whole[..15]).await).unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(answer.metadata.id, 4711);
    // Answers, and what is no message, are not answered: what comes back is the answer to the last one.
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    let mut answered = whole.clone();
    answered[2] |= 0x80;
    answered[0] = 1;
    for message in [&b""[..], b"\x01", &answered, &[0xff; 600], &whole] {
        socket.send_to(message, server).await.unwrap();
    }
    let mut packet = [0; 512];
    let len = tokio::time::timeout(LIMIT, socket.recv(&mut packet)).await;
    let answer = Message::from_vec(&packet[..len.unwrap().unwrap()]).unwrap();
    assert_eq!(answer.metadata.id, 4711);
}

#[tokio::test]
async fn a_flood_of_questions_that_nobody_answers_leaves_the_mesh_its_names() {
    let (system, _) = system().await;
    let server = system.subnet.at(1, 15053);
    let socket = UdpSocket::bind((server.ip(), 0)).await.unwrap();
    let deaf = question("deaf.example.", RecordType::A).to_vec().unwrap();
    for n in 0..5000_u32 {
        socket.send_to(&deaf, server).await.unwrap();
        if n % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    wait_for(async || {
        let one = UdpSocket::bind((server.ip(), 0)).await.ok()?;
        let own = question("api.", RecordType::A).to_vec().ok()?;
        one.send_to(&own, server).await.ok()?;
        let mut packet = [0; 512];
        let wait = Duration::from_millis(500);
        let len = tokio::time::timeout(wait, one.recv(&mut packet))
            .await
            .ok()?
            .ok()?;
        let answer = Message::from_vec(&packet[..len]).ok()?;
        (answer.metadata.response_code == ResponseCode::NoError).then_some(())
    })
    .await;
    assert_eq!(
        system.get("db.example", 5432, "/").await,
        Ok((200, "db".to_owned()))
    );
}
