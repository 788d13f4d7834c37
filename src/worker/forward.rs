//! A permitted request on its way: upstream, both bodies at once, the answer.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version as HttpVersion, header,
};

use crate::exchange::close::CloseReason;
use crate::http::canonical::clean_response;
use crate::http::h1::{self, BodyDecoder, Framing, RawResponse};
use crate::http::reply::{Reply, SERVER, http_date};
use crate::io::body::{Coding, PumpError, Sink, Source, pump};
use crate::io::clock;
use crate::io::h1::{HeadError, Writer};
use crate::io::hbone::HboneError;
use crate::io::relay::Passed;
use crate::io::upstream::{DialError, H1Upstream, Target, Upstream, Upstreams, Version};
use crate::oidc;
use crate::policy::{Permit, Request};
use crate::worker::open::Cancel;
use crate::worker::site::Story;

/// Where the answer goes.
#[derive(Debug)]
pub enum Responder<'a> {
    /// An HTTP/1 connection.
    H1 {
        /// Writing half.
        writer: &'a mut Writer,
        /// Method of the request.
        method: Method,
        /// HTTP/1.1 (else 1.0).
        is_11: bool,
        /// The connection may go on afterwards.
        keep: bool,
        /// The client waits for `100 Continue`.
        expects_continue: bool,
    },
    /// An HTTP/2 stream.
    H2 {
        /// Answers it.
        respond: SendResponse<Bytes>,
        /// The answer has no body, whatever its `content-length` says.
        is_head: bool,
    },
}

impl<'a> Responder<'a> {
    /// Sends a complete answer; `ended`: the request has no body that is still to come.
    pub async fn reply(self, reply: Reply, ended: bool, body: &mut Source<'_>) -> bool {
        let Reply {
            status,
            headers,
            body: content,
        } = reply;
        let done = ended || body.is_done();
        match self {
            Self::H1 {
                writer,
                method,
                is_11,
                keep,
                ..
            } => {
                let keep = keep && done;
                let out = writer.out();
                status_line(out, status, is_11);
                out.extend_from_slice(format!("content-length: {}\r\n", content.len()).as_bytes());
                let mut fields = headers;
                finish_fields(&mut fields);
                connection_field(&mut fields, keep, is_11);
                h1::write_fields(out, &fields);
                if method != Method::HEAD {
                    out.extend_from_slice(&content);
                }
                writer.flush().await.is_ok() && keep
            }
            Self::H2 {
                mut respond,
                is_head,
            } => {
                let mut response = http::Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                finish_fields(response.headers_mut());
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
                let empty = is_head || content.is_empty();
                if let Ok(mut stream) = respond.send_response(response, empty)
                    && !empty
                    && stream.send_data(content, true).is_err()
                {
                    tracing::trace!("stream ended before the answer");
                }
                true
            }
        }
    }

