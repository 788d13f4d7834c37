//! The cases: what the load does, and which figures come of it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};

use super::blast::Outcome;
use super::net::SERVER;
use super::peer::{Peer, Rig};
use super::process::Threads;
use super::serve::{ECHO, HTTP, SINK, SOURCE};
use crate::load;
use crate::samples::{self, number};

/// What the load does, with how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// The client sends as fast as it can.
    Up(usize),
    /// The server does.
    Down(usize),
    /// 100 bytes each way, one after the other.
    Echo(usize),
    /// Connect, 100 bytes each way, close.
    Connect(usize),
    /// HTTP/1.1 keep-alive.
    Http(usize),
    /// Idle connections; as many as the option says.
    Idle,
}

/// A named case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Name in options.
    pub(crate) name: &'static str,
    /// Heading in the table.
    pub(crate) about: &'static str,
    /// What it does.
    pub(crate) load: Load,
}

/// All cases; memory first, as long as nothing has been used.
pub(crate) const ALL: [Case; 9] = [
    case("idle", "memory", Load::Idle),
    case("bulk-up-1", "bulk, client sends, 1 connection", Load::Up(1)),
    case(
        "bulk-up-8",
        "bulk, client sends, 8 connections",
        Load::Up(8),
    ),
    case(
        "bulk-down-1",
        "bulk, server sends, 1 connection",
        Load::Down(1),
    ),
    case(
        "bulk-down-8",
        "bulk, server sends, 8 connections",
        Load::Down(8),
    ),
    case(
        "rr-1",
        "request and response, 100 B, 1 connection",
        Load::Echo(1),
    ),
    case(
        "rr-32",
        "request and response, 100 B, 32 connections",
        Load::Echo(32),
    ),
    case(
        "connect-8",
        "connect, 100 B each way, close, 8 clients",
        Load::Connect(8),
    ),
    case("http-32", "HTTP keep-alive, 32 connections", Load::Http(32)),
];

const fn case(name: &'static str, about: &'static str, load: Load) -> Case {
    Case { name, about, load }
}

/// A figure of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Gbit/s.
    Gbits,
    /// Operations a second.
    Rate,
    /// Median latency, microseconds.
    P50,
    /// 99th percentile, microseconds.
    P99,
    /// CPU seconds of all proxies for 10^9 bytes.
    CpuPerGb,
    /// CPU microseconds of all proxies for an operation.
    CpuPerOp,
    /// Part of that CPU which the client's proxy has, in percent.
    ClientShare,
    /// Part of the client side's CPU which its busiest thread has, in percent: that core is full first.
    BusiestClient,
    /// The same, server side.
    BusiestServer,
    /// Resident memory of a proxy before any load, MB, client side.
    IdleClient,
    /// The same, server side.
    IdleServer,
    /// Resident memory for each idle connection, KiB, client side.
    HeldClient,
    /// The same, server side.
    HeldServer,
}

impl Metric {
    /// Heading of its column.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Gbits => "Gbit/s",
            Self::Rate => "op/s",
            Self::P50 => "p50 µs",
            Self::P99 => "p99 µs",
            Self::CpuPerGb => "CPU s/GB",
            Self::CpuPerOp => "CPU µs/op",
            Self::ClientShare => "client side %",
            Self::BusiestClient => "busiest thread % client",
            Self::BusiestServer => "busiest thread % server",
            Self::IdleClient => "RSS MB client",
            Self::IdleServer => "RSS MB server",
            Self::HeldClient => "KiB/connection client",
            Self::HeldServer => "KiB/connection server",
        }
    }

    /// Name in JSON.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Gbits => "gbit_per_s",
            Self::Rate => "op_per_s",
            Self::P50 => "p50_us",
            Self::P99 => "p99_us",
            Self::CpuPerGb => "cpu_s_per_gb",
            Self::CpuPerOp => "cpu_us_per_op",
            Self::ClientShare => "client_side_percent",
            Self::BusiestClient => "busiest_thread_percent_client",
            Self::BusiestServer => "busiest_thread_percent_server",
            Self::IdleClient => "rss_mb_client",
            Self::IdleServer => "rss_mb_server",
            Self::HeldClient => "kib_per_connection_client",
            Self::HeldServer => "kib_per_connection_server",
        }
    }

    /// Digits after the point.
    pub(crate) fn digits(self) -> usize {
        match self {
            Self::Rate
            | Self::P50
            | Self::P99
            | Self::ClientShare
            | Self::BusiestClient
            | Self::BusiestServer => 0,
            Self::CpuPerOp | Self::IdleClient | Self::IdleServer => 1,
            Self::Gbits | Self::HeldClient | Self::HeldServer => 2,
            Self::CpuPerGb => 3,
        }
    }

    /// Whether a ratio to another peer says anything.
    pub(crate) fn compares(self) -> bool {
        !matches!(
            self,
            Self::ClientShare | Self::BusiestClient | Self::BusiestServer
        )
    }
}

