//! Outside names at the egress gateway: what DNS answers is judged, the server's names are those that are configured,
//! and CONNECT carries TLS for its host. A nameserver and two TLS servers of the test's own stand on loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ringgate::cli::layout::free_octets;
use ringgate::cli::os;
use ringgate::identity::outside;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{HandshakeKind, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Port of both servers.
const PORT: u16 = 8443;
/// The only name in their certificate: no host of a service.
const SERVER_NAME: &str = "backend.example.test";
const LIMIT: Duration = Duration::from_secs(20);

type Zone = BTreeMap<String, Vec<[u8; 4]>>;

/// Answers A questions from `zone`, with a TTL of one second; no other type has records.
async fn nameserver(socket: UdpSocket, zone: watch::Receiver<Zone>) {
    let mut packet = [0; 1500];
    while let Ok((n, from)) = socket.recv_from(&mut packet).await {
        let query = &packet[..n];
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let len = usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..=at + len]).into_owned());
            at += len + 1;
        }
        let question = &query[12..at + 5];
        let is_a = query[at + 1..at + 3] == [0, 1];
        let known = zone.borrow().get(&labels.join(".")).cloned();
        let addresses = known.clone().filter(|_| is_a).unwrap_or_default();
        let rcode = if known.is_some() { 0 } else { 3 };
        let count = u8::try_from(addresses.len()).unwrap();
        let mut answer = vec![
            query[0],
            query[1],
            0x81,
            0x80 | rcode,
            0,
            1,
            0,
            count,
            0,
            0,
            0,
            0,
        ];
        answer.extend(question);
        for address in addresses {
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
            answer.extend(address);
        }
        socket.send_to(&answer, from).await.unwrap();
    }
}

/// What a server saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Those whose handshake went on with a session of before.
    resumed: AtomicUsize,
}

/// A TLS server that answers each request with its own address, and counts connections.
async fn server(listener: TcpListener, tls: TlsAcceptor, seen: Arc<Seen>) {
    let me = listener.local_addr().unwrap().ip().to_string();
    while let Ok((tcp, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, me, seen) = (tls.clone(), me.clone(), Arc::clone(&seen));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(tcp).await else {
                return;
            };
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                seen.resumed.fetch_add(1, Ordering::SeqCst);
            }
            while let Some(_head) = head(&mut stream).await {
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{me}",
                    me.len()
                );
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// A head without its body; `None` if the stream ends first.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        os::ignore(self.0.kill());
        os::ignore(self.0.wait());
    }
}

struct Bench {
    dir: tempfile::TempDir,
    subnet: Subnet,
    zone: watch::Sender<Zone>,
    /// What the servers at .50 and .51 saw.
    seen: [Arc<Seen>; 2],
    roots: Arc<RootCertStore>,
    process: Option<Process>,
}

impl Bench {
    async fn start(zone: &[(&str, &[u8])]) -> Self {
        Self::with(zone, "io_uring", "").await
    }

    /// With this driver, and more of a configuration.
    async fn with(zone: &[(&str, &[u8])], io: &str, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let subnet = Subnet(free_octets().unwrap());
        let (root, tls) = certificates(&dir.path().join("ca.pem"));
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let seen: [Arc<Seen>; 2] = Default::default();
        for (n, seen) in [50, 51].into_iter().zip(&seen) {
            let listener = TcpListener::bind((subnet.ip(n), PORT)).await.unwrap();
            tokio::spawn(server(listener, tls.clone(), Arc::clone(seen)));
        }
        let socket = UdpSocket::bind((subnet.ip(53), 0)).await.unwrap();
        let nameserver_at = socket.local_addr().unwrap();
        let (sender, receiver) = watch::channel(Zone::new());
        tokio::spawn(nameserver(socket, receiver));
        let mut config = configuration(subnet, nameserver_at, io);
        config.push_str(more);
        for (name, rule) in [
            ("closed", "subjectAltNames = [\"backend.example.test\"], "),
            (
                "open",
                "subjectAltNames = [\"other.example.test\", \"backend.example.test\"], ",
            ),
            ("wrong", ""),
        ] {
            config.push_str(&service(name, name != "closed", rule));
        }
        let path = dir.path().join("ringgate.toml");
        os::write(&path, config.as_bytes(), 0o644).unwrap();
        let mut bench = Self {
            zone: sender,
            seen,
            roots: Arc::new(roots),
            process: None,
            dir,
            subnet,
        };
        for (name, hosts) in zone {
            bench.say(name, hosts);
        }
        // Not before: a name that DNS does not know is asked for again after five seconds.
        bench.process = Some(run(&path));
        let proxy = bench.proxy();
        wait_for(async || TcpStream::connect(proxy).await.ok()).await;
        bench
    }

