//! The jobs of the L7 bench, their cases, and the figures that come of them.

use super::fire::Outcome;
use super::peer::Peer;
use crate::samples::{self, number};

/// What a proxy does in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Job {
    /// mTLS in, token verified, principal, path, method and a claim judged, plaintext to the service.
    Waypoint,
    /// The same for requests that come within HBONE.
    WaypointHbone,
    /// mTLS in, principal, method, host, path and query judged, TLS to a service outside.
    Egress,
    /// TLS in, a token in a cookie verified, plaintext to the service.
    Ingress,
}

impl Job {
    /// Name in file names.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Waypoint => "w",
            Self::WaypointHbone => "wh",
            Self::Egress => "e",
            Self::Ingress => "i",
        }
    }

    /// Port of the listener.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Waypoint => 15443,
            Self::WaypointHbone => 15008,
            Self::Egress => 17443,
            Self::Ingress => 16443,
        }
    }
}

/// What the load does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// HTTP/1.1 on connections that are kept: how many.
    Http1(usize),
    /// HTTP/2: connections, and streams at a time on each.
    Http2(usize, usize),
    /// HTTP/1.1 in tunnels: how many, and on how many connections.
    Hbone(usize, usize),
    /// Connections with a full handshake for one request each: how many at a time.
    Handshakes(usize),
    /// Idle connections; as many as the option says.
    Idle,
    /// From the start of the process to its first answer.
    Start,
    /// From a change of policy to the first denial.
    Change,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Allowed, RS256.
    Allowed,
    /// Allowed, ES256.
    Es256,
    /// Denied by policy.
    Denied,
    /// Allowed, with a large body as the answer.
    Big,
}

/// A named case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Name in options.
    pub(crate) name: &'static str,
    /// Heading in the table.
    pub(crate) about: &'static str,
    /// What the proxies do.
    pub(crate) job: Job,
    /// What the load does.
    pub(crate) load: Load,
    /// What it asks.
    pub(crate) ask: Ask,
}

const W: Job = Job::Waypoint;
const KEPT: Load = Load::Http1(64);
const STREAMS: Load = Load::Http2(8, 16);
const TUNNELS: Load = Load::Hbone(64, 2);

/// All cases, memory first, as long as nothing has been used.
pub(crate) const ALL: [Case; 18] = [
    case("idle", "memory", W, Load::Idle, Ask::Allowed),
    case(
        "w-h1",
        "waypoint, HTTP/1.1, 64 connections, RS256",
        W,
        KEPT,
        Ask::Allowed,
    ),
    case("w-h1-es256", "the same, ES256", W, KEPT, Ask::Es256),
    case("w-h1-denied", "the same, denied", W, KEPT, Ask::Denied),
    case(
        "w-h2",
        "waypoint, HTTP/2, 8 connections with 16 streams, RS256",
        W,
        STREAMS,
        Ask::Allowed,
    ),
    case("w-h2-denied", "the same, denied", W, STREAMS, Ask::Denied),
    case(
        "w-bulk",
        "waypoint, HTTP/1.1, answers of 100 kB, 16 connections",
        W,
        Load::Http1(16),
        Ask::Big,
    ),
    case(
        "w-handshake",
        "waypoint, a full mTLS handshake for each request, 32 at a time",
        W,
        Load::Handshakes(32),
        Ask::Allowed,
    ),
    case(
        "wh-h1",
        "waypoint, HTTP/1.1 in 64 HBONE tunnels, RS256",
        Job::WaypointHbone,
        TUNNELS,
        Ask::Allowed,
    ),
    case(
        "wh-h1-denied",
        "the same, denied",
        Job::WaypointHbone,
        TUNNELS,
        Ask::Denied,
    ),
    case(
        "e-h1",
        "egress, HTTP/1.1, 64 connections",
        Job::Egress,
        KEPT,
        Ask::Allowed,
    ),
    case(
        "e-h1-denied",
        "the same, denied",
        Job::Egress,
        KEPT,
        Ask::Denied,
    ),
    case(
        "e-h2",
        "egress, HTTP/2, 8 connections with 16 streams",
        Job::Egress,
        STREAMS,
        Ask::Allowed,
    ),
    case(
        "i-h1",
        "ingress, HTTP/1.1, 64 connections, token in a cookie",
        Job::Ingress,
        KEPT,
        Ask::Allowed,
    ),
    case(
        "i-h2",
        "ingress, HTTP/2, 8 connections with 16 streams",
        Job::Ingress,
        STREAMS,
        Ask::Allowed,
    ),
    case(
        "i-bulk",
        "ingress, HTTP/1.1, answers of 100 kB, 16 connections",
        Job::Ingress,
        Load::Http1(16),
        Ask::Big,
    ),
    case(
        "start",
        "from the start of the process to its first answer",
        W,
        Load::Start,
        Ask::Allowed,
    ),
    case(
        "change",
        "from a change of policy to the first denial",
        W,
        Load::Change,
        Ask::Allowed,
    ),
];

