//! Extended CONNECT (RFC 8441) towards an upstream: a permitted request for a WebSocket on a stream of its own.

use std::pin::pin;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{ends, failed, raw};
use crate::h2::message::Request;
use crate::http::h1::RawResponse;
use crate::http::upgrade::{WEBSOCKET, accept};
use crate::io::body::{Sink, Source};
use crate::io::h2::Client;
use crate::worker::forward::{
    AnswerError, Moving, Slot, Tried, drive, fields, interim_answer, over, upload,
};
use crate::worker::open::Cancel;
use crate::worker::upgrade::{Across, Upgrade};

/// Asks for it. An answer of success is the switch; any other one is the answer, but where the upstream has not said that it
/// takes extended CONNECT nothing is asked at all.
pub(super) async fn via(
    (moving, upgrade): (&Moving<'_>, &Upgrade),
    client: Client,
    body: &mut Source<'_>,
    slot: &Slot<'_>,
    cancel: &Cancel,
) -> Tried {
    let reused = client.is_reused();
    let mut across = None;
    let answer = async {
        // A server that has not said so yet may be about to: its settings are the first that it says.
        client.settled().await.map_err(|error| failed(&error))?;
        if !client.takes_extended_connect() {
            return Err(AnswerError::NoWebSockets);
        }
        let request = Request {
            method: &Method::CONNECT,
            scheme: moving.scheme,
            authority: moving.request.host.as_str(),
            path: moving.request.path.as_ref().map_or("/", |p| p.as_str()),
            protocol: Some(WEBSOCKET),
            // Over HTTP/2 nobody sends a key (RFC 8441 section 5).
            fields: fields(moving).filter(|(name, _)| **name != header::SEC_WEBSOCKET_KEY),
            length: None,
        };
        let asked = client.request(request, false);
        // The connection has ended since it was chosen.
        let mut asked = asked.map_err(|_gone| AnswerError::Unprocessed)?;
        let mut interim = 0_usize;
        loop {
            let head = match asked.answer.head().await {
                Ok(head) => head,
                Err(error) if interim > 0 => return Err(AnswerError::Upstream(error.to_string())),
                Err(error) => return Err(failed(&error)),
            };
            if head.status.is_informational() {
                interim = interim.saturating_add(1);
                interim_answer(moving, raw(head), interim, slot).await?;
            } else if head.status.is_success() {
                across = Some(asked);
                return Err(AnswerError::Switched(Box::new(agreed(
                    moving,
                    head.headers,
                ))));
            } else {
                // Who was asked for bytes and has answered gets none.
                let mut content = asked.content;
                let done = ends(moving, head, asked.answer, slot).await;
                content.cancel();
                return done;
            }
        }
    };
    let mut nothing = Sink::Nothing;
    let upload = upload(moving, body, &mut nothing);
    let drove =
        Box::pin(async { drive(moving, pin!(upload), pin!(answer), slot, cancel).await }).await;
    let (tried, _) = over(moving, slot, drove, reused);
    if let Some(asked) = across {
        upgrade.agreed(Across::from(asked));
    }
    tried
}

/// The answer as the switch that it is over HTTP/1, for a client of either version.
fn agreed(moving: &Moving<'_>, mut headers: HeaderMap) -> RawResponse {
    for name in [
        header::CONTENT_LENGTH,
        header::SEC_WEBSOCKET_ACCEPT,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    let key = moving.request.headers.get(header::SEC_WEBSOCKET_KEY);
    if let Some(accepted) = key.and_then(|key: &HeaderValue| accept(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    }
    RawResponse {
        status: StatusCode::SWITCHING_PROTOCOLS,
        is_11: true,
        headers,
    }
}
