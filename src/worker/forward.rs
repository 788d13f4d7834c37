//! A permitted request on its way: upstream, both bodies at once, the answer.

mod attempts;
mod h2;
mod interim;
mod slot;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::Notify;

use crate::config::checked::route::{HeaderChange, Timeouts};
use crate::exchange::close::CloseReason;
use crate::http::forward::{Own, outgoing};
use crate::http::grpc;
use crate::http::h1::{self, BodyDecoder, Framing, H1Error, RawResponse};
use crate::http::keep_alive::kept_ms;
use crate::http::reply::{Reply, is_grpc};
use crate::http::request_id::REQUEST_ID;
use crate::io::body::{Coding, PumpError, Sink, Source, TooLong, Trailers, pump};
use crate::io::h1::HeadError;
use crate::io::hbone::HboneError;
use crate::io::pace::{TooSlow, Unread};
use crate::io::relay::Meter;
use crate::io::upstream::{DialError, H1Upstream, Manner, Target, Upstream, Upstreams};
use crate::io::{rt, tls};
use crate::oidc;
use crate::policy::{Permit, Request};
use crate::role::rewrite;
use crate::upstream::load::Waiting;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::forward::attempts::{Ended, attempts, within};
use crate::worker::open::Cancel;
use crate::worker::respond::Responder;
use crate::worker::retry::{Cause, Retries};
use crate::worker::site::Story;
use crate::worker::upgrade::Upgrade;
use interim::{interim_answer, invitation, invite};
use slot::Slot;

/// A permitted request.
#[expect(
    missing_debug_implementations,
    reason = "what knows the other endpoints has nothing to show"
)]
pub struct Forward<'a> {
    /// Pools.
    pub upstreams: &'a Upstreams,
    /// Permit.
    pub permit: Permit,
    /// Where to.
    pub target: Target,
    /// How it is spoken to there.
    pub manner: Manner,
    /// The request that was judged.
    pub request: &'a Request,
    /// Fields that replace the request's.
    pub extra: &'a Own,
    /// Announced length of the body.
    pub length: Option<u64>,
    /// What becomes of the answer's header.
    pub answer: &'a OnAnswer,
    /// Where else it may go.
    pub others: &'a dyn Onward,
    /// It asks for a WebSocket.
    pub upgrade: Option<&'a Upgrade>,
    /// Times of its route.
    pub times: Timeouts,
}

/// Where else a request may go that could not be sent at all.
pub trait Onward {
    /// The upstream could be connected to.
    fn reached(&self);

    /// The upstream has answered with this status; 502 and 504 stand for no answer.
    fn answered(&self, status: u16);

    /// The answer begins to go to its client.
    fn begins(&self);

    /// The next upstream after one that could not be connected to, judged anew.
    fn next(&self, error: &DialError) -> Option<(Permit, Target)>;

    /// It begins to wait for a connection.
    ///
    /// # Errors
    /// Too many do, in words for the record.
    fn waits(&self) -> Result<Option<Waiting>, String>;

    /// How often it is sent.
    fn retries(&self) -> &Retries<'_>;

    /// The upstream of the next attempt, judged anew.
    fn another(&self) -> Option<(Permit, Target)>;

    /// Tells the workload that it came to, if that is not the one that was chosen first.
    fn tell(&self, story: &mut Story);
}

/// What the header of an upstream's answer gains and loses.
#[derive(Clone, Debug)]
pub struct OnAnswer {
    /// It leaves through an ingress, whose own cookies nobody else may set.
    pub at_edge: bool,
    /// Fields that authorizers add.
    pub added: Vec<(HeaderName, HeaderValue)>,
    /// What a route changes.
    pub changed: Option<HeaderChange>,
}

impl OnAnswer {
    /// Changes the header of a final answer.
    fn apply(&self, headers: &mut HeaderMap) {
        if let Some(changed) = &self.changed {
            rewrite::change(changed, headers);
        }
        for (name, value) in &self.added {
            headers.append(name.clone(), value.clone());
        }
        self.apply_edge(headers);
    }

