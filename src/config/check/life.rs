//! How long things live, and how many there may be: drain, hand-over, limits, what TCP does about silent peers.

use std::path::PathBuf;

use crate::config::check::Context;
use crate::config::checked::life::{Limits, TcpOptions};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::process::{NodeWorkload, ProcessSettings};
use crate::config::read::Millis;
use crate::vocab::limits;

/// `sun_path`, its closing NUL and the suffix of a socket that is being made included (unix(7)).
const SOCKET_PATH_BYTES: usize = 100;
const SHORTEST_MS: u64 = 100;
const SECOND_MS: u64 = 1000;
/// Less than this the process holds when it serves nobody.
const MEMORY_MIN_MIB: u32 = 16;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// The kernel's own bounds of keepalive: `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPCNT`.
const KEEPALIVE_MAX_MS: u64 = 32_767 * SECOND_MS;
const PROBES_MAX: u32 = 127;

/// `process.drain`, in milliseconds.
pub(super) fn drain(settings: Option<&ProcessSettings>, cx: &mut Context<'_>) -> u64 {
    let Some(at) = settings.and_then(|s| s.drain.as_ref()) else {
        return limits::DRAIN_MS;
    };
    if at.0 > HOUR_MS {
        cx.out
            .error(&at.place, "too long, expected a duration from 0s to 1h");
    }
    at.0
}

/// `process.handover`.
pub(super) fn handover(file: &File, cx: &mut Context<'_>) -> Option<PathBuf> {
    let at = file.process.as_ref()?.handover.as_ref()?;
    let path = cx.path(at);
    if path.as_os_str().len() > SOCKET_PATH_BYTES {
        cx.out.error(
            &at.place,
            format!("longer than {SOCKET_PATH_BYTES} bytes, which no socket's path may be"),
        );
    }
    if file
        .authority
        .as_ref()
        .is_some_and(|authority| authority.state_dir.is_none())
    {
        cx.out.error(
            &at.place,
            "an [authority] without `stateDir` has a root that ends with its process, which no other one can take over: \
             expected `stateDir` there, or no `handover` here",
        );
    }
    Some(path)
}

/// `process.user`: a name as useradd(8) takes it, or numbers. Whether there is such a user is seen at the start.
pub(super) fn user(settings: Option<&ProcessSettings>, cx: &mut Context<'_>) -> Option<String> {
    let at = settings?.user.as_ref()?;
    let number = |text: &str| text.parse::<u32>().is_ok_and(|id| id != u32::MAX);
    let name = |text: &str| {
        let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let first = text.bytes().next();
        text.bytes().all(rest) && first.is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
    };
    let good = match at.split_once(':') {
        Some((uid, gid)) => number(uid) && number(gid),
        None => number(&at.value) || name(&at.value),
    };
    if !good {
        let text = "expected the name of a user, `UID` or `UID:GID`";
        cx.out.error(&at.place, text);
    }
    Some(at.value.clone())
}

/// `[limits]`.
pub(super) fn of_process(file: &File, cx: &mut Context<'_>) -> Limits {
    let raw = file.limits.as_ref();
    let default = Limits::default();
    let per_peer = raw.and_then(|l| l.per_peer.as_ref());
    if let Some(at) = per_peer.filter(|_| file.node.is_none()) {
        cx.out.warn(
            &at.place,
            "connections of peers are counted at the workloads of a [[node]], and there is none here",
        );
    }
    Limits {
        connections: count(raw.and_then(|l| l.max_connections.as_ref()), cx),
        inbound: count(raw.and_then(|l| l.max_inbound.as_ref()), cx).unwrap_or(default.inbound),
        outbound: count(raw.and_then(|l| l.max_outbound.as_ref()), cx).unwrap_or(default.outbound),
        per_peer: count(per_peer, cx),
        per_source: count(raw.and_then(|l| l.max_per_source.as_ref()), cx)
            .unwrap_or(default.per_source),
        requests: count(raw.and_then(|l| l.max_requests.as_ref()), cx),
        body: raw
            .and_then(|l| l.max_request_body.as_ref())
            .map(|at| at.value.into()),
        memory: memory(raw.and_then(|l| l.max_memory.as_ref()), cx),
        head_ms: time(
            raw.and_then(|l| l.request_headers_timeout.as_ref()),
            default.head_ms,
            cx,
        ),
        body_ms: time(
            raw.and_then(|l| l.request_body_timeout.as_ref()),
            default.body_ms,
            cx,
        ),
        read_ms: time(
            raw.and_then(|l| l.response_read_timeout.as_ref()),
            default.read_ms,
            cx,
        ),
        stream_idle_ms: time(
            raw.and_then(|l| l.stream_idle_timeout.as_ref()),
            default.stream_idle_ms,
            cx,
        ),
    }
}

