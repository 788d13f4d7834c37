//! `destinationRule.trafficPolicy`: how an endpoint is chosen, and which is left out.

use http::{HeaderName, Method};

use crate::config::check::Context;
use crate::config::place::At;
use crate::config::raw::traffic::{self as raw, CheckMethod};
use crate::config::read::{Count, Millis, Table as _};
use crate::upstream::balance::Simple;
use crate::upstream::check::{HealthCheck, How, Http};
use crate::upstream::hash::{ConsistentHash, Cookie, HashKey, Shape, is_prime};
use crate::upstream::health::OutlierDetection;
use crate::upstream::load::{Pool, Reuse};
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::vocab::path::{CanonicalPath, PathNormalization};

/// `consecutive5xxErrors` where it is not written.
const CONSECUTIVE_5XX: u32 = 5;
/// `healthCheck.interval` and `timeout` where they are not written.
const CHECK_INTERVAL_MS: u64 = 10_000;
const CHECK_TIMEOUT_MS: u64 = 1000;
/// `healthCheck.unhealthyThreshold` and `healthyThreshold` where they are not written.
const UNHEALTHY: u32 = 3;
const HEALTHY: u32 = 2;
/// `ringHash.minimumRingSize` where it is not written.
const RING: usize = 1024;

/// `loadBalancer.simple` and `.consistentHash`; `None` if neither is written.
pub(super) fn choice(
    raw: &raw::LoadBalancer,
    cx: &mut Context<'_>,
) -> Option<(Simple, Option<ConsistentHash>)> {
    if let (Some(simple), Some(_)) = (&raw.simple, &raw.consistent_hash) {
        cx.out.error(
            &simple.place,
            "`consistentHash` says the same; expected one of them",
        );
    }
    if let Some(hash) = &raw.consistent_hash {
        return Some((Simple::default(), consistent_hash(hash, cx)));
    }
    raw.simple.as_ref().map(|at| (at.value, None))
}

fn consistent_hash(raw: &raw::ConsistentHash, cx: &mut Context<'_>) -> Option<ConsistentHash> {
    let source_ip = raw.source_ip.as_ref().filter(|at| at.value);
    let written = [
        raw.header.is_some(),
        raw.cookie.is_some(),
        raw.query.is_some(),
        source_ip.is_some(),
    ];
    if written.iter().filter(|is| **is).count() != 1 && raw.whole() {
        cx.out.error(
            raw.place(),
            "expected one of `httpHeaderName`, `httpCookie`, `httpQueryParameterName`, `useSourceIp = true`",
        );
    }
    let shape = shape(raw, cx);
    let key = if let Some(at) = &raw.header {
        HashKey::Header(header(at, cx)?)
    } else if let Some(raw) = &raw.cookie {
        HashKey::Cookie(cookie(raw, cx))
    } else if let Some(at) = &raw.query {
        HashKey::Query(at.value.clone())
    } else {
        HashKey::SourceIp
    };
    Some(ConsistentHash { key, shape })
}

fn header(at: &At<String>, cx: &mut Context<'_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(at.as_bytes()).ok();
    if name.is_none() {
        let text = at.escape_debug();
        cx.out.error(
            &at.place,
            format!("`{text}` is not the name of a header field"),
        );
    }
    name
}

fn cookie(raw: &raw::HttpCookie, cx: &mut Context<'_>) -> Cookie {
    // Both are tokens (RFC 6265 section 4.1.1, RFC 9110 section 5.1).
    if HeaderName::from_bytes(raw.name.as_bytes()).is_err() {
        let text = raw.name.escape_debug();
        cx.out.error(
            &raw.name.place,
            format!("`{text}` is not the name of a cookie"),
        );
    }
    if let Some(at) = &raw.path {
        let plain = |b: u8| b.is_ascii_graphic() && b != b';';
        if !at.starts_with('/') || !at.bytes().all(plain) {
            let text = at.escape_debug();
            cx.out.error(
                &at.place,
                format!("`{text}` is not the path of a cookie, expected one such as \"/\""),
            );
        }
    }
    if let Some(at) = raw.ttl.as_ref().filter(|at| at.value.0 % 1000 != 0) {
        cx.out.error(
            &at.place,
            "a cookie lives for whole seconds, such as \"3600s\"",
        );
    }
    Cookie {
        name: raw.name.value.clone(),
        path: raw.path.as_ref().map(|at| at.value.clone()),
        ttl_s: raw.ttl.as_ref().map(|at| at.value.0 / 1000),
    }
}

