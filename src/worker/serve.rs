//! HTTP on a connection: which version, then request after request.

mod h2;
mod websocket;

use std::pin::{Pin, pin};
use std::rc::Rc;

use http::{Method, StatusCode, header};

use crate::exchange::close::CloseReason;
use crate::http::canonical::{self, BadRequest, Form};
use crate::http::h1::{self, BodyDecoder, Framing, H1Error, RawRequest};
use crate::http::marks::Marks;
use crate::http::reply::Reply;
use crate::http::upgrade;
use crate::io::body::{Source, announced_length};
use crate::io::h1::{HeadError, Reader, Writer, split};
use crate::io::stream::Stream;
use crate::io::{clock, rt};
use crate::policy::Request;
use crate::vocab::limits;
use crate::vocab::path::PathNormalization;
use crate::worker::core::Core;
use crate::worker::exchange::{self, Arrived};
use crate::worker::relaying::Rest;
use crate::worker::respond::Responder;
use crate::worker::site::{Site, Story};
use crate::worker::upgrade::Upgrade;

/// The client preface of HTTP/2 begins with what no HTTP/1 request does.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// What is left of a stream that carries HTTP: its requests. `is_h2`: negotiated by ALPN; else the first bytes tell. Where all
/// that is done is to redirect, it is HTTP/1 alone: nothing is there to be shared by streams.
pub async fn http(core: Rc<Core>, site: Site, mut stream: Stream, is_h2: bool) -> Rest {
    let is_h1 = site.redirects.is_some();
    let is_h2 = is_h2
        || !is_h1
            && match core
                .within(core.process.limits.head_ms, stream.peek(H2_PREFACE.len()))
                .await
            {
                Ok(Ok(first)) => first == H2_PREFACE,
                Ok(Err(_)) | Err(rt::Elapsed) => false,
            };
    let (open, leaf, now) = (Rc::clone(&core.open), site.leaf.clone(), core.snapshot());
    let site = Rc::new(site);
    let served: Pin<Box<dyn Future<Output = ()>>> = if is_h2 {
        Box::pin(h2::serve(core, site, stream))
    } else {
        Box::pin(serve_h1(core, site, stream))
    };
    if leaf.is_none() {
        return Rest::from(served);
    }
    let served = open.while_trusted(leaf, &now, served);
    Rest::serve(async move {
        served.await;
    })
}

async fn serve_h1(core: Rc<Core>, site: Rc<Site>, stream: Stream) {
    let (core, site) = (&core, &site);
    let (mut reader, mut writer) = split(stream);
    let mut drained = pin!(core.drained());
    let limits = &core.process.limits;
    writer.wait_at_most(site.patience_ms(core));
    let mut left = limits.requests.unwrap_or(usize::MAX);
    loop {
        let started = tokio::select! {
            biased;
            started = rt::timeout(limits::IDLE_MS, reader.started()) => started,
            () = &mut drained => Err(rt::Elapsed),
        };
        match started {
            Ok(Ok(true)) => {}
            // Idle for too long, ended or broken between two requests: nothing to tell.
            Ok(Ok(false) | Err(_)) | Err(rt::Elapsed) => return end(&mut writer).await,
        }
        let head = match rt::timeout(limits.head_ms, reader.head(h1::parse_request)).await {
            Ok(Ok(Some(head))) => head,
            Ok(Ok(None)) => return end(&mut writer).await,
            Ok(Err(error)) => {
                Box::pin(bad_head(core, site, &mut writer, &error)).await;
                break;
            }
            Err(rt::Elapsed) => {
                let why = (CloseReason::Timeout, StatusCode::REQUEST_TIMEOUT);
                let detail = "request head is too slow";
                Box::pin(unread(core, site, &mut writer, why, detail)).await;
                break;
            }
        };
        let upgrade = Upgrade::default();
        left = left.saturating_sub(1);
        let halves = (&mut reader, &mut writer);
        let kept = match exchange_of(head, left == 0, (core, site), halves, &upgrade) {
            Ok(exchange) => Ok(exchange.await),
            Err(why) => Err(why),
        };
        let keep = match kept {
            Ok(keep) => keep,
            Err(why) => {
                Box::pin(unreadable(core, site, &mut writer, why)).await;
                break;
            }
        };
        if let Some(switched) = upgrade.into_switched() {
            // Boxed, so that an idle connection does not hold room for a relay.
            return Box::pin(switched.relay(reader, writer, limits.stream_idle_ms)).await;
        }
        if !keep {
            break;
        }
    }
    if writer.is_within() {
        // What was sent of the answer must not look complete.
        return writer.abort();
    }
    end(&mut writer).await;
    reader.linger().await;
}

/// Ends our side of a connection.
async fn end(writer: &mut Writer) {
    // Boxed, so that an idle connection does not hold room for its end.
    let shutdown = Box::pin(writer.shutdown());
    if let Ok(Err(error)) = rt::timeout(limits::LINGER_MS, shutdown).await {
        tracing::trace!(%error, "shutdown");
    }
}

/// Why a head that was read is no request.
enum Unreadable {
    Head(HeadError),
    Request(BadRequest),
}

/// A request of an HTTP/1 connection, as its head says.
struct Read {
    request: Request,
    form: Form,
    framing: Framing,
    /// Announced length of the body.
    length: Option<u64>,
    method: Method,
    is_11: bool,
    /// The connection can take another request.
    keep: bool,
    expects_continue: bool,
    asks_upgrade: bool,
}

