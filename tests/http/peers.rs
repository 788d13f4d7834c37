//! Real peers on both sides: Python's websockets and gRPC, Node.js, curl; through the ingress and at the waypoint. gRPC
//! through the ingress alone: its client verifies a name, which a waypoint's certificate does not have.
//!
//! Needs python3 with the packages of `tests/http/peers/requirements.txt` in `target/python-http`, node and curl, and fails
//! without them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::os;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::client::{client, stolen};
use crate::system::{Place, System};

crate::on_both!(websockets, grpc, node, alpn);

/// A service beside the recording one: another port of the same workload.
const PEER: &str = r#"
[[serviceEntry]]
name = "peer"
namespace = "default"
labels = { "istio.io/use-waypoint" = "customer-api" }
hosts = ["peer"]
ports = [{ number = 80, name = "http", protocol = "{protocol}", targetPort = 8081 }, { number = 443, name = "https", protocol = "{protocol}", targetPort = 8081 }]
location = "MESH_INTERNAL"
resolution = "STATIC"
workloadSelector.labels = { app = "customer-api" }

[[httpRoute]]
name = "peer"
namespace = "edge"
parentRefs = [{ name = "public" }]
hostnames = ["portal.example.test"]

[[httpRoute.rules]]
matches = [{ path = { type = "PathPrefix", value = "/api/peer/" } }]
backendRefs = [{ name = "peer", namespace = "default", port = 80 }]
"#;

fn script(name: &str) -> PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    Path::new(&root).join("tests/http/peers").join(name)
}

/// What runs a script. It ends after five minutes.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.arg("300");
    if name.ends_with(".py") {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .ancestors()
            .nth(2)
            .unwrap();
        let packages = target.join("python-http");
        assert!(
            ["websockets", "grpc", "prometheus_client"]
                .iter()
                .all(|name| packages.join(name).is_dir()),
            "no packages in {}: cargo xtask ci --only tools",
            packages.display()
        );
        command
            .arg("python3")
            .env("PYTHONPATH", packages)
            .env("PYTHONDONTWRITEBYTECODE", "1");
    } else {
        command.arg("node").env("NODE_TLS_REJECT_UNAUTHORIZED", "0");
    }
    command.arg(script(name));
    command
}

/// A server that has said that it is ready.
struct Server(Child);

impl Server {
    fn start(name: &str, system: &System) -> Self {
        let address = system.layout.at(3, 18081);
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut child = command(name)
            .args([host, port])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("timeout, python3 and node are needed");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().and_then(Result::ok);
        let server = Self(child);
        assert_eq!(first.as_deref(), Some("ready"), "{name} does not start");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // `timeout` passes it on to what it runs, which a kill would not reach.
        let ended = os::terminate(self.0.id()).and_then(|()| self.0.wait());
        // A test that fails already tells its own reason.
        if !std::thread::panicking() {
            ended.expect("the server ends");
        }
    }
}

/// Where clients come in.
fn address(system: &System, place: Place) -> String {
    match place {
        Place::Ingress => system.layout.at(20, 8443),
        Place::Waypoint => system.layout.at(13, 8443),
        Place::Egress => panic!("no client of its own is there"),
    }
}

/// The host by which `peer` is asked for.
pub(crate) fn host(place: Place) -> &'static str {
    match place {
        Place::Waypoint => "peer",
        Place::Ingress | Place::Egress => place.host(),
    }
}

/// The directory of the client's identity; nothing at the ingress.
fn identity(system: &System, place: Place) -> PathBuf {
    match place {
        Place::Waypoint => system.file("stolen/frontend-service/istio"),
        Place::Ingress | Place::Egress => PathBuf::new(),
    }
}

/// A system where port 18081 of customer-api's host is that of `peer`.
pub(crate) fn system(io: &str, protocol: &str) -> System {
    System::with(io, |config| {
        let (before, after) = config.split_once("\"8443\" = \"").unwrap();
        let (app, rest) = after.split_once('"').unwrap();
        let ip = app.split(':').next().unwrap();
        let more = PEER.replace("{protocol}", protocol);
        format!("{before}\"8081\" = \"{ip}:18081\", \"8443\" = \"{app}\"{rest}{more}")
    })
}