fn shape(raw: &raw::ConsistentHash, cx: &mut Context<'_>) -> Shape {
    if let (Some(ring), Some(_)) = (&raw.ring, &raw.maglev) {
        cx.out
            .error(ring.place(), "`maglev` says the same; expected one of them");
    }
    let mut slots = |at: Option<&At<u32>>, least: usize, usual: usize| {
        let Some(at) = at else {
            return usual;
        };
        let most = limits::HASH_SLOTS;
        let size = usize::try_from(at.value).unwrap_or(usize::MAX);
        if size < least || size > most {
            cx.out.error(
                &at.place,
                format!("out of range, expected {least} to {most}"),
            );
        }
        size.min(most)
    };
    let Some(maglev) = &raw.maglev else {
        let minimum = raw.ring.as_ref().and_then(|ring| ring.minimum.as_ref());
        return Shape::Ring(slots(minimum, 1, RING));
    };
    let size = slots(maglev.size.as_ref(), 2, limits::HASH_SLOTS);
    if let Some(at) = maglev.size.as_ref().filter(|_| !is_prime(size)) {
        cx.out.error(
            &at.place,
            format!("{} is not a prime, such as 65537", at.value),
        );
    }
    Shape::Maglev(size)
}

/// `outlierDetection`.
pub(super) fn outlier(raw: &raw::OutlierDetection, cx: &mut Context<'_>) -> OutlierDetection {
    let usual = OutlierDetection::default();
    let mut percent = |at: Option<&At<Count>>, usual: u32| {
        let Some(at) = at else {
            return usual;
        };
        if at.value.0 > 100 {
            cx.out.error(&at.place, "out of range, expected 0 to 100");
        }
        u32::try_from(at.value.0).unwrap_or(usual)
    };
    let max_ejection_percent = percent(
        raw.max_ejection_percent.as_ref(),
        usual.max_ejection_percent,
    );
    let min_health_percent = percent(raw.min_health_percent.as_ref(), usual.min_health_percent);
    if let Some(at) = raw.base_ejection_time.as_ref().filter(|at| at.value.0 == 0) {
        cx.out.error(
            &at.place,
            "at least 1ms; `maxEjectionPercent = 0` turns ejections off",
        );
    }
    if let Some(at) = raw.interval.as_ref().filter(|at| at.value.0 == 0) {
        cx.out.error(&at.place, "at least 1ms");
    }
    let count =
        |n: Option<Count>, usual: u32| n.map_or(usual, |n| u32::try_from(n.0).unwrap_or(u32::MAX));
    OutlierDetection {
        consecutive_failures: count(raw.consecutive_failures, usual.consecutive_failures),
        consecutive_5xx: count(raw.consecutive_5xx, CONSECUTIVE_5XX),
        consecutive_gateway: count(raw.consecutive_gateway, usual.consecutive_gateway),
        interval_ms: raw.interval.as_ref().map_or(0, |at| at.value.0),
        base_ejection_ms: raw
            .base_ejection_time
            .as_ref()
            .map_or(usual.base_ejection_ms, |at| at.value.0),
        max_ejection_percent,
        min_health_percent,
    }
}

/// `healthCheck`; `None` after a problem that leaves no check.
pub(super) fn health_check(raw: &raw::HealthCheck, cx: &mut Context<'_>) -> Option<HealthCheck> {
    let mut time = |at: Option<&At<Millis>>, usual: u64| {
        let Some(at) = at else {
            return usual;
        };
        let (least, most) = (limits::CHECK_INTERVAL_MS, limits::CHECK_LONGEST_MS);
        if at.value.0 < least || at.value.0 > most {
            let why = format!("out of range, expected {least}ms to 24h");
            cx.out.error(&at.place, why);
        }
        at.value.0
    };
    let interval_ms = time(raw.interval.as_ref(), CHECK_INTERVAL_MS);
    let timeout_ms = time(raw.timeout.as_ref(), CHECK_TIMEOUT_MS);
    let mut count = |at: Option<&At<Count>>, usual: u32| {
        let Some(at) = at else { return usual };
        if at.value.0 == 0 {
            cx.out.error(&at.place, "at least 1");
        }
        u32::try_from(at.value.0).unwrap_or(usual)
    };
    let unhealthy = count(raw.unhealthy.as_ref(), UNHEALTHY);
    let healthy = count(raw.healthy.as_ref(), HEALTHY);
    let kinds = [raw.http.is_some(), raw.tcp.is_some(), raw.grpc.is_some()];
    if kinds.iter().filter(|is| **is).count() != 1 && raw.whole() {
        cx.out.error(
            raw.place(),
            "expected one of `httpHealthCheck`, `tcpHealthCheck`, `grpcHealthCheck`",
        );
    }
    let how = if let Some(http) = &raw.http {
        How::Http(asks_http(http, cx)?)
    } else if let Some(grpc) = &raw.grpc {
        How::Grpc {
            service: grpc.service_name.as_ref().map(|at| at.value.clone()),
            authority: authority(grpc.authority.as_ref(), cx),
        }
    } else {
        raw.tcp.as_ref()?;
        How::Tcp
    };
    Some(HealthCheck {
        interval_ms,
        timeout_ms,
        unhealthy,
        healthy,
        how,
    })
}