    /// Changes the header of any answer.
    fn apply_edge(&self, headers: &mut HeaderMap) {
        if self.at_edge {
            oidc::strip_response(headers);
        }
    }
}

/// What moves through an exchange besides the bodies.
struct Moving<'a> {
    request: &'a Request,
    extra: &'a Own,
    length: Option<u64>,
    on_answer: &'a OnAnswer,
    /// Scheme of the upstream, which HTTP/2 names.
    scheme: &'static str,
    passed: &'a Meter,
    upgrade: Option<&'a Upgrade>,
    /// To its client an answer of success says that it has a WebSocket.
    must_switch: bool,
    /// The client sends its body only when it is asked to, which the upstream decides.
    awaited: Cell<bool>,
    /// Says that it has decided so.
    invited: Notify,
    /// Bytes of the body that this attempt has taken.
    pushed: Cell<u64>,
    /// The body was sent whole.
    uploaded: Cell<bool>,
    /// All of the request can be sent once more.
    whole: Cell<bool>,
    /// What is left of the body when the answer has ended is so little that it is read and forgotten.
    small: bool,
    times: Timeouts,
    others: &'a dyn Onward,
    status: Cell<Option<u16>>,
    /// `grpc-status` of the answer.
    grpc: Cell<Option<u16>>,
    /// The endpoint of this attempt has been judged by its answer.
    told: Cell<bool>,
    switched: Cell<Option<Box<RawResponse>>>,
    /// Whom the next attempt goes to, once that is judged.
    next: Cell<Option<(Permit, Target)>>,
}

impl<'a> Moving<'a> {
    /// Nothing has moved yet. `awaited`: the client sends its body only when it is asked to.
    fn new(work: &Forward<'a>, passed: &'a Meter, bodiless: bool, awaited: bool) -> Self {
        Self {
            request: work.request,
            extra: work.extra,
            length: work.length,
            on_answer: work.answer,
            scheme: match work.target {
                Target::Tls { .. } => "https",
                Target::Hbone(_) | Target::Plain { .. } => "http",
            },
            passed,
            upgrade: work.upgrade,
            must_switch: work.upgrade.is_some_and(Upgrade::is_of_stream),
            awaited: Cell::new(!bodiless && awaited),
            invited: Notify::new(),
            pushed: Cell::new(0),
            uploaded: Cell::new(false),
            whole: Cell::new(bodiless),
            small: bodiless || work.length.is_some_and(|n| n <= limits::REFUSED_BODY_BYTES),
            times: work.times,
            others: work.others,
            status: Cell::new(None),
            grpc: Cell::new(None),
            told: Cell::new(false),
            switched: Cell::new(None),
            next: Cell::new(None),
        }
    }
}

impl Moving<'_> {
    /// So many bytes of the body have come by now, however often they are sent.
    fn has_come(&self, bytes: u64) {
        let mut now = self.passed.get();
        now.received = now.received.max(bytes);
        self.passed.set(now);
    }
}

/// How an attempt ended.
enum Tried {
    /// A pooled connection was closed before it answered; nothing was sent on.
    Stale,
    /// The upstream has surely not looked at it, and no body is lost.
    Unprocessed,
    /// Nobody has an answer yet, and there is another attempt: why this one is over.
    Again(CloseReason, String),
    /// It is over: why, and whether the downstream connection can go on.
    Over(CloseReason, Option<String>, bool),
}

/// Why an answer failed.
enum AnswerError {
    /// The upstream ended before the first byte of it.
    Silent,
    /// The upstream says that it has not looked at the request.
    Unprocessed,
    /// The upstream broke off or speaks nonsense.
    Upstream(String),
    /// It is whole, but not what its client takes it for.
    NotSwitched,
    /// It speaks HTTP/2 and does not take extended CONNECT; nothing was asked.
    NoWebSockets,
    /// An answer with this status is not sent on: there is another attempt.
    Unwanted(StatusCode),
    /// The downstream broke off.
    Downstream(io::Error),
    /// None of it: the upstream speaks another protocol now, as it was asked to.
    Switched(Box<RawResponse>),
}

