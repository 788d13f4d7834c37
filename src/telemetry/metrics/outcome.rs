//! How a request ended, as Istio's metrics say it: response code, status of gRPC, Envoy's response flag.

use crate::exchange::close::CloseReason;
use crate::policy::Reason;
use crate::telemetry::record::Record;

/// `response_flags` of requests: Envoy's flag for what ended one, where it did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResponseFlag {
    /// `-`: answered by its upstream, or refused for what Envoy has no flag for (RBAC, tokens).
    None,
    /// `UAEX`: an external authorizer refused it, or could not be asked.
    Authorizer,
    /// `RL`: a rate limit.
    RateLimited,
    /// `NR`: no route.
    NoRoute,
    /// `UH`: no endpoint that may be used.
    NoEndpoint,
    /// `UF`: the upstream could not be connected to.
    UpstreamFailure,
    /// `UT`: the upstream did not answer in time.
    UpstreamTimeout,
    /// `UC`: the upstream broke off.
    UpstreamReset,
    /// `UO`: a limit on what may be under way.
    Overflow,
    /// `OM`: the process is short of memory.
    Overload,
    /// `DC`: the client broke off.
    DownstreamReset,
    /// `DPE`: the client's request cannot be read.
    DownstreamProtocol,
    /// `SI`: the client kept us waiting.
    Idle,
    /// `LR`: cut by us.
    LocalReset,
    /// Not told apart: there are too many series.
    Unknown,
}

impl ResponseFlag {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::None,
        Self::Authorizer,
        Self::RateLimited,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::UpstreamFailure,
        Self::UpstreamTimeout,
        Self::UpstreamReset,
        Self::Overflow,
        Self::Overload,
        Self::DownstreamReset,
        Self::DownstreamProtocol,
        Self::Idle,
        Self::LocalReset,
        Self::Unknown,
    ];

    /// As Envoy writes it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Authorizer => "UAEX",
            Self::RateLimited => "RL",
            Self::NoRoute => "NR",
            Self::NoEndpoint => "UH",
            Self::UpstreamFailure => "UF",
            Self::UpstreamTimeout => "UT",
            Self::UpstreamReset => "UC",
            Self::Overflow => "UO",
            Self::Overload => "OM",
            Self::DownstreamReset => "DC",
            Self::DownstreamProtocol => "DPE",
            Self::Idle => "SI",
            Self::LocalReset => "LR",
            Self::Unknown => "unknown",
        }
    }

    /// Of a request that ended for `close`, with this status towards its client, if any. `authorizer`: one was asked and
    /// is why. `unsent`: it was answered before an upstream was chosen.
    #[must_use]
    pub fn of(close: CloseReason, status: Option<u16>, authorizer: bool, unsent: bool) -> Self {
        match close {
            CloseReason::Denied if authorizer => Self::Authorizer,
            CloseReason::Done
            | CloseReason::Denied
            | CloseReason::PlaintextRefused
            | CloseReason::Token
            | CloseReason::Login
            | CloseReason::BodyTooLarge => Self::None,
            CloseReason::NoRoute | CloseReason::SelfCall | CloseReason::Misdirected => {
                Self::NoRoute
            }
            CloseReason::Handshake | CloseReason::BadRequest => Self::DownstreamProtocol,
            CloseReason::UpstreamConnect if unsent => Self::NoEndpoint,
            CloseReason::UpstreamConnect => Self::UpstreamFailure,
            CloseReason::UpstreamTimeout => Self::UpstreamTimeout,
            CloseReason::UpstreamReset => Self::UpstreamReset,
            CloseReason::DownstreamReset => Self::DownstreamReset,
            CloseReason::Timeout => Self::Idle,
            CloseReason::Limit => match status {
                Some(429) => Self::RateLimited,
                Some(503) => Self::Overflow,
                // A body that is too long for an authorizer is no more a flag than one that is too long for us.
                Some(413) => Self::None,
                Some(_) | None => Self::DownstreamProtocol,
            },
            CloseReason::Overflow => Self::Overflow,
            CloseReason::Overload => Self::Overload,
            // Before an answer it is a denial as any other; behind the head of one it is cut.
            CloseReason::PolicyChanged | CloseReason::Revoked if status == Some(403) => Self::None,
            CloseReason::PolicyChanged | CloseReason::Revoked | CloseReason::Drain => {
                Self::LocalReset
            }
        }
    }
}

/// What an answer of our own would have been to a client that does not speak gRPC, where that tells reasons apart.
fn told(status: Option<u16>, grpc: Option<u16>) -> Option<u16> {
    match (status, grpc) {
        // UNKNOWN, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE.
        (Some(200), Some(2)) => Some(413),
        (Some(200), Some(7)) => Some(403),
        (Some(200), Some(8)) => Some(429),
        (Some(200), Some(14)) => Some(503),
        _ => status,
    }
}