    /// Starts the answer of an upstream; what comes back takes its body.
    fn start(self, mut head: RawResponse, framing: Framing) -> io::Result<Sink<'a>> {
        clean_response(&mut head.headers);
        match self {
            Self::H1 {
                writer,
                is_11,
                keep,
                ..
            } => {
                let (coding, keep) = match framing {
                    Framing::Empty => (None, keep),
                    Framing::Length(n) => (Some(Coding::Length(n)), keep),
                    Framing::Chunked | Framing::UntilClose if is_11 => {
                        (Some(Coding::Chunked), keep)
                    }
                    Framing::Chunked | Framing::UntilClose => (Some(Coding::Close), false),
                };
                if matches!(coding, Some(Coding::Chunked | Coding::Close)) {
                    head.headers.remove(header::CONTENT_LENGTH);
                }
                connection_field(&mut head.headers, keep, is_11);
                let out = writer.out();
                status_line(out, head.status, is_11);
                if coding == Some(Coding::Chunked) {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                }
                h1::write_fields(out, &head.headers);
                // A message without a body still has to be flushed.
                Ok(Sink::H1(writer, coding.unwrap_or(Coding::Length(0))))
            }
            Self::H2 { mut respond, .. } => {
                let mut response = http::Response::new(());
                *response.status_mut() = head.status;
                *response.version_mut() = HttpVersion::HTTP_2;
                *response.headers_mut() = head.headers;
                let empty = framing == Framing::Empty;
                let stream = respond
                    .send_response(response, empty)
                    .map_err(io::Error::other)?;
                Ok(if empty {
                    Sink::Nothing
                } else {
                    Sink::H2(stream)
                })
            }
        }
    }

    /// Whether the client sends its body only when it is asked to.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        matches!(
            self,
            Self::H1 {
                expects_continue: true,
                ..
            }
        )
    }

    fn keeps(&self, framing: Framing) -> bool {
        match self {
            Self::H1 { is_11, keep, .. } => {
                *keep && (*is_11 || matches!(framing, Framing::Empty | Framing::Length(_)))
            }
            Self::H2 { .. } => true,
        }
    }

    async fn invite_body(&mut self) -> io::Result<()> {
        if let Self::H1 {
            writer,
            expects_continue,
            ..
        } = self
            && std::mem::take(expects_continue)
        {
            writer
                .out()
                .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            return writer.flush().await;
        }
        Ok(())
    }
}

fn status_line(out: &mut BytesMut, status: StatusCode, is_11: bool) {
    out.extend_from_slice(if is_11 { b"HTTP/1.1 " } else { b"HTTP/1.0 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn finish_fields(headers: &mut HeaderMap) {
    if let Ok(date) = HeaderValue::try_from(http_date(clock::unix())) {
        headers.insert(header::DATE, date);
    }
    headers.insert(header::SERVER, SERVER);
}

fn connection_field(headers: &mut HeaderMap, keep: bool, is_11: bool) {
    if !keep {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if !is_11 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    }
}

/// A permitted request.
#[derive(Debug)]
pub struct Forward<'a> {
    /// Pools.
    pub upstreams: &'a Upstreams,
    /// Permit.
    pub permit: Permit,
    /// Where to.
    pub target: Target,
    /// Protocol there.
    pub version: Version,
    /// The request that was judged.
    pub request: &'a Request,
    /// Fields that replace the request's.
    pub extra: &'a HeaderMap,
    /// Announced length of the body.
    pub length: Option<u64>,
    /// The answer leaves through an ingress, whose own cookies nobody else may set.
    pub at_edge: bool,
}

/// What moves through an exchange besides the bodies.
struct Moving<'a> {
    request: &'a Request,
    extra: &'a HeaderMap,
    length: Option<u64>,
    at_edge: bool,
    passed: &'a Cell<Passed>,
    status: Cell<Option<u16>>,
}

/// How an attempt ended.
enum Tried {
    /// A pooled connection was closed before it answered; nothing was sent on.
    Stale,
    /// It is over: why, and whether the downstream connection can go on.
    Over(CloseReason, Option<String>, bool),
}

/// Why an answer failed.
enum AnswerError {
    /// The upstream ended before the first byte of it.
    Silent,
    /// The upstream broke off or speaks nonsense.
    Upstream(String),
    /// The downstream broke off.
    Downstream(io::Error),
}

/// What is left usable after an answer.
struct Answered {
    keep_downstream: bool,
    keep_upstream: bool,
}

type Slot<'a> = RefCell<Option<Responder<'a>>>;

