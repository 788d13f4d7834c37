//! Active health checks (`trafficPolicy.healthCheck`): what an endpoint is asked, what its answer means, and what follows
//! from the answers so far.
//!
//! The words and the counting are those of Envoy's `HealthCheck`; a gRPC server is asked by `grpc.health.v1`.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use prost::Message as _;

/// Who asks, for the logs of the endpoint.
const USER_AGENT: HeaderValue = HeaderValue::from_static("ringgate-health-check");
/// The one method of `grpc.health.v1` that is called.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `HealthCheckResponse.SERVING`.
const SERVING: i32 = 1;

/// How the endpoints of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// From the beginning of one check to that of the next, in milliseconds (`interval`); longer where a check takes longer.
    pub interval_ms: u64,
    /// How long one may take, in milliseconds (`timeout`).
    pub timeout_ms: u64,
    /// Failures in a row after which an endpoint is left out (`unhealthyThreshold`), at least 1.
    pub unhealthy: u32,
    /// Successes in a row after which it is back (`healthyThreshold`), at least 1.
    pub healthy: u32,
    /// What is done.
    pub how: How,
}

/// What is done to check an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// `httpHealthCheck`.
    Http(Http),
    /// `tcpHealthCheck`: connecting is enough.
    Tcp,
    /// `grpcHealthCheck`.
    Grpc {
        /// `serviceName`; `None` asks for the server as a whole.
        service: Option<String>,
        /// `authority`; the first host of the service if absent.
        authority: Option<String>,
    },
}

/// `httpHealthCheck`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// `method`, which is safe (RFC 9110 section 9.2.1).
    pub method: Method,
    /// `path`, canonical.
    pub path: String,
    /// `host`; the first host of the service if absent.
    pub authority: Option<String>,
    /// `expectedStatuses`; at least one.
    pub expected: Vec<Range<u16>>,
}

impl How {
    /// The question that is put to an endpoint of a service with this host; `None` where there is nothing to ask.
    #[must_use]
    pub fn question(&self, host: &str, timeout_ms: u64) -> Option<Question> {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, USER_AGENT);
        match self {
            Self::Tcp => None,
            Self::Http(http) => Some(Question {
                method: http.method.clone(),
                target: http.path.clone(),
                authority: http.authority.as_deref().unwrap_or(host).to_owned(),
                headers,
                body: Bytes::new(),
            }),
            Self::Grpc { service, authority } => {
                let grpc = HeaderValue::from_static("application/grpc");
                headers.insert(header::CONTENT_TYPE, grpc);
                headers.insert(header::TE, HeaderValue::from_static("trailers"));
                // Eight digits at most (gRPC over HTTP/2, `Timeout`).
                if let Ok(value) = HeaderValue::try_from(format!("{}m", timeout_ms.min(99_999_999)))
                {
                    headers.insert(HeaderName::from_static("grpc-timeout"), value);
                }
                let service = service.clone().unwrap_or_default();
                Some(Question {
                    method: Method::POST,
                    target: CHECK.to_owned(),
                    authority: authority.as_deref().unwrap_or(host).to_owned(),
                    headers,
                    body: framed(&CheckRequest { service }),
                })
            }
        }
    }

    /// Whether an answer says that the endpoint is well.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn judge(&self, answer: &Told<'_>) -> Result<(), String> {
        match self {
            Self::Tcp => Ok(()),
            Self::Http(http) => {
                if http.expected.iter().any(|r| r.contains(&answer.status)) {
                    return Ok(());
                }
                Err(format!("answered {}", answer.status))
            }
            Self::Grpc { .. } => judge_grpc(answer),
        }
    }
}

/// A request that asks an endpoint.
#[derive(Clone, Debug)]
pub struct Question {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Host and port.
    pub authority: String,
    /// Header fields without those that say how long the body is.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// What an answer is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Told<'a> {
    /// Status.
    pub status: u16,
    /// Header fields.
    pub headers: &'a HeaderMap,
    /// The whole body.
    pub body: &'a Bytes,
    /// Trailer fields.
    pub trailers: Option<&'a HeaderMap>,
}

