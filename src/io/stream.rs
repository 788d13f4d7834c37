//! One byte stream whatever carries it: TCP, TLS over anything, an HBONE tunnel.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::io::records::Tls;
use crate::io::rt::Tcp;
use crate::io::tcp_options;
use crate::io::tunnel::Tunnel;

/// A bidirectional byte stream.
#[derive(Debug)]
pub struct Stream {
    /// Bytes that were read to recognise the protocol and are still to be read.
    prefix: Bytes,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(Tcp),
    Tls(Box<Tls>),
    Tunnel(Tunnel),
}

impl From<Tcp> for Stream {
    fn from(tcp: Tcp) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: Kind::Tcp(tcp),
        }
    }
}

impl From<Tunnel> for Stream {
    fn from(tunnel: Tunnel) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: Kind::Tunnel(tunnel),
        }
    }
}

impl From<Tls> for Stream {
    fn from(tls: Tls) -> Self {
        Self {
            prefix: Bytes::new(),
            kind: Kind::Tls(Box::new(tls)),
        }
    }
}

impl Stream {
    /// Looks at the first `want` bytes without taking them; fewer at the end of the stream.
    ///
    /// # Errors
    /// As the carrier's read.
    pub async fn peek(&mut self, want: usize) -> io::Result<&[u8]> {
        let mut chunk = vec![0; want];
        while self.prefix.len() < want {
            let room = want.saturating_sub(self.prefix.len());
            let mut into = ReadBuf::new(chunk.get_mut(..room).unwrap_or_default());
            // Past the prefix, which stays whole if this is given up while it waits.
            std::future::poll_fn(|cx| self.poll_carrier(cx, &mut into)).await?;
            if into.filled().is_empty() {
                break;
            }
            self.prefix = [&self.prefix, into.filled()].concat().into();
        }
        Ok(&self.prefix)
    }

    /// The stream behind bytes that were read of it.
    #[must_use]
    pub fn behind(mut self, read: Bytes) -> Self {
        self.prefix = read;
        self
    }

    /// The stream behind bytes that were read of it after what it still holds of its beginning.
    #[must_use]
    pub(super) fn before(mut self, read: &[u8]) -> Self {
        self.prefix = [read, &self.prefix].concat().into();
        self
    }

    /// Makes the end an abrupt one: what the peer has by then is not complete.
    pub fn abort(&mut self) {
        match &mut self.kind {
            Kind::Tcp(tcp) => tcp.reset_on_close(),
            Kind::Tls(tls) => tls.carrier().abort(),
            Kind::Tunnel(tunnel) => tunnel.abort(),
        }
    }

