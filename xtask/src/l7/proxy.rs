//! A proxy with all its processes: nginx has a master and workers, HAProxy another process after a reload.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::cpu;
use crate::l4::process::Process;
use crate::steps;

/// How long a proxy may take to end by itself.
const END: Duration = Duration::from_secs(10);

/// Memory of all processes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident (`Rss`).
    pub(crate) resident: u64,
    /// Resident, with what processes share divided among them (`Pss`).
    pub(crate) proportional: u64,
    /// Resident, of no file (`Anonymous`).
    pub(crate) anonymous: u64,
}

/// Ends with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// The last one is in charge.
    processes: Vec<Process>,
}

impl Proxy {
    /// Starts `command`.
    pub(crate) fn start(command: &mut Command, name: &str, directory: &Path) -> Result<Self> {
        Ok(Self {
            processes: vec![Process::start(command, name, directory)?],
        })
    }

    /// A process that takes over.
    pub(crate) fn replace(&mut self, process: Process) {
        self.processes.push(process);
    }

    /// The process in charge.
    pub(crate) fn main(&self) -> Result<&Process> {
        self.processes.last().context("a proxy has a process")
    }

    /// All process ids.
    pub(crate) fn ids(&self) -> Result<Vec<u32>> {
        let parents = parents()?;
        let mut ids: Vec<u32> = self.processes.iter().map(Process::id).collect();
        let mut at = 0;
        while let Some(parent) = ids.get(at).copied() {
            let children = parents.iter().filter(|(_, its)| **its == parent);
            ids.extend(children.map(|(child, _)| *child));
            at += 1;
        }
        Ok(ids)
    }

    /// CPU time so far, in nanoseconds. The processes are those of `ids`, which live as long as what is measured.
    pub(crate) fn cpu_ns(ids: &[u32]) -> Result<u64> {
        ids.iter().map(|id| cpu::nanoseconds(*id)).sum()
    }

    /// Memory now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut all = Memory::default();
        for id in self.ids()? {
            let file = format!("/proc/{id}/smaps_rollup");
            let text = fs::read_to_string(&file).with_context(|| file.clone())?;
            let of = |name: &str| -> Result<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                let kilobytes = line.and_then(|rest| rest.split_whitespace().next());
                let kilobytes = kilobytes.with_context(|| format!("{file}: no {name}"))?;
                Ok(kilobytes.parse::<u64>()? * 1024)
            };
            all.resident += of("Rss:")?;
            all.proportional += of("Pss:")?;
            all.anonymous += of("Anonymous:")?;
        }
        Ok(all)
    }

    /// Tells a process to reload.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        steps::signal(signal, self.main()?.id())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A master that is killed leaves its workers behind.
        for process in &self.processes {
            if process.alive().is_ok()
                && let Err(error) = steps::signal("TERM", process.id())
            {
                eprintln!("{error:#}");
            }
        }
        let begun = Instant::now();
        let all = || {
            self.processes
                .iter()
                .all(|process| process.alive().is_err())
        };
        while !all() && begun.elapsed() < END {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The parent of each process.
fn parents() -> Result<BTreeMap<u32, u32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(id) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process may end between the listing and the read. Its name, in parentheses, may hold anything.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map(|(_, after)| after);
        let parent = after.and_then(|after| after.split_whitespace().nth(1));
        if let Some(Ok(parent)) = parent.map(str::parse) {
            all.insert(id, parent);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_counted_and_end() {
        let directory =
            std::env::temp_dir().join(format!("ringgate-xtask-proxy-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "trap 'kill $child; exit' TERM; sleep 600 & child=$!; wait",
        ]);
        let proxy = Proxy::start(&mut shell, "shell", &directory).expect("started");
        let begun = Instant::now();
        let mut ids = proxy.ids().expect("ids");
        while ids.len() < 2 && begun.elapsed() < END {
            ids = proxy.ids().expect("ids");
        }
        assert_eq!(ids.len(), 2, "{ids:?}");
        let memory = proxy.memory().expect("memory");
        assert!(memory.resident >= memory.proportional && memory.proportional > 0);
        assert!(Proxy::cpu_ns(&ids).is_ok());
        drop(proxy);
        assert!(Proxy::cpu_ns(&ids).is_err());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
