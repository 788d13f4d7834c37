//! The npm package `oidc-provider` as a process on a free loopback port.
//!
//! Needs node and npm and fails without them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The running provider; its standard input closes, and so it ends, with this value.
pub struct Idp {
    child: Child,
    pub issuer: String,
}

fn installed() -> PathBuf {
    let directory = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/oidc");
    // Tests run side by side, `npm ci` must not.
    let lock = File::open(directory.join("package-lock.json")).unwrap();
    lock.lock().unwrap();
    if !directory.join("node_modules/.package-lock.json").exists() {
        let installed = Command::new("npm")
            .arg("ci")
            .current_dir(&directory)
            .status()
            .expect("npm is needed");
        assert!(installed.success(), "npm ci failed");
    }
    directory
}

impl Idp {
    /// Starts one whose clients may come back to these URIs.
    pub fn start(redirects: &[String]) -> Self {
        let mut child = Command::new("node")
            .arg("provider.mjs")
            .args(redirects)
            .current_dir(installed())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node is needed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let issuer = lines
            .map_while(Result::ok)
            .find(|line| line.starts_with("http://"))
            .expect("no issuer printed");
        Self { child, issuer }
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _status = self.child.wait();
    }
}
