//! What is measured: nothing in between, a pair of ringgate nodes, and the pairs that others offer.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::mesh;
use super::net::{self, AUTHORITY, CLIENT, CLIENT_UID, MARK, NEIGHBOUR_UID, Pair, SERVER, Side};
use super::process::{Process, Threads};
use super::serve::{self, ECHO, HTTP};
use super::tools::Tools;
use super::{envoy, ztunnel};

/// One way from client to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// The same link, no proxy and no capture.
    Direct,
    /// Two ringgate nodes with as many cores as the machine has.
    Ringgate,
    /// Two ringgate nodes with one core each.
    RinggateOneCore,
    /// Client and server on one machine with one ringgate node.
    SameNode,
    /// Two ztunnels.
    Ztunnel,
    /// Two Envoys with HBONE between them.
    EnvoyHbone,
    /// Two Envoys with an mTLS connection for each client connection.
    EnvoyTcp,
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Peer; 7] = [
    Peer::Direct,
    Peer::Ringgate,
    Peer::RinggateOneCore,
    Peer::SameNode,
    Peer::Ztunnel,
    Peer::EnvoyHbone,
    Peer::EnvoyTcp,
];

/// First port of the listeners that take what goes to one app port each.
const SHIFT: u16 = 10_000;

impl Peer {
    /// Name in options and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Ringgate => "ringgate",
            Self::RinggateOneCore => "ringgate-1-core",
            Self::SameNode => "ringgate-same-node",
            Self::Ztunnel => "ztunnel",
            Self::EnvoyHbone => "envoy-hbone",
            Self::EnvoyTcp => "envoy-tcp",
        }
    }

    /// Name in a namespace's name.
    fn label(self) -> &'static str {
        match self {
            Self::Direct => "di",
            Self::Ringgate => "rg",
            Self::RinggateOneCore => "r1",
            Self::SameNode => "sn",
            Self::Ztunnel => "zt",
            Self::EnvoyHbone => "eh",
            Self::EnvoyTcp => "et",
        }
    }

    /// Where the load runs, and as which user.
    fn load(self) -> (Side, u32) {
        match self {
            Self::SameNode => (Side::Server, NEIGHBOUR_UID),
            Self::Direct
            | Self::Ringgate
            | Self::RinggateOneCore
            | Self::Ztunnel
            | Self::EnvoyHbone
            | Self::EnvoyTcp => (Side::Client, CLIENT_UID),
        }
    }
}

/// A peer that runs. Everything of it ends with this value.
#[derive(Debug)]
pub(crate) struct Rig {
    peer: Peer,
    /// The proxies, client side first.
    proxies: Vec<Process>,
    _others: Vec<Process>,
    /// Where they keep their records.
    records: Vec<PathBuf>,
    pair: Pair,
    load: PathBuf,
}

impl Rig {
    /// Makes the machines and starts apps and proxies; returns when a request has come through.
    pub(crate) fn start(peer: Peer, tools: &Tools) -> Result<Self> {
        let directory = tools.directory.join(peer.name());
        if directory.exists() {
            std::fs::remove_dir_all(&directory)?;
        }
        std::fs::create_dir_all(&directory)?;
        let mut start = Start {
            peer,
            pair: Pair::new(peer.label())?,
            tools,
            directory,
            proxies: Vec::new(),
            others: Vec::new(),
            records: Vec::new(),
        };
        start.apps()?;
        match peer {
            Peer::Direct => {}
            Peer::Ringgate => start.ringgate(0)?,
            Peer::RinggateOneCore => start.ringgate(1)?,
            Peer::SameNode => start.same_node()?,
            Peer::Ztunnel => start.ztunnel()?,
            Peer::EnvoyHbone | Peer::EnvoyTcp => start.envoy()?,
        }
        let rig = Self {
            peer,
            proxies: start.proxies,
            _others: start.others,
            records: start.records,
            pair: start.pair,
            load: tools.load.clone(),
        };
        rig.until_it_serves()
            .with_context(|| format!("{} does not serve", peer.name()))?;
        Ok(rig)
    }

    /// Which it is.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// The proxies, client side first.
    pub(crate) fn proxies(&self) -> &[Process] {
        &self.proxies
    }

    /// CPU time of each proxy so far.
    pub(crate) fn cpu_ns(&self) -> Result<Vec<Threads>> {
        self.proxies.iter().map(Process::cpu_ns).collect()
    }