/// What is left usable after an answer.
struct Answered {
    keep_downstream: bool,
    /// For how many milliseconds the upstream's connection may be used again; `None`: not at all.
    keep_upstream: Option<u64>,
}

/// Forwards a request and its answer. `true`: the downstream connection can take another request.
pub async fn exchange(
    work: Forward<'_>,
    mut body: Source<'_>,
    responder: Responder<'_>,
    mut story: Story,
    cancel: &Cancel,
) -> bool {
    let bodiless = body.is_empty();
    let passed = std::rc::Rc::clone(&story.passed);
    let moving = Moving::new(&work, &passed, bodiless, responder.is_awaited());
    let slot = Slot::new(responder);
    let others = work.others;
    let deadline = is_grpc(&moving.request.headers)
        .then(|| grpc::timeout_ms(&moving.request.headers))
        .flatten();
    let Ended {
        close,
        detail,
        keep,
        late,
    } = {
        // In its place, so that it is not moved into another future.
        let tried = pin!(attempts(work, &moving, &mut body, &slot, cancel));
        within(deadline, tried).await
    };
    story.edit(|r| {
        let is_recorded = r
            .request
            .as_deref()
            .is_some_and(|known| std::ptr::eq(known, moving.request));
        if !is_recorded {
            r.renamed = moving.request.headers.get(REQUEST_ID).cloned();
        }
        r.attempts = others.retries().attempts();
    });
    others.tell(&mut story);
    if let (Some(upgrade), Some(mut head)) = (moving.upgrade, moving.switched.take()) {
        moving.on_answer.apply(&mut head.headers);
        return switch(upgrade, *head, slot.into_unanswered(), story, cancel).await;
    }
    let detail = detail.or_else(|| cancel.time().map(str::to_owned));
    story.edit(|r| {
        r.status = moving.status.get();
        r.grpc_status = moving
            .grpc
            .get()
            .filter(|_| is_grpc(&moving.request.headers));
        r.detail = detail;
    });
    let keep = match slot.into_unanswered() {
        None if keep && close == CloseReason::Done => {
            story.end(close);
            return body.is_done() || Box::pin(forgotten(&mut body)).await;
        }
        None => false,
        // There is nobody to answer.
        Some(_) if close == CloseReason::DownstreamReset => false,
        Some(mut responder) => {
            let reply = if late {
                Reply::deadline_exceeded()
            } else if is_grpc(&moving.request.headers) {
                own_reply(close).into_grpc()
            } else {
                own_reply(close)
            };
            if !keep {
                responder.close_after();
            }
            story.edit(|r| r.answered(&reply));
            responder.reply(reply, bodiless, &mut body).await && keep
        }
    };
    story.end(close);
    keep
}

/// Reads what is left of a small body whose answer came before its end; whether that is all of it. The client was not told
/// that its connection ends, and may send its next request behind it.
async fn forgotten(body: &mut Source<'_>) -> bool {
    let read = rt::timeout(limits::EARLY_BODY_MS, body.skip()).await;
    read.is_ok() && body.is_done()
}

/// Tells the client that the upstream has switched.
async fn switch(
    upgrade: &Upgrade,
    head: RawResponse,
    waiting: Option<Responder<'_>>,
    story: Story,
    cancel: &Cancel,
) -> bool {
    let Some(mut responder) = waiting else {
        story.fail(CloseReason::DownstreamReset, "client is gone");
        return false;
    };
    let told = tokio::select! {
        biased;
        why = cancel.cancelled() => Err((why, None)),
        told = responder.switch(head) => {
            told.map_err(|error| (CloseReason::DownstreamReset, Some(error)))
        }
    };
    let Err((close, error)) = told else {
        upgrade.told(story);
        return false;
    };
    responder.break_off();
    match error {
        Some(error) => story.fail(close, error),
        None => story.end(close),
    }
    false
}

