//! Envoy as HBONE client and server.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::os;

use crate::app::{App, Ends, bytes_pass, rest, speaks_first};
use crate::mesh::{Mesh, at};
use crate::peer_envoy::{self, Tls};

crate::both!(
    client_to_node,
    client_to_node_6,
    client_to_waypoint,
    node_to_server,
    node_to_server_6
);

/// A running Envoy.
struct Envoy {
    child: Child,
    log: PathBuf,
}

/// The binary: as `RINGGATE_ENVOY` names it, else where `cargo xtask ci --only tools` puts it.
fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os(peer_envoy::BINARY) {
        return named.into();
    }
    let target = Path::new(env!("CARGO_BIN_EXE_ringgate"))
        .ancestors()
        .nth(3) // target/<triple>/debug/ringgate
        .unwrap();
    peer_envoy::in_venv(&target.join("envoy")).unwrap_or_else(|| {
        panic!(
            "no Envoy: name its binary by {}, or install it: cargo xtask ci --only tools",
            peer_envoy::BINARY
        )
    })
}

impl Envoy {
    /// Starts it and waits until something listens at `address`.
    fn start(mesh: &Mesh, name: &str, configuration: &str, address: SocketAddr) -> Self {
        let config = mesh.file(&format!("{name}.yaml"));
        os::write(&config, configuration.as_bytes(), 0o644).unwrap();
        let log = mesh.file(&format!("{name}.log"));
        let out = std::fs::File::create(&log).unwrap();
        let child = Command::new(binary())
            .arg("--config-path")
            .arg(&config)
            .args(peer_envoy::FLAGS)
            .args(["--concurrency", "1"])
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("Envoy starts");
        let mut this = Self { child, log };
        let listens = os::wait_until(Duration::from_secs(30), || {
            let ended = this.child.try_wait().unwrap();
            assert!(ended.is_none(), "Envoy ended: {}", this.log());
            TcpStream::connect(address).is_ok()
        });
        assert!(listens, "{}", this.log());
        this
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        ringgate::cli::lab::end(&mut self.child);
    }
}

/// An HBONE client that takes what comes to `listen` through CONNECT `authority` at `server`, as `workload`.
fn client(
    mesh: &Mesh,
    workload: &str,
    listen: &str,
    server: (&str, &str),
    authority: &str,
) -> Envoy {
    let (server, peer) = server;
    let files = mesh.identity(workload);
    let tls = Tls {
        files: &files,
        peer: &format!("spiffe://cluster.local/ns/default/sa/{peer}"),
    };
    let log = mesh.file(&format!("{workload}-{peer}-access.log"));
    let text = peer_envoy::hbone_client(at(listen), at(server), tls, &log);
    let to = "hostname: \"%DOWNSTREAM_LOCAL_ADDRESS%\"";
    assert!(text.contains(to), "{text}");
    let text = text.replace(to, &format!("hostname: \"{authority}\""));
    Envoy::start(
        mesh,
        &format!("client-{workload}-{peer}"),
        &text,
        at(listen),
    )
}

