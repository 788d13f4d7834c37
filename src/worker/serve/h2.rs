//! Requests that come over HTTP/2: each is served as those of HTTP/1 are, in a task of its own.

use std::rc::Rc;

use http::{Method, StatusCode, header};

use crate::exchange::close::CloseReason;
use crate::h2::{Code, Malformed, RequestHead};
use crate::http::canonical;
use crate::http::reply::Reply;
use crate::io::body::Source;
use crate::io::h2::{Asked, Incoming, MuxError, Server, Taken, Windows};
use crate::io::pace::TooSlow;
use crate::io::stream::Stream;
use crate::io::{clock, rt};
use crate::role::plan::SitePoint;
use crate::telemetry::record::Kind;
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::exchange::{self, Arrived};
use crate::worker::respond::Responder;
use crate::worker::site::{Site, Story};
use crate::worker::streams;

use super::{bad_request_status, websocket};

pub(super) async fn serve(core: Rc<Core>, site: Rc<Site>, stream: Stream) {
    let windows = if matches!(site.point, SitePoint::Ingress { .. }) {
        Windows::Edge
    } else {
        Windows::Mesh
    };
    let story = || Story::begin(&core, &site, Kind::Connection, &core.snapshot());
    let mut server = Server::new(stream, windows, true).wait_at_most(site.patience_ms(&core));
    match rt::timeout(limits::HANDSHAKE_MS, server.handshake()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return story().fail(lost(&error, CloseReason::Handshake), error),
        Err(rt::Elapsed) => {
            return story().fail(CloseReason::Timeout, "HTTP/2 handshake is too slow");
        }
    }
    let each = |taken| one(Rc::clone(&core), Rc::clone(&site), taken);
    match streams::serve(&core, server, each).await {
        Ok(()) => {}
        // Whom we have cut off, and for what.
        Err(error @ (MuxError::Protocol(_) | MuxError::Unread(_))) => {
            story().fail(lost(&error, CloseReason::BadRequest), error);
        }
        // Its requests have records of their own.
        Err(error) => tracing::debug!(%error, "HTTP/2 connection ended"),
    }
}

/// Why a connection was lost, if not for what costs too much.
fn lost(error: &MuxError, other: CloseReason) -> CloseReason {
    match error {
        MuxError::Protocol(error) if error.code == Code::ENHANCE_YOUR_CALM => CloseReason::Limit,
        MuxError::Unread(_) => CloseReason::Timeout,
        MuxError::Protocol(_)
        | MuxError::Io(_)
        | MuxError::Open(_)
        | MuxError::Reset(_)
        | MuxError::Ended => other,
    }
}

async fn one(core: Rc<Core>, site: Rc<Site>, taken: Taken) {
    let asked = match taken {
        Taken::Request(asked) => asked,
        Taken::Malformed(why) => {
            let story = Story::of_request(&core, &site, &core.snapshot());
            return story.fail(CloseReason::BadRequest, why);
        }
    };
    let ending = asked.respond.ending();
    answer(&core, &site, asked).await;
    ending.linger().await;
}

/// Serves and records a request.
async fn answer(core: &Rc<Core>, site: &Rc<Site>, asked: Box<Asked>) {
    let Asked {
        head,
        mut body,
        respond,
    } = *asked;
    let responder = Responder::H2 {
        respond,
        is_head: head.method == Method::HEAD,
    };
    if head.oversized {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let why = (CloseReason::Limit, status);
        return unread(core, site, responder, why, Malformed::Large.text()).await;
    }
    if let Some(protocol) = head.protocol.clone() {
        let here = (core, site);
        return Box::pin(websocket::serve(here, &protocol, head, body, responder)).await;
    }
    let RequestHead {
        method,
        authority,
        path,
        headers,
        ..
    } = head;
    // It is well formed, or there were no request.
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok());
    if length == Some(0)
        && method != Method::CONNECT
        && let Err((why, detail)) = empty(core, &mut body).await
    {
        return unread(core, site, responder, why, &detail).await;
    }
    let pseudo = (
        method,
        authority.as_ref().map(http::HeaderValue::as_bytes),
        path.as_ref().map(http::HeaderValue::as_bytes),
    );
    let mode = core.snapshot().mesh.path_normalization;
    let (request, form) = match canonical::from_h2(pseudo, headers, mode, clock::unix_s()) {
        Ok(canonical) => canonical,
        Err(error) => {
            let why = (CloseReason::BadRequest, bad_request_status(error));
            return unread(core, site, responder, why, &error.to_string()).await;
        }
    };
    let arrived = Arrived {
        request,
        form,
        body: Source::H2(body),
        length,
        upgrade: None,
    };
    exchange::serve(core, site, arrived, responder).await;
}

/// Waits until a request that announces to have no content has ended without any: what came behind it later would belong to
/// a request that was served.
///
/// # Errors
/// It has some, breaks off, or keeps us waiting: why it is over, and what is said of it.
async fn empty(
    core: &Core,
    body: &mut Incoming,
) -> Result<(), ((CloseReason, StatusCode), String)> {
    match rt::timeout(core.process.limits.body_ms, body.whole()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(MuxError::Reset(Code::PROTOCOL_ERROR))) => Err((
            (CloseReason::BadRequest, StatusCode::BAD_REQUEST),
            Malformed::Length.text().to_owned(),
        )),
        Ok(Err(broke)) => Err((
            (CloseReason::DownstreamReset, StatusCode::BAD_REQUEST),
            broke.to_string(),
        )),
        Err(rt::Elapsed) => Err((
            (CloseReason::Timeout, StatusCode::REQUEST_TIMEOUT),
            TooSlow.to_string(),
        )),
    }
}

/// Answers and records a request that cannot be read.
pub(super) async fn unread(
    core: &Rc<Core>,
    site: &Site,
    responder: Responder<'_>,
    (close, status): (CloseReason, StatusCode),
    detail: &str,
) {
    let mut story = Story::of_request(core, site, &core.snapshot());
    story.edit(|r| r.status = Some(status.as_u16()));
    let text = status.canonical_reason().unwrap_or_default();
    responder
        .reply(Reply::text(status, text), true, &mut Source::Empty)
        .await;
    story.fail(close, detail);
}
