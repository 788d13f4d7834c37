//! A process that is nothing but an authority with a Workload API.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ringgate::cli::os;
use serde_json::Value;

pub(crate) const START: Duration = Duration::from_secs(30);
/// Users of the tests; nothing needs to know their names.
pub(crate) const UID: u32 = 4711;
pub(crate) const OTHER_UID: u32 = 4712;

pub(crate) const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/reviews";
pub(crate) const RATINGS: &str = "spiffe://cluster.local/ns/default/sa/ratings";

const MESH: &str = r#"
[[workloadEntry]]
name = "reviews"
serviceAccount = "reviews"
address = "127.201.37.1"

[[workloadEntry]]
name = "ratings"
serviceAccount = "ratings"
address = "127.201.37.2"
"#;

pub(crate) struct System {
    child: Mutex<Child>,
    dir: tempfile::TempDir,
}

impl System {
    /// With an embedded authority; `ttl` is the lifetime of its SVIDs.
    pub(crate) fn start(ttl: &str, entries: &str) -> Self {
        Self::with(&format!("[authority]\nsvidTtl = \"{ttl}\"\n"), entries)
    }

    /// With any source of identities.
    pub(crate) fn with(source: &str, entries: &str) -> Self {
        Self::with_env(source, entries, &[])
    }

    /// With environment variables besides.
    pub(crate) fn with_env(source: &str, entries: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ringgate-wapi-")
            .tempdir()
            .unwrap();
        os::make_dir(dir.path(), 0o755).unwrap();
        let this = Self {
            child: Mutex::new(spawn(dir.path(), source, entries, env)),
            dir,
        };
        assert!(
            os::wait_until(START, || {
                this.alive();
                this.log().contains("core runs") && this.socket().exists()
            }),
            "not ready: {}",
            this.log()
        );
        this
    }

    pub(crate) fn alive(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        assert!(ended.is_none(), "ringgate ended: {ended:?}\n{}", self.log());
        assert!(!self.log().contains("panicked"), "{}", self.log());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/workload.sock")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("run.log")).unwrap_or_default()
    }

    /// Other entries, without a restart.
    pub(crate) fn reload(&self, source: &str, entries: &str) {
        let before = self.log().matches("configuration reloaded").count();
        write_config(self.dir.path(), source, entries);
        let done = || self.log().matches("configuration reloaded").count() > before;
        assert!(os::wait_until(START, done), "{}", self.log());
    }

    /// Kills the process as a crash would.
    pub(crate) fn crash(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(self.socket().exists(), "a crash leaves the socket");
    }

    /// Starts another process in its place.
    pub(crate) fn restart(&self, source: &str, entries: &str) {
        let mut child = self.child.lock().unwrap();
        *child = spawn(self.dir.path(), source, entries, &[]);
    }

    /// Starts another process that takes over, and waits until the first one has ended.
    pub(crate) fn hand_over(&self, source: &str, entries: &str) {
        let socket = self.path("run/handover.sock");
        assert!(os::wait_until(START, || socket.exists()), "{}", self.log());
        let mut child = self.child.lock().unwrap();
        let new = spawn(self.dir.path(), source, entries, &[]);
        let mut old = std::mem::replace(&mut *child, new);
        let ended = os::wait_until(START, || old.try_wait().unwrap().is_some());
        assert!(ended && old.wait().unwrap().success(), "{}", self.log());
        assert!(self.log().contains("has taken over, this one drains"));
    }

    /// Ends the process by a signal that lets it tidy up.
    pub(crate) fn stop(&self) {
        let mut child = self.child.lock().unwrap();
        os::terminate(child.id()).unwrap();
        let ended = os::wait_until(START, || child.try_wait().unwrap().is_some());
        assert!(ended, "does not end: {}", self.log());
    }

    /// Records of the Workload API.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("decisions.jsonl")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .filter(|record: &Value| record["role"] == "workloadApi")
            .collect()
    }

    /// The last record that is `wanted`, once there is one: another thread writes them.
    pub(crate) fn record(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        os::wait_until(Duration::from_secs(10), || {
            found = self.records().into_iter().rfind(&wanted);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("no such record: {:#?}\n{}", self.records(), self.log()))
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _gone = child.kill();
        let _gone = child.wait();
    }
}

fn write_config(dir: &Path, source: &str, entries: &str) {
    // What there is no state of cannot be handed over.
    let handover = match source.contains("stateDir") {
        true => "handover = \"run/handover.sock\"\n",
        false => "",
    };
    let text = format!(
        "[process]\ncores = 1\n{handover}[records]\npath = \"decisions.jsonl\"\n{source}\n[workloadApi]\n\
         socket = \"run/workload.sock\"\n{entries}\n{MESH}"
    );
    os::write(&dir.join("ringgate.toml"), text.as_bytes(), 0o644).unwrap();
}

fn spawn(dir: &Path, source: &str, entries: &str, env: &[(&str, &str)]) -> Child {
    write_config(dir, source, entries);
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(dir.join("run.log"))
        .unwrap();
    Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["run", "--config"])
        .arg(dir.join("ringgate.toml"))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap()
}

/// An entry for `workload` with `conditions`.
pub(crate) fn entry(workload: &str, hint: &str, conditions: &str) -> String {
    let hint = if hint.is_empty() {
        String::new()
    } else {
        format!("hint = \"{hint}\"\n")
    };
    format!(
        "[[workloadApi.entry]]\nworkload = \"default/{workload}\"\n{hint}match = {{ {conditions} }}\n"
    )
}