/// Envoy's client into our node: all kinds of bytes, resets, a denial.
fn into_node(mesh: &Mesh, server: (&str, &str), app: &App, app_at: &str, listen: (&str, &str)) {
    let _envoy = client(mesh, "peer", listen.0, server, app_at);
    let open = || TcpStream::connect(listen.0).unwrap();
    bytes_pass(app, &open, Ends::Apart);
    // Envoy makes an end of the reset that it is told: what came before is all there is.
    let mut conn = open();
    conn.write_all(b"reset\n").unwrap();
    conn.read_exact(&mut [0; 6]).unwrap();
    conn.write_all(b"!").unwrap();
    assert_eq!(rest(&mut conn).0, b"");
    let mut conn = open();
    conn.write_all(b"watch\nabc").unwrap();
    conn.read_exact(&mut [0; 8]).unwrap();
    socket2::SockRef::from(&conn)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(conn);
    let seen = app.await_seen("watch");
    // Envoy tells a reset by NO_ERROR or an end of the stream in some versions, so the app may see an end.
    assert!(
        seen == "watch: ConnectionReset" || seen == "watch: end after 3",
        "{seen}"
    );
    mesh.record(|r| {
        r["verdict"] == "allow" && r["source"]["principal"] == "cluster.local/ns/default/sa/peer"
    });
    if server.1 == "server" {
        let _denied = client(mesh, "denied", listen.1, server, app_at);
        let mut conn = TcpStream::connect(listen.1).unwrap();
        drop(conn.write_all(b"echo\nx"));
        assert_eq!(rest(&mut conn).0, b"", "denied, and something came");
        let record = mesh.record(|r| {
            r["verdict"] == "deny"
                && r["source"]["principal"] == "cluster.local/ns/default/sa/denied"
        });
        assert_eq!(record["policy"], "default/server-denies");
    }
}

fn client_to_node(mesh: &Mesh) {
    let app = App::start(&["10.9.0.2:7000"]);
    into_node(
        mesh,
        ("10.9.0.2:15008", "server"),
        &app,
        "10.9.0.2:7000",
        ("10.9.0.101:7000", "10.9.0.101:7009"),
    );
    // By the name of a service; a server that speaks first.
    speaks_first("10.9.0.2:7001");
    let _envoy = client(
        mesh,
        "client",
        "10.9.0.101:7001",
        ("10.9.0.2:15008", "server"),
        "server.default.svc.cluster.local:81",
    );
    let mut conn = TcpStream::connect("10.9.0.101:7001").unwrap();
    let mut first = [0; 6];
    conn.set_read_timeout(Some(crate::app::PATIENCE)).unwrap();
    conn.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"ready\n");
}

fn client_to_node_6(mesh: &Mesh) {
    let app = App::start(&["[fd09::2]:7000"]);
    into_node(
        mesh,
        ("[fd09::2]:15008", "server6"),
        &app,
        "[fd09::2]:7000",
        ("[fd09::101]:7000", "[fd09::101]:7009"),
    );
}

/// Through the waypoint: bytes of a TCP port, and HTTP that it judges by request.
fn client_to_waypoint(mesh: &Mesh) {
    let app = App::start(&["10.9.0.4:7000"]);
    let waypoint = ("10.9.0.3:15008", "waypoint");
    let bytes = client(mesh, "peer", "10.9.0.101:7000", waypoint, "10.96.0.2:70");
    let connect = || TcpStream::connect("10.9.0.101:7000").unwrap();
    bytes_pass(&app, &connect, Ends::Apart);
    drop(bytes);
    crate::waypoint::web("10.9.0.4:8080");
    let _http = client(
        mesh,
        "client",
        "10.9.0.101:8000",
        waypoint,
        "web.default.svc.cluster.local:80",
    );
    let connect = || TcpStream::connect("10.9.0.101:8000").unwrap();
    crate::waypoint::judges_requests(&connect);
    let record = mesh.record(|r| r["role"] == "waypoint" && r["request"]["path"] == "/secret");
    assert_eq!(record["policy"], "default/web-denies-paths");
    assert_eq!(
        record["source"]["principal"],
        "cluster.local/ns/default/sa/client"
    );
}

