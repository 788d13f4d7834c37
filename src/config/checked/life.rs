//! How long things live, and how many there may be.

use crate::vocab::limits;

/// `[limits]`: connections and tunnels at a time, and what one of them may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the process (`maxConnections`); `None`: `limits::CONNECTIONS_PER_CORE` for each core.
    pub connections: Option<usize>,
    /// Of each workload, from others (`maxInboundConnections`).
    pub inbound: usize,
    /// Of each workload, to others (`maxOutboundConnections`).
    pub outbound: usize,
    /// Of each peer, by its identity, to all workloads of the process (`maxConnectionsPerPeer`); `None`: no such limit.
    pub per_peer: Option<usize>,
    /// Of each source address at the ingress (`maxConnectionsPerSource`).
    pub per_source: usize,
    /// Requests of one HTTP/1 connection (`maxRequestsPerConnection`).
    pub requests: Option<usize>,
    /// Bytes of one request's body (`maxRequestBodyBytes`).
    pub body: Option<u64>,
    /// Bytes that the process may hold (`maxMemoryMib`).
    pub memory: Option<u64>,
    /// A whole request head, in milliseconds (`requestHeadersTimeout`).
    pub head_ms: u64,
    /// Waiting for `limits::PACE_BYTES` of a request's body, in milliseconds (`requestBodyTimeout`).
    pub body_ms: u64,
    /// How long a client may take nothing of its answer, in milliseconds (`responseReadTimeout`).
    pub read_ms: u64,
    /// How long a WebSocket may be idle, in milliseconds (`streamIdleTimeout`).
    pub stream_idle_ms: u64,
}

impl Limits {
    /// Those of a workload as they would be had the limits of all been `now` instead of `then`. One that is as all have it,
    /// before and after (`mine`), is taken to be theirs.
    pub(super) fn under(self, then: Self, now: Self, mine: Self) -> Self {
        let one = |own: usize, then: usize, now: usize, mine: usize| {
            if own == then && mine == now { now } else { own }
        };
        Self {
            inbound: one(self.inbound, then.inbound, now.inbound, mine.inbound),
            outbound: one(self.outbound, then.outbound, now.outbound, mine.outbound),
            connections: self.connections,
            per_peer: self.per_peer,
            ..now
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            inbound: limits::CONNECTIONS_PER_WORKLOAD,
            outbound: limits::CONNECTIONS_PER_WORKLOAD,
            per_peer: None,
            per_source: limits::CONNECTIONS_PER_SOURCE,
            requests: None,
            body: None,
            memory: None,
            head_ms: limits::HEAD_MS,
            body_ms: limits::REQUEST_BODY_MS,
            read_ms: limits::RESPONSE_READ_MS,
            stream_idle_ms: limits::STREAM_IDLE_MS,
        }
    }
}

/// `[tcp]`: what the kernel does about peers that say nothing (`tcp(7)`), on every connection, downstream and upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// `TCP_KEEPIDLE`, in seconds (Istio's `tcpKeepalive.time`).
    pub keepalive_s: u32,
    /// `TCP_KEEPINTVL`, in seconds (`tcpKeepalive.interval`).
    pub interval_s: u32,
    /// `TCP_KEEPCNT` (`tcpKeepalive.probes`).
    pub probes: u32,
    /// `TCP_USER_TIMEOUT`, in milliseconds; 0 leaves it to the kernel's count of retransmissions, about 15 minutes.
    pub user_timeout_ms: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalive_s: limits::KEEPALIVE_S,
            interval_s: limits::KEEPALIVE_INTERVAL_S,
            probes: limits::KEEPALIVE_PROBES,
            user_timeout_ms: limits::USER_TIMEOUT_MS,
        }
    }
}
