//! Tables of how long things live, and how many there may be.

use crate::config::place::At;
use crate::config::read::{Millis, table};

table! {
    /// `[limits]`
    Limits {
        /// Ours: connections and tunnels of the process.
        max_connections: Option<At<u32>> = "maxConnections",
        /// Ours: of each workload, from others.
        max_inbound: Option<At<u32>> = "maxInboundConnections",
        /// Ours: of each workload, to others.
        max_outbound: Option<At<u32>> = "maxOutboundConnections",
        /// Ours: of each peer, by its identity, to all workloads.
        per_peer: Option<At<u32>> = "maxConnectionsPerPeer",
    }
}

table! {
    /// `[tcp]`
    Tcp {
        keepalive: Option<TcpKeepalive> = "tcpKeepalive",
        /// Ours: `TCP_USER_TIMEOUT`.
        user_timeout: Option<At<Millis>> = "userTimeout",
    }
}

table! {
    /// Istio's `tcpKeepalive`.
    TcpKeepalive {
        time: Option<At<Millis>> = "time",
        interval: Option<At<Millis>> = "interval",
        probes: Option<At<u32>> = "probes",
    }
}
