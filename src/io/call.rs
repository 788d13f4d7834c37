//! A small request of our own to an upstream, and its whole answer.

use std::cell::Cell;
use std::io;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use thiserror::Error;

use crate::extauthz::Call;
use crate::h2::ResponseHead;
use crate::h2::message::Request;
use crate::http::h1::{self, BodyDecoder, Chunk, RawResponse};
use crate::http::keep_alive::kept_ms;
use crate::io::body::Source;
use crate::io::h1::{HeadError, Reader};
use crate::io::h2::{self, Answering, Client, MuxError, is_unprocessed};
use crate::io::upstream::{DialError, H1Upstream, Manner, Target, Upstream, Upstreams, Version};
use crate::policy::Permit;
use crate::vocab::limits;

#[cfg(test)]
mod tests;

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields as received.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailer fields of an HTTP/2 answer.
    pub trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// The upstream cannot be had.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It ended before the first byte of an answer.
    #[error("closed without an answer")]
    Silent,
    /// It broke off.
    #[error("broke off")]
    Io(#[from] io::Error),
    /// HTTP/2 failed.
    #[error("HTTP/2 failed")]
    Framing(#[from] MuxError),
    /// Not HTTP.
    #[error("answered what is not HTTP")]
    Head(#[source] HeadError),
    /// HTTP that is not to be trusted with a connection.
    #[error("answered what is not HTTP")]
    H1(#[from] h1::H1Error),
    /// Too many interim answers, or one that takes the connection over.
    #[error("answers without an end")]
    Interim,
    /// More than `limits::AUTHORIZER_ANSWER_BYTES`.
    #[error("answer is too long")]
    TooLong,
}

/// Asks once; a second time if a pooled connection turns out to be closed. The caller bounds the time; dropping it breaks
/// the question off.
///
/// # Errors
/// `CallError`.
pub async fn call(
    upstreams: &Upstreams,
    permit: Permit,
    target: &Target,
    version: Version,
    call: &Call,
) -> Result<Answer, CallError> {
    let wants = Wants::Answer;
    asked(upstreams, permit, target, (version.into(), wants), call).await
}

/// As `call`, and of the answer, however long it is, nothing but its status is kept.
///
/// # Errors
/// `CallError`.
pub async fn tell(
    upstreams: &Upstreams,
    permit: Permit,
    target: &Target,
    manner: Manner,
    call: &Call,
) -> Result<StatusCode, CallError> {
    let answer = asked(upstreams, permit, target, (manner, Wants::Status), call).await?;
    Ok(answer.status)
}

/// What is kept of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// All of it, which is bounded.
    Answer,
    Status,
}

async fn asked(
    upstreams: &Upstreams,
    permit: Permit,
    target: &Target,
    (manner, wants): (Manner, Wants),
    call: &Call,
) -> Result<Answer, CallError> {
    let (upstream, again) = upstreams.request(permit, target, manner).await?;
    let reused = matches!(&upstream, Upstream::H1(connection) if connection.reused);
    match over(upstreams, target, upstream, (call, wants)).await {
        // Nothing was answered, so nothing was decided either.
        Err(error) if is_repeatable(&error, reused && may_repeat(call, wants)) => {
            let upstream = upstreams.again(again, target, manner).await?;
            over(upstreams, target, upstream, (call, wants)).await
        }
        answered => answered,
    }
}

/// Whether it does no harm to ask twice: a question for a verdict, or a method that says so (RFC 9110 section 9.2.1). A copy
/// of a request goes once.
fn may_repeat(call: &Call, wants: Wants) -> bool {
    wants == Wants::Answer || call.method.is_safe()
}

/// Whether a question may be asked once more: nobody has looked at it, or its connection was an old one.
fn is_repeatable(error: &CallError, reused: bool) -> bool {
    match error {
        CallError::Silent => reused,
        CallError::Framing(error) => is_unprocessed(error),
        CallError::Dial(_)
        | CallError::Io(_)
        | CallError::Head(_)
        | CallError::H1(_)
        | CallError::Interim
        | CallError::TooLong => false,
    }
}

async fn over(
    upstreams: &Upstreams,
    target: &Target,
    upstream: Upstream,
    (call, wants): (&Call, Wants),
) -> Result<Answer, CallError> {
    match upstream {
        Upstream::H1(connection) => over_h1(upstreams, connection, (call, wants)).await,
        Upstream::H2(client) => {
            let scheme = match target {
                Target::Tls { .. } => "https",
                Target::Hbone(_) | Target::Plain { .. } => "http",
            };
            over_h2(client, scheme, (call, wants)).await
        }
    }
}

fn h1_head(out: &mut BytesMut, call: &Call) {
    let line = [
        call.method.as_str(),
        " ",
        &call.target,
        " HTTP/1.1\r\nhost: ",
        &call.authority,
        "\r\ncontent-length: ",
        &call.body.len().to_string(),
        "\r\n",
    ];
    for part in line {
        out.extend_from_slice(part.as_bytes());
    }
    h1::write_fields(out, &call.headers);
}

async fn over_h1(
    upstreams: &Upstreams,
    mut connection: Box<H1Upstream>,
    (call, wants): (&Call, Wants),
) -> Result<Answer, CallError> {
    let H1Upstream { reader, writer, .. } = &mut *connection;
    h1_head(writer.out(), call);
    writer.out().extend_from_slice(&call.body);
    let sent = Cell::new(false);
    let send = async {
        // A connection that was closed meanwhile says so at the reading side too.
        sent.set(writer.flush().await.is_ok());
        std::future::pending().await
    };
    // An answer may come before all of the body was taken.
    let head = tokio::select! {
        head = final_head(reader) => head?,
        never = send => never,
    };
    let framing = h1::response_framing(&head, &call.method)?;
    let kept_ms = kept_ms(&head, framing);
    let mut source = Source::H1(reader, BodyDecoder::new(framing));
    let (body, _trailers) = whole(&mut source, wants).await?;
    if let Some(kept_ms) = kept_ms.filter(|_| sent.get()) {
        connection.kept_ms = kept_ms;
        upstreams.give_back(connection);
    }
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
        trailers: None,
    })
}

