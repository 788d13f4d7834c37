//! The proxies that are compared, and one of them that runs.

use std::cell::Cell;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::case::{Ask, Case, Job, Load};
use super::config::{BIG, Place, SMALL, Templates, record_file};
use super::fire::{Shot, unix_ns};
use super::gun::Gun;
use super::pki::{self, Pki};
use super::proxy::Proxy;
use super::tools::Tools;
use crate::l4::envoy;
use crate::l4::process::Process;

/// A proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    /// ringgate as it comes.
    Ringgate,
    /// The same without io_uring.
    RinggateEpoll,
    /// Envoy.
    Envoy,
    /// Envoy with its cache of verified tokens, which is off unless it is asked for.
    EnvoyJwtCache,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
}

/// All of them, in the order of the table.
pub(crate) const ALL: [Peer; 6] = [
    Peer::Ringgate,
    Peer::RinggateEpoll,
    Peer::Envoy,
    Peer::EnvoyJwtCache,
    Peer::Haproxy,
    Peer::Nginx,
];

/// Those that are measured unless others are named.
pub(crate) const USUAL: [Peer; 5] = [
    Peer::Ringgate,
    Peer::Envoy,
    Peer::EnvoyJwtCache,
    Peer::Haproxy,
    Peer::Nginx,
];

impl Peer {
    /// Name in options and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ringgate => "ringgate",
            Self::RinggateEpoll => "ringgate-epoll",
            Self::Envoy => "envoy",
            Self::EnvoyJwtCache => "envoy-jwt-cache",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Last byte of its address in the subnet of the run.
    fn host(self) -> u8 {
        match self {
            Self::Ringgate => 10,
            Self::RinggateEpoll => 11,
            Self::Envoy => 12,
            Self::EnvoyJwtCache => 13,
            Self::Haproxy => 14,
            Self::Nginx => 15,
        }
    }

    /// Its program.
    pub(crate) fn binary(self, tools: &Tools) -> Result<&Path> {
        match self {
            Self::Ringgate | Self::RinggateEpoll => Ok(&tools.ringgate),
            Self::Envoy | Self::EnvoyJwtCache => tools.envoy.as_deref().context("no Envoy"),
            Self::Haproxy => Ok(&tools.haproxy),
            Self::Nginx => Ok(&tools.nginx),
        }
    }
}

/// What all peers of a run share.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Programs and the directory of the run.
    pub(crate) tools: Tools,
    /// Certificates and tokens.
    pub(crate) pki: Pki,
    /// Threads or workers.
    pub(crate) cores: usize,
    /// `process.sandbox` of ringgate.
    pub(crate) sandbox: &'static str,
    /// First three bytes of every address.
    pub(crate) subnet: [u8; 3],
}

impl Ground {
    /// An address of the run.
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, host)
    }

    /// The upstream's.
    pub(crate) fn upstream(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// What is asked of a peer.
    pub(crate) fn shot(&self, peer: Peer, case: &Case) -> Shot {
        let Case { job, ask, load, .. } = *case;
        let address = SocketAddr::from((self.address(peer.host()), job.port()));
        let token = if ask == Ask::Es256 {
            &self.pki.es256
        } else {
            &self.pki.rs256
        };
        let bearer = ("authorization".to_owned(), format!("Bearer {token}"));
        let cookie = ("cookie".to_owned(), format!("session={token}"));
        let mut shot = Shot {
            address,
            status: 200,
            length: if ask == Ask::Big { BIG } else { SMALL },
            // The port at which a workload is asked for, wherever its tunnels end.
            authority: format!("{}:{}", address.ip(), Job::Waypoint.port()),
            ..Shot::default()
        };
        let caller = match (job, ask) {
            (Job::Waypoint | Job::WaypointHbone, Ask::Denied) => pki::OTHER,
            _ => pki::CALLER,
        };
        let (host, path, header) = match (job, ask) {
            (Job::Waypoint | Job::WaypointHbone, Ask::Denied) => {
                ("customer-api", "/api/v1/users/export", Some(bearer))
            }
            (Job::Waypoint | Job::WaypointHbone, Ask::Big) => {
                ("customer-api", "/api/v1/big", Some(bearer))
            }
            (Job::Waypoint | Job::WaypointHbone, Ask::Allowed | Ask::Es256) => {
                ("customer-api", "/api/v1/users", Some(bearer))
            }
            (Job::Egress, Ask::Denied) => (pki::EXTERNAL, "/api/orders/42?tenant=evil", None),
            (Job::Egress, Ask::Big) => (pki::EXTERNAL, "/api/orders/big?tenant=acme", None),
            (Job::Egress, Ask::Allowed | Ask::Es256) => {
                (pki::EXTERNAL, "/api/orders/42?tenant=acme", None)
            }
            (Job::Ingress, Ask::Big) => (pki::EDGE, "/api/v1/big", Some(cookie)),
            (Job::Ingress, _) => (pki::EDGE, "/api/v1/users", Some(cookie)),
        };
        if ask == Ask::Denied {
            (shot.status, shot.length) = (403, "RBAC: access denied".len());
        }
        shot.identity = (job != Job::Ingress).then(|| self.pki.directory.join(caller));
        shot.headers.extend(header);
        (shot.host, shot.path) = (host.to_owned(), path.to_owned());
        shot.sni.clone_from(&shot.host);
        (shot.connections, shot.streams) = match load {
            Load::Http1(connections) | Load::Handshakes(connections) => (connections, 1),
            Load::Http2(connections, streams) => (connections, streams),
            Load::Hbone(tunnels, carriers) => (tunnels, carriers),
            Load::Idle | Load::Start | Load::Change => (1, 1),
        };
        shot
    }
}

