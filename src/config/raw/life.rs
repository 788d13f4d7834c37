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
        /// Ours: of each source address, at the ingress.
        max_per_source: Option<At<u32>> = "maxConnectionsPerSource",
        /// Istio's `connectionPool.http.maxRequestsPerConnection`, of clients.
        max_requests: Option<At<u32>> = "maxRequestsPerConnection",
        /// Ours: of one request's body.
        max_request_body: Option<At<u32>> = "maxRequestBodyBytes",
        /// Ours: what the process may hold.
        max_memory: Option<At<u32>> = "maxMemoryMib",
        /// Envoy's `request_headers_timeout`.
        request_headers_timeout: Option<At<Millis>> = "requestHeadersTimeout",
        /// Ours (nginx's `client_body_timeout`): a request body that keeps us waiting.
        request_body_timeout: Option<At<Millis>> = "requestBodyTimeout",
        /// Ours (nginx's `send_timeout`): a client that does not read.
        response_read_timeout: Option<At<Millis>> = "responseReadTimeout",
        /// Envoy's `stream_idle_timeout`, of WebSockets.
        stream_idle_timeout: Option<At<Millis>> = "streamIdleTimeout",
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
