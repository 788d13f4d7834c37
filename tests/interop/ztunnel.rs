//! A real ztunnel on another machine, both ways. `RINGGATE_ZTUNNEL` names its binary; `cargo xtask ci` runs these tests
//! where it does, and says so where it does not.
//!
//! Its ports are fixed, so it has a namespace of its own; its certificates come from our authority by
//! `CreateCertificate`, so each test shows that, too.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::os;

use crate::app::{App, Ends, PATIENCE, bytes_pass, rest, speaks_first};
use crate::mesh::{Mesh, TOKEN, addresses};
use crate::netns::{self, Machine};
use crate::peer_ztunnel::{self, Instance, Workload};

/// `SO_MARK` of ztunnel's own connections.
const MARK: u32 = 1337;
/// Everything that may be captured there.
const PORTS: &str = "70, 80, 81, 7000, 7001, 7999";

/// A running ztunnel.
struct Ztunnel {
    child: Child,
    log: PathBuf,
}

fn binary() -> PathBuf {
    let named = std::env::var_os(peer_ztunnel::BINARY);
    named.map_or_else(
        || panic!("{} names no ztunnel", peer_ztunnel::BINARY),
        PathBuf::from,
    )
}

/// What both sides of the mesh are, in ztunnel's words.
fn local() -> String {
    let workload = |name: &'static str, address: &str, node: &'static str| Workload {
        name,
        address: address.parse().unwrap(),
        node,
    };
    let workloads = [
        workload("client", "10.9.0.1", "ours"),
        workload("client6", "fd09::1", "ours"),
        workload("server", "10.9.0.2", "ours"),
        workload("server6", "fd09::2", "ours"),
        workload("waypoint", "10.9.0.3", "ours"),
        workload("web", "10.9.0.4", "ours"),
        workload("peer", "10.9.0.101", "theirs"),
        workload("peer6", "fd09::101", "theirs"),
    ];
    let text = peer_ztunnel::local(&workloads, &["client"]);
    let mut services = String::from("services:\n");
    for (name, vip, ports, more) in [
        ("server", "10.96.0.1", "80: 7000, 81: 7001", ""),
        ("server6", "fd96::1", "80: 7000", ""),
        (
            "web",
            "10.96.0.2",
            "80: 8080, 70: 7000",
            ", waypoint: {destination: \"/10.9.0.3\", hboneMtlsPort: 15008}",
        ),
        ("peer", "10.96.0.3", "80: 7000", ""),
    ] {
        writeln!(
            services,
            "- {{name: {name}, namespace: default, hostname: {name}.default.svc.cluster.local, vips: [\"/{vip}\"], \
             ports: {{{ports}}}, canonical: true{more}}}"
        )
        .unwrap();
    }
    let member = |text: String, name: &str, ports: &str| {
        let none = "  services: {}";
        let at = text.find(&format!("  name: {name}\n")).unwrap();
        let (before, after) = text.split_at(at);
        let some =
            format!("  services: {{\"default/{name}.default.svc.cluster.local\": {{{ports}}}}}");
        before.to_owned() + &after.replacen(none, &some, 1)
    };
    let text = member(text, "server", "80: 7000, 81: 7001");
    let text = member(text, "server6", "80: 7000");
    let text = member(text, "web", "80: 8080, 70: 7000");
    let text = member(text, "peer", "80: 7000");
    text.replace("services: []\n", &services)
}

