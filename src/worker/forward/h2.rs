//! A permitted request on a stream of an HTTP/2 connection.

use std::pin::pin;

use http::{HeaderName, HeaderValue};

use super::{
    AnswerError, Answered, Moving, Slot, Tried, UNANSWERED, answer, drive, fields, interim_answer,
    invite, over, upload,
};
use crate::h2::ResponseHead;
use crate::h2::message::Request;
use crate::http::h1::{self, Framing, RawResponse};
use crate::io::body::{Sink, Source, announced_length};
use crate::io::h2::{Answer, Answering, Client, MuxError, is_silent, is_unprocessed};
use crate::worker::open::Cancel;

mod extended;
#[cfg(test)]
mod tests;

pub(super) async fn via(
    moving: &Moving<'_>,
    client: Client,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
) -> Tried {
    if let Some(upgrade) = moving.upgrade {
        return Box::pin(extended::via((moving, upgrade), client, body, slot, cancel)).await;
    }
    let bodiless = body.is_empty();
    let reused = client.is_reused();
    let Ok(Answering {
        answer: answering,
        content,
    }) = client.request(request(moving), bodiless)
    else {
        // The connection has ended since it was chosen.
        return Tried::Unprocessed;
    };
    let upload = async {
        // It is not asked whether it wants the body, so the client is not kept waiting.
        if moving.awaited.get()
            && let Err(error) = invite(moving, slot).await
        {
            return error;
        }
        let mut sink = if bodiless {
            Sink::Nothing
        } else {
            Sink::H2(content)
        };
        upload(moving, body, &mut sink).await
    };
    let answer = answered(moving, answering, slot);
    let drove = drive(moving, pin!(upload), pin!(answer), slot, cancel).await;
    over(moving, slot, drove, reused).0
}

fn request<'m>(
    moving: &'m Moving<'_>,
) -> Request<'m, impl Iterator<Item = (&'m HeaderName, &'m HeaderValue)>> {
    let request = moving.request;
    Request {
        method: &request.method,
        scheme: moving.scheme,
        authority: request.host.as_str(),
        path: request.path.as_ref().map_or("/", |p| p.as_str()),
        protocol: None,
        fields: fields(moving),
        length: moving.length,
    }
}

/// Sends the answer on as it comes.
async fn answered(
    moving: &Moving<'_>,
    mut answering: Answer,
    slot: &Slot<'_>,
) -> Result<Answered, AnswerError> {
    let mut interim = 0_usize;
    let head = loop {
        let head = match answering.head().await {
            Ok(head) => head,
            // Whoever has said something has looked at the request.
            Err(error) if interim > 0 && (is_silent(&error) || is_unprocessed(&error)) => {
                return Err(AnswerError::Upstream(UNANSWERED.to_owned()));
            }
            Err(error) => return Err(failed(&error)),
        };
        if !head.status.is_informational() {
            break head;
        }
        interim = interim.saturating_add(1);
        interim_answer(moving, raw(head), interim, slot).await?;
    };
    ends(moving, head, answering, slot).await
}

/// Sends an answer on whose head has come.
async fn ends(
    moving: &Moving<'_>,
    head: ResponseHead,
    answering: Answer,
    slot: &Slot<'_>,
) -> Result<Answered, AnswerError> {
    let mut body = answering.body();
    let length = announced_length(&head.headers);
    let bodiless = body.is_end() || h1::is_bodiless(head.status, &moving.request.method);
    let (framing, source) = if bodiless {
        (Framing::Empty, Source::Empty)
    } else {
        if length == Some(0) {
            // Once its head has been sent on it is whole.
            let whole = body.whole().await;
            // What has answered has looked at the request: it is not sent again.
            whole.map_err(|error| AnswerError::Upstream(error.to_string()))?;
        }
        (
            length.map_or(Framing::Chunked, Framing::Length),
            Source::H2(body),
        )
    };
    let head = raw(head);
    let keep_downstream = answer(moving, head, framing, source, slot).await?;
    Ok(Answered {
        keep_downstream,
        keep_upstream: Some(u64::MAX),
    })
}

fn raw(head: ResponseHead) -> RawResponse {
    RawResponse {
        status: head.status,
        is_11: true,
        headers: head.headers,
    }
}

fn failed(error: &MuxError) -> AnswerError {
    if is_unprocessed(error) {
        AnswerError::Unprocessed
    } else if is_silent(error) {
        AnswerError::Silent
    } else {
        AnswerError::Upstream(error.to_string())
    }
}