/// Port of ringgate's admin listener.
const ADMIN_PORT: u16 = 15000;
/// How long a proxy may take to serve.
const SERVES: Duration = Duration::from_secs(30);

/// A peer that runs. It ends with this value.
#[derive(Debug)]
pub(crate) struct Rig {
    /// Which it is.
    pub(crate) peer: Peer,
    job: Job,
    address: Ipv4Addr,
    proxy: Proxy,
    templates: Templates,
    directory: PathBuf,
    /// Answers that it has given to the load.
    answered: Cell<u64>,
    /// When its process was started, in nanoseconds since 1970.
    pub(crate) began_ns: u128,
}

impl Rig {
    /// Starts a peer; it may not serve yet.
    pub(crate) fn start(peer: Peer, job: Job, ground: &Ground) -> Result<Self> {
        let directory = ground
            .tools
            .directory
            .join(format!("{}-{}", job.name(), peer.name()));
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let place = Place {
            address: ground.address(peer.host()),
            upstream: ground.upstream(),
            directory: &directory,
            cores: ground.cores,
        };
        let mut templates = Templates::new(&ground.root, place, &ground.pki);
        templates.set("SANDBOX", ground.sandbox);
        match peer {
            Peer::RinggateEpoll => templates.set("IO", "epoll"),
            Peer::EnvoyJwtCache => templates.set(
                "JWT_CACHE",
                "jwt_cache_config: {jwt_cache_size: 1000, jwt_max_token_size: 4096}",
            ),
            Peer::Ringgate | Peer::Envoy | Peer::Haproxy | Peer::Nginx => {}
        }
        let mut command = Command::new(peer.binary(&ground.tools)?);
        let main = write(peer, job, &templates, &directory)?;
        arguments(&mut command, peer, ground.cores).arg(main);
        let began_ns = unix_ns()?;
        let proxy = Proxy::start(&mut command, &log_name(peer), &directory)?;
        Ok(Self {
            began_ns,
            peer,
            job,
            address: ground.address(peer.host()),
            proxy,
            templates,
            directory,
            answered: Cell::new(0),
        })
    }

    /// Starts a peer and waits until an allowed request comes through.
    pub(crate) fn ready(peer: Peer, case: &Case, ground: &Ground) -> Result<Self> {
        let rig = Self::start(peer, case.job, ground)?;
        let address = SocketAddr::from((ground.address(peer.host()), case.job.port()));
        rig.proxy.main()?.wait("listener", || {
            std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
        })?;
        if case.job != Job::WaypointHbone {
            let shot = Shot {
                span: SERVES,
                ..ground.shot(
                    peer,
                    &Case {
                        ask: Ask::Allowed,
                        ..*case
                    },
                )
            };
            let mut gun = Gun::load("first", &shot, &ground.tools.load)?;
            gun.line()
                .and_then(|_| gun.end())
                .with_context(|| format!("{} does not serve\n{}", peer.name(), rig.log()))?;
        }
        Ok(rig)
    }

    /// The proxy.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// So many more answers have come.
    pub(crate) fn answered(&self, more: u64) {
        self.answered.set(self.answered.get() + more);
    }

