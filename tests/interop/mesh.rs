//! A mesh in a namespace of its own: one `ringgate` with nodes, a waypoint and an authority, and addresses for peers.
//!
//! Ours are 10.9.0.1 to 9 and fd09::1 to 9, the peers' 10.9.0.101 and fd09::101.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ringgate::cli::drill::Scratch;
use ringgate::cli::os;
use serde_json::Value;

use crate::netns;

/// Join token of the peers.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const START: Duration = Duration::from_secs(30);
const CONFIG: &str = include_str!("mesh.toml");

/// A running mesh.
#[derive(Debug)]
pub(crate) struct Mesh {
    child: Mutex<Child>,
    dir: Scratch,
}

impl Mesh {
    /// Runs `test` in a namespace that has all addresses.
    pub(crate) fn with(io: &'static str, test: fn(&Self)) {
        netns::isolated(move || {
            addresses("lo", true);
            addresses("lo", false);
            let mesh = Self::start(io, &|text| text);
            test(&mesh);
            mesh.healthy();
        });
    }

    /// Starts it where our addresses are; `edit` changes its configuration.
    pub(crate) fn start(io: &str, edit: &dyn Fn(String) -> String) -> Self {
        let dir = Scratch::new(false).unwrap();
        for name in ["log", "state"] {
            os::make_dir(&dir.path.join(name), 0o700).unwrap();
        }
        let grants: Vec<String> = ["client", "client6", "server", "server6", "peer", "peer6"]
            .iter()
            .map(|name| format!("spiffe://cluster.local/ns/default/sa/{name}"))
            .collect();
        let tokens = format!("{TOKEN} {}\n", grants.join(" "));
        os::write(
            &dir.path.join("state/join-tokens"),
            tokens.as_bytes(),
            0o600,
        )
        .unwrap();
        let config = edit(CONFIG.replace("@IO@", io));
        let path = dir.path.join("ringgate.toml");
        os::write(&path, config.as_bytes(), 0o644).unwrap();
        let log = std::fs::File::create(dir.path.join("run.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("ringgate starts");
        let this = Self {
            child: Mutex::new(child),
            dir,
        };
        let ready = os::wait_until(START, || {
            let ended = this.child.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", this.log());
            ["peer", "peer6", "denied", "client"]
                .iter()
                .all(|name| this.identity(name).join("key.pem").exists())
                && this.is_ready()
        });
        assert!(ready, "not ready: {}", this.log());
        this
    }

    fn is_ready(&self) -> bool {
        let Ok(mut admin) = TcpStream::connect("10.9.0.9:15000") else {
            return false;
        };
        let asked =
            admin.write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let mut text = String::new();
        asked.is_ok() && admin.read_to_string(&mut text).is_ok() && text.contains(" 200 ")
    }

    /// A file of the mesh.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path.join(name)
    }

    /// Directory of a workload's identity in Istio's file names.
    pub(crate) fn identity(&self, workload: &str) -> PathBuf {
        self.file(&format!("id/{workload}/istio"))
    }

    /// What the process said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file("run.log")).unwrap_or_default()
    }

    /// Tells the process to end.
    pub(crate) fn terminate(&self) {
        os::terminate(self.child.lock().unwrap().id()).unwrap();
    }

    /// Changes the configuration and waits until it holds.
    pub(crate) fn reload(&self, from: &str, to: &str) {
        let path = self.file("ringgate.toml");
        let text = os::read_text(&path).unwrap();
        assert!(text.contains(from), "{from}");
        let before = self.log().matches("configuration").count();
        os::write(&path, text.replace(from, to).as_bytes(), 0o644).unwrap();
        let loaded = || self.log().matches("configuration").count() > before;
        assert!(os::wait_until(START, loaded), "{}", self.log());
    }

    /// The last record that is `wanted`, once there is one.
    pub(crate) fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        os::wait_until(Duration::from_secs(10), || {
            found = self.records().into_iter().rfind(&wanted);
            found.is_some()
        });
        found.unwrap_or_else(|| {
            let text = std::fs::read_to_string(self.file("log/decisions.jsonl"));
            panic!(
                "no such record:\n{}\n{}",
                text.unwrap_or_default(),
                self.log()
            )
        })
    }

    /// All records so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("log/decisions.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// A connection that leaves workload `client` (or `client6`) through its node; the reply code if it is refused.
    pub(crate) fn leave(&self, proxy: &str, to: &str) -> Result<TcpStream, u8> {
        let (host, port) = to.rsplit_once(':').unwrap();
        let port: u16 = port.parse().unwrap();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let mut request = vec![5, 1, 0, 5, 1, 0];
        match host.parse() {
            Ok(IpAddr::V4(ip)) => {
                request.push(1);
                request.extend(ip.octets());
            }
            Ok(IpAddr::V6(ip)) => {
                request.push(4);
                request.extend(ip.octets());
            }
            Err(_name) => {
                request.extend([3, host.len() as u8]);
                request.extend(host.as_bytes());
            }
        }
        request.extend(port.to_be_bytes());
        let mut tcp = TcpStream::connect(proxy).unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp.set_read_timeout(Some(crate::app::PATIENCE)).unwrap();
        tcp.write_all(&request).unwrap();
        let mut reply = [0; 12];
        tcp.read_exact(&mut reply).unwrap();
        if reply[3] == 0 {
            Ok(tcp)
        } else {
            Err(reply[3])
        }
    }

    /// The process lives and has not panicked anywhere.
    pub(crate) fn healthy(&self) {
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        ringgate::cli::lab::end(self.child.get_mut().unwrap());
    }
}

/// Gives a link our addresses or the peers'.
pub(crate) fn addresses(link: &str, ours: bool) {
    let hosts: Vec<u8> = if ours { (1..=9).collect() } else { vec![101] };
    for host in hosts {
        netns::ip(&format!("addr add 10.9.0.{host}/24 dev {link}"));
        netns::ip(&format!("addr add fd09::{host}/64 dev {link} nodad"));
    }
}

/// An address of workloads and ports.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