impl Read {
    /// What `head` asks for. `last`: the connection takes no other request.
    fn of(head: RawRequest, last: bool, mode: PathNormalization) -> Result<Self, Unreadable> {
        let framing =
            h1::request_framing(&head).map_err(|error| Unreadable::Head(HeadError::Http(error)))?;
        let asks_upgrade = upgrade::asks(&head, framing);
        // What comes behind a request to switch is not HTTP if its client believes to have switched.
        let keep = !asks_upgrade && !last && head.keeps_alive();
        let is_11 = head.is_11;
        let method = head.method.clone();
        let expects_continue = is_11
            && head.marks().has(Marks::EXPECT)
            && head
                .headers()
                .get(header::EXPECT)
                .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let (request, form) =
            canonical::from_h1(head, mode, clock::unix_s()).map_err(Unreadable::Request)?;
        let (framing, length) = if method == Method::CONNECT {
            (Framing::UntilClose, None)
        } else {
            match framing {
                Framing::Length(n) => (framing, Some(n)),
                Framing::Empty => (framing, announced_length(&request.headers)),
                Framing::Chunked | Framing::UntilClose => (framing, None),
            }
        };
        Ok(Self {
            request,
            form,
            framing,
            length,
            method,
            is_11,
            keep,
            expects_continue,
            asks_upgrade,
        })
    }
}

/// The exchange of the request that `head` asks for, in memory of its own, so that an idle connection does not hold room for
/// it; its outcome is whether the connection can take another request. `last`: it takes none.
fn exchange_of<'a>(
    head: RawRequest,
    last: bool,
    (core, site): (&'a Rc<Core>, &'a Rc<Site>),
    (reader, writer): (&'a mut Reader, &'a mut Writer),
    upgrade: &'a Upgrade,
) -> Result<Pin<Box<impl Future<Output = bool>>>, Unreadable> {
    let read = Read::of(head, last, core.snapshot().mesh.path_normalization)?;
    let responder = Responder::H1 {
        writer,
        method: read.method,
        is_11: read.is_11,
        keep: read.keep,
        expects_continue: read.expects_continue,
        core,
    };
    let arrived = Arrived {
        request: read.request,
        form: read.form,
        body: Source::H1(reader, BodyDecoder::new(read.framing)),
        length: read.length,
        upgrade: read.asks_upgrade.then_some(upgrade),
    };
    Ok(exchange::serve(core, site, arrived, responder))
}

async fn unreadable(core: &Rc<Core>, site: &Site, writer: &mut Writer, why: Unreadable) {
    match why {
        Unreadable::Head(error) => bad_head(core, site, writer, &error).await,
        Unreadable::Request(error) => bad_request(core, site, writer, error).await,
    }
}

async fn bad_head(core: &Rc<Core>, site: &Site, writer: &mut Writer, error: &HeadError) {
    let (close, status) = match error {
        HeadError::Http(H1Error::TooLarge) => (
            CloseReason::Limit,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        ),
        HeadError::Http(H1Error::TargetTooLong) => (CloseReason::Limit, StatusCode::URI_TOO_LONG),
        HeadError::Http(H1Error::Coding) => (CloseReason::BadRequest, StatusCode::NOT_IMPLEMENTED),
        HeadError::Http(_) => (CloseReason::BadRequest, StatusCode::BAD_REQUEST),
        HeadError::Io(_) | HeadError::Cut => {
            (CloseReason::DownstreamReset, StatusCode::BAD_REQUEST)
        }
    };
    unread(core, site, writer, (close, status), &error.to_string()).await;
}

/// What a request is answered with that cannot be read.
fn bad_request_status(error: BadRequest) -> StatusCode {
    match error {
        BadRequest::Expectation => StatusCode::EXPECTATION_FAILED,
        BadRequest::Method | BadRequest::Host | BadRequest::Target | BadRequest::Connection => {
            StatusCode::BAD_REQUEST
        }
    }
}

async fn bad_request(core: &Rc<Core>, site: &Site, writer: &mut Writer, error: BadRequest) {
    let why = (CloseReason::BadRequest, bad_request_status(error));
    unread(core, site, writer, why, &error.to_string()).await;
}

/// Answers and records a request that cannot be read; the connection cannot be used any further.
async fn unread(
    core: &Rc<Core>,
    site: &Site,
    writer: &mut Writer,
    why: (CloseReason, StatusCode),
    detail: &str,
) {
    let mut story = Story::of_request(core, site, &core.snapshot());
    story.edit(|r| r.status = Some(why.1.as_u16()));
    let responder = Responder::H1 {
        writer,
        method: Method::GET,
        is_11: true,
        keep: false,
        expects_continue: false,
        core,
    };
    let text = why.1.canonical_reason().unwrap_or("bad request");
    responder
        .reply(Reply::text(why.1, text), true, &mut Source::Empty)
        .await;
    story.fail(why.0, detail);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, C, F: Future>(_made_by: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle connection holds, besides its TLS: a request has its room only while it is served.
    #[test]
    fn what_serves_an_idle_connection_is_small() {
        let size = future_bytes(serve_h1);
        assert!((200..1200).contains(&size), "{size} bytes");
        let size = future_bytes(h2::serve);
        assert!((200..1200).contains(&size), "{size} bytes");
    }
}