async fn via(
    moving: &Moving<'_>,
    upstream: Upstream,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
    upstreams: &Upstreams,
) -> Tried {
    moving.uploaded.set(false);
    moving.pushed.set(0);
    moving.told.set(false);
    if let Some(why) = cancel.why() {
        return Tried::Over(why, None, false);
    }
    let tried = match upstream {
        Upstream::H1(connection) => via_h1(moving, connection, body, slot, cancel, upstreams).await,
        Upstream::H2(client) => h2::via(moving, client, body, slot, cancel).await,
    };
    if let Tried::Over(close, ..) | Tried::Again(close, ..) = &tried
        && !moving.told.get()
        // Whose client has not sent all of it, has its client to wait for.
        && (*close == CloseReason::UpstreamReset
            || (*close == CloseReason::UpstreamTimeout && moving.uploaded.get()))
    {
        moving.others.answered(close.status().as_u16());
    }
    tried
}

const NOT_SWITCHED: &str = "upstream answers a request for a WebSocket and does not switch";
const NO_WEBSOCKETS: &str =
    "upstream speaks HTTP/2 and does not take WebSockets over it (RFC 8441)";
const SILENT: &str = "upstream closed without an answer";
const REFUSED: &str = "upstream takes no more streams";
const UNANSWERED: &str = "no answer behind interim ones";

/// Why an exchange ends whose upstream cannot be had.
#[must_use]
pub fn dial_reason(error: &DialError) -> CloseReason {
    match error {
        DialError::Hbone(HboneError::Refused(status)) if *status == StatusCode::UNAUTHORIZED => {
            CloseReason::Denied
        }
        DialError::Hbone(HboneError::Revoked { .. }) => CloseReason::Revoked,
        DialError::Hbone(HboneError::Connect { source, .. }) if tls::revoked(source) => {
            CloseReason::Revoked
        }
        DialError::Hbone(HboneError::Timeout) | DialError::Timeout => CloseReason::UpstreamTimeout,
        DialError::Hbone(_) | DialError::Connect(_) | DialError::Busy => {
            CloseReason::UpstreamConnect
        }
    }
}

/// What a client is told that has no answer yet.
pub(super) fn own_reply(close: CloseReason) -> Reply {
    if matches!(
        close,
        CloseReason::PolicyChanged | CloseReason::Denied | CloseReason::Revoked
    ) {
        Reply::denied()
    } else {
        Reply::text(close.status(), close.label())
    }
}

pub(super) fn seen_received(passed: &Meter) -> impl FnMut(u64) {
    move |n| {
        let mut now = passed.get();
        now.received = now.received.saturating_add(n);
        passed.set(now);
    }
}

pub(super) fn seen_sent(passed: &Meter) -> impl FnMut(u64) {
    move |n| {
        let mut now = passed.get();
        now.sent = now.sent.saturating_add(n);
        passed.set(now);
    }
}

/// How the two directions ended together.
enum Drove {
    Answered(Result<Answered, AnswerError>),
    ClientBroke(io::Error),
    Cancelled(CloseReason),
    Stalled,
    /// The time of one attempt is over.
    Expired,
}

/// Runs both directions until the answer is complete, the client breaks off, policy ends it or nothing moves any more.
async fn drive(
    moving: &Moving<'_>,
    // Where they are: to move them here would be a copy of all that they hold.
    mut upload: Pin<&mut impl Future<Output = io::Error>>,
    mut answer: Pin<&mut impl Future<Output = Result<Answered, AnswerError>>>,
    slot: &Slot<'_>,
    cancel: &Cancel,
) -> Drove {
    let (mut cancelled, mut idle) = (pin!(cancel.cancelled()), pin!(idle(moving, slot)));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(why) = cancelled.as_mut().poll(cx) {
            return Poll::Ready(Drove::Cancelled(why));
        }
        let broke = upload.as_mut().poll(cx);
        if let Poll::Ready(answered) = answer.as_mut().poll(cx) {
            return Poll::Ready(Drove::Answered(answered));
        }
        match (broke, slot.poll_gone(cx)) {
            (Poll::Ready(error), _) | (Poll::Pending, Poll::Ready(error)) => {
                Poll::Ready(Drove::ClientBroke(error))
            }
            (Poll::Pending, Poll::Pending) => idle.as_mut().poll(cx),
        }
    })
    .await
}

