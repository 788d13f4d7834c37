//! How a node captures the traffic of its machine, and how it tells the workloads there apart.

use std::net::SocketAddr;

use crate::vocab::cidr::Cidr;

/// `[node.capture]`: what `ringgate node setup` loads into the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// How connections are turned to the node.
    pub mode: CaptureMode,
    /// What becomes of captured traffic while no node runs.
    pub on_failure: OnFailure,
    /// Whose outbound traffic is captured.
    pub outbound: CaptureScope,
    /// What becomes of datagrams of captured workloads.
    pub udp: UdpMode,
    /// Where datagrams of captured workloads may go all the same.
    pub udp_destinations: Vec<SocketAddr>,
    /// Destination ports of outbound connections that are left alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Destinations of outbound connections that are left alone.
    pub exclude_outbound_ranges: Vec<Cidr>,
    /// Ports of this machine that are left alone.
    pub exclude_inbound_ports: Vec<u16>,
    /// Clients of this machine that are left alone.
    pub exclude_inbound_ranges: Vec<Cidr>,
    /// Users whose processes are left alone, in both directions.
    pub exclude_uids: Vec<u32>,
    /// Routing table that leads diverted packets to this machine.
    pub route_table: u32,
}

/// `capture.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureMode {
    /// `TPROXY`: packets are diverted unchanged; the destination is the accepted connection's own address.
    #[default]
    Tproxy,
    /// `REDIRECT`: address translation; the destination is asked of the translation table.
    Redirect,
}

/// `capture.onFailure`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// `CLOSED`: without a node captured connections are refused.
    #[default]
    Closed,
    /// `OPEN`: without a node nothing is captured.
    Open,
}

/// `capture.outbound`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaptureScope {
    /// `WORKLOADS`: the processes that a `match` of this node names.
    #[default]
    Workloads,
    /// `ALL`: every process of the network namespace but the node's own.
    All,
}

/// `capture.udp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpMode {
    /// `REJECT`: what is not TCP cannot be judged, so it does not leave.
    #[default]
    Reject,
    /// `PASS`: it leaves unjudged.
    Pass,
}

/// `node.unowned`: a captured connection of a process that is no workload of the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unowned {
    /// `REFUSE`.
    #[default]
    Refuse,
    /// `PASS`: it goes where it wanted to go, as it is, without an identity.
    Pass,
}

/// `node.originalSource`: whether apps see the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginalSource {
    /// `"auto"`: with `[node.capture]`, wherever the kernel allows it.
    #[default]
    Auto,
    /// `true`: or the connection fails.
    Keep,
    /// `false`.
    Drop,
}

/// `[[node.workload]] match`: which processes are the workload. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerMatch {
    /// Unit of the system's service manager, such as `reviews.service`.
    pub unit: Option<String>,
    /// User ID.
    pub uid: Option<u32>,
    /// Control group (version 2) from the root, such as `/apps.slice/reviews`; those below it as well.
    pub cgroup: Option<String>,
    /// `SO_MARK` of the app's connections.
    pub mark: Option<u32>,
    /// Class of the `net_cls` controller (control groups version 1).
    pub class_id: Option<u32>,
}