/// Forwards a request and its answer. `true`: the downstream connection can take another request.
pub async fn exchange(
    work: Forward<'_>,
    mut body: Source<'_>,
    mut responder: Responder<'_>,
    mut story: Story,
    cancel: &Cancel,
) -> bool {
    let bodiless = body.is_empty();
    let repeatable = bodiless && work.request.method.is_idempotent();
    let Forward {
        upstreams,
        mut permit,
        target,
        version,
        request,
        extra,
        length,
        at_edge,
    } = work;
    if !bodiless && responder.invite_body().await.is_err() {
        story.end(CloseReason::DownstreamReset);
        return false;
    }
    let passed = std::rc::Rc::clone(&story.passed);
    let moving = Moving {
        request,
        extra,
        length,
        at_edge,
        passed: &passed,
        status: Cell::new(None),
    };
    let slot: Slot<'_> = RefCell::new(Some(responder));
    let mut fresh = false;
    let (close, detail, keep) = loop {
        let upstream = match upstreams.request(permit, &target, version, fresh).await {
            Ok((upstream, back)) => {
                permit = back;
                upstream
            }
            Err(error) => break (dial_reason(&error), Some(chain(&error)), true),
        };
        let tried = match upstream {
            Upstream::H1(connection) => {
                via_h1(&moving, *connection, &mut body, &slot, cancel, upstreams).await
            }
            Upstream::H2(send) => via_h2(&moving, send, &mut body, &slot, cancel).await,
        };
        match tried {
            Tried::Stale if repeatable && !fresh => fresh = true,
            Tried::Stale => {
                break (
                    CloseReason::UpstreamReset,
                    Some("upstream closed without an answer".to_owned()),
                    true,
                );
            }
            Tried::Over(close, detail, keep) => break (close, detail, keep),
        }
    };
    story.edit(|r| {
        r.status = moving.status.get();
        r.detail = detail;
    });
    let unanswered = slot.borrow_mut().take();
    let keep = match unanswered {
        None => keep,
        Some(responder) => {
            let reply = instead(close);
            story.edit(|r| r.status = Some(reply.status.as_u16()));
            responder.reply(reply, bodiless, &mut body).await && keep
        }
    };
    story.end(close);
    keep
}

/// The answer where the upstream gives none.
fn instead(close: CloseReason) -> Reply {
    if close == CloseReason::PolicyChanged {
        Reply::denied()
    } else {
        Reply::text(close.status(), close.label())
    }
}

pub(super) fn dial_reason(error: &DialError) -> CloseReason {
    match error {
        DialError::Hbone(HboneError::Refused(status)) if *status == StatusCode::UNAUTHORIZED => {
            CloseReason::Denied
        }
        DialError::Hbone(HboneError::Timeout) | DialError::Timeout => CloseReason::Timeout,
        DialError::Hbone(_) | DialError::Connect(_) | DialError::Framing(_) => {
            CloseReason::UpstreamConnect
        }
    }
}

/// An error and its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

pub(super) fn seen_received(passed: &Cell<Passed>) -> impl FnMut(u64) {
    move |n| {
        let mut now = passed.get();
        now.received = now.received.saturating_add(n);
        passed.set(now);
    }
}

pub(super) fn seen_sent(passed: &Cell<Passed>) -> impl FnMut(u64) {
    move |n| {
        let mut now = passed.get();
        now.sent = now.sent.saturating_add(n);
        passed.set(now);
    }
}

/// How the two directions ended together.
enum Drove {
    Answered(Result<Answered, AnswerError>, bool),
    ClientBroke(io::Error),
    Cancelled,
}

/// Runs both directions until the answer is complete, the client breaks off or policy ends it.
async fn drive(
    upload: impl Future<Output = Result<(), PumpError>>,
    answer: impl Future<Output = Result<Answered, AnswerError>>,
    cancel: &Cancel,
) -> Drove {
    let (mut upload, mut answer, mut cancelled) =
        (pin!(upload), pin!(answer), pin!(cancel.cancelled()));
    let mut uploaded: Option<bool> = None;
    std::future::poll_fn(|cx| {
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Drove::Cancelled);
        }
        if uploaded.is_none() {
            match upload.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => uploaded = Some(true),
                Poll::Ready(Err(PumpError::Source(error))) => {
                    return Poll::Ready(Drove::ClientBroke(error));
                }
                // The upstream takes no more; it may still answer why.
                Poll::Ready(Err(PumpError::Sink(_))) => uploaded = Some(false),
                Poll::Pending => {}
            }
        }
        answer
            .as_mut()
            .poll(cx)
            .map(|answered| Drove::Answered(answered, uploaded == Some(true)))
    })
    .await
}

