//! Tables of how long things live, and how many there may be.

use crate::config::place::At;
use crate::config::read::{Millis, table};

table! {
    /// `[limits]`
    Limits {
        /// Connections and tunnels of the whole process.
        /// Default: 100000 for each core
        /// Example: `20000`
        max_connections: Option<At<u32>> = "maxConnections",
        /// Connections and tunnels to each workload.
        /// Default: `100000`
        max_inbound: Option<At<u32>> = "maxInboundConnections",
        /// Connections of each workload to others.
        /// Default: `100000`
        max_outbound: Option<At<u32>> = "maxOutboundConnections",
        /// Connections of each peer, by its identity, to all workloads of the node.
        /// Default: no limit
        /// Example: `1000`
        per_peer: Option<At<u32>> = "maxConnectionsPerPeer",
        /// Connections of each source address at the ingress.
        /// Default: `16384`
        max_per_source: Option<At<u32>> = "maxConnectionsPerSource",
        /// Requests of a client's connection before it is closed (Istio's
        /// `connectionPool.http.maxRequestsPerConnection`).
        /// Default: no limit
        /// Example: `10000`
        max_requests: Option<At<u32>> = "maxRequestsPerConnection",
        /// Bytes of one request's body.
        /// Default: no limit
        /// Example: `10485760`
        max_request_body: Option<At<u32>> = "maxRequestBodyBytes",
        /// Memory above which nothing new begins, at least 16.
        /// Default: no limit
        /// Example: `512`
        max_memory: Option<At<u32>> = "maxMemoryMib",
        /// How long the head of a request may take (Envoy's `request_headers_timeout`), 100ms to 24h.
        /// Default: `"15s"`
        request_headers_timeout: Option<At<Millis>> = "requestHeadersTimeout",
        /// How long a request body may keep us waiting for its next bytes (nginx's `client_body_timeout`), 100ms to 24h.
        /// Default: `"60s"`
        request_body_timeout: Option<At<Millis>> = "requestBodyTimeout",
        /// How long a client may go without reading of its answer (nginx's `send_timeout`), 100ms to 24h.
        /// Default: `"5m"`
        response_read_timeout: Option<At<Millis>> = "responseReadTimeout",
        /// How long a WebSocket may be silent (Envoy's `stream_idle_timeout`), 100ms to 24h.
        /// Default: `"1h"`
        stream_idle_timeout: Option<At<Millis>> = "streamIdleTimeout",
    }
}

table! {
    /// `[tcp]`
    Tcp {
        /// Probes of silent connections (Istio's `tcpKeepalive`).
        keepalive: Option<TcpKeepalive> = "tcpKeepalive",
        /// How long sent bytes may stay unacknowledged (`TCP_USER_TIMEOUT`); 0s leaves it to the kernel.
        /// Default: `"180s"`
        user_timeout: Option<At<Millis>> = "userTimeout",
    }
}

table! {
    /// Istio's `tcpKeepalive`.
    TcpKeepalive {
        /// Silence before the first probe, whole seconds.
        /// Default: `"120s"`
        time: Option<At<Millis>> = "time",
        /// Time between probes, whole seconds.
        /// Default: `"20s"`
        interval: Option<At<Millis>> = "interval",
        /// Probes without an answer before the connection is given up, 1 to 127.
        /// Default: `3`
        probes: Option<At<u32>> = "probes",
    }
}