    /// Ready when the peer takes no more, where the carrier says so while nothing is sent: a tunnel does.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.kind {
            Kind::Tcp(_) => Poll::Pending,
            Kind::Tls(tls) => tls.carrier().poll_gone(cx),
            Kind::Tunnel(tunnel) => tunnel.poll_gone(cx),
        }
    }

    /// Bytes that the kernel still holds for the peer, if a kernel does.
    pub(super) fn unsent(&mut self) -> Option<u64> {
        match &mut self.kind {
            Kind::Tcp(tcp) => tcp.option(tcp_options::unsent).ok(),
            Kind::Tls(tls) => tls.carrier().unsent(),
            Kind::Tunnel(_) => None,
        }
    }

    /// Has the next read see what the kernel has received by now. Whether it is certain that there is nothing to read.
    fn look_again(&mut self) -> bool {
        match &mut self.kind {
            Kind::Tcp(tcp) => tcp.look_again() && self.prefix.is_empty(),
            Kind::Tls(tls) => {
                tls.carrier().look_again();
                false // it may hold something itself
            }
            // What it has received is here already.
            Kind::Tunnel(_) => false,
        }
    }

    /// The socket, if it is nothing else.
    fn tcp(&self) -> Option<Tcp> {
        match &self.kind {
            Kind::Tcp(tcp) if self.prefix.is_empty() => Some(tcp.clone()),
            Kind::Tcp(_) | Kind::Tls(_) | Kind::Tunnel(_) => None,
        }
    }

    /// The TLS connection, if its chunks can be taken and slots sent.
    pub fn tls(&mut self) -> Option<&mut Tls> {
        match &mut self.kind {
            Kind::Tls(tls) if self.prefix.is_empty() && tls.takes_slots() => Some(tls),
            Kind::Tcp(_) | Kind::Tls(_) | Kind::Tunnel(_) => None,
        }
    }

    /// The tunnel, if it is one.
    fn tunnel(&mut self) -> Option<&mut Tunnel> {
        match &mut self.kind {
            Kind::Tunnel(tunnel) => Some(tunnel),
            Kind::Tcp(_) | Kind::Tls(_) => None,
        }
    }

    /// Whether what it receives can be taken in the memory it was received in.
    pub(super) fn gives_chunks(&self) -> bool {
        self.prefix.is_empty() && matches!(self.kind, Kind::Tls(_) | Kind::Tunnel(_))
    }

    /// The next piece in the memory it was received in; `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match &mut self.kind {
            Kind::Tls(tls) => tls.poll_chunk(cx),
            Kind::Tunnel(tunnel) => tunnel.poll_chunk(cx),
            Kind::Tcp(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    /// As `poll_chunk`, of what is here already; `None` if there is no more.
    fn chunk_at_hand(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Bytes>> {
        match &mut self.kind {
            Kind::Tls(tls) => tls.buffered_chunk(cx),
            Kind::Tunnel(tunnel) => Ok(tunnel.chunk_at_hand()),
            Kind::Tcp(_) => Ok(None),
        }
    }

    /// Ready when it is worth to try and read, as far as the carrier can tell.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(tcp) if self.prefix.is_empty() => tcp.poll_readable(cx),
            Kind::Tls(tls) if self.prefix.is_empty() => tls.poll_readable(cx),
            Kind::Tcp(_) | Kind::Tls(_) | Kind::Tunnel(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_carrier(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Kind::Tls(s) => Pin::new(&mut **s).poll_read(cx, buf),
            Kind::Tunnel(s) => Pin::new(s).poll_read(cx, buf),
        }
    }

    /// Two halves that share the stream on this core.
    #[must_use]
    pub fn split(self) -> (Half, Half) {
        let shared = Rc::new(RefCell::new(self));
        (
            Half {
                stream: Rc::clone(&shared),
            },
            Half { stream: shared },
        )
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(self.prefix.get(..n).unwrap_or_default());
            self.prefix.advance(n);
            return Poll::Ready(Ok(()));
        }
        self.poll_carrier(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Kind::Tls(s) => Pin::new(&mut **s).poll_write(cx, buf),
            Kind::Tunnel(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Kind::Tls(s) => Pin::new(&mut **s).poll_write_vectored(cx, bufs),
            Kind::Tunnel(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(s) => s.is_write_vectored(),
            Kind::Tls(s) => s.is_write_vectored(),
            Kind::Tunnel(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_flush(cx),
            Kind::Tls(s) => Pin::new(&mut **s).poll_flush(cx),
            Kind::Tunnel(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Kind::Tls(s) => Pin::new(&mut **s).poll_shutdown(cx),
            Kind::Tunnel(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

/// One half of a split stream. Either half reads and writes; by convention one does each.
#[derive(Debug)]
pub struct Half {
    stream: Rc<RefCell<Stream>>,
}

impl Half {
    /// The stream, if this is the last of its halves.
    pub(super) fn into_stream(self) -> Option<Stream> {
        Rc::try_unwrap(self.stream).ok().map(RefCell::into_inner)
    }

    /// Ready when the peer takes no more, as far as the carrier says so.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.borrow_mut().poll_gone(cx)
    }

    /// Ready when it is worth to try and read, as far as the carrier can tell.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow_mut().poll_readable(cx)
    }

    /// Bytes that the kernel still holds for the peer, if a kernel does.
    pub(super) fn unsent(&self) -> Option<u64> {
        self.stream.borrow_mut().unsent()
    }

    /// Has the next read see what the kernel has received by now. Whether it is certain that there is nothing to read.
    pub(super) fn look_again(&self) -> bool {
        self.stream.borrow_mut().look_again()
    }

    /// Takes what was read to recognise the protocol.
    pub(super) fn take_prefix(&self) -> Bytes {
        std::mem::take(&mut self.stream.borrow_mut().prefix)
    }

    /// The socket, if it is nothing else.
    pub(super) fn tcp(&self) -> Option<Tcp> {
        self.stream.borrow().tcp()
    }

    /// Whether what it receives can be taken in the memory it was received in.
    pub(super) fn gives_chunks(&self) -> bool {
        self.stream.borrow().gives_chunks()
    }

    /// The next piece in the memory it was received in; `None` at the end.
    pub(super) fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        self.stream.borrow_mut().poll_chunk(cx)
    }

    /// Waits for pieces of what is received, and takes what came with them, at most `most` in all; how many bytes, 0 at
    /// the end.
    pub(super) fn poll_chunks(
        &self,
        cx: &mut Context<'_>,
        chunks: &mut VecDeque<Bytes>,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let mut n = 0_usize;
        let mut next = ready!(stream.poll_chunk(cx))?;
        while let Some(chunk) = next {
            n = n.saturating_add(chunk.len());
            chunks.push_back(chunk);
            if chunks.len() >= most {
                break;
            }
            next = stream.chunk_at_hand(cx)?;
        }
        Poll::Ready(Ok(n))
    }

    /// Calls into the TLS connection, if it is one whose chunks can be taken and slots sent.
    pub(super) fn with_tls<R>(&self, call: impl FnOnce(&mut Tls) -> R) -> Option<R> {
        self.stream.borrow_mut().tls().map(call)
    }

    /// Calls into the tunnel, if it is one.
    pub(super) fn with_tunnel<R>(&self, call: impl FnOnce(&mut Tunnel) -> R) -> Option<R> {
        self.stream.borrow_mut().tunnel().map(call)
    }

    /// Makes the end of the whole stream an abrupt one.
    pub(super) fn abort(&self) {
        self.stream.borrow_mut().abort();
    }
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }
}
