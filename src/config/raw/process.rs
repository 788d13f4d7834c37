//! Tables that describe this process.

use std::net::SocketAddr;

use crate::config::checked::capture::{OriginalSource, Unowned};
use crate::config::checked::{DnsUnknown, IoDriver};
use crate::config::place::At;
use crate::config::raw::capture::{Capture, OwnerMatch};
use crate::config::raw::mesh::OutboundTrafficPolicy;
use crate::config::read::{Count, Map, Millis, table, words};

words!(IoDriver, "one of auto, io_uring, epoll",
    "auto" => IoDriver::Auto, "io_uring" => IoDriver::IoUring, "epoll" => IoDriver::Epoll);

table! {
    /// `[process]`
    ProcessSettings {
        name: Option<String> = "name",
        io: Option<IoDriver> = "io",
        /// 0 or absent: as many as the machine offers.
        cores: Option<Count> = "cores",
        /// Those of /etc/resolv.conf if absent.
        nameservers: Option<Vec<At<SocketAddr>>> = "nameservers",
        /// Ours: how long what is open may go on after the process was told to stop.
        drain: Option<At<Millis>> = "drain",
        /// Ours: unix socket by which a new process takes over from this one.
        handover: Option<At<String>> = "handover",
    }
    unused { "meshDir": String }
}

table! {
    /// `[records]`
    Records {
        /// `stdout` or a file.
        path: At<String> = "path",
    }
}

table! {
    /// `[admin]`
    Admin {
        listen: At<SocketAddr> = "listen",
    }
}

table! {
    /// `[metrics]`
    Metrics {
        listen: At<SocketAddr> = "listen",
    }
}

table! {
    /// `[readiness]`
    Readiness {
        listen: At<SocketAddr> = "listen",
    }
}

table! {
    /// `[authority]`
    Authority {
        state_dir: Option<At<String>> = "stateDir",
        svid_ttl: Option<At<Millis>> = "svidTtl",
        listen: Option<At<SocketAddr>> = "listen",
        join_tokens: Option<At<String>> = "joinTokens",
        /// Ours: lifetime of the SVIDs of nodes.
        node_ttl: Option<At<Millis>> = "nodeTtl",
        /// Ours: an issuing CA made elsewhere, its key, and the roots above it.
        issuing_chain: Option<At<String>> = "issuingChain",
        issuing_key: Option<At<String>> = "issuingKey",
        root_ca: Option<At<String>> = "rootCa",
    }
}

table! {
    /// `[identity]`
    Identity {
        address: Option<At<String>> = "address",
        root_ca: Option<At<String>> = "rootCa",
        token: Option<At<String>> = "token",
        /// Name of the node that this process joins as.
        node: Option<At<String>> = "node",
        state_dir: Option<At<String>> = "stateDir",
        /// Istio's `CLUSTER_ID`.
        cluster_id: Option<At<String>> = "clusterId",
        /// Directories with an identity each.
        files: Option<At<Vec<At<String>>>> = "files",
        /// `unix:///PATH`, or `env:NAME` of a variable that holds it.
        workload_api: Option<At<String>> = "workloadApi",
        federates_with: Option<Vec<At<String>>> = "federatesWith",
    }
}

table! {
    /// `[[identityFiles]]`
    IdentityFiles {
        workload: At<String> = "workload",
        dir: At<String> = "dir",
        audience: String = "audience",
    }
}

table! {
    /// `[[node]]`
    Node {
        name: At<String> = "name",
        inbound: Option<Vec<At<SocketAddr>>> = "inbound",
        /// Outbound capture for all workloads of the node.
        outbound: Option<At<SocketAddr>> = "outbound",
        /// HBONE for all workloads of the node.
        hbone: Option<At<SocketAddr>> = "hbone",
        workload: Vec<NodeWorkload> = "workload",
        mark: Option<At<u32>> = "mark",
        original_source: Option<OriginalSource> = "originalSource",
        unowned: Option<Unowned> = "unowned",
        capture: Option<Capture> = "capture",
        /// The mesh's if absent.
        outbound_policy: Option<At<OutboundTrafficPolicy>> = "outboundTrafficPolicy",
        /// DNS for captured workloads, UDP and TCP.
        dns: Option<At<SocketAddr>> = "dns",
        /// Those of /etc/resolv.conf if absent.
        dns_search: Option<Vec<At<String>>> = "dnsSearch",
        dns_unknown: Option<DnsUnknown> = "dnsUnknown",
    }
}

words!(DnsUnknown, "one of FORWARD, REFUSE", "FORWARD" => Self::Forward, "REFUSE" => Self::Refuse);

table! {
    /// `[[node.workload]]`
    NodeWorkload {
        /// `namespace/name` of a workload entry.
        name: At<String> = "name",
        /// The node's own if absent.
        hbone: Option<At<SocketAddr>> = "hbone",
        outbound: Option<At<SocketAddr>> = "outbound",
        owner: Option<OwnerMatch> = "match",
        socks: Option<At<SocketAddr>> = "socks",
        /// DNS for this workload alone.
        dns: Option<At<SocketAddr>> = "dns",
        app: Option<Map<SocketAddr>> = "app",
        /// Ours: those of `[limits]` if absent.
        max_inbound: Option<At<u32>> = "maxInboundConnections",
        max_outbound: Option<At<u32>> = "maxOutboundConnections",
    }
}

table! {
    /// `[[waypoint]]`
    Waypoint {
        gateway: At<String> = "gateway",
        hbone: At<SocketAddr> = "hbone",
        mtls: Option<At<SocketAddr>> = "mtls",
    }
}

table! {
    /// `[[ingress]]`
    Ingress {
        gateway: At<String> = "gateway",
        listener: Vec<IngressListener> = "listener",
    }
}

table! {
    /// `[[ingress.listener]]`
    IngressListener {
        address: At<SocketAddr> = "address",
        certificate: At<String> = "certificate",
        key: At<String> = "key",
    }
}

table! {
    /// `[[egress]]`
    Egress {
        gateway: At<String> = "gateway",
        hbone: At<SocketAddr> = "hbone",
        proxy: Option<At<SocketAddr>> = "proxy",
    }
}
