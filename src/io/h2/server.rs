//! The server's end: requests, and answers to them.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, StatusCode};

use super::{Handle, Incoming, Outgoing, announced};
use crate::h2::{Code, ConnectionError, Malformed, RequestHead, Requests, Settings, Side};
use crate::io::mux::{Driver, Mux, MuxError};
use crate::io::pace::Watch;
use crate::io::rt;
use crate::io::stream::Stream;
use crate::vocab::limits;

/// How much a peer may send ahead of its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// From outside: Istio's edge profile.
    Edge,
    /// Within the mesh.
    Mesh,
}

impl Windows {
    fn settings(self) -> Settings {
        let mesh = Settings {
            side: Side::Server,
            window: limits::H2_STREAM_WINDOW_BYTES,
            connection_window: limits::H2_CONNECTION_WINDOW_BYTES,
            max_frame: limits::H2_FRAME_BYTES,
            header_list: u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX),
            max_streams: limits::H2_STREAMS,
            charged: limits::H2_CHARGED_BYTES,
            advance: limits::H2_ADVANCE_BYTES,
            extended_connect: false,
            early_reset_ms: limits::H2_EARLY_RESET_MS,
        };
        match self {
            Self::Mesh => mesh,
            Self::Edge => Settings {
                window: limits::H2_EDGE_STREAM_WINDOW_BYTES,
                connection_window: limits::H2_EDGE_CONNECTION_WINDOW_BYTES,
                max_streams: limits::H2_EDGE_STREAMS,
                charged: limits::H2_EDGE_CHARGED_BYTES,
                advance: limits::H2_EDGE_ADVANCE_BYTES,
                ..mesh
            },
        }
    }
}

/// A request that was taken up.
#[derive(Debug)]
pub struct Asked {
    /// Its head.
    pub head: RequestHead,
    /// What follows it.
    pub body: Incoming,
    /// What answers it.
    pub respond: Respond,
}

/// What a client has sent.
#[derive(Debug)]
pub enum Taken {
    /// A request.
    Request(Box<Asked>),
    /// What is none; its stream is reset already.
    Malformed(Malformed),
}

/// A server's end of a connection.
#[derive(Debug)]
pub struct Server {
    driver: Driver<Requests>,
    mux: Mux<Requests>,
    patience_ms: Option<u64>,
    /// While something waits to be written.
    watch: Option<Box<Watch>>,
}

impl Server {
    /// A connection over `stream`. `extended`: extended CONNECT (RFC 8441) is offered.
    #[must_use]
    pub fn new(stream: Stream, windows: Windows, extended: bool) -> Self {
        let settings = Settings {
            extended_connect: extended,
            ..windows.settings()
        };
        let mux = Mux::of_requests(settings);
        Self {
            driver: Driver::new(stream, mux.clone()),
            mux,
            patience_ms: None,
            watch: None,
        }
    }

    /// A client that leaves no room for what is sent to it on a stream for `ms` breaks the stream, and one that takes nothing
    /// at all for so long the connection, with `Unread`.
    #[must_use]
    pub fn wait_at_most(mut self, ms: Option<u64>) -> Self {
        self.patience_ms = ms;
        self
    }

    /// Waits until the client has shown that it speaks HTTP/2.
    ///
    /// # Errors
    /// It does not.
    pub async fn handshake(&mut self) -> Result<(), MuxError> {
        std::future::poll_fn(|cx| {
            let polled = self.driver.poll(cx)?;
            if self.mux.is_settled() {
                return Poll::Ready(Ok(()));
            }
            polled.map(|()| Err(MuxError::Ended))
        })
        .await
    }