fn over(drove: Drove, stale_possible: bool) -> (Tried, bool) {
    match drove {
        Drove::Cancelled => (
            Tried::Over(
                CloseReason::PolicyChanged,
                Some("policy changed".to_owned()),
                false,
            ),
            false,
        ),
        Drove::ClientBroke(error) => (
            Tried::Over(CloseReason::DownstreamReset, Some(error.to_string()), false),
            false,
        ),
        Drove::Answered(Ok(answered), uploaded) => (
            Tried::Over(
                CloseReason::Done,
                None,
                answered.keep_downstream && uploaded,
            ),
            answered.keep_upstream && uploaded,
        ),
        Drove::Answered(Err(AnswerError::Silent), _) if stale_possible => (Tried::Stale, false),
        Drove::Answered(Err(AnswerError::Silent), _) => (
            Tried::Over(
                CloseReason::UpstreamReset,
                Some("upstream closed without an answer".to_owned()),
                true,
            ),
            false,
        ),
        Drove::Answered(Err(AnswerError::Upstream(what)), _) => (
            Tried::Over(CloseReason::UpstreamReset, Some(what), false),
            false,
        ),
        Drove::Answered(Err(AnswerError::Downstream(error)), _) => (
            Tried::Over(CloseReason::DownstreamReset, Some(error.to_string()), false),
            false,
        ),
    }
}

async fn via_h1(
    moving: &Moving<'_>,
    mut connection: H1Upstream,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
    upstreams: &Upstreams,
) -> Tried {
    let bodiless = body.is_empty();
    let coding = moving.length.map_or(Coding::Chunked, Coding::Length);
    request_head(
        connection.writer.out(),
        moving,
        (!bodiless).then_some(coding),
    );
    let reused = connection.reused;
    let H1Upstream { reader, writer, .. } = &mut connection;
    let upload = async {
        if bodiless {
            writer.flush().await.map_err(PumpError::Sink)
        } else {
            pump(
                body,
                &mut Sink::H1(writer, coding),
                seen_received(moving.passed),
            )
            .await
        }
    };
    let answer = async {
        let head = loop {
            match reader.head(h1::parse_response).await {
                Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                    return Err(AnswerError::Upstream("unsolicited 101".to_owned()));
                }
                Ok(Some(head)) if head.status.is_informational() => {}
                Ok(Some(head)) => break head,
                Ok(None) | Err(HeadError::Io(_)) => return Err(AnswerError::Silent),
                Err(error) => return Err(AnswerError::Upstream(chain(&error))),
            }
        };
        let framing = h1::response_framing(&head, &moving.request.method)
            .map_err(|error| AnswerError::Upstream(error.to_string()))?;
        let keep_upstream =
            h1::keeps_alive(&head.headers, head.is_11) && framing != Framing::UntilClose;
        let source = Source::H1(reader, BodyDecoder::new(framing));
        let keep_downstream = answer(moving, head, framing, source, slot).await?;
        Ok(Answered {
            keep_downstream,
            keep_upstream,
        })
    };
    let drove = drive(upload, answer, cancel).await;
    let (tried, keep_upstream) = over(drove, reused);
    if keep_upstream {
        upstreams.give_back(connection);
    }
    tried
}

