//! Capture on this machine: loads the rules and routes, takes them away, compares them, and keeps them true while a node
//! runs. The rules themselves are made by `role::capture`.

pub mod cgroup;
pub mod find;
mod keep;
mod system;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::checked::capture::{CaptureScope, OwnerMatch};
use crate::config::checked::{Config, Mesh, Node, Process};
use crate::control::capture::cgroup::Mount;
use crate::io::listener::own_uid;
use crate::role::capture::{Rules, Running, Selector, rules, script};
use crate::role::owner::{self, LocalSocket};

pub use keep::keep;
pub use system::{remove, status};

/// Why capture cannot be set up, compared or removed.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// Nothing is configured.
    #[error("no node of this configuration captures: expected `[node.capture]`")]
    Nothing,
    /// A match needs what the machine has not.
    #[error("workload `{workload}`: {problem}")]
    Match {
        /// Workload entry.
        workload: String,
        /// What is missing.
        problem: &'static str,
    },
    /// The node would capture its own connections.
    #[error(
        "this process runs as user {0}, whose connections are captured: run the node as a user of its own"
    )]
    Own(u32),
    /// A program cannot be started.
    #[error("`{program}` cannot be started; Debian's package `{package}` has it")]
    Start {
        /// Program.
        program: &'static str,
        /// Package.
        package: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A program refuses.
    #[error("{program}: {said}")]
    Refused {
        /// Program and arguments.
        program: String,
        /// What it said.
        said: String,
    },
}

/// The node that captures.
#[must_use]
pub fn capturing(process: &Process) -> Option<&Node> {
    process.nodes.iter().find(|node| node.capture.is_some())
}

/// Where control groups version 2 are mounted.
pub(super) fn group_mounts() -> Option<PathBuf> {
    Mount::find(&cgroup::mounts()).map(|mount| mount.root)
}

/// What a machine offers that rules depend on.
#[derive(Clone, Debug)]
pub struct Machine {
    mount: Option<Mount>,
    net_cls: bool,
    nameservers: Vec<SocketAddr>,
}

/// Port of DNS.
const DNS: u16 = 53;

impl Machine {
    /// This machine as it is now.
    #[must_use]
    pub fn look() -> Self {
        let mounts = cgroup::mounts();
        let resolv = text(Path::new("/etc/resolv.conf")).unwrap_or_default();
        Self {
            mount: Mount::find(&mounts),
            net_cls: cgroup::has_net_cls(&mounts),
            nameservers: nameservers(&resolv),
        }
    }

    /// What rules look for, and the workloads whose control group is not there.
    ///
    /// # Errors
    /// `CaptureError::Match`.
    pub fn selectors(&self, node: &Node) -> Result<(Vec<Selector>, Vec<String>), CaptureError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for workload in &node.workloads {
            let name = workload.workload.to_string();
            let Some(owner) = &workload.owner else {
                continue;
            };
            match self.selector(owner) {
                Ok(Some(selector)) => found.push(selector),
                Ok(None) => missing.push(name),
                Err(problem) => {
                    return Err(CaptureError::Match {
                        workload: name,
                        problem,
                    });
                }
            }
        }
        Ok((found, missing))
    }

    /// `None`: its control group is not there.
    fn selector(&self, owner: &OwnerMatch) -> Result<Option<Selector>, &'static str> {
        if owner.class_id.is_some() && !self.net_cls {
            return Err(
                "`match.classId` needs the controller net_cls of control groups version 1, which is not mounted",
            );
        }
        let mut cgroups = Vec::new();
        if owner.unit.is_some() || owner.cgroup.is_some() {
            let mount = self
                .mount
                .as_ref()
                .ok_or("`match` needs control groups version 2, which are not mounted")?;
            if mount.nft.is_none() {
                return Err("control groups version 2 are not mounted below /sys/fs/cgroup");
            }
            let group = owner.cgroup.as_ref().map(|path| mount.group(path));
            let unit = owner.unit.as_ref().map(|unit| mount.unit(unit));
            for one in [group, unit].into_iter().flatten() {
                match one {
                    Some(one) => cgroups.push(one),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(Selector {
            uid: owner.uid,
            cgroups,
            mark: owner.mark,
            class_id: owner.class_id,
        }))
    }
}