/// A time limit; it cannot be switched off.
fn time(written: Option<&At<Millis>>, default: u64, cx: &mut Context<'_>) -> u64 {
    let Some(at) = written else { return default };
    if !(SHORTEST_MS..=DAY_MS).contains(&at.0) {
        cx.out
            .error(&at.place, "expected a duration from 100ms to 24h");
    }
    at.0
}

/// `maxMemoryMib`, in bytes.
fn memory(written: Option<&At<u32>>, cx: &mut Context<'_>) -> Option<u64> {
    let at = written?;
    if at.value < MEMORY_MIN_MIB {
        cx.out.error(
            &at.place,
            format!("too little to serve anybody, expected at least {MEMORY_MIN_MIB}"),
        );
    }
    u64::from(at.value).checked_mul(1 << 20)
}

/// Those of a workload: its own, else those of all.
pub(super) fn of_workload(raw: &NodeWorkload, all: Limits, cx: &mut Context<'_>) -> Limits {
    Limits {
        connections: None,
        inbound: count(raw.max_inbound.as_ref(), cx).unwrap_or(all.inbound),
        outbound: count(raw.max_outbound.as_ref(), cx).unwrap_or(all.outbound),
        per_peer: None,
        ..all
    }
}

fn count(written: Option<&At<u32>>, cx: &mut Context<'_>) -> Option<usize> {
    let at = written?;
    if at.value == 0 {
        cx.out.error(
            &at.place,
            "0 would serve nobody, expected at least 1; without a limit of yours leave the key out",
        );
    }
    usize::try_from(at.value).ok()
}

/// `[tcp]`.
pub(super) fn tcp(file: &File, cx: &mut Context<'_>) -> TcpOptions {
    let default = TcpOptions::default();
    let Some(raw) = &file.tcp else {
        return default;
    };
    let keepalive = raw.keepalive.as_ref();
    let time = keepalive.and_then(|k| k.time.as_ref());
    let interval = keepalive.and_then(|k| k.interval.as_ref());
    let probes = keepalive.and_then(|k| k.probes.as_ref());
    if let Some(at) = probes.filter(|at| !(1..=PROBES_MAX).contains(&at.value)) {
        cx.out
            .error(&at.place, format!("expected 1 to {PROBES_MAX} probes"));
    }
    let keepalive_s = seconds(time, cx).unwrap_or(default.keepalive_s);
    let interval_s = seconds(interval, cx).unwrap_or(default.interval_s);
    let probes = probes.map_or(default.probes, |at| at.value);
    let user_timeout_ms = match &raw.user_timeout {
        Some(at) => user_timeout(at, (keepalive_s, interval_s), cx),
        // Written keepalive times carry it with them: it must not end what the probes would find alive.
        None => {
            let probing = u64::from(keepalive_s)
                .saturating_add(u64::from(interval_s).saturating_mul(probes.into()));
            u32::try_from(probing.saturating_mul(SECOND_MS)).unwrap_or(u32::MAX)
        }
    };
    TcpOptions {
        keepalive_s,
        interval_s,
        probes,
        user_timeout_ms,
    }
}

fn user_timeout(at: &At<Millis>, (time_s, interval_s): (u32, u32), cx: &mut Context<'_>) -> u32 {
    let ms = at.0;
    if ms != 0 && !(SECOND_MS..=DAY_MS).contains(&ms) {
        cx.out.error(
            &at.place,
            "expected 1s to 24h, or 0s to leave it to the kernel",
        );
    }
    let first = u64::from(time_s)
        .saturating_add(interval_s.into())
        .saturating_mul(SECOND_MS);
    if ms != 0 && ms <= first {
        cx.out.warn(
            &at.place,
            "not longer than time and interval of tcpKeepalive together: one lost probe ends an idle connection",
        );
    }
    u32::try_from(ms).unwrap_or(u32::MAX)
}

/// A duration of keepalive in whole seconds, which is what the kernel counts in.
fn seconds(written: Option<&At<Millis>>, cx: &mut Context<'_>) -> Option<u32> {
    let at = written?;
    let whole = at.0.is_multiple_of(SECOND_MS);
    if !whole || !(SECOND_MS..=KEEPALIVE_MAX_MS).contains(&at.0) {
        cx.out
            .error(&at.place, "expected whole seconds from 1s to 32767s");
    }
    u32::try_from(at.0 / SECOND_MS).ok()
}

#[cfg(test)]
mod tests;
