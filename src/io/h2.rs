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
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::h2::{Code, Requests};
use crate::http::h1::Chunk;
use crate::io::mux::{Mux, Payload};
use crate::io::rt;
use crate::vocab::limits;

pub use crate::io::mux::MuxError;
pub use client::{Answer, Answering, Client, is_silent, is_unprocessed};
pub(super) use pool::{NoClient, Pool};
pub use server::{Asked, Ending, Respond, Server, Taken, Windows};

/// A stream of a connection.
#[derive(Debug)]
struct Handle {
    mux: Mux<Requests>,
    id: u32,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.mux.forget(self.id);
    }
}

/// What the peer sends behind a head.
#[derive(Debug)]
pub struct Incoming(Rc<Handle>);

impl Incoming {
    /// The next piece, trailers behind all data; `None` at the end.
    ///
    /// # Errors
    /// The stream was reset, or its connection ended.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Chunk>>> {
        let Handle { mux, id } = &*self.0;
        mux.poll_piece(*id, cx).map(|piece| {
            let piece = piece.map_err(io::Error::other)?;
            Ok(piece.map(|piece| piece.map_or_else(Chunk::Trailers, Chunk::Data)))
        })
    }

    /// Both directions of a stream that carries another protocol from here on (RFC 8441 section 5).
    #[must_use]
    pub fn both_ways(self) -> (Self, Outgoing) {
        let other = Outgoing(Rc::clone(&self.0));
        (self, other)
    }

    /// Whether nothing is left to come.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.0.mux.is_read(self.0.id)
    }
}

/// What we send behind a head.
#[derive(Debug)]
pub struct Outgoing(Rc<Handle>);

impl Outgoing {
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
            if !self.0.mux.send(self.0.id, Payload::Held(piece), end) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }

    /// Waits until something may be sent, `most` bytes at the most; how many.
    async fn room(&self, most: usize) -> io::Result<usize> {
        let Handle { mux, id } = &*self.0;
        let at_once = std::future::poll_fn(|cx| Poll::Ready(mux.poll_room(*id, most, cx)));
        if let Poll::Ready(room) = at_once.await {
            return room;
        }
        // A timer only where it has to wait.
        let room = std::future::poll_fn(|cx| mux.poll_room(*id, most, cx));
        match rt::timeout(limits::H2_ZERO_WINDOW_MS, room).await {
            Ok(room) => room,
            Err(rt::Elapsed) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "peer leaves no room in its windows",
            )),
        }
    }

    /// Sends trailers, which are the end.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub fn trailers(&mut self, trailers: &HeaderMap) -> io::Result<()> {
        let Handle { mux, id } = &*self.0;
        let sent = mux.say(|session| session.send_trailers(*id, trailers));
        sent.then_some(())
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends our side.
    ///
    /// # Errors
    /// Nothing can be sent any more.
    pub fn finish(&mut self) -> io::Result<()> {
        let sent = self.0.mux.send(self.0.id, Payload::Copied(&[]), true);
        sent.then_some(())
            .ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Breaks the stream off, so that the peer cannot take it for complete.
    pub fn abort(&mut self) {
        self.0.mux.reset(self.0.id, Code::INTERNAL_ERROR);
    }

    /// Breaks the stream off as a connection is that it stands for (RFC 8441 section 5).
    pub fn cancel(&mut self) {
        self.0.mux.reset(self.0.id, Code::CANCEL);
    }

    /// Ready when the peer takes no more.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.0.poll_gone(cx)
    }
}

impl Handle {
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.mux.poll_reset(self.id, cx).map(io::Error::other)
    }
}