/// The figures of one sample.
pub(crate) type Sample = samples::Sample<Metric>;

impl Case {
    /// Whether `peer` has a place in this case: one core and one node are there for what they change.
    pub(crate) fn holds(&self, peer: Peer) -> bool {
        match peer {
            Peer::Direct | Peer::SameNode => self.load != Load::Idle,
            Peer::RinggateOneCore => !matches!(self.load, Load::Idle | Load::Connect(_)),
            Peer::Ringgate | Peer::Ztunnel | Peer::EnvoyHbone | Peer::EnvoyTcp => true,
        }
    }

    /// One run through one peer.
    pub(crate) fn sample(&self, rig: &Rig, seconds: u64) -> Result<Sample> {
        let before = rig.cpu_ns()?;
        let outcome = self.fire(rig, seconds)?;
        let after = rig.cpu_ns()?;
        let used: Vec<Used> = after
            .iter()
            .zip(&before)
            .map(|(after, before)| Used::between(before, after))
            .collect();
        ensure!(
            used.iter().all(|used| used.all > 0),
            "{}: a proxy did nothing: the load went another way",
            rig.peer().name()
        );
        Ok(figures(&outcome, &used))
    }

    fn fire(&self, rig: &Rig, seconds: u64) -> Result<Outcome> {
        let at = |port| SocketAddr::new(SERVER, port).to_string();
        let seconds = seconds.to_string();
        let own = |kind, port, connections: usize| {
            let words = [
                "l4-load",
                kind,
                &at(port),
                &connections.to_string(),
                &seconds,
            ];
            Outcome::parse(printed(rig, &words)?.trim())
        };
        match self.load {
            Load::Up(connections) => own("up", SINK, connections),
            Load::Down(connections) => own("down", SOURCE, connections),
            Load::Echo(connections) => own("echo", ECHO, connections),
            Load::Connect(connections) => own("connect", ECHO, connections),
            Load::Http(connections) => {
                let words = [
                    "load",
                    &seconds,
                    &connections.to_string(),
                    &at(HTTP),
                    "app",
                    "/",
                ];
                let printed = printed(rig, &words)?;
                Ok(load::Outcome::parse(printed.trim())?.into())
            }
            Load::Idle => anyhow::bail!("idle connections are no load"),
        }
    }
}