/// Ends when nothing has moved for too long, or when the time of this attempt is over.
async fn idle(moving: &Moving<'_>, slot: &Slot<'_>) -> Drove {
    let Some(ms) = moving.times.backend_request_ms else {
        stalled(moving, slot).await;
        return Drove::Stalled;
    };
    let timed = async {
        tokio::select! {
            biased;
            () = stalled(moving, slot) => Drove::Stalled,
            () = rt::sleep(ms) => Drove::Expired,
        }
    };
    Box::pin(timed).await
}

/// Ends when nothing has moved for too long: much sooner while the answer has not begun.
async fn stalled(moving: &Moving<'_>, slot: &Slot<'_>) {
    let mut quiet = 0_u32;
    loop {
        let before = moving.passed.get();
        rt::sleep(moving.times.idle_ms.unwrap_or(limits::STALL_MS)).await;
        if moving.passed.get() != before {
            quiet = 0;
            continue;
        }
        quiet = quiet.saturating_add(1);
        let configured = moving.times.idle_ms.is_some();
        if configured || slot.is_waiting() || quiet >= limits::STALLS {
            return;
        }
    }
}

/// Sends the body, then watches the client; ends only when the client breaks off.
async fn upload(moving: &Moving<'_>, body: &mut Source<'_>, sink: &mut Sink<'_>) -> io::Error {
    let seen = |n| {
        moving.pushed.set(moving.pushed.get().saturating_add(n));
        moving.has_come(moving.pushed.get());
    };
    match pump(body, sink, Trailers::Drop, seen).await {
        Ok(_) => moving.uploaded.set(true),
        Err(PumpError::Source(error)) => return error,
        // The upstream takes no more; it may still answer why.
        Err(PumpError::Sink(_)) => {}
    }
    std::future::poll_fn(|cx| body.poll_gone(cx)).await
}

/// Why an exchange ends whose client did not send all of its request, or did not take all of its answer.
fn client_broke(error: &io::Error) -> CloseReason {
    match error.get_ref() {
        Some(why) if why.is::<H1Error>() => CloseReason::BadRequest,
        Some(why) if why.is::<TooLong>() => CloseReason::BodyTooLarge,
        Some(why) if why.is::<TooSlow>() || why.is::<Unread>() => CloseReason::Timeout,
        Some(_) | None => CloseReason::DownstreamReset,
    }
}

