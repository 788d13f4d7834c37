//! The capture rules of a node: one table of nftables, loaded whole in one transaction, and the routes that divert to
//! this machine. The semantics are those of Istio's ambient capture, for a machine instead of a pod; `docs/capture.md`
//! says where they differ.

mod script;

use std::net::{IpAddr, SocketAddr};

use crate::config::checked::capture::{Capture, CaptureMode, OriginalSource};
use crate::config::checked::{Mesh, Process};

pub use script::{TABLE, script, teardown};

/// A control group that exists now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Path as nftables resolves it, below the mount of all controllers.
    pub path: String,
    /// Levels below the root of version 2.
    pub level: usize,
    /// Its number in the kernel; another after it was made anew.
    pub id: u64,
}

/// What a rule looks for in a packet to know the workload that sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// User ID.
    pub uid: Option<u32>,
    /// Control groups, all of which must hold.
    pub cgroups: Vec<Cgroup>,
    /// Mark.
    pub mark: Option<u32>,
    /// Class of the `net_cls` controller.
    pub class_id: Option<u32>,
}

/// Everything that the rules are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules<'n> {
    /// As configured.
    pub capture: &'n Capture,
    /// The node's name.
    pub node: &'n str,
    /// Port of outbound capture.
    pub outbound: u16,
    /// Port of inbound capture.
    pub inbound: u16,
    /// Other listeners of this process, which need no capture.
    pub listeners: Vec<SocketAddr>,
    /// Whose outbound traffic is captured; a workload whose control group is not there has none.
    pub selectors: Vec<Selector>,
    /// The workloads' own addresses.
    pub addresses: Vec<IpAddr>,
    /// Port of the node's own DNS, which captured workloads ask whomever they ask.
    pub dns: Option<u16>,
    /// Where captured workloads may send datagrams.
    pub udp: Vec<SocketAddr>,
    /// Whether answers to clients whose address the node takes on must be led back to it.
    pub original_source: bool,
    /// What a running node has told of itself.
    pub running: Option<Running>,
}

/// A running node, in the sets that it keeps alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its user, whose own connections are never captured; `None` if that is root, who is too many.
    pub uid: Option<u32>,
    /// How long it counts as running without telling again, in seconds.
    pub for_s: u32,
}

/// The rules of the process's node that captures; `None` if none does. `selectors` as the machine resolves them now.
#[must_use]
pub fn rules<'n>(
    process: &'n Process,
    mesh: &Mesh,
    selectors: Vec<Selector>,
    nameservers: &[SocketAddr],
    running: Option<Running>,
) -> Option<Rules<'n>> {
    let node = process.nodes.iter().find(|n| n.capture.is_some())?;
    let capture = node.capture.as_ref()?;
    let port = |a: &SocketAddr| a.ip().is_unspecified().then_some(a.port());
    let captured = |a: &SocketAddr| node.inbound.contains(a) || node.outbound == Some(*a);
    let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
    let listeners = process.listeners().into_iter();
    let listeners = listeners.filter(|a| !captured(a) && !a.ip().is_loopback());
    let mut listeners: Vec<SocketAddr> = listeners.map(canonical).collect();
    listeners.sort_unstable();
    listeners.dedup();
    let of_node = |name| mesh.workloads.iter().find(|w| w.name == name);
    let workloads = node.workloads.iter();
    let mut addresses: Vec<IpAddr> = workloads
        .filter_map(|w| of_node(w.workload.clone()))
        .map(|w| w.address.to_canonical())
        .filter(|ip| !ip.is_loopback())
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut udp = capture.udp_destinations.clone();
    udp.extend(nameservers);
    udp.sort_unstable();
    udp.dedup();
    Some(Rules {
        capture,
        node: &node.name,
        outbound: node.outbound.as_ref().and_then(port)?,
        inbound: node.inbound.iter().find_map(port)?,
        listeners,
        selectors,
        addresses,
        dns: node.dns.map(|address| address.port()),
        udp,
        original_source: node.original_source != OriginalSource::Drop,
        running,
    })
}

impl Rules<'_> {
    /// Whether packets are diverted by mark, so that the routes for it are needed.
    #[must_use]
    pub fn diverts(&self) -> bool {
        self.capture.mode == CaptureMode::Tproxy || self.original_source
    }
}