    /// Fails unless every proxy has kept its records, all of them.
    pub(crate) fn recorded(&self) -> Result<()> {
        for file in &self.records {
            let text = std::fs::read(file).with_context(|| file.display().to_string())?;
            let lines = || {
                text.split(|byte| *byte == b'\n')
                    .filter(|line| !line.is_empty())
            };
            ensure!(lines().next().is_some(), "{}: no records", file.display());
            let lost = lines().find(|line| line.starts_with(br#"{"kind":"lost""#));
            if let Some(lost) = lost {
                bail!("{}: {}", file.display(), String::from_utf8_lossy(lost));
            }
        }
        Ok(())
    }

    /// A command of the load generator where the load of this peer runs.
    pub(crate) fn load(&self, arguments: &[&str]) -> Command {
        let (side, uid) = self.peer.load();
        let mut command = self.pair.command(side, Some(uid), &self.load);
        command.args(arguments);
        command
    }

    fn until_it_serves(&self) -> Result<()> {
        let end = std::time::Instant::now() + Duration::from_secs(30);
        let echo = SocketAddr::new(SERVER, ECHO).to_string();
        let http = SocketAddr::new(SERVER, HTTP).to_string();
        for arguments in [
            ["l4-load", "echo", &echo, "1", "0.1"].as_slice(),
            &["load", "1", "1", &http, "app", "/"],
        ] {
            loop {
                let output = self.load(arguments).output()?;
                if output.status.success() {
                    break;
                }
                self.proxies.iter().try_for_each(Process::alive)?;
                if std::time::Instant::now() > end {
                    bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }
}

/// A peer that is being started.
struct Start<'t> {
    peer: Peer,
    pair: Pair,
    tools: &'t Tools,
    directory: PathBuf,
    proxies: Vec<Process>,
    others: Vec<Process>,
    records: Vec<PathBuf>,
}

impl Start<'_> {
    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    fn spawn(&self, command: &mut Command, name: &str) -> Result<Process> {
        Process::start(command, name, &self.directory)
    }

    fn apps(&mut self) -> Result<()> {
        let mut command = self.pair.command(Side::Server, None, &self.tools.load);
        command.args(["l4-serve", &SERVER.to_string()]);
        let own = self.spawn(&mut command, "apps")?;
        own.listens(ECHO)?;
        let listen = SocketAddr::new(SERVER, HTTP);
        let config = self.file("nginx.conf", &mesh::nginx(listen, &self.directory))?;
        let mut command = self.pair.command(Side::Server, None, Path::new("nginx"));
        command.arg("-e").arg("stderr").arg("-c").arg(config);
        let nginx = self.spawn(&mut command, "nginx")?;
        nginx.listens(HTTP)?;
        self.others.extend([own, nginx]);
        Ok(())
    }

    /// The rules of both machines. `redirects` go to the client's.
    fn capture(&self, redirects: &str, node: bool) -> Result<()> {
        let ports = serve::PORTS.map(|port| port.to_string()).join(", ");
        self.pair.capture(Side::Client, &net::outbound(redirects))?;
        let local = if node {
            format!("meta l4proto tcp meta skuid {NEIGHBOUR_UID} redirect to :15101")
        } else {
            String::new()
        };
        let rules = net::inbound(&ports, &local, node);
        self.pair.capture(Side::Server, &rules)
    }

    /// Starts an authority that can issue for every workload, and writes identity files of client and server.
    fn authority(&mut self) -> Result<Process> {
        self.file("mesh.d/mesh.toml", &mesh::resources())?;
        self.file("authority/join-tokens", &mesh::join_tokens())?;
        let config = self.file("authority/ringgate.toml", &mesh::authority())?;
        let authority = self.ringgate_process(Side::Server, "authority", &config)?;
        authority.listens(15012)?;
        Ok(authority)
    }

    fn ringgate_process(&self, side: Side, name: &str, config: &Path) -> Result<Process> {
        std::fs::create_dir_all(config.with_file_name("log"))?;
        let mut command = self.pair.command(side, None, &self.tools.ringgate);
        command.args(["run", "--config"]).arg(config);
        self.spawn(&mut command, name)
    }

    fn node(&mut self, side: Side, name: &str, cores: usize) -> Result<()> {
        let config = mesh::node(side, name, cores, self.tools.sandbox);
        self.file(&format!("{name}/join-token"), &mesh::token(name))?;
        let config = self.file(&format!("{name}/ringgate.toml"), &config)?;
        let node = self.ringgate_process(side, name, &config)?;
        node.listens(15001)?;
        self.proxies.push(node);
        self.records
            .push(config.with_file_name("log/decisions.jsonl"));
        Ok(())
    }

    fn ringgate(&mut self, cores: usize) -> Result<()> {
        let authority = self.authority()?;
        self.others.push(authority);
        self.capture(&captured(), true)?;
        self.node(Side::Client, "client", cores)?;
        self.node(Side::Server, "server", cores)
    }

    fn same_node(&mut self) -> Result<()> {
        let authority = self.authority()?;
        self.others.push(authority);
        self.capture("", true)?;
        self.node(Side::Server, "server", 0)
    }

    fn ztunnel(&mut self) -> Result<()> {
        let binary = self.tools.ztunnel.clone();
        let binary = binary.with_context(|| format!("{} is not set", ztunnel::BINARY))?;
        let authority = self.authority()?;
        self.others.push(authority);
        self.capture(&captured(), true)?;
        let workload = |name, address, node| ztunnel::Workload {
            name,
            address,
            node,
        };
        let client = workload("client", CLIENT, "client");
        let server = workload("server", SERVER, "server");
        let local = ztunnel::local(&[client, server], &["client"]);
        let local = self.file("local.yaml", &local)?;
        let root = self.directory.join("authority/state/ca/root.pem");
        for (side, workload) in [(Side::Client, client), (Side::Server, server)] {
            let instance = ztunnel::Instance {
                workload,
                local: &local,
                authority: &format!("https://{AUTHORITY}:15012"),
                root: &root,
                token: &mesh::token(workload.name),
                mark: MARK,
                log: "info",
            };
            let mut command = self.pair.command(side, None, &binary);
            command
                .env_clear()
                .envs(path())
                .envs(instance.environment());
            let proxy = self.spawn(&mut command, workload.name)?;
            proxy.listens(15001)?;
            self.proxies.push(proxy);
            let log = format!("{}.log", workload.name); // a line for each connection
            self.records.push(self.directory.join(log));
        }
        Ok(())
    }

    fn envoy(&mut self) -> Result<()> {
        // Only for the identity files: the certificates outlive the bench.
        let files = |name: &str| self.directory.join(format!("files/{name}/istio"));
        let (client, server) = (files("client"), files("server"));
        let authority = self.authority()?;
        let key = |directory: &Path| directory.join("key.pem").exists();
        authority.wait("identity files", || key(&client) && key(&server))?;
        drop(authority);
        let tls = |files, peer| envoy::Tls { files, peer };
        let (of_client, of_server) = (mesh::id("client"), mesh::id("server"));
        let (client, server) = (tls(&client, &of_server), tls(&server, &of_client));
        let apps = serve::PORTS.map(|port| SocketAddr::new(SERVER, port));
        let log = |name: &str| self.directory.join(format!("{name}.access.log"));
        let (log_client, log_server) = (log("client"), log("server"));
        let (client, server, ready) = if self.peer == Peer::EnvoyHbone {
            let listen = SocketAddr::new([0, 0, 0, 0].into(), 15001);
            let tunnel = SocketAddr::new(SERVER, 15008);
            self.capture(&captured(), false)?;
            (
                envoy::hbone_client(listen, tunnel, client, &log_client),
                envoy::hbone_server(tunnel, &apps, server, &log_server),
                (15001, 15008),
            )
        } else {
            let shifted = |app: SocketAddr| SocketAddr::new(SERVER, app.port() + SHIFT);
            let ports = apps.map(|app| (app.port() + SHIFT, shifted(app)));
            let pairs = apps.map(|app| (shifted(app), app));
            self.capture(&captured_by_port(), false)?;
            (
                envoy::tcp_client([0, 0, 0, 0].into(), &ports, client, &log_client),
                envoy::tcp_server(&pairs, server, &log_server),
                (HTTP + SHIFT, HTTP + SHIFT),
            )
        };
        let binary = self.tools.envoy.clone().context("no Envoy")?;
        let cores = std::thread::available_parallelism()?.to_string();
        for (side, name, text, ready) in [
            (Side::Client, "client", client, ready.0),
            (Side::Server, "server", server, ready.1),
        ] {
            let config = self.file(&format!("{name}.yaml"), &text)?;
            let mut command = self.pair.command(side, None, &binary);
            command.args(envoy::FLAGS).args(["--concurrency", &cores]);
            command.arg("--config-path").arg(config);
            let proxy = self.spawn(&mut command, name)?;
            proxy.listens(ready)?;
            self.proxies.push(proxy);
        }
        self.records.extend([log_client, log_server]);
        Ok(())
    }
}

/// What the client's user opens goes to the proxy.
fn captured() -> String {
    format!("meta l4proto tcp meta skuid {CLIENT_UID} redirect to :15001")
}

/// The same, to one listener for each port.
fn captured_by_port() -> String {
    let rule = |port: u16| {
        let to = port + SHIFT;
        format!("tcp dport {port} meta skuid {CLIENT_UID} redirect to :{to}")
    };
    serve::PORTS.map(rule).join("\n    ")
}

/// Enough of an environment to start programs with.
fn path() -> BTreeMap<String, String> {
    std::env::vars()
        .filter(|(name, _)| name == "PATH")
        .collect()
}

/// Idle connections through a rig; they close with this value.
#[derive(Debug)]
pub(crate) struct Held {
    child: std::process::Child,
}

impl Held {
    /// Opens them and sends a request over each.
    pub(crate) fn open(rig: &Rig, connections: usize) -> Result<Self> {
        let echo = SocketAddr::new(SERVER, ECHO).to_string();
        let mut command = rig.load(&["l4-load", "hold", &echo, &connections.to_string(), "0"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = child.stdout.take().context("no stdout")?;
        let mut ready = [0; 6];
        let read = std::io::Read::read_exact(&mut out, &mut ready);
        let held = Self { child };
        if read.is_err() || &ready != b"ready\n" {
            held.close()?;
            bail!("{}: idle connections were not opened", rig.peer.name());
        }
        Ok(held)
    }

    /// Sends a request over each once more, then closes them.
    pub(crate) fn close(mut self) -> Result<()> {
        if let Some(mut stdin) = self.child.stdin.take() {
            stdin.flush()?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("idle connections did not live: {status}");
        }
        Ok(())
    }
}