fn printed(rig: &Rig, words: &[&str]) -> Result<String> {
    let output = rig.load(words).output().context("cannot start the load")?;
    ensure!(
        output.status.success(),
        "{}: {}",
        rig.peer().name(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

impl From<load::Outcome> for Outcome {
    fn from(outcome: load::Outcome) -> Self {
        Self {
            operations: outcome.requests,
            bytes: 0,
            seconds: outcome.seconds,
            p50_us: number(outcome.p50_us),
            p99_us: number(outcome.p99_us),
        }
    }
}

/// CPU time that a process has used, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Used {
    all: u64,
    busiest_thread: u64,
}

impl Used {
    fn between(before: &Threads, after: &Threads) -> Self {
        let of = |(thread, after): (_, &u64)| {
            let before = before.get(thread).copied().unwrap_or_default();
            after.saturating_sub(before)
        };
        let threads = || after.iter().map(of);
        Self {
            all: threads().sum(),
            busiest_thread: threads().max().unwrap_or_default(),
        }
    }
}

/// `used` is of the proxies, client side first.
fn figures(outcome: &Outcome, used: &[Used]) -> Sample {
    let all: f64 = used.iter().map(|used| number(used.all)).sum();
    let first = used.first().map_or(0.0, |used| number(used.all));
    let mut sample = if outcome.bytes > 0 {
        let bytes = number(outcome.bytes);
        vec![
            (Metric::Gbits, bytes * 8.0 / outcome.seconds / 1e9),
            (Metric::CpuPerGb, all / bytes),
        ]
    } else {
        let operations = number(outcome.operations);
        vec![
            (Metric::Rate, operations / outcome.seconds),
            (Metric::P50, outcome.p50_us),
            (Metric::P99, outcome.p99_us),
            (Metric::CpuPerOp, all / operations / 1e3),
        ]
    };
    if used.len() > 1 {
        sample.push((Metric::ClientShare, first / all * 100.0));
    }
    let part = |used: &Used| number(used.busiest_thread) / number(used.all) * 100.0;
    let busiest = [Metric::BusiestClient, Metric::BusiestServer];
    // One proxy for both is the server's.
    let sides = busiest
        .iter()
        .skip(busiest.len().saturating_sub(used.len()));
    sample.extend(sides.zip(used).map(|(metric, used)| (*metric, part(used))));
    if used.is_empty() {
        sample.retain(|(metric, _)| !matches!(metric, Metric::CpuPerGb | Metric::CpuPerOp));
    }
    sample
}

/// Memory of each proxy, in bytes, client side first, before and with `connections` idle ones.
pub(crate) fn memory(before: &[u64], with: &[u64], connections: usize) -> Result<Sample> {
    let ([client, server], [client_with, server_with]) = (before, with) else {
        anyhow::bail!("memory is measured of pairs");
    };
    let megabytes = |bytes: &u64| number(*bytes) / 1e6;
    let connections = number(u64::try_from(connections)?);
    let each = |with: &u64, before: &u64| (number(*with) - number(*before)) / 1024.0 / connections;
    Ok(vec![
        (Metric::IdleClient, megabytes(client)),
        (Metric::IdleServer, megabytes(server)),
        (Metric::HeldClient, each(client_with, client)),
        (Metric::HeldServer, each(server_with, server)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sample: &Sample, metric: Metric) -> Option<f64> {
        let found = sample.iter().find(|(name, _)| *name == metric);
        found.map(|(_, value)| *value)
    }

    fn of_threads(one: u64, other: u64) -> Used {
        let threads = |one, other| Threads::from([("1".into(), one), ("2".into(), other)]);
        Used::between(&threads(7, 9), &threads(7 + one, 9 + other))
    }

    fn near(found: Option<f64>, wanted: f64) {
        assert!(
            found.is_some_and(|found| (found - wanted).abs() < 1e-9),
            "{found:?} {wanted}"
        );
    }

    #[test]
    fn bulk_is_counted_by_bytes() {
        let outcome = Outcome {
            bytes: 2_000_000_000,
            seconds: 4.0,
            ..Outcome::default()
        };
        let used = [
            of_threads(3_000_000_000, 0),
            of_threads(500_000_000, 500_000_000),
        ];
        let sample = figures(&outcome, &used);
        near(of(&sample, Metric::BusiestClient), 100.0);
        near(of(&sample, Metric::BusiestServer), 50.0);
        near(of(&sample, Metric::Gbits), 4.0);
        near(of(&sample, Metric::CpuPerGb), 2.0);
        near(of(&sample, Metric::ClientShare), 75.0);
        assert_eq!(of(&figures(&outcome, &[]), Metric::CpuPerGb), None);
    }

    #[test]
    fn small_exchanges_are_counted_by_operations() {
        let outcome = Outcome {
            operations: 1000,
            seconds: 2.0,
            p50_us: 5.0,
            p99_us: 7.0,
            ..Outcome::default()
        };
        let used = [
            of_threads(6_000_000, 4_000_000),
            of_threads(15_000_000, 15_000_000),
        ];
        let sample = figures(&outcome, &used);
        near(of(&sample, Metric::BusiestClient), 60.0);
        near(of(&sample, Metric::Rate), 500.0);
        near(of(&sample, Metric::CpuPerOp), 40.0);
        near(of(&sample, Metric::P99), 7.0);
    }

    #[test]
    fn memory_is_for_each_connection() {
        let before = [10_000_000, 12_000_000];
        let with = [10_000_000 + 4096 * 100, 12_000_000 + 2048 * 100];
        let sample = memory(&before, &with, 100).expect("a pair");
        near(of(&sample, Metric::IdleServer), 12.0);
        near(of(&sample, Metric::HeldClient), 4.0);
        near(of(&sample, Metric::HeldServer), 2.0);
        assert!(memory(&before[..1], &with[..1], 100).is_err());
    }
}
