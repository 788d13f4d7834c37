//! Why an exchange ended: exactly one reason, and what the peer sees of it.

use http::StatusCode;

/// Why a connection, tunnel or request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides were done.
    Done,
    /// Policy denied it.
    Denied,
    /// Plaintext where the mode is STRICT.
    PlaintextRefused,
    /// The downstream TLS handshake failed.
    Handshake,
    /// The request or CONNECT cannot be read in one way only.
    BadRequest,
    /// The request is for a host that this connection is not for (RFC 9110 section 15.5.20).
    Misdirected,
    /// The end user's token is not accepted.
    Token,
    /// The end user has to log in first.
    Login,
    /// Nothing here by that name or address.
    NoRoute,
    /// A connection that would come back to this listener.
    SelfCall,
    /// The upstream cannot be reached or is not who it should be.
    UpstreamConnect,
    /// The upstream does not answer in time.
    UpstreamTimeout,
    /// The upstream broke off or answered what is not HTTP.
    UpstreamReset,
    /// The downstream broke off.
    DownstreamReset,
    /// A time limit.
    Timeout,
    /// A size or count limit.
    Limit,
    /// The body of the request is longer than it may be.
    BodyTooLarge,
    /// The process holds as much memory as it may.
    Overload,
    /// The service has as much to do as it may (`connectionPool`).
    Overflow,
    /// A policy change forbids what was open.
    PolicyChanged,
    /// The certificate, the identity or the node of a peer is revoked.
    Revoked,
    /// The process is going.
    Drain,
}

/// Whose doing it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nobody's fault.
    None,
    /// The client's.
    Downstream,
    /// The server's.
    Upstream,
    /// Ours, or our operator's.
    Local,
}

impl CloseReason {
    /// Label in records and metrics, HTTP status if no answer was sent yet, and the side.
    #[must_use]
    pub fn row(self) -> (&'static str, StatusCode, Side) {
        match self {
            Self::Done => ("done", StatusCode::OK, Side::None),
            Self::Denied => ("denied", StatusCode::FORBIDDEN, Side::Local),
            Self::PlaintextRefused => {
                ("plaintext_refused", StatusCode::FORBIDDEN, Side::Downstream)
            }
            Self::Handshake => ("handshake", StatusCode::BAD_REQUEST, Side::Downstream),
            Self::BadRequest => ("bad_request", StatusCode::BAD_REQUEST, Side::Downstream),
            Self::Misdirected => (
                "misdirected",
                StatusCode::MISDIRECTED_REQUEST,
                Side::Downstream,
            ),
            Self::Token => ("token", StatusCode::UNAUTHORIZED, Side::Downstream),
            Self::Login => ("login", StatusCode::FOUND, Side::Downstream),
            Self::NoRoute => ("no_route", StatusCode::NOT_FOUND, Side::Local),
            Self::SelfCall => (
                "self_call",
                StatusCode::SERVICE_UNAVAILABLE,
                Side::Downstream,
            ),
            Self::UpstreamConnect => (
                "upstream_connect",
                StatusCode::SERVICE_UNAVAILABLE,
                Side::Upstream,
            ),
            Self::UpstreamTimeout => (
                "upstream_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                Side::Upstream,
            ),
            Self::UpstreamReset => ("upstream_reset", StatusCode::BAD_GATEWAY, Side::Upstream),
            Self::DownstreamReset => (
                "downstream_reset",
                StatusCode::BAD_REQUEST,
                Side::Downstream,
            ),
            Self::Timeout => ("timeout", StatusCode::REQUEST_TIMEOUT, Side::None),
            Self::Limit => (
                "limit",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Side::Downstream,
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                StatusCode::PAYLOAD_TOO_LARGE,
                Side::Downstream,
            ),
            Self::Overload => ("overload", StatusCode::SERVICE_UNAVAILABLE, Side::Local),
            Self::Overflow => ("overflow", StatusCode::SERVICE_UNAVAILABLE, Side::Upstream),
            Self::PolicyChanged => ("policy_changed", StatusCode::FORBIDDEN, Side::Local),
            Self::Revoked => ("revoked", StatusCode::FORBIDDEN, Side::Downstream),
            Self::Drain => ("drain", StatusCode::SERVICE_UNAVAILABLE, Side::Local),
        }
    }

    /// Label in records and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.row().0
    }

    /// HTTP status if no answer was sent yet.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// Status that HBONE's CONNECT is answered with; ztunnel says 401 where HTTP says 403.
    #[must_use]
    pub fn connect_status(self) -> StatusCode {
        match self.status() {
            StatusCode::FORBIDDEN => StatusCode::UNAUTHORIZED,
            StatusCode::NOT_FOUND
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => StatusCode::SERVICE_UNAVAILABLE,
            other => other,
        }
    }
}
