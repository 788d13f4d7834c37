//! Where the answer to a request goes, on either protocol: our own or an upstream's.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::http::canonical::clean_response;
use crate::http::h1::{self, Framing, RawResponse};
use crate::http::reply::{Reply, SERVER, TEXT, http_date};
use crate::io::body::{Coding, Sink, Source};
use crate::io::h1::Writer;
use crate::io::h2::Respond;
use crate::io::{clock, rt};
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::upgrade;

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
        /// Knows whether the process is about to end.
        core: &'a Core,
    },
    /// An HTTP/2 stream.
    H2 {
        /// Answers it.
        respond: Respond,
        /// The answer has no body, whatever its `content-length` says.
        is_head: bool,
    },
}

impl<'a> Responder<'a> {
    /// Sends a complete answer; `ended`: the request has no body that is still to come.
    pub async fn reply(self, reply: Reply, ended: bool, body: &mut Source<'_>) -> bool {
        let (status, is_text, content) = (reply.status, reply.is_text, reply.body.clone());
        let done = ended || body.is_done();
        match self {
            Self::H1 {
                writer,
                method,
                is_11,
                keep,
                core,
                ..
            } => {
                let keep = keep && done && !core.is_draining();
                let out = writer.out();
                status_line(out, status, is_11);
                out.extend_from_slice(b"content-length: ");
                h1::write_number(out, u64::try_from(content.len()).unwrap_or(0));
                out.extend_from_slice(b"\r\n");
                // Straight into the head: a header map would only be made for it.
                if is_text {
                    h1::write_field(out, &header::CONTENT_TYPE, &TEXT);
                }
                for (name, value) in reply.headers.iter().filter(|(name, _)| !is_own(name)) {
                    h1::write_field(out, name, value);
                }
                own_fields(out);
                if let Some(connection) = connection(keep, is_11) {
                    h1::write_field(out, &header::CONNECTION, &connection);
                }
                out.extend_from_slice(b"\r\n");
                if method != Method::HEAD {
                    out.extend_from_slice(&content);
                }
                // Our own answers are small: a client that does not even take that is gone.
                let sent = rt::timeout(limits::HEAD_MS, writer.flush()).await;
                matches!(sent, Ok(Ok(()))) && keep
            }
            Self::H2 {
                mut respond,
                is_head,
            } => {
                let mut fields = reply.fields();
                finish_fields(&mut fields);
                fields.insert(header::CONTENT_LENGTH, HeaderValue::from(content.len()));
                let empty = is_head || content.is_empty();
                if let Ok(mut stream) = respond.send(status, &fields, empty)
                    && !empty
                {
                    // As above; also a gateway of the mesh, which is not watched for what it takes of others' answers.
                    let sent = rt::timeout(limits::HEAD_MS, stream.send_last(content)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        tracing::trace!("stream ended before the answer");
                    }
                }
                true
            }
        }
    }

    /// Starts the answer of an upstream; what comes back takes its body, and says whether the connection can go on after it.
    ///
    /// # Errors
    /// The stream is gone.
    pub(super) fn start(
        self,
        mut head: RawResponse,
        framing: Framing,
    ) -> io::Result<(Sink<'a>, bool)> {
        clean_response(&mut head.headers);
        if head.status == StatusCode::NO_CONTENT {
            // RFC 9110 section 8.6; some clients would wait for so many bytes.
            head.headers.remove(header::CONTENT_LENGTH);
        }
        match self {
            Self::H1 {
                writer,
                method,
                is_11,
                keep,
                core,
                ..
            } => {
                let keep = keep && !core.is_draining();
                if framing == Framing::Empty
                    && !h1::is_bodiless(head.status, &method)
                    && !head.headers.contains_key(header::CONTENT_LENGTH)
                {
                    // Over HTTP/2 the end of the stream says it.
                    head.headers
                        .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                }
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
                writer.begin();
                let out = writer.out();
                status_line(out, head.status, is_11);
                if coding == Some(Coding::Chunked) {
                    out.extend_from_slice(b"transfer-encoding: chunked\r\n");
                }
                h1::write_fields(out, &head.headers);
                // A message without a body still has to be flushed.
                Ok((Sink::H1(writer, coding.unwrap_or(Coding::Length(0))), keep))
            }
            Self::H2 { mut respond, .. } => {
                let empty = framing == Framing::Empty;
                let stream = respond.send(head.status, &head.headers, empty)?;
                let sink = if empty {
                    Sink::Nothing
                } else {
                    Sink::H2(stream)
                };
                Ok((sink, true))
            }
        }
    }

