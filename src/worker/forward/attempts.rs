//! The attempts of one request: whom it is sent to, and how often.

use std::collections::VecDeque;
use std::future::Future;

use bytes::BytesMut;

use crate::exchange::close::CloseReason;
use crate::http::h1::Chunk;
use crate::io::body::Source;
use crate::io::rt;
use crate::io::upstream::{Again, DialError, Manner, Target, Upstream, Upstreams};
use crate::policy::Permit;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::attempt::is_endpoints_fault;
use crate::worker::forward::{
    Forward, Moving, Onward, REFUSED, SILENT, Slot, Tried, client_broke, dial_reason, via,
};
use crate::worker::open::Cancel;
use crate::worker::retry::Cause;

/// How the attempts ended.
pub(super) struct Ended {
    pub(super) close: CloseReason,
    pub(super) detail: Option<String>,
    /// The downstream connection can go on.
    pub(super) keep: bool,
    /// The deadline of a gRPC call was over.
    pub(super) late: bool,
}

/// Runs the attempts of a call until its deadline. What is dropped then breaks off.
pub(super) async fn within(
    deadline_ms: Option<u64>,
    tried: impl Future<Output = (CloseReason, Option<String>, bool)>,
) -> Ended {
    let done = match deadline_ms {
        None => Ok(tried.await),
        Some(ms) => rt::timeout(ms, tried).await,
    };
    match done {
        Ok((close, detail, keep)) => Ended {
            close,
            detail,
            keep,
            late: false,
        },
        Err(rt::Elapsed) => Ended {
            close: CloseReason::UpstreamTimeout,
            detail: Some("deadline of the call is over".to_owned()),
            keep: false,
            late: true,
        },
    }
}

