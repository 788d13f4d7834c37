//! The demo's mesh with CUSTOM policies, run as a process of its own; apps and authorizers are in the test's.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ringgate::cli::curl::{Answer, Caller};
use ringgate::cli::drill::Scratch;
use ringgate::cli::layout::{Layout, free_subnet};
use ringgate::cli::{material, os};
use ringgate::extauthz::message::CheckRequest;
use serde_json::Value;

use crate::authorizers::{self, Log, Seen};

#[path = "../support/socks.rs"]
pub(crate) mod wire;

const START: Duration = Duration::from_secs(30);
const MESH: &str = include_str!("mesh.toml");

/// A running system.
pub(crate) struct System {
    pub(crate) layout: Layout,
    /// customer-api's app.
    pub(crate) app: Log<Seen>,
    /// The HTTP authorizer.
    pub(crate) http: Log<Seen>,
    /// The HTTP authorizer that is a workload of the mesh.
    pub(crate) inside: Log<Seen>,
    /// The gRPC authorizer.
    pub(crate) grpc: Log<CheckRequest>,
    child: Mutex<Child>,
    _dir: Scratch,
}

/// Bytes that a body may have, fewer than the authorizer that sees most of it takes.
pub(crate) const MOST_OF_BODY: usize = 1_040_000;

impl System {
    /// Starts everything and waits until it serves.
    pub(crate) fn start(io: &str) -> Self {
        let dir = Scratch::new(false).unwrap();
        let layout = Layout::new(&dir.path, &free_subnet().unwrap()).unwrap();
        material::write_keys(&layout).unwrap();
        os::make_dir(&layout.file("log"), 0o755).unwrap();
        let token = format!("{}\n", "0".repeat(64));
        os::write(&layout.file("state/join-tokens"), token.as_bytes(), 0o600).unwrap();
        let mesh = MESH.replace("127.0.10.", &format!("{}.", layout.subnet));
        let config = layout.render(io).replace(
            "  { number = 443, name = \"https\", protocol = \"HTTPS\", targetPort = 8443 },\n",
            "  { number = 443, name = \"https\", protocol = \"HTTPS\", targetPort = 8443 },\n  \
             { number = 81, name = \"tcp\", protocol = \"TCP\", targetPort = 8081 },\n",
        );
        let app = format!("app = {{ \"8080\" = \"{}\", \"8443\"", layout.at(3, 18080));
        let more = format!(
            "app = {{ \"8081\" = \"{0}\", \"8080\" = \"{0}\", \"8443\"",
            layout.at(3, 18080)
        );
        assert!(config.contains(&app) && config.contains("8081"));
        let config = config.replace(&app, &more);
        let limits = format!("\n[limits]\nmaxRequestBodyBytes = {MOST_OF_BODY}\n");
        os::write(
            &layout.config(),
            (config + &mesh + &limits).as_bytes(),
            0o644,
        )
        .unwrap();
        let app = authorizers::serve(&[layout.at(3, 18080)], authorizers::app);
        let http = authorizers::serve(&[layout.at(50, 9000)], authorizers::by_path);
        let inside = authorizers::serve(
            &[layout.at(2, 18080), layout.at(4, 18080)],
            authorizers::by_path,
        );
        let grpc = authorizers::serve_grpc(&layout.at(51, 9001));
        let log = std::fs::File::create(layout.file("run.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_ringgate"))
            .args(["run", "--config"])
            .arg(layout.config())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let this = Self {
            layout,
            app,
            http,
            inside,
            grpc,
            child: Mutex::new(child),
            _dir: dir,
        };
        let ready = os::wait_until(START, || {
            let ended = this.child.lock().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", this.log());
            this.call("/warm", &[]).status == 200
        });
        assert!(ready, "not ready: {}", this.log());
        this.app.lock().unwrap().clear();
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.layout.file(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.file("run.log")).unwrap_or_default()
    }

    /// A request of frontend-service to customer-api.
    pub(crate) fn call(&self, path: &str, args: &[&str]) -> Answer {
        self.call_as(1, "http://customer-api", path, args)
    }

    /// A request as the workload at `host`.
    pub(crate) fn call_as(&self, host: u8, origin: &str, path: &str, args: &[&str]) -> Answer {
        let proxy = self.layout.at(host, 15080);
        let caller = Caller::default()
            .with(&["--path-as-is", "--socks5-hostname", &proxy])
            .with(args);
        caller.call(&format!("{origin}{path}")).unwrap()
    }

    /// A request that is let through; the app's view of it.
    pub(crate) fn passes(&self, path: &str, args: &[&str]) -> (Answer, Seen) {
        self.app.lock().unwrap().clear();
        let answer = self.call(path, args);
        assert_eq!(
            answer.status,
            200,
            "{path} {args:?}: {}\n{}",
            answer.seen(),
            self.tail()
        );
        let seen = self.app.lock().unwrap().last().cloned();
        (answer, seen.expect("the app was asked"))
    }

    /// A request that the app never sees.
    pub(crate) fn stopped(&self, path: &str, args: &[&str], status: u16) -> Answer {
        self.app.lock().unwrap().clear();
        let answer = self.call(path, args);
        assert_eq!(
            answer.status,
            status,
            "{path} {args:?}: {}\n{}",
            answer.seen(),
            self.tail()
        );
        assert!(
            self.app.lock().unwrap().is_empty(),
            "{path} {args:?} reached the app"
        );
        answer
    }

    /// The question that an authorizer got last.
    pub(crate) fn asked<T: Clone>(log: &Log<T>) -> T {
        log.lock().unwrap().last().cloned().expect("it was asked")
    }

    /// The last record of a request for `path` at `role`, once there is one.
    pub(crate) fn record(&self, role: &str, path: &str) -> Value {
        self.find(|r| r["role"] == role && r["request"]["path"] == path)
    }

    /// The last record that is `wanted`, once there is one: records are written by another thread.
    pub(crate) fn find(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        os::wait_until(Duration::from_secs(5), || {
            found = self.records().into_iter().rfind(&wanted);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no such record: {}", self.tail()))
    }

    /// All decision records so far.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.file("log/decisions.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    fn tail(&self) -> String {
        let text = std::fs::read_to_string(self.file("log/decisions.jsonl")).unwrap_or_default();
        text.lines().rev().take(4).collect::<Vec<_>>().join("\n")
    }

    /// Changes the configuration and waits until it holds.
    pub(crate) fn reload(&self, from: &str, to: &str) {
        let admin = format!("http://{}/generation", self.layout.at(9, 15000));
        let generation = || Caller::default().call(&admin).unwrap().body;
        let before = generation();
        let text = os::read_text(&self.layout.config()).unwrap();
        assert!(text.contains(from), "{from}");
        os::write(
            &self.layout.config(),
            text.replace(from, to).as_bytes(),
            0o644,
        )
        .unwrap();
        assert!(
            os::wait_until(START, || generation() != before),
            "{}",
            self.log()
        );
    }

    /// Most memory that the process has held so far, in bytes.
    pub(crate) fn most_resident(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.lock().unwrap().id());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib << 10
    }

    /// The process lives and has not panicked anywhere.
    pub(crate) fn healthy(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        self.passes("/alive", &[]);
    }
}

impl Drop for System {
    fn drop(&mut self) {
        ringgate::cli::lab::end(self.child.get_mut().unwrap());
    }
}
