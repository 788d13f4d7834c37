//! Two processes of a mesh, the node of a client and the node of a server, and an app that echoes: for tests of how
//! things end. Addresses and namespaces are the test's.

#![allow(dead_code, reason = "shared by several test binaries")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringgate::cli::drill::Scratch;
use ringgate::cli::os;
use ringgate::cli::target::Records;

/// How long anything may take on a loaded machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// Port of the app.
pub(crate) const APP: u16 = 8080;

/// A policy by which the client alone may call.
pub(crate) const ONLY_THE_CLIENT: &str = r#"
[[authorizationPolicy]]
name = "callers"
namespace = "shop"
action = "ALLOW"
rules = [{ from = [{ source.principals = ["cluster.local/ns/shop/sa/client"] }] }]
"#;

const TOKEN: &str = "life-test-token-0001";

/// The two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The client's node, with the authority.
    Client,
    /// The server's node.
    Server,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// What a test changes of the two configurations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Edit<'a> {
    /// Lines of `[process]`, both.
    pub(crate) process: &'a str,
    /// Lines of `[process]`, the server's.
    pub(crate) server_process: &'a str,
    /// `cores` of the server; 1 if 0.
    pub(crate) server_cores: u8,
    /// Further tables, both.
    pub(crate) tables: &'a str,
    /// Further tables, the client's.
    pub(crate) client_tables: &'a str,
    /// Lines of `[[node]]`, the client's.
    pub(crate) client_node: &'a str,
    /// Lines of `[[node]]`, the server's.
    pub(crate) server_node: &'a str,
    /// Lines of `[[node.workload]]`, the server's.
    pub(crate) server_workload: &'a str,
    /// Lines of `[[node.workload]]`, the client's.
    pub(crate) client_workload: &'a str,
    /// `mtls.mode` of the mesh; STRICT if empty.
    pub(crate) mode: &'a str,
}

/// A running pair; its processes and files end with it.
pub(crate) struct Pair {
    pub(crate) dir: std::sync::Arc<Scratch>,
    program: PathBuf,
    client: IpAddr,
    server: IpAddr,
    /// What runs a command at the server.
    enter: Vec<String>,
    /// Environment of both processes.
    environment: Vec<(String, String)>,
    running: [Vec<Child>; 2],
}

impl Pair {
    /// Writes the configurations; nothing runs yet. Commands for the server are run by `enter`.
    pub(crate) fn new(
        program: &str,
        (client, server): (IpAddr, IpAddr),
        enter: Vec<String>,
        edit: Edit<'_>,
    ) -> Self {
        let dir = std::sync::Arc::new(Scratch::new(false).unwrap());
        let pair = Self {
            dir,
            program: program.into(),
            client,
            server,
            enter,
            environment: Vec::new(),
            running: [Vec::new(), Vec::new()],
        };
        for side in [Side::Client, Side::Server] {
            os::make_dir(&pair.home(side), 0o755).unwrap();
            pair.configure(side, edit);
        }
        let join = format!("{TOKEN} spiffe://cluster.local/ns/shop/sa/server\n");
        let home = pair.home(Side::Client);
        os::write(&home.join("join-tokens"), join.as_bytes(), 0o600).unwrap();
        let home = pair.home(Side::Server);
        os::write(&home.join("join-token"), TOKEN.as_bytes(), 0o600).unwrap();
        pair
    }

    /// A pair that runs, in a subnet of its own on loopback.
    pub(crate) fn on_loopback(program: &str, edit: Edit<'_>) -> Self {
        let [x, y] = ringgate::cli::layout::free_octets().unwrap();
        let at = |host: u8| IpAddr::from([127, x, y, host]);
        let mut pair = Self::new(program, (at(1), at(2)), Vec::new(), edit);
        pair.raise(Side::Client);
        pair.raise(Side::Server);
        pair
    }

    pub(crate) fn with_environment(mut self, environment: Vec<(String, String)>) -> Self {
        self.environment = environment;
        self
    }