/// `response_code` of what was not told apart.
const NOT_TOLD: u16 = u16::MAX;

/// Highest status of gRPC that has a name.
const GRPC_MOST: u16 = 16;

/// `request_protocol` and `grpc_response_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC, whose call has not ended with a status.
    Grpc,
    /// gRPC with a status of 0 to 16.
    GrpcStatus(u8),
    /// gRPC with a status that means nothing.
    GrpcOther,
    /// Not told apart.
    Unknown,
}

impl Protocol {
    /// Of a request, and the status that its call ended with if it is one of gRPC.
    #[must_use]
    pub fn of(is_grpc: bool, status: Option<u16>) -> Self {
        match status {
            _ if !is_grpc => Self::Http,
            None => Self::Grpc,
            Some(status) => match u8::try_from(status) {
                Ok(known) if status <= GRPC_MOST => Self::GrpcStatus(known),
                Ok(_) | Err(_) => Self::GrpcOther,
            },
        }
    }
}

/// What tells the series of the same two ends apart. It holds nothing of which a peer could make as many as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Outcome {
    /// HTTP status, 0 if none was sent.
    code: u16,
    protocol: Protocol,
    flag: ResponseFlag,
}

impl Outcome {
    /// Of what had outcomes that are too many to be told apart.
    pub const OTHER: Self = Self {
        code: NOT_TOLD,
        protocol: Protocol::Unknown,
        flag: ResponseFlag::Unknown,
    };

    /// Of a request that has ended. `unsent`: it was answered before an upstream was chosen.
    #[must_use]
    pub fn of(record: &Record, is_grpc: bool, unsent: bool) -> Self {
        let flag = match record.close {
            None | Some(CloseReason::Done) => ResponseFlag::None,
            Some(close) => {
                let authorizer = record.judged.as_ref().is_some_and(|judged| {
                    matches!(
                        judged.reason,
                        Reason::CustomDenied(_) | Reason::CustomError(_)
                    )
                });
                let told = told(record.status, record.grpc_status.filter(|_| is_grpc));
                ResponseFlag::of(close, told, authorizer, unsent)
            }
        };
        Self::new(
            record.status,
            Protocol::of(is_grpc, record.grpc_status),
            flag,
        )
    }

    /// Of a request whose client got this status, if any.
    #[must_use]
    pub fn new(status: Option<u16>, protocol: Protocol, flag: ResponseFlag) -> Self {
        let code = match status {
            None => 0,
            Some(code @ 100..=599) => code,
            Some(_) => NOT_TOLD,
        };
        Self {
            code,
            protocol,
            flag,
        }
    }