    /// What the client sends next. Reads and writes the connection meanwhile; `None` at its end.
    ///
    /// # Errors
    /// It did not end in order.
    pub async fn accept(&mut self) -> Result<Option<Taken>, MuxError> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Taken>, MuxError>> {
        if let Some(taken) = self.at_hand() {
            return Poll::Ready(Ok(Some(taken)));
        }
        let polled = self.driver.poll(cx)?;
        if let Some(taken) = self.at_hand() {
            return Poll::Ready(Ok(Some(taken)));
        }
        if polled.is_ready() {
            return Poll::Ready(Ok(None));
        }
        if self.mux.is_written() {
            self.watch = None;
            return Poll::Pending;
        }
        let (driver, patience) = (&mut self.driver, self.patience_ms);
        let watch = self
            .watch
            .get_or_insert_with(|| Box::new(Watch::new(patience)));
        ready!(watch.poll(cx, || Some(driver.taken())));
        Poll::Ready(Err(driver.give_up()))
    }

    /// As `accept`, of what is here already; `None` if there is no more.
    #[must_use]
    pub fn at_hand(&self) -> Option<Taken> {
        let (id, head) = match self.mux.next_incoming()? {
            Ok(request) => request,
            Err(why) => return Some(Taken::Malformed(why)),
        };
        let handle = Rc::new(Handle {
            mux: self.mux.clone(),
            id,
            patience_ms: self.patience_ms,
        });
        Some(Taken::Request(Box::new(Asked {
            body: Incoming::new(Rc::clone(&handle), announced(&head.headers)),
            head,
            respond: Respond(handle),
        })))
    }

    /// Says that no new streams are taken; those that are open go on to their end.
    pub fn drain(&self) {
        self.mux.drain();
    }

    /// Ends the connection at once for what the client does; how it ended then.
    #[must_use]
    pub fn abort(&mut self, what: &'static str) -> ConnectionError {
        let error = ConnectionError {
            code: Code::ENHANCE_YOUR_CALM,
            what,
        };
        self.mux.fail(error);
        error
    }

    /// Sends what waits, as far as it goes at once.
    pub async fn flush(&mut self) -> Result<(), MuxError> {
        std::future::poll_fn(|cx| match self.driver.poll(cx) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Ready(Ok(())),
        })
        .await
    }
}

/// Answers one request.
#[derive(Debug)]
pub struct Respond(Rc<Handle>);

impl Respond {
    /// Sends the head of the answer; with `end` nothing follows it.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn send(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        end: bool,
    ) -> io::Result<Outgoing> {
        let Handle { mux, id, .. } = &*self.0;
        if mux.say(|session| session.respond(*id, status, headers, end)) {
            Ok(Outgoing::new(Rc::clone(&self.0)))
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Sends an interim answer (1xx but 101).
    ///
    /// # Errors
    /// The stream is gone, or answered.
    pub fn send_interim(&mut self, status: StatusCode, headers: &HeaderMap) -> io::Result<()> {
        let Handle { mux, id, .. } = &*self.0;
        let sent = mux.say(|session| session.respond_interim(*id, status, headers));
        sent.then_some(())
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// What ends the stream behind the answer.
    #[must_use]
    pub fn ending(&self) -> Ending {
        Ending(Rc::clone(&self.0))
    }

    /// Ready when the client has given the stream up.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.0.poll_gone(cx)
    }
}

/// The end of a stream whose answer may be complete before its request is.
#[derive(Debug)]
pub struct Ending(Rc<Handle>);

impl Ending {
    /// Lets a client that has the whole answer end its request too, for `limits::LINGER_MS`; then it is told to stop. That
    /// may follow the answer at once (RFC 9113 section 8.1), but there are clients that lose an answer which they read
    /// together with a reset. Returns at once if there is no whole answer.
    pub async fn linger(self) {
        self.linger_within(limits::LINGER_MS).await;
    }

    /// As `linger`, for so many milliseconds.
    pub(super) async fn linger_within(self, linger_ms: u64) {
        let Handle { mux, id, .. } = &*self.0;
        if mux.is_half_closed(*id) {
            let end = std::future::poll_fn(|cx| mux.poll_peer_end(*id, cx));
            if rt::timeout(linger_ms, end).await.is_err() {
                tracing::trace!("client is told to send no more of its request");
            }
        }
    }
}