    /// The same pair for another thread, which only asks it.
    pub(crate) fn eyes(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            program: self.program.clone(),
            client: self.client,
            server: self.server,
            enter: self.enter.clone(),
            environment: Vec::new(),
            running: [Vec::new(), Vec::new()],
        }
    }

    pub(crate) fn ip(&self, side: Side) -> IpAddr {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    pub(crate) fn home(&self, side: Side) -> PathBuf {
        self.dir.path.join(side.name())
    }

    pub(crate) fn config(&self, side: Side) -> PathBuf {
        self.home(side).join("ringgate.toml")
    }

    /// Writes a side's configuration.
    pub(crate) fn configure(&self, side: Side, edit: Edit<'_>) {
        let (client, server, own) = (self.client, self.server, self.ip(side));
        let identity = match side {
            Side::Client => format!(
                "[authority]\nstateDir = \"state\"\nlisten = \"{client}:15012\"\njoinTokens = \"file:join-tokens\"\n{}",
                edit.client_tables
            ),
            Side::Server => format!(
                "[identity]\naddress = \"https://{client}:15012\"\n\
                 rootCa = \"../client/state/ca/root.pem\"\ntoken = \"file:join-token\"\n"
            ),
        };
        let node = match side {
            Side::Client => format!(
                "{}\n[[node.workload]]\nname = \"shop/client\"\nhbone = \"{own}:15008\"\nsocks = \"{own}:15080\"\n{}\n",
                edit.client_node, edit.client_workload
            ),
            Side::Server => format!(
                "inbound = [\"{own}:15006\"]\n{}\n[[node.workload]]\nname = \"shop/server\"\nhbone = \"{own}:15008\"\n\
                 app = {{ {APP} = \"{own}:{APP}\", 15006 = \"{own}:{APP}\" }}\n{}\n",
                edit.server_node, edit.server_workload
            ),
        };
        let mode = if edit.mode.is_empty() {
            "STRICT"
        } else {
            edit.mode
        };
        let text = format!(
            "[process]\nname = \"{name}\"\ncores = {cores}\n{process}\n\n[records]\npath = \"decisions.jsonl\"\n\n\
             [admin]\nlisten = \"{own}:15000\"\n\n{identity}\n{tables}\n[[node]]\nname = \"{name}\"\n{node}\n\
             [mesh]\ntrustDomain = \"cluster.local\"\nrootNamespace = \"istio-system\"\n\n\
             [[peerAuthentication]]\nname = \"default\"\nnamespace = \"istio-system\"\nmtls.mode = \"{mode}\"\n\n\
             [[workloadEntry]]\nname = \"client\"\nnamespace = \"shop\"\nserviceAccount = \"client\"\naddress = \"{client}\"\n\n\
             [[workloadEntry]]\nname = \"server\"\nnamespace = \"shop\"\nserviceAccount = \"server\"\naddress = \"{server}\"\n",
            name = side.name(),
            process = match side {
                Side::Client => edit.process.to_owned(),
                Side::Server => format!("{}\n{}", edit.process, edit.server_process),
            },
            cores = match side {
                Side::Client => 1,
                Side::Server => edit.server_cores.max(1),
            },
            tables = edit.tables,
        );
        os::write(&self.config(side), text.as_bytes(), 0o600).unwrap();
    }

    pub(crate) fn log(&self, side: Side) -> String {
        let path = self.home(side).join("run.log");
        os::read_text(&path).unwrap_or_default()
    }

    /// What is run where a side lives.
    fn at(&self, side: Side, words: &[&str]) -> Command {
        let prefix = match side {
            Side::Client => &[],
            Side::Server => self.enter.as_slice(),
        };
        let mut all = prefix
            .iter()
            .map(String::as_str)
            .chain(words.iter().copied());
        let mut command = Command::new(all.next().unwrap());
        command.args(all).stdin(Stdio::null());
        command
    }

    /// Starts a process of a side, with a configuration of its own, beside what runs there.
    pub(crate) fn launch(&mut self, side: Side, config: &Path) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.home(side).join("run.log"))
            .unwrap();
        let (program, config) = (self.program.to_string_lossy(), config.to_string_lossy());
        let child = self
            .at(side, &[&program, "run", "--config", &config])
            .envs(self.environment.iter().cloned())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running[side as usize].push(child);
    }

    /// Starts a side and waits until it serves.
    pub(crate) fn raise(&mut self, side: Side) {
        self.launch(side, &self.config(side));
        self.await_ready(side);
    }

    pub(crate) fn await_ready(&mut self, side: Side) {
        let ready = os::wait_until(LONG, || {
            let ended = self.child(side).try_wait().unwrap();
            assert_eq!(ended, None, "{side:?}: {}", self.log(side));
            self.admin(side, "readyz")
                .is_some_and(|body| body == "ready")
        });
        assert!(ready, "{side:?}: {}", self.log(side));
    }

    /// The process of a side that was started last.
    pub(crate) fn child(&mut self, side: Side) -> &mut Child {
        self.running[side as usize].last_mut().unwrap()
    }

    /// All of them, the oldest first.
    pub(crate) fn children(&mut self, side: Side) -> &mut Vec<Child> {
        &mut self.running[side as usize]
    }

    pub(crate) fn pid(&mut self, side: Side) -> u32 {
        self.child(side).id()
    }

    /// Ends a side at once.
    pub(crate) fn kill(&mut self, side: Side) {
        let child = self.child(side);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A page of a side's admin endpoint, if it answers 200.
    pub(crate) fn admin(&self, side: Side, path: &str) -> Option<String> {
        let url = format!("http://{}:15000/{path}", self.ip(side));
        let output = self
            .at(side, &["curl", "-sf", "--max-time", "10", &url])
            .output()
            .unwrap();
        let body = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(body)
    }

    /// A number of a side's metrics; the sum where several lines begin so.
    pub(crate) fn metric(&self, side: Side, prefix: &str) -> f64 {
        let text = self.admin(side, "metrics").unwrap_or_default();
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn records(&self, side: Side) -> Records {
        Records(vec![self.home(side).join("decisions.jsonl")])
    }

    /// Address of the app.
    pub(crate) fn app(&self) -> SocketAddr {
        SocketAddr::new(self.server, APP)
    }

    /// A connection of the client through its node to the app: the reply code of SOCKS5, and the stream.
    pub(crate) fn socks(&self) -> std::io::Result<(u8, TcpStream)> {
        self.socks_to(self.app())
    }

    /// As `socks`, to another address.
    pub(crate) fn socks_to(&self, to: SocketAddr) -> std::io::Result<(u8, TcpStream)> {
        Self::socks_on(TcpStream::connect((self.client, 15080))?, to)
    }

    /// As `socks_to`, on a connection that is there.
    pub(crate) fn socks_on(
        mut stream: TcpStream,
        to: SocketAddr,
    ) -> std::io::Result<(u8, TcpStream)> {
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(&[5, 1, 0])?;
        let mut greeting = [0; 2];
        stream.read_exact(&mut greeting)?;
        let mut request = vec![5, 1, 0];
        match to.ip() {
            IpAddr::V4(ip) => {
                request.push(1);
                request.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                request.push(4);
                request.extend(ip.octets());
            }
        }
        request.extend(to.port().to_be_bytes());
        stream.write_all(&request)?;
        let mut reply = [0; 10];
        stream.read_exact(&mut reply)?;
        Ok((reply[1], stream))
    }

    /// A connection that echoes.
    pub(crate) fn open(&self) -> TcpStream {
        let (code, mut stream) = self.socks().unwrap();
        assert_eq!(code, 0, "{}", self.log(Side::Client));
        assert!(
            echoes(&mut stream),
            "{}{}",
            self.log(Side::Client),
            self.log(Side::Server)
        );
        stream
    }

    /// Whether a new connection echoes.
    pub(crate) fn serves(&self) -> bool {
        match self.socks() {
            Ok((0, mut stream)) => echoes(&mut stream),
            Ok(_) | Err(_) => false,
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            os::ignore(child.kill());
            os::ignore(child.wait());
        }
    }
}

/// Whether what is sent comes back.
pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    let said = b"are you there?";
    let mut heard = [0; 14];
    stream.write_all(said).is_ok() && stream.read_exact(&mut heard).is_ok() && heard == *said
}

/// Serves a listener by echo until the process ends.
pub(crate) fn echo(listener: TcpListener) {
    os::thread("echo", move || {
        for stream in listener.incoming().flatten() {
            os::ignore(os::thread("echo", move || {
                let mut buffer = [0; 4096];
                let mut stream = stream;
                while let Ok(n) = stream.read(&mut buffer) {
                    if n == 0 || stream.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            }));
        }
    })
    .unwrap();
}