    /// Names and values of the labels that say it.
    #[must_use]
    pub fn pairs(self) -> [(&'static str, String); 4] {
        const UNKNOWN: &str = "unknown";
        let (protocol, grpc) = match self.protocol {
            Protocol::Http => ("http", String::new()),
            Protocol::Grpc => ("grpc", String::new()),
            Protocol::GrpcStatus(status) => ("grpc", status.to_string()),
            Protocol::GrpcOther => ("grpc", UNKNOWN.to_owned()),
            Protocol::Unknown => (UNKNOWN, String::new()),
        };
        let code = match self.code {
            NOT_TOLD => UNKNOWN.to_owned(),
            code => code.to_string(),
        };
        [
            ("request_protocol", protocol.to_owned()),
            ("response_code", code),
            ("grpc_response_status", grpc),
            ("response_flags", self.flag.label().to_owned()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::StatusCode;

    use super::*;
    use crate::http::grpc;
    use crate::http::reply::Reply;

    use CloseReason as Close;
    use ResponseFlag as Flag;

    /// Every reason, as a request that has no answer yet ends with it: its status towards the client, and its flag.
    const UNANSWERED: [(Close, Flag); 22] = [
        (Close::Done, Flag::None),
        (Close::Denied, Flag::None),
        (Close::PlaintextRefused, Flag::None),
        (Close::Handshake, Flag::DownstreamProtocol),
        (Close::BadRequest, Flag::DownstreamProtocol),
        (Close::Token, Flag::None),
        (Close::Login, Flag::None),
        (Close::NoRoute, Flag::NoRoute),
        (Close::SelfCall, Flag::NoRoute),
        (Close::Misdirected, Flag::NoRoute),
        (Close::UpstreamConnect, Flag::UpstreamFailure),
        (Close::UpstreamTimeout, Flag::UpstreamTimeout),
        (Close::UpstreamReset, Flag::UpstreamReset),
        (Close::DownstreamReset, Flag::DownstreamReset),
        (Close::Timeout, Flag::Idle),
        (Close::Limit, Flag::DownstreamProtocol),
        (Close::BodyTooLarge, Flag::None),
        (Close::Overload, Flag::Overload),
        (Close::Overflow, Flag::Overflow),
        (Close::PolicyChanged, Flag::None),
        (Close::Revoked, Flag::None),
        (Close::Drain, Flag::LocalReset),
    ];

    #[test]
    fn every_reason_has_its_flag() {
        for (close, want) in UNANSWERED {
            let status = Some(close.status().as_u16());
            assert_eq!(Flag::of(close, status, false, false), want, "{close:?}");
        }
        let reasons: BTreeSet<_> = UNANSWERED.iter().map(|(close, _)| close.label()).collect();
        assert_eq!(
            reasons.len(),
            UNANSWERED.len(),
            "one of them is there twice"
        );
    }

    #[test]
    fn what_else_is_known_of_a_reason() {
        for (close, status, authorizer, unsent, want) in [
            (Close::Denied, Some(403), true, true, Flag::Authorizer),
            (Close::Denied, Some(503), true, true, Flag::Authorizer),
            // The answer of an upstream is not the authorizer's.
            (Close::Done, Some(403), true, false, Flag::None),
            (
                Close::UpstreamConnect,
                Some(503),
                false,
                true,
                Flag::NoEndpoint,
            ),
            (Close::Limit, Some(429), false, true, Flag::RateLimited),
            (Close::Limit, Some(503), false, true, Flag::Overflow),
            (Close::Limit, Some(413), false, true, Flag::None),
            (
                Close::Limit,
                Some(414),
                false,
                true,
                Flag::DownstreamProtocol,
            ),
            // Cut behind the head of an answer.
            (
                Close::PolicyChanged,
                Some(200),
                false,
                false,
                Flag::LocalReset,
            ),
            (Close::Revoked, Some(200), false, false, Flag::LocalReset),
            (
                Close::DownstreamReset,
                None,
                false,
                false,
                Flag::DownstreamReset,
            ),
        ] {
            let got = Flag::of(close, status, authorizer, unsent);
            assert_eq!(got, want, "{close:?} {status:?}");
        }
    }

    /// A call of gRPC is answered 200, whatever the reason.
    #[test]
    fn answers_to_calls_are_told_apart_by_their_own_status() {
        for status in [403, 413, 429, 503] {
            let reply = Reply::text(StatusCode::from_u16(status).unwrap(), "").into_grpc();
            let grpc = grpc::code(&reply.headers);
            assert_eq!(told(Some(200), grpc), Some(status), "{grpc:?}");
            assert_eq!(told(Some(status), None), Some(status));
        }
        assert_eq!(told(Some(200), Some(0)), Some(200));
        assert_eq!(told(None, None), None);
    }

    #[test]
    fn flags_have_labels_of_their_own() {
        let labels: BTreeSet<_> = Flag::ALL.iter().map(|flag| flag.label()).collect();
        assert_eq!(labels.len(), Flag::ALL.len());
    }

    #[test]
    fn labels_hold_nothing_of_which_there_may_be_many() {
        let labels = |status, is_grpc, grpc| {
            let outcome = Outcome::new(status, Protocol::of(is_grpc, grpc), Flag::None);
            outcome.pairs().map(|(_name, value)| value)
        };
        for (status, is_grpc, grpc, want) in [
            (Some(200), false, None, ["http", "200", "", "-"]),
            (Some(599), false, Some(3), ["http", "599", "", "-"]),
            (Some(600), false, None, ["http", "unknown", "", "-"]),
            (Some(99), false, None, ["http", "unknown", "", "-"]),
            (None, false, None, ["http", "0", "", "-"]),
            (Some(200), true, Some(0), ["grpc", "200", "0", "-"]),
            (Some(200), true, Some(16), ["grpc", "200", "16", "-"]),
            (Some(200), true, Some(17), ["grpc", "200", "unknown", "-"]),
            (
                Some(200),
                true,
                Some(u16::MAX),
                ["grpc", "200", "unknown", "-"],
            ),
            (Some(503), true, None, ["grpc", "503", "", "-"]),
        ] {
            assert_eq!(labels(status, is_grpc, grpc), want, "{status:?} {grpc:?}");
        }
        let other = Outcome::OTHER.pairs().map(|(_name, value)| value);
        assert_eq!(other, ["unknown", "unknown", "", "unknown"]);
    }

    #[test]
    fn a_series_is_told_apart_in_four_bytes_and_a_few() {
        assert!(size_of::<Outcome>() <= 6, "{}", size_of::<Outcome>());
    }
}