    /// Counts the records, and fails where too many are missing. ringgate says how many it has lost; HAProxy drops one
    /// where two threads would write at the same moment, and says nothing.
    pub(crate) fn recorded(&self) -> Result<Recorded> {
        let file = self.records();
        let answers = self.answered.get();
        let begun = Instant::now();
        loop {
            // Requests that are not among the answers, those that opened connections, have records too: as many lines as
            // answers do not say that none was lost.
            let lines = count_lines(&file)?;
            let told = lost(&file)?;
            let (lines, told) = (lines.saturating_sub(told.lines), told.records);
            let missing = answers.saturating_sub(lines);
            let few = match self.peer {
                Peer::Haproxy => answers / 100,
                _ => told,
            };
            let flushed = missing == 0 || begun.elapsed() > self.writes_within();
            if missing <= few && flushed {
                return Ok(Recorded {
                    answers,
                    lost: missing.max(told),
                });
            }
            ensure!(
                !flushed,
                "{}: {lines} records of {answers} answers in {}",
                self.peer.name(),
                file.display()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// How long records may take to get to their file.
    fn writes_within(&self) -> Duration {
        match self.peer {
            // Every ten seconds, or when enough has come together.
            Peer::Envoy | Peer::EnvoyJwtCache => Duration::from_secs(20),
            Peer::Ringgate | Peer::RinggateEpoll | Peer::Haproxy | Peer::Nginx => {
                Duration::from_secs(5)
            }
        }
    }

    /// The file of its records.
    pub(crate) fn records(&self) -> PathBuf {
        match self.peer {
            Peer::Haproxy => self.directory.join(format!("{}.log", log_name(self.peer))),
            Peer::Ringgate
            | Peer::RinggateEpoll
            | Peer::Envoy
            | Peer::EnvoyJwtCache
            | Peer::Nginx => record_file(&self.directory),
        }
    }

    /// Where ringgate's admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        SocketAddr::from((self.address, ADMIN_PORT))
    }

    /// Another configuration: the usual one with `more` behind it.
    pub(crate) fn rewrite(&self, more: &str) -> Result<()> {
        let name = format!("ringgate-{}.toml", self.job.name());
        let text = self.templates.render(&name)? + more;
        put(
            &self.directory.join("ringgate.toml"),
            &self.directory,
            &text,
        )
    }

    /// Last lines of what it prints.
    pub(crate) fn log(&self) -> String {
        self.proxy
            .main()
            .map(Process::last_lines)
            .unwrap_or_default()
    }

    /// Lets another account in, and nobody else.
    pub(crate) fn allow_only(&mut self, account: &str, ground: &Ground) -> Result<()> {
        self.templates.allow(account);
        let (peer, job) = (self.peer, self.job);
        match peer {
            Peer::Ringgate | Peer::RinggateEpoll | Peer::Envoy | Peer::EnvoyJwtCache => {
                write(peer, job, &self.templates, &self.directory)?;
                Ok(())
            }
            Peer::Nginx => {
                write(peer, job, &self.templates, &self.directory)?;
                self.proxy.signal("HUP")
            }
            Peer::Haproxy => {
                let main = write(peer, job, &self.templates, &self.directory)?;
                let before = self.proxy.main()?.id().to_string();
                let mut command = Command::new(peer.binary(&ground.tools)?);
                arguments(&mut command, peer, ground.cores).arg(main);
                command.args(["-sf", &before]);
                let process = Process::start(&mut command, "haproxy-next", &self.directory)?;
                self.proxy.replace(process);
                Ok(())
            }
        }
    }
}

fn log_name(peer: Peer) -> String {
    peer.name().to_owned()
}

/// Writes the files of a peer, each put in place whole; gives the one that its program is told.
fn write(peer: Peer, job: Job, templates: &Templates, directory: &Path) -> Result<PathBuf> {
    let job = job.name();
    // Both kinds of waypoint are one configuration.
    let of_ringgate = if job == "wh" { "w" } else { job };
    let (main, name) = match peer {
        Peer::Ringgate | Peer::RinggateEpoll => {
            (format!("ringgate-{of_ringgate}.toml"), "ringgate.toml")
        }
        Peer::Envoy | Peer::EnvoyJwtCache => (format!("envoy-{job}.yaml"), "envoy.yaml"),
        Peer::Haproxy => (format!("haproxy-{job}.cfg"), "haproxy.cfg"),
        Peer::Nginx => (format!("nginx-{job}.conf"), "nginx.conf"),
    };
    if matches!(peer, Peer::Envoy | Peer::EnvoyJwtCache) && job == "w" {
        let lds = directory.join("lds");
        fs::create_dir_all(&lds)?;
        put(
            &lds.join("listeners.yaml"),
            directory,
            &templates.render("envoy-w-listeners.yaml")?,
        )?;
    }
    let main_file = directory.join(name);
    put(&main_file, directory, &templates.render(&main)?)?;
    Ok(main_file)
}

/// Replaces a file, or leaves it alone where it says the same.
fn put(file: &Path, directory: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(file).is_ok_and(|have| have == text) {
        return Ok(());
    }
    let new = directory.join("new");
    fs::write(&new, text).with_context(|| new.display().to_string())?;
    fs::rename(&new, file).with_context(|| file.display().to_string())
}

/// What comes before the name of the configuration.
fn arguments(command: &mut Command, peer: Peer, cores: usize) -> &mut Command {
    match peer {
        Peer::Ringgate | Peer::RinggateEpoll => command.args(["run", "--config"]),
        Peer::Envoy | Peer::EnvoyJwtCache => command
            .args(envoy::FLAGS)
            .args(["--concurrency", &cores.to_string()])
            .arg("--config-path"),
        Peer::Haproxy => command.args(["-db", "-f"]),
        Peer::Nginx => command.args(["-e", "stderr", "-c"]),
    }
}

/// What has become of the records of a rig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Answers that the load had.
    pub(crate) answers: u64,
    /// Records that are not there.
    pub(crate) lost: u64,
}

/// Records that are not there, and the lines that say so.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    lines: u64,
    /// Records.
    pub(crate) records: u64,
}

