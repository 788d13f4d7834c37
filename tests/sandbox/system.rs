//! An ingress on port 443 of its own address, with a backend, that root starts and that becomes another user.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ringgate::cli::curl::Caller;
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use serde_json::Value;
use tempfile::TempDir;

use crate::PROGRAM;
use crate::shop::{self, HOST, backend};

pub(crate) const WAIT: Duration = Duration::from_secs(60);
/// Nobody, by number: the machine need not know it.
pub(crate) const USER: u32 = 65_534;

const CONFIG: &str = r#"
[process]
name = "boxed"
PROCESS
[admin]
listen = "NET.1:15000"
IDENTITIES
[records]
path = "log/decisions.jsonl"
[[ingress]]
gateway = "edge/public"
[[ingress.listener]]
address = "NET.1:443"
certificate = "tls/cert.pem"
key = "file:tls/key.pem"
[[gateway]]
name = "public"
namespace = "edge"
gatewayClassName = "ringgate-ingress"
address = "NET.1"
[[serviceEntry]]
name = "web"
namespace = "edge"
hosts = ["web.test"]
ports = [{ number = 80, name = "http", protocol = "HTTP", targetPort = 9000 }]
resolution = "STATIC"
endpoints = [{ address = "NET.1" }]
[[httpRoute]]
name = "web"
namespace = "edge"
parentRefs = [{ name = "public" }]
hostnames = ["shop.example.test"]
rules = [{ backendRefs = [{ name = "web", port = 80 }] }]
"#;

/// Identities of its own authority.
const AUTHORITY: &str = "[authority]\nstateDir = \"state\"";

/// A running process; it ends with the value.
pub(crate) struct System {
    pub(crate) dir: TempDir,
    pub(crate) net: String,
    child: Child,
}

impl Drop for System {
    fn drop(&mut self) {
        // Of an upgrade: the new one is no child of this test, and ends with the word that it is told of.
        if let Some(pid) = self.pid().filter(|pid| *pid != self.child.id()) {
            os::terminate(pid).ok();
            os::wait_until(WAIT, || !Path::new(&format!("/proc/{pid}")).exists());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl System {
    /// Starts it with these lines of `[process]` and these tables, and waits until it serves.
    pub(crate) fn start(process: &str, more: &str) -> Self {
        Self::start_in(free_subnet().unwrap(), process, more)
    }

    /// The same in a network of the caller's, by its first three bytes.
    pub(crate) fn start_in(net: String, process: &str, more: &str) -> Self {
        Self::start_of(net, (process, AUTHORITY), more)
    }

    /// The same with another table by which it has its identities.
    pub(crate) fn start_of(net: String, (process, identities): (&str, &str), more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = CONFIG.replace("PROCESS", process);
        let text = text.replace("IDENTITIES", identities) + more;
        std::fs::write(dir.path().join("ringgate.toml"), text.replace("NET", &net)).unwrap();
        for name in ["tls", "log", "state", "run"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        pair(&dir.path().join("tls"));
        for name in [
            "",
            "tls",
            "log",
            "state",
            "run",
            "ringgate.toml",
            "tls/key.pem",
        ] {
            chown(dir.path().join(name), Some(USER), Some(USER)).unwrap();
        }
        backend(&format!("{net}.1:9000"));
        let log = std::fs::File::create(dir.path().join("run.log")).unwrap();
        let child = Command::new(PROGRAM)
            .args(["run", "--config"])
            .arg(dir.path().join("ringgate.toml"))
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let this = Self { dir, net, child };
        assert!(
            os::wait_until(WAIT, || this.get() == Some(200)),
            "{}",
            this.log()
        );
        this
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> String {
        self.text("run.log")
    }

    /// Status of a request of a client that believes the certificate which is there now.
    pub(crate) fn get(&self) -> Option<u16> {
        let net = &self.net;
        let believed = self.file("tls/cert.pem");
        let args = [
            "--cacert",
            believed.to_str()?,
            "--resolve",
            &format!("{HOST}:443:{net}.1"),
        ];
        let answer = Caller::default()
            .with(&args)
            .call(&format!("https://{HOST}/"));
        answer.ok().map(|answer| answer.status)
    }

    /// Runs `ringgate status`.
    pub(crate) fn ask(&self, output: &str) -> Output {
        Command::new(PROGRAM)
            .args(["status", "--output", output, "--admin"])
            .arg(format!("{}.1:15000", self.net))
            .output()
            .unwrap()
    }

    /// What it tells; null if nothing.
    pub(crate) fn status(&self) -> Value {
        serde_json::from_slice(&self.ask("json").stdout).unwrap_or_default()
    }

    /// The launcher: the child of the process that has no other.
    pub(crate) fn launcher(&self) -> u32 {
        let pid = self.pid().unwrap();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap();
        let all: Vec<u32> = children
            .split_whitespace()
            .map(|n| n.parse().unwrap())
            .collect();
        let [launcher] = all.as_slice() else {
            panic!("{all:?}");
        };
        *launcher
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        u32::try_from(self.status()["pid"].as_u64()?).ok()
    }

    /// Waits until the status is as `wanted` has it.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let done = os::wait_until(WAIT, || wanted(&self.status()));
        assert!(done, "{what}: {:#}\n{}", self.status(), self.log());
    }

    /// Adds to the configuration.
    pub(crate) fn add(&self, more: &str) {
        let text = self.text("ringgate.toml") + &more.replace("NET", &self.net);
        // As an editor does that replaces the file.
        std::fs::write(self.file("new"), text).unwrap();
        std::fs::rename(self.file("new"), self.file("ringgate.toml")).unwrap();
    }
}

/// Writes a new certificate and key; the files stay the user's.
pub(crate) fn pair(dir: &Path) {
    shop::pair(dir, "cert.pem", "key.pem");
}