/// How an attempt ended, and for how many milliseconds the upstream connection can be used again.
fn over(moving: &Moving<'_>, slot: &Slot<'_>, drove: Drove, stale: bool) -> (Tried, Option<u64>) {
    let uploaded = moving.uploaded.get();
    let again = |cause, close, detail: &str| {
        let unanswered = slot.is_waiting();
        let again = unanswered && moving.others.retries().again(cause, moving.whole.get());
        again.then(|| (Tried::Again(close, detail.to_owned()), None))
    };
    let ended = |close, detail: String| (Tried::Over(close, Some(detail), false), None);
    match drove {
        Drove::Cancelled(why) => (Tried::Over(why, None, false), None),
        Drove::ClientBroke(error) => ended(client_broke(&error), error.to_string()),
        // Who has not sent all of its request is the one that stalls.
        Drove::Stalled if !uploaded => ended(CloseReason::Timeout, "body stalls".to_owned()),
        Drove::Stalled => ended(CloseReason::UpstreamTimeout, "answer stalls".to_owned()),
        Drove::Expired => {
            let (close, detail) = (CloseReason::UpstreamTimeout, "timeout of one attempt");
            again(Cause::Slow, close, detail).unwrap_or_else(|| ended(close, detail.to_owned()))
        }
        Drove::Answered(Err(AnswerError::Unwanted(status))) => {
            let detail = format!("answered with {status}");
            (Tried::Again(CloseReason::UpstreamReset, detail), None)
        }
        Drove::Answered(Ok(answered)) => (
            Tried::Over(CloseReason::Done, None, answered.keep_downstream),
            answered.keep_upstream.filter(|_| uploaded),
        ),
        Drove::Answered(Err(AnswerError::Silent)) if stale => (Tried::Stale, None),
        // What was read of a body is gone; as long as that is nothing, the request is whole.
        Drove::Answered(Err(AnswerError::Unprocessed)) if moving.pushed.get() == 0 => {
            (Tried::Unprocessed, None)
        }
        Drove::Answered(Err(AnswerError::Unprocessed)) => {
            let close = CloseReason::UpstreamReset;
            again(Cause::Broken, close, REFUSED).unwrap_or_else(|| {
                let detail = Some(REFUSED.to_owned());
                (Tried::Over(close, detail, true), None)
            })
        }
        Drove::Answered(Err(AnswerError::Silent)) => {
            let close = CloseReason::UpstreamReset;
            again(Cause::Broken, close, SILENT).unwrap_or_else(|| {
                let detail = Some(SILENT.to_owned());
                (Tried::Over(close, detail, true), None)
            })
        }
        Drove::Answered(Err(AnswerError::Upstream(what))) => {
            let close = CloseReason::UpstreamReset;
            // Where nothing of it was sent on, our own answer is whole.
            let again = again(Cause::Broken, close, &what);
            again.unwrap_or((Tried::Over(close, Some(what), uploaded), None))
        }
        Drove::Answered(Err(AnswerError::NotSwitched)) => {
            let detail = Some(NOT_SWITCHED.to_owned());
            (
                Tried::Over(CloseReason::UpstreamReset, detail, uploaded),
                None,
            )
        }
        Drove::Answered(Err(AnswerError::NoWebSockets)) => {
            // It says nothing of how the endpoint is.
            moving.told.set(true);
            let detail = Some(NO_WEBSOCKETS.to_owned());
            let close = CloseReason::UpstreamReset;
            (Tried::Over(close, detail, uploaded), None)
        }
        Drove::Answered(Err(AnswerError::Downstream(error))) => {
            ended(client_broke(&error), error.to_string())
        }
        Drove::Answered(Err(AnswerError::Switched(head))) => {
            moving.switched.set(Some(head));
            (Tried::Over(CloseReason::Done, None, false), None)
        }
    }
}

async fn via_h1(
    moving: &Moving<'_>,
    mut connection: Box<H1Upstream>,
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
    let H1Upstream { reader, writer, .. } = &mut *connection;
    let drove = {
        // Made in their places.
        let upload = pin!(async {
            let coding = if bodiless { Coding::Length(0) } else { coding };
            if moving.awaited.get()
                && let Err(error) = invitation(moving, writer, slot).await
            {
                return error;
            }
            upload(moving, body, &mut Sink::H1(writer, coding)).await
        });
        let answer = pin!(async {
            let mut interim = 0_usize;
            let head = loop {
                match reader.head(h1::parse_response).await {
                    Ok(Some(head)) if moving.upgrade.is_some_and(|u| u.is_agreed_by(&head)) => {
                        return Err(AnswerError::Switched(Box::new(head)));
                    }
                    Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        return Err(AnswerError::Upstream("unsolicited 101".to_owned()));
                    }
                    Ok(Some(head)) if head.status.is_informational() => {
                        interim = interim.saturating_add(1);
                        interim_answer(moving, head, interim, slot).await?;
                    }
                    Ok(Some(head)) => break head,
                    Ok(None) | Err(HeadError::Io(_)) if interim > 0 => {
                        return Err(AnswerError::Upstream(UNANSWERED.to_owned()));
                    }
                    Ok(None) | Err(HeadError::Io(_)) => return Err(AnswerError::Silent),
                    Err(error) => return Err(AnswerError::Upstream(chain(&error))),
                }
            };
            let framing = h1::response_framing(&head, &moving.request.method)
                .map_err(|error| AnswerError::Upstream(error.to_string()))?;
            let keep_upstream = kept_ms(&head, framing);
            let source = Source::H1(reader, BodyDecoder::new(framing));
            let keep_downstream = answer(moving, head, framing, source, slot).await?;
            Ok(Answered {
                keep_downstream,
                keep_upstream,
            })
        });
        drive(moving, upload, answer, slot, cancel).await
    };
    let switched = matches!(&drove, Drove::Answered(Err(AnswerError::Switched(_))));
    let (tried, keep_upstream) = over(moving, slot, drove, reused);
    if let (true, Some(upgrade)) = (switched, moving.upgrade) {
        upgrade.agreed(connection);
    } else if let Some(kept_ms) = keep_upstream {
        connection.kept_ms = kept_ms;
        upstreams.give_back(connection);
    }
    tried
}

