//! What comes before the answer: invitations for the body (RFC 9110 section 10.1.1), interim answers (section 15.2).

use std::io;

use http::StatusCode;

use super::{AnswerError, Moving, Slot};
use crate::http::h1::RawResponse;
use crate::io::h1::Writer;
use crate::io::rt;
use crate::vocab::limits;

/// Waits until the upstream wants the body, or has had its time to say that it does not, and asks the client for it.
pub(super) async fn invitation(
    moving: &Moving<'_>,
    writer: &mut Writer,
    slot: &Slot<'_>,
) -> io::Result<()> {
    if writer.flush().await.is_err() {
        // Its reading side says why.
        return std::future::pending().await;
    }
    if rt::timeout(limits::CONTINUE_MS, moving.invited.notified())
        .await
        .is_err()
    {
        tracing::trace!("upstream does not say whether it wants the body");
    }
    invite(moving, slot).await
}

/// Asks the client for its body, unless it has its answer already.
pub(super) async fn invite(moving: &Moving<'_>, slot: &Slot<'_>) -> io::Result<()> {
    let invited = slot.before_answer(async |responder| {
        moving.awaited.set(false);
        responder.invite_body().await
    });
    match invited.await {
        Some(invited) => invited,
        None => std::future::pending().await,
    }
}

/// What becomes of interim answer number `count`.
pub(super) async fn interim_answer(
    moving: &Moving<'_>,
    mut head: RawResponse,
    count: usize,
    slot: &Slot<'_>,
) -> Result<(), AnswerError> {
    if count > limits::INTERIM_RESPONSES {
        return Err(AnswerError::Upstream(
            "too many interim responses".to_owned(),
        ));
    }
    if head.status == StatusCode::CONTINUE {
        moving.invited.notify_one();
        return Ok(());
    }
    moving.on_answer.apply_edge(&mut head.headers);
    let sent = slot.before_answer(async move |responder| responder.interim(head).await);
    match sent.await {
        Some(sent) => sent.map_err(AnswerError::Downstream),
        None => Ok(()),
    }
}
