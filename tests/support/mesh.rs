//! The demo's mesh on a subnet of its own, as one `ringgate run` process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringgate::cli::drill::Scratch;
use ringgate::cli::layout::{Layout, free_subnet};
use ringgate::cli::{material, os};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Files of a mesh that does not run yet.
pub(crate) struct Prepared {
    pub(crate) layout: Layout,
    dir: Scratch,
}

/// A mesh that runs, and ends with this value.
pub(crate) struct Mesh {
    pub(crate) layout: Layout,
    child: Mutex<Child>,
    _dir: Scratch,
}

/// Writes keys, and what `config` says.
pub(crate) fn prepare(config: impl FnOnce(&Layout) -> String) -> Prepared {
    let dir = Scratch::new(false).unwrap();
    // Backends listen until the process ends, so no subnet is used twice.
    let layout = Layout::new(&dir.path, &free_subnet().unwrap()).unwrap();
    material::write_keys(&layout).unwrap();
    os::make_dir(&layout.file("log"), 0o755).unwrap();
    let token = format!("{}\n", "0".repeat(64));
    os::write(&layout.file("state/join-tokens"), token.as_bytes(), 0o600).unwrap();
    let config = config(&layout);
    os::write(&layout.config(), config.as_bytes(), 0o644).unwrap();
    Prepared { layout, dir }
}

impl Prepared {
    /// Starts the process.
    pub(crate) fn start(self) -> Mesh {
        let Self { layout, dir } = self;
        let log = std::fs::File::create(layout.file("run.log")).unwrap();
        let child = Command::new(crate::PROGRAM)
            .args(["run", "--config"])
            .arg(layout.config())
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("ringgate starts");
        Mesh {
            layout,
            child: Mutex::new(child),
            _dir: dir,
        }
    }

    /// TLS of the service outside.
    pub(crate) fn partner_tls(&self) -> Arc<rustls::ServerConfig> {
        let file = |name: &str| self.layout.file(&format!("state/partner/{name}.pem"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_file_iter(file("cert")).unwrap();
        let key = PrivateKeyDer::from_pem_file(file("key")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.flatten().collect(), key)
            .unwrap();
        Arc::new(config)
    }
}

impl Mesh {
    /// A file of the mesh.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.layout.file(name)
    }

    /// What the process said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.file("run.log")).unwrap_or_default()
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Decision records so far.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.file("log/decisions.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits until `ready` or the limit.
    pub(crate) fn within(&self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        let until = Instant::now() + limit;
        while Instant::now() < until {
            if ready() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        ready()
    }

    /// Open descriptors of the process.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let text =
            std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap_or_default();
        let pages: usize = text
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        pages * 4096
    }

    /// The process lives and has not panicked anywhere.
    pub(crate) fn lives(&self) {
        let ended = self.child.lock().unwrap().try_wait().unwrap();
        let log = self.log();
        assert!(ended.is_none(), "ringgate ended: {ended:?}\n{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
}

impl Drop for Mesh {
    /// At once: a process that is asked to end waits for clients that a test has left connected. What an ending does is
    /// told by those that test it.
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        os::ignore(child.kill());
        os::ignore(child.wait());
    }
}
