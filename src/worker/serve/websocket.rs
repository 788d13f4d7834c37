//! Extended CONNECT (RFC 8441): a request for a WebSocket on a stream of an HTTP/2 connection.
//!
//! It is judged, recorded and sent on as the `GET` that it stands for. Nothing that follows its head is read before the
//! upstream has switched.

use std::rc::Rc;

use http::{HeaderValue, Method, StatusCode};

use super::{bad_request_status, h2::unread};
use crate::exchange::close::CloseReason;
use crate::h2::RequestHead;
use crate::http::canonical;
use crate::http::upgrade::{self, NotServed};
use crate::io::body::Source;
use crate::io::h2::Incoming;
use crate::io::{clock, random};
use crate::worker::core::Core;
use crate::worker::exchange::{self, Arrived};
use crate::worker::respond::Responder;
use crate::worker::site::Site;
use crate::worker::upgrade::Upgrade;

/// Serves one; `protocol` is what it asks for.
pub(super) async fn serve(
    (core, site): (&Rc<Core>, &Rc<Site>),
    protocol: &HeaderValue,
    head: RequestHead,
    stream: Incoming,
    responder: Responder<'_>,
) {
    let RequestHead {
        authority,
        path,
        mut headers,
        ..
    } = head;
    // The key keeps caches from answering and is no secret.
    let random = random::bytes().unwrap_or_default();
    let accept = match upgrade::extended(protocol, &mut headers, random) {
        Ok(accept) => accept,
        Err(why) => {
            let status = match why {
                NotServed::Protocol => StatusCode::NOT_IMPLEMENTED,
                NotServed::Length => StatusCode::BAD_REQUEST,
            };
            let close = (CloseReason::BadRequest, status);
            return unread(core, site, responder, close, &why.to_string()).await;
        }
    };
    let pseudo = (
        Method::GET,
        authority.as_ref().map(HeaderValue::as_bytes),
        path.as_ref().map(HeaderValue::as_bytes),
    );
    let mode = core.snapshot().mesh.path_normalization;
    let (mut request, form) = match canonical::from_h2(pseudo, headers, mode, clock::unix_s()) {
        Ok(canonical) => canonical,
        Err(error) => {
            let why = (CloseReason::BadRequest, bad_request_status(error));
            return unread(core, site, responder, why, &error.to_string()).await;
        }
    };
    upgrade::mark(&mut request.headers);
    let upgrade = Upgrade::of_stream(accept);
    let arrived = Arrived {
        request,
        form,
        body: Source::Empty,
        length: None,
        upgrade: Some(&upgrade),
    };
    exchange::serve(core, site, arrived, responder).await;
    if let Some(switched) = upgrade.into_switched() {
        let idle_ms = core.process.limits.stream_idle_ms;
        Box::pin(switched.relay_stream(stream.both_ways(), idle_ms)).await;
    }
}