    fn proxy(&self) -> SocketAddr {
        (self.subnet.ip(30), 15081).into()
    }

    /// DNS answers with these hosts of the subnet; 254 stands for the metadata service of a cloud.
    fn say(&self, name: &str, hosts: &[u8]) {
        let address = |n: &u8| match n {
            254 => [169, 254, 169, 254],
            n => self.subnet.octets(*n),
        };
        let addresses = hosts.iter().map(address).collect();
        self.zone.send_modify(|zone| {
            zone.insert(format!("{name}.example.test"), addresses);
        });
    }

    /// Status and body of a GET through the proxy.
    async fn get(&self, name: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.proxy()).await.unwrap();
        let host = format!("{name}.example.test");
        let request =
            format!("GET http://{host}/ HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head.split(' ').nth(1).unwrap().parse().unwrap(),
            body.to_owned(),
        )
    }

    /// A tunnel by CONNECT.
    async fn connect(&self, name: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.proxy()).await.unwrap();
        let host = format!("{name}.example.test:443");
        let request = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut stream).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        stream
    }

    /// TLS in a tunnel; `None` sends no server name.
    async fn tls<S>(
        &self,
        stream: S,
        sni: Option<&str>,
    ) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + use<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let names = [SERVER_NAME.to_owned()];
        let config = outside::client_config(Arc::clone(&self.roots), &names, &[]).unwrap();
        let mut config = Arc::unwrap_or_clone(config);
        config.enable_sni = sni.is_some();
        let name = ServerName::try_from(sni.unwrap_or(SERVER_NAME).to_owned()).unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// Waits for a record whose reason holds `words`.
    async fn record(&self, words: &str) -> Value {
        self.find(|r| r["reason"].as_str().is_some_and(|w| w.contains(words)))
            .await
    }

    /// Waits for a record of this kind.
    async fn find(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        let path = self.dir.path().join("decisions.jsonl");
        let found = async || {
            let text = os::read_text(&path).unwrap_or_default();
            let mut records = text.lines().filter_map(|l| serde_json::from_str(l).ok());
            records.rfind(|r: &Value| is_it(r))
        };
        wait_for(found).await
    }

    fn connections(&self) -> [usize; 2] {
        self.seen
            .each_ref()
            .map(|seen| seen.connections.load(Ordering::SeqCst))
    }

    fn resumed(&self) -> [usize; 2] {
        self.seen
            .each_ref()
            .map(|seen| seen.resumed.load(Ordering::SeqCst))
    }
}

/// 127.x.y.0/24.
#[derive(Clone, Copy)]
struct Subnet([u8; 2]);

impl Subnet {
    fn octets(self, host: u8) -> [u8; 4] {
        let Self([x, y]) = self;
        [127, x, y, host]
    }

    fn ip(self, host: u8) -> IpAddr {
        self.octets(host).into()
    }
}

async fn wait_for<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let all = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("in time")
}