fn judge_grpc(answer: &Told<'_>) -> Result<(), String> {
    if answer.status != 200 {
        return Err(format!("answered {}", answer.status));
    }
    let trailers = answer.trailers.unwrap_or(answer.headers);
    let code = trailers.get("grpc-status").map(HeaderValue::as_bytes);
    if code != Some(b"0") {
        let code = code.map_or_else(|| "none".into(), |c| c.escape_ascii().to_string());
        return Err(format!("answered grpc-status {code}"));
    }
    let mut body = answer.body.clone();
    // One message that is not compressed, behind its flag and its length.
    let whole =
        body.len() >= 5 && body.get_u8() == 0 && usize::try_from(body.get_u32()) == Ok(body.len());
    let said = whole.then(|| CheckResponse::decode(body));
    match said {
        Some(Ok(CheckResponse { status: SERVING })) => Ok(()),
        Some(Ok(CheckResponse { status })) => Err(match status {
            0 => "is in an unknown state (UNKNOWN)".to_owned(),
            2 => "does not serve (NOT_SERVING)".to_owned(),
            3 => "does not know the service (SERVICE_UNKNOWN)".to_owned(),
            other => format!("answered the state {other}"),
        }),
        Some(Err(_)) | None => Err("answered what is not one message of its state".to_owned()),
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// A message as gRPC frames it, not compressed.
fn framed(message: &CheckRequest) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut out = BytesMut::with_capacity(bytes.len().saturating_add(5));
    out.put_u8(0);
    // The name of a service is as long as a configuration may be.
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(&bytes);
    out.freeze()
}

/// What the checks of one endpoint have shown. One task writes it, all cores read.
#[derive(Debug, Default)]
pub struct Checked {
    /// `UNKNOWN`, `WELL` or `ILL`.
    state: AtomicU8,
    /// Checks in a row that say otherwise.
    against: AtomicU32,
}

const UNKNOWN: u8 = 0;
const WELL: u8 = 1;
const ILL: u8 = 2;

impl Checked {
    /// Whether it was found well; `None` before the first check.
    #[must_use]
    pub fn is_well(&self) -> Option<bool> {
        match self.state.load(Ordering::Relaxed) {
            UNKNOWN => None,
            state => Some(state == WELL),
        }
    }

    /// Whether it is left out: it was found ill. One that was not checked yet is chosen.
    #[must_use]
    pub fn is_ill(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ILL
    }

    /// It was checked. `true`: what is held of it has changed. The first result counts by itself, later ones when there are
    /// as many in a row as the rule says.
    pub fn tell(&self, well: bool, rule: &HealthCheck) -> bool {
        let before = self.state.load(Ordering::Relaxed);
        let (state, enough) = if well {
            (WELL, rule.healthy)
        } else {
            (ILL, rule.unhealthy)
        };
        if before == state {
            self.against.store(0, Ordering::Relaxed);
            return false;
        }
        let against = self.against.load(Ordering::Relaxed).saturating_add(1);
        if before != UNKNOWN && against < enough {
            self.against.store(against, Ordering::Relaxed);
            return false;
        }
        self.against.store(0, Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
        true
    }

    /// It is not checked any more: nothing is known of it.
    pub fn forget(&self) {
        self.against.store(0, Ordering::Relaxed);
        self.state.store(UNKNOWN, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(how: How) -> HealthCheck {
        HealthCheck {
            interval_ms: 1000,
            timeout_ms: 500,
            unhealthy: 3,
            healthy: 2,
            how,
        }
    }

    #[test]
    fn the_first_result_counts_and_then_so_many_in_a_row() {
        let rule = rule(How::Tcp);
        let seen = Checked::default();
        assert_eq!(seen.is_well(), None);
        assert!(!seen.is_ill(), "what is not known is chosen");
        assert!(seen.tell(true, &rule));
        assert_eq!(seen.is_well(), Some(true));
        // A success in between begins anew.
        for (well, changes) in [
            (false, false),
            (false, false),
            (true, false),
            (false, false),
            (false, false),
            (false, true),
            (false, false),
            (true, false),
            (false, false),
            (true, false),
            (true, true),
        ] {
            assert_eq!(seen.tell(well, &rule), changes);
        }
        assert_eq!(seen.is_well(), Some(true));
        let seen = Checked::default();
        assert!(seen.tell(false, &rule));
        assert!(seen.is_ill());
        seen.forget();
        assert_eq!(seen.is_well(), None);
        assert!(!seen.is_ill());
    }

    fn http(expected: Vec<Range<u16>>) -> How {
        How::Http(Http {
            method: Method::GET,
            path: "/healthz".to_owned(),
            authority: None,
            expected,
        })
    }

    fn told(how: &How, status: u16, body: &'static [u8], code: Option<&'static str>) -> String {
        let trailers: Option<HeaderMap> = code.map(|code| {
            [(
                HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )]
            .into_iter()
            .collect()
        });
        let judged = how.judge(&Told {
            status,
            headers: &HeaderMap::new(),
            body: &Bytes::from_static(body),
            trailers: trailers.as_ref(),
        });
        judged.err().unwrap_or_default()
    }

    #[test]
    fn statuses_are_those_that_are_expected() {
        let (one, more) = (
            http(std::iter::once(200..201).collect()),
            http(vec![200..300, 429..430]),
        );
        for (status, by_one, by_more) in [
            (199, false, false),
            (200, true, true),
            (201, false, true),
            (299, false, true),
            (300, false, false),
            (429, false, true),
            (503, false, false),
        ] {
            assert_eq!(told(&one, status, b"", None).is_empty(), by_one, "{status}");
            assert_eq!(
                told(&more, status, b"", None).is_empty(),
                by_more,
                "{status}"
            );
        }
        assert_eq!(told(&one, 503, b"", None), "answered 503");
    }

    #[test]
    fn a_server_says_how_it_is_by_one_message() {
        let how = How::Grpc {
            service: Some("shop.Ledger".to_owned()),
            authority: None,
        };
        let question = how.question("ledger", 250).unwrap();
        assert_eq!(question.authority, "ledger");
        assert_eq!(question.target, "/grpc.health.v1.Health/Check");
        assert_eq!(question.headers["grpc-timeout"], "250m");
        assert_eq!(&question.body[..], b"\0\0\0\0\x0d\x0a\x0bshop.Ledger");
        const WELL: &[u8] = b"\0\0\0\0\x02\x08\x01";
        for (status, body, code, want) in [
            (200, WELL, Some("0"), ""),
            (
                200,
                &b"\0\0\0\0\x02\x08\x02"[..],
                Some("0"),
                "does not serve (NOT_SERVING)",
            ),
            (
                200,
                b"\0\0\0\0\0",
                Some("0"),
                "is in an unknown state (UNKNOWN)",
            ),
            (
                200,
                b"\0\0\0\0\x02\x08\x03",
                Some("0"),
                "does not know the service (SERVICE_UNKNOWN)",
            ),
            (200, WELL, Some("14"), "answered grpc-status 14"),
            (200, WELL, None, "answered grpc-status none"),
            (200, b"", Some("12"), "answered grpc-status 12"),
            (503, WELL, Some("0"), "answered 503"),
            (
                200,
                b"\x01\0\0\0\x02\x08\x01",
                Some("0"),
                "answered what is not one message of its state",
            ),
            (
                200,
                b"\0\0\0\0\x03\x08\x01",
                Some("0"),
                "answered what is not one message of its state",
            ),
            (
                200,
                b"\0\0\0\0",
                Some("0"),
                "answered what is not one message of its state",
            ),
            (
                200,
                b"\0\0\0\0\x02\xff\xff",
                Some("0"),
                "answered what is not one message of its state",
            ),
        ] {
            assert_eq!(told(&how, status, body, code), want, "{body:?} {code:?}");
        }
    }
}