fn asks_http(raw: &raw::HttpHealthCheck, cx: &mut Context<'_>) -> Option<Http> {
    let path = CanonicalPath::parse(PathNormalization::default(), &raw.path);
    // It is sent as it stands, so that it has to be what every server reads alike.
    if !path.is_ok_and(|path| path.as_str() == raw.path.value) {
        let text = raw.path.escape_debug();
        cx.out.error(
            &raw.path.place,
            format!("`{text}` is not a path in its canonical form, such as \"/healthz\""),
        );
        return None;
    }
    let mut expected = Vec::new();
    for range in raw.expected.iter().flatten() {
        let status = |at: &At<u32>| u16::try_from(at.value).unwrap_or(u16::MAX);
        let (start, end) = (status(&range.start), status(&range.end));
        if start < 100 || end > 600 || start >= end {
            cx.out.error(
                range.place(),
                "expected `start` from 100 on, below `end`, which is 600 at most and is not included",
            );
        }
        expected.push(start..end);
    }
    if expected.is_empty() {
        expected.push(200..201);
    }
    Some(Http {
        method: match raw.method.as_ref().map(|at| at.value) {
            Some(CheckMethod::Head) => Method::HEAD,
            Some(CheckMethod::Get) | None => Method::GET,
        },
        path: raw.path.value.clone(),
        authority: authority(raw.host.as_ref(), cx),
        expected,
    })
}

/// A host, with or without a port.
fn authority(at: Option<&At<String>>, cx: &mut Context<'_>) -> Option<String> {
    let at = at?;
    match Host::parse(&at.value) {
        Ok(host) => Some(host.as_str().to_owned()),
        Err(error) => {
            cx.out.error(&at.place, error.to_string());
            None
        }
    }
}

/// `connectionPool`. `shares`: a port of the hosts whose connections carry many requests at a time.
pub(super) fn pool(raw: &raw::ConnectionPool, shares: Option<u16>, cx: &mut Context<'_>) -> Pool {
    let (tcp, http) = (raw.tcp.as_ref(), raw.http.as_ref());
    let mut most = |at: Option<&At<u32>>| {
        let at = at?;
        if at.value == 0 {
            cx.out.error(&at.place, "at least 1");
        }
        Some(at.value)
    };
    let connections = tcp.and_then(|tcp| tcp.max_connections.as_ref());
    let counts = (
        most(connections),
        most(http.and_then(|http| http.max_requests.as_ref())),
        most(http.and_then(|http| http.max_pending.as_ref())),
        most(http.and_then(|http| http.max_retries.as_ref())),
    );
    let mut time = |at: Option<&At<Millis>>, longest: u64| {
        let at = at?;
        if at.value.0 == 0 || at.value.0 > longest {
            let longest = longest / 1000;
            let why = format!("out of range, expected 1ms to {longest}s");
            cx.out.error(&at.place, why);
        }
        Some(at.value.0)
    };
    let pool = Pool {
        max_connections: counts.0,
        max_requests: counts.1,
        max_pending: counts.2,
        max_retries: counts.3,
        connect_ms: time(
            tcp.and_then(|tcp| tcp.connect_timeout.as_ref()),
            limits::CONNECT_ALL_MS,
        ),
        bytes_idle_ms: time(
            tcp.and_then(|tcp| tcp.idle_timeout.as_ref()),
            limits::POOL_IDLE_MS,
        ),
        reuse: Reuse {
            idle_ms: time(
                http.and_then(|http| http.idle_timeout.as_ref()),
                limits::POOL_IDLE_MS,
            ),
            // Istio's word for no limit is 0.
            requests: http
                .and_then(|http| http.requests_per_connection.as_ref())
                .map(|at| at.value)
                .filter(|most| *most > 0),
        },
    };
    if let (Some(at), Some(port)) = (connections, shares) {
        cx.out.error(
            &at.place,
            format!(
                "requests share connections at port {port} (HTTP2, GRPC), which are not counted; expected \
                 `http.http2MaxRequests`"
            ),
        );
    }
    let unlimited = http.is_some_and(|http| http.requests_per_connection.is_some());
    if pool == Pool::default() && !unlimited && raw.whole() {
        cx.out.error(
            raw.place(),
            "says nothing, expected a key of `tcp` or `http`, such as `tcp.maxConnections`",
        );
    }
    pool
}

/// `localityLbSetting`, unless it is turned off.
pub(super) fn failover(
    raw: &raw::LocalityLb,
    cx: &mut Context<'_>,
) -> Option<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in raw.failover.iter().flatten() {
        for at in [&pair.from, &pair.to] {
            if at.contains('/') {
                let text = at.escape_debug();
                cx.out.error(&at.place, format!("`{text}` is not a region"));
            }
        }
        if pair.from.value == pair.to.value {
            cx.out
                .error(&pair.to.place, "a region does not take over from itself");
        }
        if pairs.iter().any(|(from, _)| *from == pair.from.value) {
            let text = pair.from.escape_debug();
            cx.out.error(
                &pair.from.place,
                format!("a second `failover` of region `{text}`"),
            );
        }
        pairs.push((pair.from.value.clone(), pair.to.value.clone()));
    }
    raw.enabled.unwrap_or(true).then_some(pairs)
}
