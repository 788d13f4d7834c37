//! CONNECT at the explicit proxy: a tunnel of bytes that must begin with a TLS ClientHello for the judged host.
//!
//! The bytes are the client's and the server's secret, so this first message is all that can be held against what was
//! judged; without it, a permit for one host would carry a request for any other that the same server knows.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};

use crate::exchange::close::CloseReason;
use crate::http::h1::Chunk;
use crate::identity::client_hello::{self, HelloError};
use crate::io::body::{Sink, Source};
use crate::io::h1::split;
use crate::io::rt;
use crate::io::stream::Stream;
use crate::vocab::host::Host;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::both_ways::both_ways;
use crate::worker::forward::{Forward, dial_reason, own_reply, seen_received};
use crate::worker::open::Cancel;
use crate::worker::respond::Responder;
use crate::worker::site::Story;

/// Why nothing was sent on.
enum NoHello {
    /// Not what the judged host's client says first.
    Wrong(HelloError),
    /// The client ended or broke off before it was whole.
    Gone(String),
    /// It took too long.
    Slow,
}

impl NoHello {
    fn close(&self) -> (CloseReason, String) {
        match self {
            Self::Wrong(error) => {
                let close = match error {
                    HelloError::NotTls(_) => CloseReason::BadRequest,
                    HelloError::TooLong => CloseReason::Limit,
                    HelloError::NoName(_) | HelloError::OtherName { .. } => CloseReason::Denied,
                };
                (close, format!("inside CONNECT: {error}"))
            }
            Self::Gone(why) => (CloseReason::DownstreamReset, why.clone()),
            Self::Slow => (
                CloseReason::Timeout,
                "inside CONNECT: TLS ClientHello is too slow".to_owned(),
            ),
        }
    }
}

/// Opens the tunnel of a permitted CONNECT and relays until both sides have ended.
pub async fn connect(
    work: Forward<'_>,
    mut body: Source<'_>,
    responder: Responder<'_>,
    mut story: Story,
    cancel: &Cancel,
) -> bool {
    let (mut permit, mut target) = (work.permit, work.target);
    let dialled = loop {
        let dialled = tokio::select! {
            biased;
            why = cancel.cancelled() => {
                story.end(why);
                return false;
            }
            dialled = work.upstreams.dial(permit, &target) => dialled,
        };
        match dialled.as_ref().err().map(|error| work.others.next(error)) {
            Some(Some(next)) => (permit, target) = next,
            Some(None) => break dialled,
            None => {
                work.others.reached();
                break dialled;
            }
        }
    };
    let stream = match dialled {
        Ok(stream) => stream,
        Err(error) => {
            let close = dial_reason(&error);
            let reply = own_reply(close);
            story.edit(|r| r.status = Some(reply.status.as_u16()));
            responder.reply(reply, false, &mut Source::Empty).await;
            story.fail(close, chain(&error));
            return false;
        }
    };
    story.edit(|r| r.status = Some(200));
    // Only who was answered says what it wants.
    let mut sink = match responder.tunnel().await {
        Ok(sink) => sink,
        Err(error) => {
            story.fail(CloseReason::DownstreamReset, error);
            return false;
        }
    };
    let passed = Rc::clone(&story.passed);
    let hello = client_hello(&mut body, &work.request.host, seen_received(&passed));
    let hello = tokio::select! {
        biased;
        why = cancel.cancelled() => {
            sink.abort();
            story.end(why);
            return false;
        }
        hello = rt::timeout(limits::HANDSHAKE_MS, hello) => {
            hello.unwrap_or(Err(NoHello::Slow))
        }
    };
    match hello {
        Ok(hello) => relay(stream, hello, (body, sink), story, cancel).await,
        Err(why) => {
            // Nothing of the upstream was sent, so this is an end and not a break.
            if let Err(error) = sink.finish(false).await {
                tracing::trace!(%error, "CONNECT client is gone");
            }
            // It was allowed as what it claimed to be, and is not that.
            story.edit(|r| r.judged = None);
            let (close, detail) = why.close();
            story.fail(close, detail);
        }
    }
    false
}

/// The bytes up to the end of the ClientHello, and what came with them.
async fn client_hello(
    body: &mut Source<'_>,
    host: &Host,
    mut seen: impl FnMut(u64),
) -> Result<Bytes, NoHello> {
    let mut bytes = BytesMut::new();
    while !client_hello::names_host(&bytes, host).map_err(NoHello::Wrong)? {
        match std::future::poll_fn(|cx| body.poll_next(cx)).await {
            Ok(Some(Chunk::Data(data))) => {
                seen(u64::try_from(data.len()).unwrap_or(u64::MAX));
                bytes.extend_from_slice(&data);
            }
            Ok(Some(Chunk::Trailers(_)) | None) => {
                let why = "inside CONNECT: ended before a TLS ClientHello";
                return Err(NoHello::Gone(why.to_owned()));
            }
            Err(error) => return Err(NoHello::Gone(error.to_string())),
        }
    }
    Ok(bytes.freeze())
}

async fn relay(
    stream: Stream,
    hello: Bytes,
    (mut body, mut sink): (Source<'_>, Sink<'_>),
    mut story: Story,
    cancel: &Cancel,
) {
    let passed = Rc::clone(&story.passed);
    let (mut up_reader, mut up_writer) = split(stream);
    up_writer.out().extend_from_slice(&hello);
    let broke = tokio::select! {
        biased;
        why = cancel.cancelled() => Some((why, None)),
        both = both_ways((&mut body, &mut sink), (&mut up_reader, &mut up_writer), &passed) => {
            both.err().map(|(close, why)| (close, Some(why)))
        }
    };
    if broke.is_some() {
        // What either side has by now is not complete.
        up_writer.abort();
        sink.abort();
    }
    let (close, detail) = broke.unwrap_or((CloseReason::Done, None));
    story.edit(|r| r.detail = detail);
    story.end(close);
}
