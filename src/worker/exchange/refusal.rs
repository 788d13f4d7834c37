//! Answers of our own to a request: what is said, and why.

use http::{HeaderValue, StatusCode, header};

use super::scheme;
use crate::exchange::close::CloseReason;
use crate::http::reply::{Reply, is_grpc};
use crate::io::body::Source;
use crate::io::rt;
use crate::jwt::www_authenticate;
use crate::policy::{Denied, Judged, Permit, Request};
use crate::role::plan::NoPlan;
use crate::vocab::limits;
use crate::worker::custom::Stopped;
use crate::worker::edge;
use crate::worker::places::MEMORY;
use crate::worker::respond::Responder;
use crate::worker::site::{Site, Story};

/// An answer of our own, and why.
pub(super) struct Refusal {
    pub(super) reply: Reply,
    pub(super) close: CloseReason,
    pub(super) detail: Option<String>,
    pub(super) denied: Option<Denied>,
    /// What policy said, where it is not what refuses.
    pub(super) judged: Option<Judged>,
}

impl Refusal {
    pub(super) fn close(close: CloseReason) -> Self {
        let reply = match close.status() {
            StatusCode::NOT_FOUND => Reply::text(StatusCode::NOT_FOUND, "not found"),
            StatusCode::BAD_REQUEST => Reply::text(StatusCode::BAD_REQUEST, "bad request"),
            // As where the limit is found out only while the body is read.
            StatusCode::PAYLOAD_TOO_LARGE => {
                Reply::text(StatusCode::PAYLOAD_TOO_LARGE, close.label())
            }
            other => Reply::text(other, ""),
        };
        Self {
            reply,
            close,
            detail: None,
            denied: None,
            judged: None,
        }
    }

    /// There is no plan for it.
    pub(super) fn unplanned(why: NoPlan) -> Self {
        match why {
            NoPlan::Close(close) => Self::close(close),
            NoPlan::Denied(denied) => Self::denied(Some(denied)),
            NoPlan::Plaintext(denied) => Self {
                close: CloseReason::PlaintextRefused,
                ..Self::denied(Some(denied))
            },
        }
    }

    /// The login provider's part of it.
    pub(super) fn answered(answered: edge::Answered) -> Self {
        Self {
            reply: answered.reply,
            detail: answered.detail,
            ..Self::close(answered.close)
        }
    }

    /// Policy lets it pass, and a rate limit does not.
    pub(super) fn limited(why: Box<Stopped>, permit: &Permit) -> Box<Self> {
        Box::<Self>::from(why).behind(permit.verdict())
    }

    /// It is not policy that refuses: that lets it pass.
    pub(super) fn behind(mut self: Box<Self>, allowed: &Judged) -> Box<Self> {
        self.judged = Some(allowed.clone());
        self
    }

    /// Policy lets it pass, and the answer is ours.
    pub(super) fn permitted(reply: Reply, close: CloseReason, permit: &Permit) -> Self {
        Self {
            reply,
            judged: Some(permit.verdict().clone()),
            ..Self::close(close)
        }
    }

    /// The bearer token that stood in for a login is of an issuer that no rule knows, or not of the provider's.
    pub(super) fn missing_token(site: &Site, request: &Request) -> Self {
        let scheme = scheme(site, request);
        let challenge = www_authenticate(scheme, &request.host, request.path.as_ref());
        let challenge = challenge.to_str().unwrap_or_default();
        let text = "Jwt issuer is not configured";
        Self {
            reply: Reply::unauthenticated(StatusCode::UNAUTHORIZED, text, challenge),
            close: CloseReason::Token,
            detail: Some("token: not of the login provider".to_owned()),
            denied: None,
            judged: None,
        }
    }

    /// It came in the clear: the same is to be asked for by https, at this port.
    pub(super) fn to_https(request: &Request, port: u16) -> Self {
        let (host, path) = (request.host.name(), request.path.as_ref());
        let location = path.and_then(|path| {
            let path = path.as_str();
            let location = match port {
                443 => format!("https://{host}{path}"),
                _ => format!("https://{host}:{port}{path}"),
            };
            HeaderValue::from_str(&location).ok()
        });
        let Some(location) = location else {
            return Self::close(CloseReason::BadRequest);
        };
        let mut reply = Reply::text(StatusCode::PERMANENT_REDIRECT, "");
        reply.headers.insert(header::LOCATION, location);
        Self {
            reply,
            close: CloseReason::PlaintextRefused,
            detail: Some("redirected to https".to_owned()),
            denied: None,
            judged: None,
        }
    }