/// The head of the answer itself.
async fn final_head(reader: &mut Reader) -> Result<RawResponse, CallError> {
    for interim in 0..=limits::INTERIM_RESPONSES {
        match reader.head(h1::parse_response).await {
            Ok(Some(head)) if head.status == StatusCode::SWITCHING_PROTOCOLS => break,
            Ok(Some(head)) if head.status.is_informational() => {}
            Ok(Some(head)) => return Ok(head),
            Ok(None) | Err(HeadError::Io(_)) if interim > 0 => {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Ok(None) | Err(HeadError::Io(_)) => return Err(CallError::Silent),
            Err(error) => return Err(CallError::Head(error)),
        }
    }
    Err(CallError::Interim)
}

async fn over_h2(
    client: Client,
    scheme: &'static str,
    (call, wants): (&Call, Wants),
) -> Result<Answer, CallError> {
    let request = Request {
        method: &call.method,
        scheme,
        authority: &call.authority,
        path: &call.target,
        protocol: None,
        fields: call.headers.iter(),
        length: u64::try_from(call.body.len()).ok(),
    };
    let Answering {
        mut answer,
        mut content,
    } = client.request(request, call.body.is_empty())?;
    let upload = async {
        // An authorizer that has answered may take no more of it.
        if !call.body.is_empty() && content.send_last(call.body.clone()).await.is_err() {
            tracing::trace!("authorizer takes no more of the question");
        }
        std::future::pending::<Answer>().await
    };
    let answer = async {
        let head = final_head_h2(&mut answer).await?;
        let mut source = Source::H2(answer.body());
        let (body, trailers) = whole(&mut source, wants).await?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
            trailers,
        })
    };
    tokio::select! {
        answered = answer => answered,
        never = upload => Ok(never),
    }
}

/// As `final_head`.
async fn final_head_h2(answer: &mut h2::Answer) -> Result<ResponseHead, CallError> {
    for interim in 0..=limits::INTERIM_RESPONSES {
        match answer.head().await {
            Ok(head) if head.status.is_informational() => {}
            Ok(head) => return Ok(head),
            // Whoever has said something has looked at the question.
            Err(error) if interim > 0 && is_unprocessed(&error) => {
                return Err(io::Error::other(error).into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(CallError::Interim)
}

/// All of a body that is wanted, and its trailers.
async fn whole(
    source: &mut Source<'_>,
    wants: Wants,
) -> Result<(Bytes, Option<HeaderMap>), CallError> {
    let mut body = BytesMut::new();
    loop {
        match std::future::poll_fn(|cx| source.poll_next(cx)).await? {
            Some(Chunk::Data(_)) if wants == Wants::Status => {}
            Some(Chunk::Data(data)) => {
                if body.len().saturating_add(data.len()) > limits::AUTHORIZER_ANSWER_BYTES {
                    return Err(CallError::TooLong);
                }
                body.extend_from_slice(&data);
            }
            Some(Chunk::Trailers(trailers)) => return Ok((body.freeze(), Some(trailers))),
            None => return Ok((body.freeze(), None)),
        }
    }
}