const fn case(name: &'static str, about: &'static str, job: Job, load: Load, ask: Ask) -> Case {
    Case {
        name,
        about,
        job,
        load,
        ask,
    }
}

impl Case {
    /// Whether `peer` has a place in this case.
    pub(crate) fn holds(&self, peer: Peer) -> bool {
        if self.load == Load::Change {
            // Its cache of tokens and the way of its system calls change nothing there.
            return !matches!(peer, Peer::EnvoyJwtCache | Peer::RinggateEpoll);
        }
        match peer {
            Peer::Ringgate | Peer::RinggateEpoll | Peer::Envoy => true,
            Peer::EnvoyJwtCache => matches!(self.name, "w-h1" | "w-h1-es256" | "w-h2"),
            // It verifies no token, so another algorithm is nothing to it.
            Peer::Nginx => self.job != Job::WaypointHbone && self.ask != Ask::Es256,
            Peer::Haproxy => self.job != Job::WaypointHbone,
        }
    }
}

/// A figure of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Requests a second.
    Rate,
    /// Median latency, microseconds.
    P50,
    /// 99th percentile, microseconds.
    P99,
    /// CPU seconds of the proxy for 100,000 requests.
    CpuPer100k,
    /// CPU milliseconds of the proxy for a connection with one request.
    CpuPerConnection,
    /// Resident memory before any load, MB.
    Resident,
    /// Memory that each idle connection adds, kB (1,000 bytes).
    PerConnection,
    /// Milliseconds from the start to the first answer.
    Start,
    /// Size of the program's file, MB.
    Binary,
    /// Milliseconds from a change of policy to the first denial on a connection that is open and busy.
    ChangeOpen,
    /// The same on new connections.
    ChangeNew,
}

impl Metric {
    /// Heading of its column.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Rate => "req/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::CpuPer100k => "CPU s/100k",
            Self::CpuPerConnection => "CPU ms/connection",
            Self::Resident => "RSS MB",
            Self::PerConnection => "kB/connection",
            Self::Start => "ms to first answer",
            Self::Binary => "binary MB",
            Self::ChangeOpen => "ms, open connection",
            Self::ChangeNew => "ms, new connection",
        }
    }

    /// Name in JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Rate => "requests_per_s",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::CpuPer100k => "cpu_s_per_100k",
            Self::CpuPerConnection => "cpu_ms_per_connection",
            Self::Resident => "rss_mb",
            Self::PerConnection => "kb_per_connection",
            Self::Start => "start_ms",
            Self::Binary => "binary_mb",
            Self::ChangeOpen => "change_open_ms",
            Self::ChangeNew => "change_new_ms",
        }
    }

    /// Digits after the point.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::Rate | Self::P50 | Self::P99 => 0,
            Self::Resident
            | Self::PerConnection
            | Self::Start
            | Self::Binary
            | Self::ChangeOpen
            | Self::ChangeNew => 1,
            Self::CpuPer100k => 2,
            Self::CpuPerConnection => 3,
        }
    }
}

/// The figures of one sample.
pub(crate) type Sample = samples::Sample<Metric>;

/// Of a load and the CPU time that the proxy used for it.
pub(crate) fn figures(load: Load, outcome: &Outcome, cpu_ns: u64) -> Sample {
    let operations = number(outcome.operations);
    let each_ns = number(cpu_ns) / operations;
    let cpu = if matches!(load, Load::Handshakes(_)) {
        (Metric::CpuPerConnection, each_ns / 1e6)
    } else {
        (Metric::CpuPer100k, each_ns / 1e9 * 100_000.0)
    };
    vec![
        cpu,
        (Metric::Rate, operations / outcome.seconds),
        (Metric::P50, outcome.p50_us),
        (Metric::P99, outcome.p99_us),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_for_each_request_or_connection() {
        let outcome = Outcome {
            operations: 50_000,
            seconds: 2.0,
            p50_us: 1.0,
            p99_us: 2.0,
        };
        let of = |load, metric| {
            let sample = figures(load, &outcome, 1_500_000_000);
            let found = sample.iter().find(|(name, _)| *name == metric);
            found.map(|(_, value)| (*value * 1e6).round() / 1e6)
        };
        assert_eq!(of(KEPT, Metric::CpuPer100k), Some(3.0));
        assert_eq!(of(KEPT, Metric::Rate), Some(25_000.0));
        let handshakes = Load::Handshakes(32);
        assert_eq!(of(handshakes, Metric::CpuPerConnection), Some(0.03));
        assert_eq!(of(handshakes, Metric::CpuPer100k), None);
    }

    #[test]
    fn cases_have_names_of_their_own() {
        let mut names: Vec<_> = ALL.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