async fn via_h2(
    moving: &Moving<'_>,
    mut send: SendRequest<Bytes>,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
) -> Tried {
    let bodiless = body.is_empty();
    let sent = h2_request(moving).and_then(|request| {
        send.send_request(request, bodiless)
            .map_err(|e| e.to_string())
    });
    let (response, stream) = match sent {
        Ok(sent) => sent,
        Err(what) => return Tried::Over(CloseReason::UpstreamReset, Some(what), true),
    };
    let upload = async {
        if bodiless {
            Ok(())
        } else {
            pump(body, &mut Sink::H2(stream), seen_received(moving.passed)).await
        }
    };
    let answer = async {
        let response = response
            .await
            .map_err(|error| AnswerError::Upstream(error.to_string()))?;
        let (parts, body) = response.into_parts();
        let length = crate::io::body::announced_length(&parts.headers);
        let framing = match length {
            _ if body.is_end_stream() => Framing::Empty,
            Some(n) => Framing::Length(n),
            None => Framing::Chunked,
        };
        let head = RawResponse {
            status: parts.status,
            is_11: true,
            headers: parts.headers,
        };
        let keep_downstream = answer(moving, head, framing, Source::H2(body), slot).await?;
        Ok(Answered {
            keep_downstream,
            keep_upstream: true,
        })
    };
    over(drive(upload, answer, cancel).await, false).0
}

/// Sends an upstream's answer on; whether the downstream connection can go on afterwards.
async fn answer(
    moving: &Moving<'_>,
    mut head: RawResponse,
    framing: Framing,
    mut source: Source<'_>,
    slot: &Slot<'_>,
) -> Result<bool, AnswerError> {
    let Some(responder) = slot.borrow_mut().take() else {
        return Err(AnswerError::Upstream("answered twice".to_owned()));
    };
    moving.status.set(Some(head.status.as_u16()));
    if moving.at_edge {
        oidc::strip_response(&mut head.headers);
    }
    let keep = responder.keeps(framing);
    let mut sink = responder
        .start(head, framing)
        .map_err(AnswerError::Downstream)?;
    match pump(&mut source, &mut sink, seen_sent(moving.passed)).await {
        Ok(()) => Ok(keep),
        Err(PumpError::Source(error)) => {
            sink.abort();
            Err(AnswerError::Upstream(error.to_string()))
        }
        Err(PumpError::Sink(error)) => Err(AnswerError::Downstream(error)),
    }
}

fn fields<'m>(moving: &'m Moving<'_>) -> impl Iterator<Item = (&'m HeaderName, &'m HeaderValue)> {
    let own = moving.extra;
    let theirs = moving.request.headers.iter().filter(move |(name, _)| {
        !own.contains_key(*name) && **name != header::CONTENT_LENGTH && **name != header::EXPECT
    });
    theirs.chain(own.iter())
}

fn request_head(out: &mut BytesMut, moving: &Moving<'_>, coding: Option<Coding>) {
    let request = moving.request;
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(request.path.as_ref().map_or("/", |p| p.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(request.host.as_str().as_bytes());
    out.extend_from_slice(b"\r\n");
    match coding {
        Some(Coding::Length(n)) => {
            out.extend_from_slice(format!("content-length: {n}\r\n").as_bytes());
        }
        Some(Coding::Chunked | Coding::Close) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        None if moving.length == Some(0) => out.extend_from_slice(b"content-length: 0\r\n"),
        None => {}
    }
    for (name, value) in fields(moving).filter(|(name, _)| **name != header::TE) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn h2_request(moving: &Moving<'_>) -> Result<http::Request<()>, String> {
    let request = moving.request;
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(request.host.as_str())
        .path_and_query(request.path.as_ref().map_or("/", |p| p.as_str()))
        .build()
        .map_err(|error| error.to_string())?;
    let mut out = http::Request::new(());
    *out.method_mut() = request.method.clone();
    *out.uri_mut() = uri;
    *out.version_mut() = HttpVersion::HTTP_2;
    for (name, value) in fields(moving) {
        out.headers_mut().append(name.clone(), value.clone());
    }
    if let Some(length) = moving.length {
        out.headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(out)
}