    /// How the client speaks.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::H1 { is_11: true, .. } => "HTTP/1.1",
            Self::H1 { is_11: false, .. } => "HTTP/1.0",
            Self::H2 { .. } => "HTTP/2",
        }
    }

    /// Whether the protocol takes trailers of every answer; over HTTP/1 a client says so (RFC 9110 section 6.5.1).
    #[must_use]
    pub(super) fn takes_trailers(&self) -> bool {
        matches!(self, Self::H2 { .. })
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

    /// Lets the connection end after the answer.
    pub(super) fn close_after(&mut self) {
        if let Self::H1 { keep, .. } = self {
            *keep = false;
        }
    }

    /// Ready when the client of an HTTP/2 stream has broken it off; of an HTTP/1 connection the reading side tells.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::H1 { .. } => Poll::Pending,
            Self::H2 { respond, .. } => respond.poll_gone(cx),
        }
    }

    /// Answers CONNECT with 200; what comes back takes the upstream's bytes.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn tunnel(self) -> io::Result<Sink<'a>> {
        match self {
            Self::H1 { writer, .. } => {
                writer.out().extend_from_slice(b"HTTP/1.1 200 OK\r\n\r\n");
                writer.begin();
                writer.flush().await?;
                Ok(Sink::H1(writer, Coding::Close))
            }
            Self::H2 { mut respond, .. } => {
                let stream = respond.send(StatusCode::OK, &HeaderMap::new(), false)?;
                Ok(Sink::H2(stream))
            }
        }
    }

    /// Sends an interim answer on (RFC 9110 section 15.2). One that the client did not ask for, or could not read, is not
    /// for it: `100` and `101`, and all of them over HTTP/1.0.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn interim(&mut self, mut head: RawResponse) -> io::Result<()> {
        let asked = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS];
        if asked.contains(&head.status) {
            return Ok(());
        }
        clean_response(&mut head.headers);
        head.headers.remove(header::CONTENT_LENGTH);
        match self {
            Self::H1 { is_11: false, .. } => Ok(()),
            Self::H1 { writer, .. } => {
                status_line(writer.out(), head.status, true);
                h1::write_fields(writer.out(), &head.headers);
                writer.flush().await
            }
            Self::H2 { respond, .. } => respond.send_interim(head.status, &head.headers),
        }
    }

    /// Tells the client that its connection carries another protocol from here on.
    ///
    /// # Errors
    /// The client is gone, or does not take that much within the time that it has for a head itself.
    pub(super) async fn switch(&mut self, mut head: RawResponse) -> io::Result<()> {
        clean_response(&mut head.headers);
        match self {
            Self::H1 { writer, core, .. } => {
                upgrade::head(&head, writer.out());
                rt::timeout(core.process.limits.head_ms, writer.flush())
                    .await
                    .unwrap_or_else(|rt::Elapsed| Err(io::ErrorKind::TimedOut.into()))
            }
            Self::H2 { respond, .. } => {
                // The key was ours.
                head.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
                respond.send(StatusCode::OK, &head.headers, false).map(drop)
            }
        }
    }

    /// What the client has of a message is not all of it: its connection or stream is broken off.
    pub(super) fn break_off(self) {
        match self {
            // Whoever serves the connection sees that a message has no end.
            Self::H1 { writer, .. } => writer.begin(),
            // A stream that is dropped is reset.
            Self::H2 { .. } => {}
        }
    }

    /// Tells a client that waits for it to send the body.
    ///
    /// # Errors
    /// The client is gone.
    pub(super) async fn invite_body(&mut self) -> io::Result<()> {
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

/// A second, and what is written in it.
struct Second {
    number: u64,
    date: HeaderValue,
    /// `date` and `server` as HTTP/1 writes them.
    fields: BytesMut,
}

thread_local! {
    /// The second in which something was written last.
    static LAST: RefCell<Option<Second>> = const { RefCell::new(None) };
}

/// Hands out what is written in this second; made anew once a second.
fn in_this_second<T>(of: impl FnOnce(&Second) -> T) -> T {
    let now = clock::unix_coarse();
    LAST.with_borrow_mut(|last| {
        let last = match last {
            Some(last) if last.number == now.as_secs() => last,
            outdated => outdated.insert(Second::new(now)),
        };
        of(last)
    })
}

impl Second {
    #[cold]
    fn new(now: Duration) -> Self {
        // It is ASCII, which a field may hold.
        let date = HeaderValue::try_from(http_date(now));
        let date = date.unwrap_or(HeaderValue::from_static(""));
        let mut fields = BytesMut::new();
        h1::write_field(&mut fields, &header::DATE, &date);
        h1::write_field(&mut fields, &header::SERVER, &SERVER);
        Self {
            number: now.as_secs(),
            date,
            fields,
        }
    }
}

/// `date` of now.
fn date() -> HeaderValue {
    in_this_second(|second| second.date.clone())
}

/// Writes the fields that each answer of our own has.
fn own_fields(out: &mut BytesMut) {
    in_this_second(|second| out.extend_from_slice(&second.fields));
}

fn finish_fields(headers: &mut HeaderMap) {
    headers.insert(header::DATE, date());
    headers.insert(header::SERVER, SERVER);
}

/// Whether a field of an answer of our own is set for each.
fn is_own(name: &HeaderName) -> bool {
    [header::DATE, header::SERVER, header::CONNECTION].contains(name)
}

/// What `connection` says, if it has to.
fn connection(keep: bool, is_11: bool) -> Option<HeaderValue> {
    match (keep, is_11) {
        (false, _) => Some(HeaderValue::from_static("close")),
        (true, false) => Some(HeaderValue::from_static("keep-alive")),
        (true, true) => None,
    }
}

fn connection_field(headers: &mut HeaderMap, keep: bool, is_11: bool) {
    if let Some(value) = connection(keep, is_11) {
        headers.insert(header::CONNECTION, value);
    }
}