fn nameservers(resolv: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        Some(SocketAddr::new(address.parse().ok()?, DNS))
    };
    let all = resolv.lines().filter_map(server);
    all.filter(|server| !server.ip().is_loopback()).collect()
}

/// What a configuration wants loaded on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Script for nftables.
    pub script: String,
    /// Routing table of the diverting route, if packets are diverted.
    pub route_table: Option<u32>,
    /// Workloads that nothing is captured of, since their control group is not there.
    pub missing: Vec<String>,
    /// Numbers of the control groups: others with the same names make other rules.
    groups: Vec<u64>,
}

/// What `config` wants on `machine`.
///
/// # Errors
/// `CaptureError`.
pub fn wanted(config: &Config, machine: &Machine) -> Result<Wanted, CaptureError> {
    want(&config.process, &config.mesh, machine, None)
}

/// What was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The rules.
    pub wanted: Wanted,
    /// Nobody else was loading rules at the same time.
    pub in_turn: bool,
}

/// Loads what `config` wants on this machine as it is now.
///
/// # Errors
/// `CaptureError`; what was loaded before still is.
pub fn load(config: &Config) -> Result<Loaded, CaptureError> {
    let turn = system::turn();
    // A node that runs is not taken for dead until it tells of itself again.
    let running = system::running()?;
    let wanted = want(&config.process, &config.mesh, &Machine::look(), running)?;
    system::set_up(&wanted)?;
    let in_turn = turn.is_some();
    Ok(Loaded { wanted, in_turn })
}

fn want(
    process: &Process,
    mesh: &Mesh,
    machine: &Machine,
    running: Option<Running>,
) -> Result<Wanted, CaptureError> {
    let node = capturing(process).ok_or(CaptureError::Nothing)?;
    let (selectors, missing) = machine.selectors(node)?;
    let groups = selectors.iter().flat_map(|s| &s.cgroups);
    let groups = groups.map(|group| group.id).collect();
    let nameservers = match process.nameservers.as_slice() {
        [] => &machine.nameservers,
        configured => configured,
    };
    let rules =
        rules(process, mesh, selectors, nameservers, running).ok_or(CaptureError::Nothing)?;
    Ok(Wanted {
        script: script(&rules),
        route_table: route_table(&rules),
        missing,
        groups,
    })
}

fn route_table(rules: &Rules<'_>) -> Option<u32> {
    rules.diverts().then_some(rules.capture.route_table)
}

/// Refuses a node whose own connections would come back to it.
///
/// # Errors
/// `CaptureError::Own`.
pub fn refuse_own_capture(process: &Process) -> Result<(), CaptureError> {
    let Some((node, capture)) =
        capturing(process).and_then(|node| Some((node, node.capture.as_ref()?)))
    else {
        return Ok(());
    };
    let own = own_uid();
    let groups = text(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let itself = LocalSocket {
        uid: own,
        mark: None,
        class_id: None,
        cgroup: groups.lines().find_map(|line| line.strip_prefix("0::")),
    };
    let matched = owner::workload(&node.workloads, &itself).is_some();
    // Root is not exempt by its number: too much else runs as root.
    let all = capture.outbound == CaptureScope::All && own == 0;
    let exempt = capture.exclude_uids.contains(&own);
    if !exempt && (all || matched) {
        return Err(CaptureError::Own(own));
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "small files of the kernel's and /etc, on the control thread"
)]
fn text(path: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_may_go_to_nameservers() {
        let text =
            "# x\nnameserver 10.0.0.2\nnameserver  fd00::1\nnameserver 127.0.0.53\noptions a\n";
        let want: Vec<SocketAddr> = vec![
            "10.0.0.2:53".parse().unwrap(),
            "[fd00::1]:53".parse().unwrap(),
        ];
        assert_eq!(nameservers(text), want);
    }
}