/// Sends an upstream's answer on; whether the downstream connection can go on afterwards.
async fn answer(
    moving: &Moving<'_>,
    mut head: RawResponse,
    framing: Framing,
    mut source: Source<'_>,
    slot: &Slot<'_>,
) -> Result<bool, AnswerError> {
    // Before anything is done about it: also an answer that nobody wants tells of the endpoint.
    let outcome = grpc::outcome(head.status, &head.headers, &moving.request.headers);
    moving.others.answered(outcome.as_u16());
    moving.told.set(true);
    if moving.must_switch && head.status.is_success() {
        return Err(AnswerError::NotSwitched);
    }
    let cause = Cause::Answer(head.status);
    if moving.others.retries().again(cause, moving.whole.get()) {
        // Before this answer is given up: where nobody else may be asked, it is the answer.
        if let Some(next) = moving.others.another() {
            moving.next.set(Some(next));
            return Err(AnswerError::Unwanted(head.status));
        }
    }
    moving.others.retries().is_answered();
    let Some(mut responder) = slot.for_answer().await else {
        return Err(AnswerError::Upstream("answered twice".to_owned()));
    };
    // Whether a client that waits to be asked for its body sends it now that it has its answer cannot be told; and what is
    // left of a long one is not waited for.
    if moving.awaited.get() || !(moving.uploaded.get() || moving.small) {
        responder.close_after();
    }
    moving.status.set(Some(head.status.as_u16()));
    moving.grpc.set(grpc::code(&head.headers));
    moving.others.begins();
    moving.on_answer.apply(&mut head.headers);
    let trailers = if responder.takes_trailers() || moving.request.headers.contains_key(header::TE)
    {
        Trailers::Clean
    } else {
        head.headers.remove(header::TRAILER);
        Trailers::Drop
    };
    let (mut sink, keep) = responder
        .start(head, framing)
        .map_err(AnswerError::Downstream)?;
    let seen = seen_sent(moving.passed);
    match pump(&mut source, &mut sink, trailers, seen).await {
        Ok(code) => {
            moving.grpc.set(code.or_else(|| moving.grpc.get()));
            Ok(keep)
        }
        Err(PumpError::Source(error)) => {
            sink.abort();
            Err(AnswerError::Upstream(error.to_string()))
        }
        Err(PumpError::Sink(error)) => Err(AnswerError::Downstream(error)),
    }
}

fn fields<'m>(moving: &'m Moving<'_>) -> impl Iterator<Item = (&'m HeaderName, &'m HeaderValue)> {
    outgoing(&moving.request.headers, moving.extra)
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
            out.extend_from_slice(b"content-length: ");
            h1::write_number(out, n);
            out.extend_from_slice(b"\r\n");
        }
        Some(Coding::Chunked | Coding::Close) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
        }
        None if moving.upgrade.is_some() => {
            out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
        }
        None if moving.length == Some(0) => out.extend_from_slice(b"content-length: 0\r\n"),
        None => {}
    }
    if request.headers.contains_key(header::TE) && moving.upgrade.is_none() {
        // We take trailers as well; the connection's own field says that it is the hop's.
        out.extend_from_slice(b"te: trailers\r\nconnection: te\r\n");
    }
    if moving.awaited.get() {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    for (name, value) in fields(moving).filter(|(name, _)| **name != header::TE) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}