/// Reads a small body of a request that may be sent once more. What is kept is read again from `body`.
async fn keep(
    moving: &Moving<'_>,
    body: &mut Source<'_>,
    cancel: &Cancel,
) -> Result<VecDeque<Chunk>, (CloseReason, Option<String>)> {
    let (mut kept, mut flat) = (VecDeque::new(), BytesMut::new());
    let small = moving
        .length
        .is_some_and(|n| n <= limits::REPEATED_BODY_BYTES);
    // A client that waits to be asked for its body waits for the upstream's word.
    let wanted = small && !moving.awaited.get() && moving.others.retries().keeps_body();
    if moving.whole.get() || !wanted {
        return Ok(kept);
    }
    let read = async {
        loop {
            match std::future::poll_fn(|cx| body.poll_next(cx)).await {
                // A piece is a part of the buffer that it came in, all of which it would hold.
                Ok(Some(Chunk::Data(piece))) => {
                    flat.extend_from_slice(&piece);
                    moving.has_come(u64::try_from(flat.len()).unwrap_or(u64::MAX));
                }
                Ok(Some(trailers @ Chunk::Trailers(_))) => kept.push_back(trailers),
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let read = async {
        tokio::select! {
            biased;
            why = cancel.cancelled() => Err((why, None)),
            whole = rt::timeout(limits::KEPT_BODY_MS, read) => Ok(whole),
        }
    };
    let whole = Box::pin(read).await?;
    if !flat.is_empty() {
        kept.push_front(Chunk::Data(flat.freeze()));
    }
    body.again(&kept);
    match whole {
        Ok(Ok(())) => moving.whole.set(true),
        Ok(Err(error)) => return Err((client_broke(&error), Some(error.to_string()))),
        // It is sent on as it comes, and once.
        Err(rt::Elapsed) => kept.clear(),
    }
    Ok(kept)
}

/// Asks the upstream, once more if a pooled connection turns out to be closed, and as often as its route says.
pub(super) async fn attempts(
    work: Forward<'_>,
    moving: &Moving<'_>,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
) -> (CloseReason, Option<String>, bool) {
    let Forward {
        upstreams,
        mut permit,
        mut target,
        manner,
        others,
        ..
    } = work;
    let bodiless = body.is_empty();
    let kept = match keep(moving, body, cancel).await {
        Ok(kept) => kept,
        Err((close, detail)) => return (close, detail, false),
    };
    loop {
        let dialled = dial(upstreams, (permit, &mut target), manner, others, cancel).await;
        let tried = match dialled {
            Ok((upstream, again)) => {
                others.reached();
                let tried = via(moving, upstream, body, slot, cancel, upstreams).await;
                let once_more = match tried {
                    Tried::Stale => others.retries().afresh(false, bodiless),
                    Tried::Unprocessed => others.retries().afresh(true, true),
                    Tried::Again(..) | Tried::Over(..) => false,
                };
                if once_more {
                    let again = tokio::select! {
                        biased;
                        why = cancel.cancelled() => return (why, None, false),
                        again = Box::pin(upstreams.again(again, &target, manner)) => again,
                    };
                    match again {
                        Ok(fresh) => via(moving, fresh, body, slot, cancel, upstreams).await,
                        Err(error) => undialled(&error, others),
                    }
                } else {
                    tried
                }
            }
            Err(Undialled::Cancelled(why)) => return (why, None, false),
            Err(Undialled::Full(why)) => return (CloseReason::Overflow, Some(why), true),
            Err(Undialled::Failed(error)) => undialled(&error, others),
        };
        let (close, detail) = match tried {
            Tried::Stale if others.retries().again(Cause::Broken, moving.whole.get()) => {
                (CloseReason::UpstreamReset, SILENT.to_owned())
            }
            Tried::Stale => return (CloseReason::UpstreamReset, Some(SILENT.to_owned()), true),
            Tried::Unprocessed if others.retries().again(Cause::Connect, true) => {
                (CloseReason::UpstreamReset, REFUSED.to_owned())
            }
            Tried::Unprocessed => {
                return (CloseReason::UpstreamReset, Some(REFUSED.to_owned()), true);
            }
            Tried::Again(close, detail) => (close, detail),
            Tried::Over(close, detail, keep) => return (close, detail, keep),
        };
        if let Err(why) = Box::pin(wait(others, cancel)).await {
            return (why, None, false);
        }
        match moving.next.take().or_else(|| others.another()) {
            Some(next) => (permit, target) = next,
            None => return (close, Some(detail), false),
        }
        if !kept.is_empty() {
            body.again(&kept);
        }
    }
}

/// Waits before the next attempt.
async fn wait(others: &dyn Onward, cancel: &Cancel) -> Result<(), CloseReason> {
    tokio::select! {
        biased;
        why = cancel.cancelled() => Err(why),
        () = rt::sleep(others.retries().wait_ms()) => Ok(()),
    }
}

/// No endpoint could be connected to.
fn undialled(error: &DialError, others: &dyn Onward) -> Tried {
    let (close, detail) = (dial_reason(error), chain(error));
    // An answer of the far end's policy is an answer.
    if is_endpoints_fault(error) && others.retries().again(Cause::Connect, true) {
        Tried::Again(close, detail)
    } else {
        Tried::Over(close, Some(detail), true)
    }
}

/// Why there is no upstream.
enum Undialled {
    Cancelled(CloseReason),
    Failed(DialError),
    /// Too many requests wait for a connection.
    Full(String),
}

/// The first endpoint that can be connected to: nothing was sent yet, so that each can have the request whole.
async fn dial(
    upstreams: &Upstreams,
    (mut permit, target): (Permit, &mut Target),
    manner: Manner,
    others: &dyn Onward,
    cancel: &Cancel,
) -> Result<(Upstream, Again), Undialled> {
    loop {
        let asked = match upstreams.pooled(permit, target, manner) {
            Ok(pooled) => Ok(pooled),
            Err(permit) => {
                let _waits = others.waits().map_err(Undialled::Full)?;
                tokio::select! {
                    biased;
                    why = cancel.cancelled() => return Err(Undialled::Cancelled(why)),
                    asked = Box::pin(upstreams.request(permit, target, manner)) => asked,
                }
            }
        };
        match asked {
            Ok(asked) => return Ok(asked),
            Err(error) => match others.next(&error) {
                Some(next) => (permit, *target) = next,
                None => return Err(Undialled::Failed(error)),
            },
        }
    }
}
