//! One HTTP/2 stream as a byte stream: the inside of an HBONE tunnel (RFC 9113 section 8.5).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::hbone::Code;
use crate::io::mux::{Mux, Payload};
use crate::io::slots::Slots;

/// Bytes of a frame's head, for which slots need room (RFC 9113 section 4.1).
pub(super) const FRAME_HEAD_BYTES: usize = 9;
/// Most bytes that one write hands to the framing layer.
const WRITE_BYTES: usize = 64 * 1024;

/// A CONNECT stream.
#[derive(Debug)]
pub struct Tunnel {
    mux: Mux,
    id: u32,
    rest: Bytes,
    ended: bool,
    finished: bool,
}

/// A place among the streams of one connection.
#[derive(Debug)]
pub struct Lease(Rc<Cell<usize>>);

impl Lease {
    /// Takes one more place of `count`.
    #[must_use]
    pub fn take(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get().saturating_add(1));
        Self(Rc::clone(count))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Tunnel {
    /// A stream of a connection; the only handle of it.
    pub(super) fn new(mux: Mux, id: u32) -> Self {
        Self {
            mux,
            id,
            rest: Bytes::new(),
            ended: false,
            finished: false,
        }
    }

    /// The next piece of what the peer sends, in the memory it was received in; `None` at its end.
    ///
    /// # Errors
    /// The stream or its connection broke.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let chunk = ready!(self.mux.poll_chunk(self.id, cx))?;
        self.ended = chunk.is_none();
        Poll::Ready(Ok(chunk))
    }

    /// As `poll_chunk`, of what is here already; `None` if there is no more.
    pub(super) fn chunk_at_hand(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(std::mem::take(&mut self.rest));
        }
        self.mux.chunk_at_hand(self.id)
    }

    /// Sends as much of `bytes` as there is room for, without copying it unless it is short; ready when none is left.
    ///
    /// # Errors
    /// The stream or its connection takes no more.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        while !bytes.is_empty() {
            let room = ready!(self.mux.poll_room(self.id, bytes.len(), cx))?;
            let payload = bytes.split_to(room);
            if !self.mux.send(self.id, Payload::Held(payload), false) {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until there is room, `most` bytes at the most; how many.
    pub(super) fn poll_window(&self, most: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.mux.poll_window(self.id, most, cx)
    }

    /// Sends what was read into slots with `FRAME_HEAD_BYTES` before each part, `filled` bytes for which there is room.
    ///
    /// # Errors
    /// The stream or its connection takes no more.
    pub(super) fn send_slots(&self, slots: Slots, filled: usize) -> io::Result<()> {
        if self.mux.send_slots(self.id, slots, filled) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    /// Ready when the peer has reset the stream: it takes no more, and nothing else tells while nothing is sent.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Pending;
        }
        self.mux.poll_gone(self.id, cx)
    }

    /// Breaks the stream off so that the peer cannot take it for complete (RFC 9113 section 8.5).
    pub(super) fn abort(&mut self) {
        self.finished = true;
        self.mux.reset(self.id, Code::CONNECT_ERROR);
    }
}

/// No more is wanted, and nothing is broken: the peer reads it as the end.
impl Drop for Tunnel {
    fn drop(&mut self) {
        self.mux.forget(self.id);
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut chunk) = ready!(self.poll_chunk(cx))? else {
            return Poll::Ready(Ok(()));
        };
        let n = chunk.len().min(buf.remaining());
        buf.put_slice(chunk.get(..n).unwrap_or_default());
        chunk.advance(n);
        self.rest = chunk;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let most = buf.len().min(WRITE_BYTES);
        let n = ready!(self.mux.poll_room(self.id, most, cx))?;
        let payload = Payload::Copied(buf.get(..n).unwrap_or_default());
        Poll::Ready(if self.mux.send(self.id, payload, false) {
            Ok(n)
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            // The peer that has ended may have reset the stream; there is nobody to tell then.
            if !self.mux.send(self.id, Payload::Copied(&[]), true) && !self.ended {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}
