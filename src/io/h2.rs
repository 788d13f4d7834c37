//! Requests over HTTP/2, either end of a connection: the state is `h2`'s, what reads and writes is `io/mux`.
//!
//! Every stream has one handle, shared by whoever reads and whoever writes it; when the last of them is dropped the stream
//! is over, and reset if it is not complete.

mod client;
mod pool;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, header};

use crate::h2::{Code, Requests};
use crate::http::h1::Chunk;
use crate::io::mux::{Mux, Payload};
use crate::io::pace::{Pace, Unread};

pub use crate::io::mux::MuxError;
pub use client::{Answer, Answering, Client, is_silent, is_unprocessed};
pub(super) use pool::{NoClient, Pool};
pub use server::{Asked, Ending, Respond, Server, Taken, Windows};

/// A stream of a connection.
#[derive(Debug)]
struct Handle {
    mux: Mux<Requests>,
    id: u32,
    /// How long the peer may leave no room for what is to be sent, in milliseconds.
    patience_ms: Option<u64>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mux.forget(self.id);
    }
}

/// What the peer sends behind a head.
#[derive(Debug)]
pub struct Incoming {
    handle: Rc<Handle>,
    /// What is still to come of an announced length.
    left: Option<u64>,
    /// The last piece of that length, until nothing more comes.
    last: Option<Bytes>,
}

impl Incoming {
    /// Of the length that a head announces: where more comes, the message breaks off before its last piece was given away,
    /// so that nobody takes it for whole.
    fn new(handle: Rc<Handle>, length: Option<u64>) -> Self {
        Self {
            handle,
            left: length,
            last: None,
        }
    }

    /// The next piece, trailers behind all data; `None` at the end.
    ///
    /// # Errors
    /// The stream was reset, or its connection ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        let Handle { mux, id, .. } = &*self.handle;
        if self.last.is_none() {
            let data = match ready!(mux.poll_piece(*id, cx)).map_err(broken)? {
                None => return Poll::Ready(Ok(None)),
                Some(Err(trailers)) => return Poll::Ready(Ok(Some(Chunk::Trailers(trailers)))),
                Some(Ok(data)) => data,
            };
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(u64::try_from(data.len()).unwrap_or(u64::MAX));
            }
            if self.left != Some(0) {
                return Poll::Ready(Ok(Some(Chunk::Data(data))));
            }
            self.last = Some(data);
        }
        ready!(mux.poll_whole(*id, cx)).map_err(broken)?;
        Poll::Ready(Ok(self.last.take().map(Chunk::Data)))
    }

    /// Waits until all has come, of a message that announces to have no content.
    ///
    /// # Errors
    /// It has some, or the peer broke off.
    pub async fn whole(&mut self) -> Result<(), MuxError> {
        let Handle { mux, id, .. } = &*self.handle;
        std::future::poll_fn(|cx| mux.poll_whole(*id, cx)).await
    }

    /// Both directions of a stream that carries another protocol from here on (RFC 8441 section 5).
    #[must_use]
    pub fn both_ways(self) -> (Self, Outgoing) {
        let other = Outgoing::new(Rc::clone(&self.handle));
        (self, other)
    }

    /// Whether nothing is left to come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.last.is_none() && self.handle.mux.is_read(self.handle.id)
    }
}

/// What we send behind a head.
#[derive(Debug)]
pub struct Outgoing {
    handle: Rc<Handle>,
    pace: Option<Pace>,
}

impl Outgoing {
    fn new(handle: Rc<Handle>) -> Self {
        let pace = handle.patience_ms.map(Pace::new);
        Self { handle, pace }
    }

    /// Sends a piece, as far as the peer's windows and the connection have room for it; waits for the rest.
    ///
    /// # Errors
    /// The stream was reset, its connection ended, or the peer has left no room for too long.
    pub async fn send(&mut self, data: Bytes) -> io::Result<()> {
        self.push(data, false).await
    }

    /// Sends the last piece.
    ///
    /// # Errors
    /// As `send`.
    pub async fn send_last(&mut self, data: Bytes) -> io::Result<()> {
        if data.is_empty() {
            return self.finish();
        }
        self.push(data, true).await
    }

    async fn push(&mut self, mut data: Bytes, last: bool) -> io::Result<()> {
        while !data.is_empty() {
            let room = self.room(data.len()).await?;
            let piece = data.split_to(room);
            let end = last && data.is_empty();
            let Handle { mux, id, .. } = &*self.handle;
            if !mux.send(*id, Payload::Held(piece), end) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    /// Waits until something may be sent, `most` bytes at the most; how many.
    async fn room(&mut self, most: usize) -> io::Result<usize> {
        let Handle { mux, id, .. } = &*self.handle;
        let pace = &mut self.pace;
        std::future::poll_fn(|cx| {
            let polled = mux.poll_room(*id, most, cx);
            let Some(pace) = pace else { return polled };
            match polled {
                Poll::Ready(Ok(room)) => pace.moves(room),
                Poll::Ready(Err(_)) => {}
                Poll::Pending if mux.is_shut(*id) => {
                    return pace.waits(cx).map(|()| Err(io::Error::other(Unread)));
                }
                // It waits for its connection, whose peer has left room on the stream.
                Poll::Pending => pace.rests(),
            }
            polled
        })
        .await
    }

    /// Sends trailers, which are the end.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub fn trailers(&mut self, trailers: &HeaderMap) -> io::Result<()> {
        let Handle { mux, id, .. } = &*self.handle;
        let sent = mux.say(|session| session.send_trailers(*id, trailers));
        sent.then_some(())
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends our side.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub fn finish(&mut self) -> io::Result<()> {
        let sent = self
            .handle
            .mux
            .send(self.handle.id, Payload::Copied(&[]), true);
        sent.then_some(())
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Breaks the stream off, so that the peer cannot take it for complete.
    pub fn abort(&mut self) {
        self.handle.mux.reset(self.handle.id, Code::INTERNAL_ERROR);
    }

    /// Breaks the stream off as a connection is that it stands for (RFC 8441 section 5).
    pub fn cancel(&mut self) {
        self.handle.mux.reset(self.handle.id, Code::CANCEL);
    }

    /// Ready when the peer takes no more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.handle.poll_gone(cx)
    }
}

/// `content-length` of a head.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// What whoever moves a body is told.
fn broken(error: MuxError) -> io::Error {
    match error {
        MuxError::Unread(why) => io::Error::other(why),
        MuxError::Io(_)
        | MuxError::Protocol(_)
        | MuxError::Open(_)
        | MuxError::Reset(_)
        | MuxError::Ended => io::Error::other(error),
    }
}

impl Handle {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.mux.poll_reset(self.id, cx).map(broken)
    }
}