    /// It is for a host that another certificate is for than the one that its client was shown.
    pub(super) fn misdirected(site: &Site, request: &Request) -> Self {
        let close = CloseReason::Misdirected;
        let named = match &site.connection.sni {
            Some(name) => format!("for the server name `{name}`"),
            None => "without a server name".to_owned(),
        };
        Self {
            reply: Reply::text(close.status(), "misdirected request"),
            detail: Some(format!(
                "another certificate is for `{}` than the one of this connection, which was opened {named}",
                request.host.name()
            )),
            ..Self::close(close)
        }
    }

    /// There is no memory for more.
    pub(super) fn overload() -> Self {
        let mut reply = Reply::text(StatusCode::SERVICE_UNAVAILABLE, "overload");
        reply
            .headers
            .insert(header::RETRY_AFTER, limits::OVERLOAD_RETRY_S.into());
        Self {
            reply,
            close: CloseReason::Overload,
            detail: Some(MEMORY.to_owned()),
            denied: None,
            judged: None,
        }
    }

    /// A limit of connections is reached.
    pub(super) fn full(detail: String) -> Self {
        Self {
            reply: Reply::text(StatusCode::SERVICE_UNAVAILABLE, ""),
            close: CloseReason::Limit,
            detail: Some(detail),
            denied: None,
            judged: None,
        }
    }

    /// The service that it goes to has enough to do.
    pub(super) fn overflow(detail: String) -> Self {
        Self {
            reply: Reply::text(StatusCode::SERVICE_UNAVAILABLE, "overflow"),
            close: CloseReason::Overflow,
            detail: Some(detail),
            denied: None,
            judged: None,
        }
    }

    pub(super) fn policy_changed() -> Self {
        Self {
            close: CloseReason::PolicyChanged,
            ..Self::denied(None)
        }
    }

    pub(super) fn denied(denied: Option<Denied>) -> Self {
        Self {
            reply: Reply::denied(),
            close: CloseReason::Denied,
            detail: None,
            denied,
            judged: None,
        }
    }
}

impl From<Box<Stopped>> for Box<Refusal> {
    fn from(stopped: Box<Stopped>) -> Self {
        let Stopped {
            reply,
            close,
            detail,
            denied,
        } = *stopped;
        Self::new(Refusal {
            reply,
            close,
            detail,
            denied,
            judged: None,
        })
    }
}

/// How a client wants to be refused.
#[derive(Clone, Copy)]
pub(super) struct Asks {
    pub(super) grpc: bool,
    length: Option<u64>,
}

impl Asks {
    /// What the request of `story` asks for, whose body is `length` long.
    pub(super) fn of(story: &mut Story, request: &Request, length: Option<u64>) -> Self {
        let grpc = is_grpc(&request.headers);
        story.is_grpc(grpc);
        Self { grpc, length }
    }
}

/// Tells a client, as it asks for it, and the record.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn moves its arguments once more, from where they came to where they are used"
)]
pub(super) fn refuse<'a>(
    refusal: Box<Refusal>,
    asks: Asks,
    mut story: Story,
    mut body: Source<'a>,
    mut responder: Responder<'a>,
) -> impl Future<Output = bool> + 'a {
    async move {
        let Refusal {
            reply,
            close,
            detail,
            denied,
            judged,
        } = *refusal;
        // Most clients write their request before they read: a form that is cut off would lose them the answer.
        let small = asks.length.is_some_and(|n| n <= limits::REFUSED_BODY_BYTES);
        if small
            && !responder.is_awaited()
            && rt::timeout(limits::REFUSED_BODY_MS, body.skip())
                .await
                .is_err()
        {
            tracing::debug!("a refused request is slow");
        }
        let redirected = close == CloseReason::PlaintextRefused && reply.status.is_redirection();
        if close == CloseReason::Overload || redirected {
            // The connection is memory too; and who is redirected has another one to ask on.
            responder.close_after();
        }
        // 421 is for the connection, not for the call: only by it does a browser, whose calls are gRPC-Web, ask on another one.
        let reply = if asks.grpc && close != CloseReason::Misdirected {
            reply.into_grpc()
        } else {
            reply
        };
        story.unsent();
        story.edit(|r| {
            r.judged = denied.map(|d| d.judged).or(judged);
            r.detail = detail;
            r.answered(&reply);
        });
        let ended = body.is_empty();
        let kept = responder.reply(reply, ended, &mut body).await;
        story.end(close);
        // A connection that had to bring an identity carries no other request either.
        kept && close != CloseReason::PlaintextRefused
    }
}