fn run(config: &Path) -> Process {
    let child = Command::new(crate::PROGRAM)
        .args(["run", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    Process(child)
}

/// A root, written to `path`, and TLS of a server below it.
fn certificates(path: &Path) -> (CertificateDer<'static>, TlsAcceptor) {
    let root_key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_cert = root.self_signed(&root_key).unwrap();
    os::write(path, root_cert.pem().as_bytes(), 0o644).unwrap();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    (root_cert.der().clone(), TlsAcceptor::from(Arc::new(config)))
}

fn configuration(subnet: Subnet, nameserver: SocketAddr, io: &str) -> String {
    let egress = subnet.ip(30);
    format!(
        r#"
[process]
cores = 1
io = "{io}"
nameservers = ["{nameserver}"]

[records]
path = "decisions.jsonl"

[authority]

[[egress]]
gateway = "egress/egress"
hbone = "{egress}:15008"
proxy = "{egress}:15081"

[[gateway]]
name = "egress"
namespace = "egress"
gatewayClassName = "ringgate-egress"
address = "{egress}"
"#
    )
}

/// A service of the egress gateway that everybody may call; `tls` are more keys of the TLS rule.
fn service(name: &str, allow_private: bool, tls: &str) -> String {
    format!(
        r#"
[[serviceEntry]]
name = "{name}"
namespace = "egress"
labels = {{ "istio.io/use-waypoint" = "egress" }}
hosts = ["{name}.example.test"]
ports = [
  {{ number = 80, name = "http", protocol = "HTTP", targetPort = {PORT} }},
  {{ number = 443, name = "tls", protocol = "TLS", targetPort = {PORT} }},
]
resolution = "DNS"
dangerous_allowPrivateAddresses = {allow_private}

[[destinationRule]]
name = "{name}"
namespace = "egress"
host = "{name}.example.test"
trafficPolicy.tls = {{ mode = "SIMPLE", {tls}caCertificates = "ca.pem" }}

[[authorizationPolicy]]
name = "{name}"
namespace = "egress"
targetRefs = [{{ group = "networking.istio.io", kind = "ServiceEntry", name = "{name}" }}]

[[authorizationPolicy.rules]]
to = [{{ operation.methods = ["GET", "CONNECT"] }}]
"#
    )
}

#[tokio::test]
async fn names_are_judged_when_dns_answers() {
    let bench = Bench::start(&[("closed", &[50]), ("open", &[50]), ("wrong", &[50])]).await;
    let first = bench.subnet.ip(50).to_string();
    let second = bench.subnet.ip(51).to_string();

    // Loopback is not for a name that DNS chooses the address of.
    assert_eq!(bench.get("closed").await.0, 503);
    let record = bench.record("may be dialled").await;
    assert_eq!(
        record["reason"],
        format!("`closed.example.test` has no address that may be dialled: DNS answered {first}")
    );
    assert_eq!(
        (&record["verdict"], &record["close"]),
        (&"deny".into(), &"upstream_connect".into())
    );
    assert_eq!(bench.connections(), [0, 0]);

    // Where the operator says so it is, by a name of the certificate that is not the host.
    assert_eq!(bench.get("open").await, (200, first.clone()));
    assert_eq!(bench.connections(), [1, 0]);

    // The host itself is not in the certificate.
    assert_eq!(bench.get("wrong").await.0, 503);
    let record = bench.record("not valid for name").await;
    assert_eq!(record["request"]["host"], "wrong.example.test");
    assert_eq!(bench.connections(), [2, 0]);

    // The answer changes: no request asks DNS, and what is refused is not dialled beside what is not.
    bench.say("open", &[254, 51]);
    assert_eq!(bench.get("open").await, (200, first));
    wait_for(async || (bench.get("open").await == (200, second.clone())).then_some(())).await;
    assert_eq!(bench.connections()[1], 1, "one connection is pooled");
    // The host's other address goes on with the session that the first one gave.
    assert_eq!(bench.resumed(), [0, 1]);
    bench.say("open", &[254]);
    wait_for(async || (bench.get("open").await.0 == 503).then_some(())).await;
    let record = bench.record("169.254.169.254").await;
    assert_eq!(record["request"]["host"], "open.example.test");
}

#[tokio::test]
async fn connect_carries_tls_for_its_host() {
    let bench = Bench::start(&[("open", &[50])]).await;
    let tunnel = bench.connect("open").await;
    let mut stream = bench.tls(tunnel, Some("open.example.test")).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(
        head(&mut stream)
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 ")
    );

    for (sni, reason) in [
        (
            Some("wrong.example.test"),
            "names server `wrong.example.test`, expected `open.example.test`",
        ),
        (None, "names no server, expected `open.example.test`"),
    ] {
        let tunnel = bench.connect("open").await;
        assert!(bench.tls(tunnel, sni).await.is_err(), "{sni:?}");
        let record = bench.record(reason).await;
        assert_eq!(
            (&record["verdict"], &record["close"]),
            (&"deny".into(), &"denied".into())
        );
        assert_eq!(record["bytes"]["sent"], 0);
    }

    // One byte is enough.
    let mut tunnel = bench.connect("open").await;
    tunnel.write_all(b"S").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, tunnel.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(rest, b"");
    let record = bench.record("not a TLS ClientHello").await;
    assert_eq!(record["close"], "bad_request");
}

/// A service with a port that nobody may call, and one alone where CONNECT is allowed.
const BY_PORT: &str = r#"
[[serviceEntry]]
name = "ports"
namespace = "egress"
labels = { "istio.io/use-waypoint" = "egress" }
hosts = ["ports.example.test"]
ports = [
  { number = 80, name = "http", protocol = "HTTP", targetPort = 8443 },
  { number = 8080, name = "http-other", protocol = "HTTP", targetPort = 8443 },
  { number = 443, name = "tls", protocol = "TLS", targetPort = 8443 },
  { number = 8443, name = "tls-other", protocol = "TLS" },
]
resolution = "DNS"
dangerous_allowPrivateAddresses = true

[[destinationRule]]
name = "ports"
namespace = "egress"
host = "ports.example.test"
trafficPolicy.tls = { mode = "SIMPLE", subjectAltNames = ["backend.example.test"], caCertificates = "ca.pem" }

[[authorizationPolicy]]
name = "ports"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "ports" }]