impl Ztunnel {
    /// Starts it on `machine` for workload `name`, with what leaves there redirected to it.
    fn start(binary: &Path, machine: &Machine, mesh: &Mesh, (name, address): (&str, &str)) -> Self {
        let file = mesh.file("ztunnel.yaml");
        os::write(&file, local().as_bytes(), 0o644).unwrap();
        let log = mesh.file("ztunnel.log");
        let out = std::fs::File::create(&log).unwrap();
        let root = mesh.identity("peer").join("root-ca.crt");
        let instance = Instance {
            workload: Workload {
                name,
                address: address.parse().unwrap(),
                node: "theirs",
            },
            local: &file,
            authority: "https://10.9.0.9:15012",
            root: &root,
            token: TOKEN,
            mark: MARK,
            log: "info",
        };
        machine.inside(|| {
            for family in ["ip", "ip6"] {
                let rule = format!(
                    "table {family} zt {{ chain out {{ type nat hook output priority -100; \
                     meta mark != {MARK} meta l4proto tcp tcp dport {{ {PORTS} }} redirect to :15001; }}; }}"
                );
                netns::run("nft", &[&rule]);
            }
            let child = Command::new(binary)
                .env_clear()
                .envs(instance.environment())
                .stdin(Stdio::null())
                .stdout(out.try_clone().unwrap())
                .stderr(out)
                .spawn()
                .expect("ztunnel starts");
            let mut this = Self { child, log };
            let listens = os::wait_until(Duration::from_secs(30), || {
                let ended = this.child.try_wait().unwrap();
                assert!(ended.is_none(), "ztunnel ended: {}", this.log());
                is_ready().unwrap_or(false)
            });
            assert!(listens, "{}", this.log());
            this
        })
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for a line of its log that has all of these.
    fn await_line(&self, parts: &[&str]) -> String {
        let mut found = None;
        os::wait_until(PATIENCE, || {
            let log = self.log();
            found = log
                .lines()
                .find(|line| parts.iter().all(|p| line.contains(p)))
                .map(str::to_owned);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no line with {parts:?}:\n{}", self.log()))
    }
}

/// What its readiness endpoint says.
fn is_ready() -> std::io::Result<bool> {
    let mut conn = TcpStream::connect(("127.0.0.1", 15021))?;
    conn.write_all(b"GET /healthz/ready HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    conn.read_to_string(&mut answer)?;
    Ok(answer.contains(" 200 "))
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        ringgate::cli::lab::end(&mut self.child);
    }
}

/// Two machines, our mesh on one, a ztunnel of workload `name` on the other.
fn with(io: &'static str, who: (&'static str, &'static str), test: fn(&Mesh, &Machine, &Ztunnel)) {
    netns::isolated(move || {
        let binary = binary();
        let machine = Machine::joined();
        addresses("here", true);
        machine.inside(|| addresses("there", false));
        for (route, ours) in [
            ("route add 10.96.0.0/16 via 10.9.0.2", false),
            ("route add fd96::/64 via fd09::2", false),
        ] {
            if !ours {
                machine.inside(|| netns::ip(route));
            }
        }
        let mesh = Mesh::start(io, &|text| text);
        let ztunnel = Ztunnel::start(&binary, &machine, &mesh, who);
        test(&mesh, &machine, &ztunnel);
        mesh.healthy();
    });
}

fn connect(machine: &Machine, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    machine.inside(|| TcpStream::connect(to))
}

/// What its client does with ours: certificates, service and workload addresses, all kinds of bytes.
fn client_to_node(mesh: &Mesh, machine: &Machine, ztunnel: &Ztunnel) {
    let app = App::start(&["10.9.0.2:7000", "[fd09::2]:7000"]);
    speaks_first("10.9.0.2:7001");
    bytes_pass(
        &app,
        &|| connect(machine, "10.96.0.1:80").unwrap(),
        Ends::Apart,
    );
    bytes_pass(
        &app,
        &|| connect(machine, "10.9.0.2:7000").unwrap(),
        Ends::Apart,
    );
    bytes_pass(
        &app,
        &|| connect(machine, "[fd09::2]:7000").unwrap(),
        Ends::Apart,
    );
    let mut first = [0; 6];
    let mut conn = connect(machine, "10.96.0.1:81").unwrap();
    conn.set_read_timeout(Some(PATIENCE)).unwrap();
    conn.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"ready\n");
    // It was HBONE, as who it is, with what it tells.
    let record = mesh.record(|r| {
        r["source"]["principal"] == "cluster.local/ns/default/sa/peer"
            && r["destination"]["address"] == "10.9.0.2"
            && r["event"] == "close"
    });
    assert_eq!(record["verdict"], "allow");
    assert_eq!(record["traceId"].as_str().map(str::len), Some(32));
    assert_eq!(record["source"]["baggage"]["namespace"], "default");
    assert!(
        record["source"]["forwardedFor"]
            .as_str()
            .unwrap()
            .starts_with("10.9.0.101:"),
        "{record}"
    );
    ztunnel.await_line(&[
        "connection complete",
        "dst.hbone_addr=10.9.0.2:7000",
        "dst.identity=\"spiffe://cluster.local/ns/default/sa/server\"",
        "direction=\"outbound\"",
    ]);
    // Refusals: policy by 401, nobody listening by 503; its own client is reset.
    mesh.reload(
        "default/sa/denied\"] }] }]\n\n[[authorizationPolicy]]\nname = \"web",
        "default/sa/peer\"] }] }]\n\n[[authorizationPolicy]]\nname = \"web",
    );
    let refused = os::wait_until(PATIENCE, || {
        let mut conn = connect(machine, "10.9.0.2:7000").unwrap();
        drop(conn.write_all(b"tail\n"));
        drop(conn.shutdown(std::net::Shutdown::Write));
        rest(&mut conn).0.is_empty()
    });
    assert!(refused);
    ztunnel.await_line(&["http status: 401 Unauthorized"]);
    let mut conn = connect(machine, "[fd09::2]:7999").unwrap();
    assert_eq!(rest(&mut conn).0, b"");
    ztunnel.await_line(&["http status: 503 Service Unavailable"]);
    assert!(
        !mesh.records().iter().any(|r| r["close"] == "handshake"),
        "a handshake failed"
    );
}

/// Through our waypoint: the original destination is the authority.
fn client_to_waypoint(mesh: &Mesh, machine: &Machine, ztunnel: &Ztunnel) {
    let app = App::start(&["10.9.0.4:7000"]);
    bytes_pass(
        &app,
        &|| connect(machine, "10.96.0.2:70").unwrap(),
        Ends::Apart,
    );
    crate::waypoint::web("10.9.0.4:8080");
    crate::waypoint::judges_requests(&|| connect(machine, "10.96.0.2:80").unwrap());
    let record = mesh.record(|r| r["role"] == "waypoint" && r["request"]["path"] == "/secret");
    assert_eq!(
        record["source"]["principal"],
        "cluster.local/ns/default/sa/peer"
    );
    assert_eq!(record["policy"], "default/web-denies-paths");
    ztunnel.await_line(&[
        "dst.hbone_addr=10.96.0.2:70",
        "sa/waypoint\"",
        "direction=\"outbound\"",
    ]);
}

/// What our client does with its server.
fn node_to_server(mesh: &Mesh, machine: &Machine, ztunnel: &Ztunnel) {
    let app = machine.inside(|| App::start(&["10.9.0.101:7000"]));
    let open = |to: &str| mesh.leave("10.9.0.1:15080", to);
    bytes_pass(&app, &|| open("10.96.0.3:80").unwrap(), Ends::Apart);
    bytes_pass(&app, &|| open("10.9.0.101:7000").unwrap(), Ends::Apart);
    let line = ztunnel.await_line(&[
        "connection complete",
        "src.identity=\"spiffe://cluster.local/ns/default/sa/client\"",
        "dst.hbone_addr=10.9.0.101:7000",
        "direction=\"inbound\"",
    ]);
    assert!(line.contains("src.workload=\"client\""), "{line}");
    // Its policy allows `client` alone.
    assert!(mesh.leave("[fd09::1]:15080", "10.9.0.101:7000").is_err());
    mesh.record(|r| {
        r["reason"]
            .as_str()
            .is_some_and(|t| t.contains("far end answered 401"))
    });
    assert!(open("10.9.0.101:7999").is_err());
    mesh.record(|r| {
        r["reason"]
            .as_str()
            .is_some_and(|t| t.contains("far end answered 503"))
    });
    // It makes ends of resets; nothing that was sent before is lost.
    let mut conn = open("10.9.0.101:7000").unwrap();
    conn.write_all(b"reset\n").unwrap();
    conn.read_exact(&mut [0; 6]).unwrap();
    conn.write_all(b"!").unwrap();
    let (more, end) = rest(&mut conn);
    assert!(
        more.is_empty() && matches!(end, None | Some(ErrorKind::ConnectionReset)),
        "{end:?}"
    );
    let mut conn = open("10.9.0.101:7000").unwrap();
    conn.write_all(b"watch\nabc").unwrap();
    conn.read_exact(&mut [0; 8]).unwrap();
    socket2::SockRef::from(&conn)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(conn);
    app.await_seen("watch");
}

fn node_to_server_6(mesh: &Mesh, machine: &Machine, ztunnel: &Ztunnel) {
    let app = machine.inside(|| App::start(&["[fd09::101]:7000"]));
    bytes_pass(
        &app,
        &|| mesh.leave("10.9.0.1:15080", "[fd09::101]:7000").unwrap(),
        Ends::Apart,
    );
    bytes_pass(
        &app,
        &|| {
            mesh.leave("10.9.0.1:15080", "peer6.default.svc.cluster.local:80")
                .unwrap()
        },
        Ends::Apart,
    );
    ztunnel.await_line(&[
        "connection complete",
        "dst.hbone_addr=[fd09::101]:7000",
        "direction=\"inbound\"",
    ]);
    // The end of it: GOAWAY, and what is open ends.
    let mut conn = mesh.leave("10.9.0.1:15080", "[fd09::101]:7000").unwrap();
    conn.write_all(b"echo\nx").unwrap();
    conn.read_exact(&mut [0]).unwrap();
}

macro_rules! both {
    ($($name:ident as $who:expr),+ $(,)?) => {
        mod epoll {
            $(#[test] #[ignore = "RINGGATE_ZTUNNEL names the binary"] fn $name() { super::with("epoll", $who, super::$name); })+
        }
        mod io_uring {
            $(#[test] #[ignore = "RINGGATE_ZTUNNEL names the binary"] fn $name() { super::with("io_uring", $who, super::$name); })+
        }
    };
}

both!(
    client_to_node as ("peer", "10.9.0.101"),
    client_to_waypoint as ("peer", "10.9.0.101"),
    node_to_server as ("peer", "10.9.0.101"),
    node_to_server_6 as ("peer6", "fd09::101"),
);
