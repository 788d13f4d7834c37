//! A process on one of the machines, and what `/proc` says of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cpu, steps};

/// CPU time of each thread, in nanoseconds.
pub(crate) type Threads = BTreeMap<OsString, u64>;

/// How long a process may take to listen.
const START: Duration = Duration::from_secs(30);

/// Ends with this value. Its output is in a file.
#[derive(Debug)]
pub(crate) struct Process {
    child: RefCell<Child>,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.log` in `directory`.
    pub(crate) fn start(command: &mut Command, name: &str, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        let child = command
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child: child.into(),
            name: name.to_owned(),
            log,
        })
    }

    /// Waits until something in its network namespace listens on `port`.
    pub(crate) fn listens(&self, port: u16) -> Result<()> {
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let own = namespace("self");
        self.wait(&format!("port {port}"), || {
            // Until it has gone over to its own namespace, its tables are the machine's.
            namespace(&self.id().to_string()) != own && listening(self.id(), port)
        })
    }

    /// Waits until `done`; fails when the process ends before.
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        while !done() {
            self.alive()?;
            ensure!(
                start.elapsed() < START,
                "{}: no {what} after {START:?}\n{}",
                self.name,
                self.last_lines()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Fails when the process has ended.
    pub(crate) fn alive(&self) -> Result<()> {
        if let Some(status) = self.child.borrow_mut().try_wait()? {
            bail!("{} ended with {status}\n{}", self.name, self.last_lines());
        }
        Ok(())
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.borrow().id()
    }

    /// CPU time of each thread so far, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Result<Threads> {
        cpu::threads(self.id()).with_context(|| self.name.clone())
    }

    /// Resident memory, in bytes (`VmRSS`).
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .with_context(|| format!("{} has no VmRSS", self.name))?;
        Ok(kilobytes.parse::<u64>()? * 1024)
    }

    /// The end of what it has printed.
    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(15);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

/// How long a process may take to end that was asked to.
const END: Duration = Duration::from_secs(5);

impl Drop for Process {
    fn drop(&mut self) {
        // One that is asked to end can write down what it has counted.
        let id = self.id();
        let child = self.child.get_mut();
        if matches!(child.try_wait(), Ok(None))
            && let Err(error) = steps::signal("TERM", id)
        {
            eprintln!("{}: {error:#}", self.name);
        }
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < END {
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// Whether a socket in the network namespace of `pid` listens on `port`.
fn listening(pid: u32, port: u16) -> bool {
    let port = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        // sl, local address, remote address, state; 0A is LISTEN.
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            let local = words.nth(1).unwrap_or_default();
            local.ends_with(&port) && words.nth(1) == Some("0A")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn listeners_are_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        assert!(listening(std::process::id(), port));
        drop(listener);
        assert!(!listening(std::process::id(), port));
    }
}