/// An HBONE server that hands on to the app at `app`, as `workload`, for `client` alone.
fn server(mesh: &Mesh, workload: &str, listen: &str, app: &str) -> (Envoy, PathBuf) {
    let files = mesh.identity(workload);
    let tls = Tls {
        files: &files,
        peer: "spiffe://cluster.local/ns/default/sa/client",
    };
    let log = mesh.file(&format!("{workload}-access.log"));
    let text = peer_envoy::hbone_server(at(listen), &[at(app)], tls, &log);
    let authority = "authority: \"%REQ(:AUTHORITY)%\"";
    assert!(text.contains(authority), "{text}");
    let more = format!(
        "{authority}, forwarded: \"%REQ(FORWARDED)%\", baggage: \"%REQ(BAGGAGE)%\", traceparent: \"%REQ(TRACEPARENT)%\", path: \"%REQ(:PATH)%\", status: \"%RESPONSE_CODE%\""
    );
    // Everybody of the mesh gets past the handshake, so that the rule is what refuses.
    let text = text.replace(authority, &more).replacen(
        "matcher: {exact: \"spiffe://cluster.local/ns/default/sa/client\"}",
        "matcher: {prefix: \"spiffe://cluster.local/\"}",
        1,
    );
    let envoy = Envoy::start(mesh, &format!("server-{workload}"), &text, at(listen));
    (envoy, log)
}

/// Lines of Envoy's access log; it writes them a while later, and at its end.
fn access(envoy: Envoy, log: &Path) -> Vec<serde_json::Value> {
    drop(envoy);
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn into_server(mesh: &Mesh, workload: &str, listen: &str, app_at: &str) {
    let app = App::start(&[app_at]);
    let (envoy, log) = server(mesh, workload, listen, app_at);
    let service = format!("{workload}.default.svc.cluster.local");
    let by_name = || mesh.leave("10.9.0.1:15080", &format!("{service}:80"));
    bytes_pass(&app, &|| by_name().unwrap(), Ends::OfTheServerIsTheEnd);
    let by_address = || mesh.leave("10.9.0.1:15080", app_at);
    bytes_pass(&app, &|| by_address().unwrap(), Ends::OfTheServerIsTheEnd);
    // Envoy's rule refuses the other workload by 403.
    assert!(mesh.leave("[fd09::1]:15080", app_at).is_err());
    mesh.record(|r| {
        r["reason"]
            .as_str()
            .is_some_and(|t| t.contains("far end answered 403"))
    });
    // No route for this authority: 404.
    let elsewhere = app_at.replace(":7000", ":7999");
    assert!(mesh.leave("10.9.0.1:15080", &elsewhere).is_err());
    // Resets, both ways.
    let mut conn = mesh.leave("10.9.0.1:15080", app_at).unwrap();
    conn.write_all(b"reset\n").unwrap();
    conn.read_exact(&mut [0; 6]).unwrap();
    conn.write_all(b"!").unwrap();
    assert_eq!(rest(&mut conn).0, b"");
    let mut conn = mesh.leave("10.9.0.1:15080", app_at).unwrap();
    conn.write_all(b"watch\nabc").unwrap();
    conn.read_exact(&mut [0; 8]).unwrap();
    socket2::SockRef::from(&conn)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(conn);
    app.await_seen("watch");
    let seen = access(envoy, &log);
    let by = |status: i64| seen.iter().filter(move |line| line["status"] == status);
    assert!(by(200).count() > 400, "{} lines", by(200).count());
    assert!(by(403).all(|line| line["peer"] == "spiffe://cluster.local/ns/default/sa/client6"));
    for line in by(200) {
        assert_eq!(line["authority"], app_at);
        assert!(line["path"].is_null(), "{line}");
        let forwarded = line["forwarded"].as_str().unwrap();
        assert!(forwarded.starts_with("for=\"10.9.0.1:"), "{line}");
        assert!(
            line["baggage"]
                .as_str()
                .unwrap()
                .contains("k8s.pod.name=client,"),
            "{line}"
        );
        assert_eq!(line["traceparent"].as_str().unwrap().len(), 55, "{line}");
    }
    let told = format!(";host={service}");
    assert!(
        by(200)
            .filter(|line| line["forwarded"].as_str().unwrap().ends_with(&told))
            .count()
            > 200
    );
}

fn node_to_server(mesh: &Mesh) {
    into_server(mesh, "peer", "10.9.0.101:15008", "10.9.0.101:7000");
}

fn node_to_server_6(mesh: &Mesh) {
    into_server(mesh, "peer6", "[fd09::101]:15008", "[fd09::101]:7000");
}
