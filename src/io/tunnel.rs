//! One HTTP/2 stream as a byte stream: the inside of an HBONE tunnel (RFC 9113 section 8.5).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that one write hands to the framing layer.
const WRITE_BYTES: usize = 64 * 1024;

/// A CONNECT stream.
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    rest: Bytes,
    ended: bool,
    finished: bool,
    /// Counts down the streams of the connection when the tunnel goes.
    _lease: Option<Lease>,
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
    /// From the two directions of a stream.
    #[must_use]
    pub fn new(send: SendStream<Bytes>, recv: RecvStream, lease: Option<Lease>) -> Self {
        Self {
            send,
            recv,
            rest: Bytes::new(),
            ended: false,
            finished: false,
            _lease: lease,
        }
    }

    /// Ready when the peer has reset the stream: it takes no more, and nothing else tells while nothing is sent.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.finished {
            return Poll::Pending;
        }
        self.send.poll_reset(cx).map(|_why| ())
    }

    /// Breaks the stream off so that the peer cannot take it for complete (RFC 9113 section 8.5).
    pub(super) fn abort(&mut self) {
        self.finished = true;
        self.send.send_reset(Reason::CONNECT_ERROR);
    }
}

/// No more is wanted, and nothing is broken: the peer reads it as the end.
impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.finished {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::other(error)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                None => self.ended = true,
                // A peer that resets without error has only ended its side.
                Some(Err(e)) if matches!(e.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    self.ended = true;
                }
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(self.rest.get(..n).unwrap_or_default());
        self.rest.advance(n);
        self.recv
            .flow_control()
            .release_capacity(n)
            .map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let want = buf.len().min(WRITE_BYTES);
        self.send.reserve_capacity(want);
        let mut room = self.send.capacity();
        while room == 0 {
            room = match ready!(self.send.poll_capacity(cx)) {
                Some(granted) => granted.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = room.min(want);
        let data = Bytes::copy_from_slice(buf.get(..n).unwrap_or_default());
        self.send.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finished = true;
            match self.send.send_data(Bytes::new(), true) {
                // The peer that has ended may have reset the stream; there is nobody to tell then.
                Err(error) if !self.ended => return Poll::Ready(Err(broken(error))),
                Ok(()) | Err(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}