/// Sum of ringgate's `{"kind":"lost","records":N}`.
pub(crate) fn lost(file: &Path) -> Result<Lost> {
    let lines = Command::new("grep")
        .arg(r#"^{"kind":"lost""#)
        .arg(file)
        .output()?;
    let text = String::from_utf8(lines.stdout)?;
    let mut lost = Lost::default();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let records = line.get("records").and_then(serde_json::Value::as_u64);
        lost.records += records.context("a line about lost records says how many")?;
        lost.lines += 1;
    }
    Ok(lost)
}

/// Records of requests.
pub(crate) fn requests(file: &Path) -> Result<u64> {
    let counted = Command::new("grep")
        .args(["-c", r#""kind":"request""#])
        .arg(file)
        .output()?;
    let text = String::from_utf8(counted.stdout)?;
    text.trim()
        .parse()
        .with_context(|| format!("{}: no records", file.display()))
}

fn count_lines(file: &Path) -> Result<u64> {
    let output = Command::new("wc").arg("-l").arg(file).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let count = text.split_whitespace().next();
    count
        .and_then(|count| count.parse().ok())
        .with_context(|| format!("{}: no records", file.display()))
}

/// Starts the service behind all peers.
pub(crate) fn upstream(ground: &Ground) -> Result<Proxy> {
    let directory = ground.tools.directory.join("upstream");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("big"), vec![b'.'; BIG])?;
    let place = Place {
        address: ground.upstream(),
        upstream: ground.upstream(),
        directory: &directory,
        cores: ground.cores,
    };
    let templates = Templates::new(&ground.root, place, &ground.pki);
    let config = directory.join("nginx.conf");
    fs::write(&config, templates.render("upstream.conf")?)?;
    let mut command = Command::new(&ground.tools.nginx);
    command.args(["-e", "stderr", "-c"]).arg(config);
    let nginx = Proxy::start(&mut command, "nginx", &directory)?;
    let listener = SocketAddr::from((ground.upstream(), 18080));
    nginx.main()?.wait("listener", || {
        std::net::TcpStream::connect_timeout(&listener, Duration::from_millis(500)).is_ok()
    })?;
    Ok(nginx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_lost_records_are_no_records() {
        let name = format!("ringgate-xtask-lost-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        let text = "{\"kind\":\"decision\"}\n{\"kind\":\"lost\",\"records\":3}\n{\"kind\":\"lost\",\"records\":4}\n";
        fs::write(&file, text).expect("a file");
        let found = lost(&file).expect("read");
        assert_eq!((found.lines, found.records), (2, 7));
        assert_eq!(count_lines(&file).expect("read"), 3);
        fs::remove_file(&file).expect("removed");
    }
}