[[authorizationPolicy.rules]]
to = [
  { operation = { methods = ["CONNECT"], ports = ["443"] } },
  { operation = { methods = ["GET"] } },
]

[[authorizationPolicy]]
name = "ports-not"
namespace = "egress"
targetRefs = [{ group = "networking.istio.io", kind = "ServiceEntry", name = "ports" }]
action = "DENY"

[[authorizationPolicy.rules]]
when = [{ key = "destination.port", values = ["8080"] }]
"#;

/// At the proxy the port is the one that is asked for: of each request, since those of a kept connection may ask for several.
async fn ports_are_those_asked_for(io: &str) {
    let bench = Bench::with(&[("ports", &[50])], io, BY_PORT).await;
    // DNS has answered.
    wait_for(async || (bench.get("ports").await.0 == 200).then_some(())).await;

    let mut kept = TcpStream::connect(bench.proxy()).await.unwrap();
    for (nth, (host, status, port)) in [
        ("ports.example.test", "200", 80),
        ("ports.example.test:8080", "403", 8080),
        ("ports.example.test:80", "200", 80),
        ("ports.example.test:8080", "403", 8080),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!("GET http://{host}/{nth} HTTP/1.1\r\nhost: {host}\r\n\r\n");
        kept.write_all(request.as_bytes()).await.unwrap();
        let answer = head(&mut kept).await.unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status), "{host}: {answer}");
        let length = answer.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.parse::<usize>().unwrap())
        });
        kept.read_exact(&mut vec![0; length.unwrap()])
            .await
            .unwrap();
        let path = format!("/{nth}");
        let record = bench.find(|r| r["request"]["path"] == path.as_str()).await;
        assert_eq!(record["destination"]["port"], port, "{record}");
        let denied = status == "403";
        let verdict = if denied { "deny" } else { "allow" };
        assert_eq!(record["verdict"], verdict, "{record}");
        let policy = if denied {
            "egress/ports-not"
        } else {
            "egress/ports"
        };
        assert_eq!(record["policy"], policy, "{record}");
    }

    let tunnel = bench.connect("ports").await;
    bench.tls(tunnel, Some("ports.example.test")).await.unwrap();
    let connect = |r: &Value| r["request"]["method"] == "CONNECT";
    let record = bench.find(connect).await;
    assert_eq!(record["destination"]["port"], 443, "{record}");
    let mut refused = TcpStream::connect(bench.proxy()).await.unwrap();
    let host = "ports.example.test:8443";
    let request = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    refused.write_all(request.as_bytes()).await.unwrap();
    let answer = head(&mut refused).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let record = bench.record("needs port 443").await;
    assert_eq!(record["reason"], "needs port 443, got 8443");
    assert_eq!(record["destination"]["port"], 8443, "{record}");
}

#[tokio::test]
async fn ports_are_those_asked_for_io_uring() {
    ports_are_those_asked_for("io_uring").await;
}

#[tokio::test]
async fn ports_are_those_asked_for_epoll() {
    ports_are_those_asked_for("epoll").await;
}