/// What the records say of answers that tell of a fault behind us.
fn failures(system: &System) -> String {
    let records = system.records();
    let faults = records.iter().filter(|r| r["status"].as_u64() >= Some(500));
    faults.map(|r| format!("{r}\n")).collect()
}

/// Runs a client that says that all is well, or why not.
fn well(name: &str, system: &System, place: Place, last: &Path) {
    let output = command(name)
        .arg(address(system, place))
        .arg(host(place))
        .arg(last)
        .output()
        .unwrap();
    let (out, err) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.ends_with(b"all is well\n"),
        "{name} at {place:?}: {}\n{err}\n{}\n{}",
        output.status,
        failures(system),
        system.log()
    );
}

fn websockets(io: &str) {
    let system = system(io, "HTTP");
    let server = Server::start("websocket_server.py", &system);
    for place in [Place::Ingress, Place::Waypoint] {
        let identity = identity(&system, place);
        well("websocket_client.py", &system, place, &identity);
    }
    drop(server);
    system.healthy();
}

fn grpc(io: &str) {
    let system = system(io, "GRPC");
    let server = Server::start("grpc_server.py", &system);
    let root = system.file("state/ingress/cert.pem");
    well("grpc_client.py", &system, Place::Ingress, &root);
    // What came as trailers.
    for place in [Place::Ingress, Place::Waypoint] {
        system.record(|r| r["grpcStatus"] == 0 && r["status"] == 200 && r["role"] == place.role());
    }
    drop(server);
    system.healthy();
}

fn node(io: &str) {
    let system = system(io, "HTTP");
    let server = Server::start("node_server.mjs", &system);
    for place in [Place::Ingress, Place::Waypoint] {
        let identity = identity(&system, place);
        well("node_client.mjs", &system, place, &identity);
        curl(&system, place, "--http1.1");
        curl(&system, place, "--http2");
    }
    drop(server);
    system.healthy();
}

/// An upload of a megabyte and its echo, and a request that is answered by policy.
fn curl(system: &System, place: Place, version: &str) {
    let (name, address) = (host(place), address(system, place));
    let identity = identity(system, place);
    let ask = |path: &str, upload: &[u8]| {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--insecure",
            "--max-time",
            "120",
        ])
        .arg(version)
        .args(["--connect-to", &format!("{name}:443:{address}")])
        .args(["--data-binary", "@-", "--output", "-"])
        .args(["--write-out", "%{stderr}%{http_version} %{response_code}"])
        .args(["--header", "expect: 100-continue"])
        .arg(format!("https://{name}{path}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
        if place == Place::Waypoint {
            curl.arg("--cert").arg(identity.join("cert-chain.pem"));
            curl.arg("--key").arg(identity.join("key.pem"));
        }
        let mut child = curl.spawn().expect("curl is needed");
        let mut input = child.stdin.take().unwrap();
        // One that is refused may not take it.
        drop(input.write_all(upload));
        drop(input);
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.stdout, told)
    };
    let spoken = if version == "--http2" { "2" } else { "1.1" };
    let upload: Vec<u8> = (0..1_u32 << 20).map(|n| (n % 253) as u8).collect();
    let (echo, told) = ask("/api/peer/echo", &upload);
    assert_eq!(told, format!("{spoken} 200"), "{place:?} {version}");
    assert!(echo == upload, "{place:?} {version}: {} bytes", echo.len());
    let (_, told) = ask("/api/denied", b"x");
    assert_eq!(told, format!("{spoken} 403"), "{place:?} {version}");
}

/// What a server of mutual TLS speaks with a client that speaks both.
fn chosen(system: &System, address: &str) -> Vec<u8> {
    let config = client(
        &["h2", "http/1.1"],
        Some(stolen(system, "frontend-service")),
    );
    let name = ServerName::try_from("customer-api").unwrap();
    let mut session = ClientConnection::new(config, name).unwrap();
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut tcp).unwrap();
    }
    session.alpn_protocol().unwrap_or_default().to_vec()
}

/// A gateway speaks HTTP itself; what a workload gets are the client's bytes where no rule is about requests.
fn alpn(io: &str) {
    let system = System::start(io);
    assert_eq!(chosen(&system, &system.layout.at(13, 8443)), b"h2");
    assert_eq!(chosen(&system, &system.layout.at(3, 8443)), b"http/1.1");
}
