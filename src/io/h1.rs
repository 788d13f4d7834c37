//! HTTP/1.1 on a stream: heads read whole, bodies in pieces, writes gathered.

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _};

use crate::http::h1::{H1Error, may_decide};
use crate::io::buffers::{self, Size};
use crate::io::pace::{Unread, Watch};
use crate::io::rt;
use crate::io::stream::{Half, Stream};
use crate::record::PAYLOAD_BYTES;
use crate::vocab::limits;

/// Room that a read asks for: one record of TLS, and what four of them carry while the room is filled each time.
const READ_BYTES: usize = PAYLOAD_BYTES;
const LONG_READ_BYTES: usize = 4 * PAYLOAD_BYTES;

/// Why a head could not be read.
#[derive(Debug, Error)]
pub enum HeadError {
    /// It is not one.
    #[error(transparent)]
    Http(#[from] H1Error),
    /// The stream broke.
    #[error("stream broke")]
    Io(#[source] io::Error),
    /// The stream ended within it.
    #[error("stream ended within a head")]
    Cut,
}

/// The reading half of an HTTP/1 connection.
#[derive(Debug)]
pub struct Reader {
    half: Half,
    buf: BytesMut,
    /// Room for the next read.
    room: usize,
}

/// The writing half of an HTTP/1 connection.
#[derive(Debug)]
pub struct Writer {
    half: Half,
    out: BytesMut,
    /// A message has begun and not ended.
    within: bool,
    /// How long the peer may take nothing of what is written, in milliseconds.
    patience_ms: Option<u64>,
}

/// Splits a stream for HTTP/1.
#[must_use]
pub fn split(stream: Stream) -> (Reader, Writer) {
    let (read, write) = stream.split();
    (
        Reader {
            half: read,
            buf: BytesMut::new(),
            room: READ_BYTES,
        },
        Writer {
            half: write,
            out: BytesMut::new(),
            within: false,
            patience_ms: None,
        },
    )
}

/// The stream of two halves, whole again: what was read of it and not used is still to be read. `None` if what waits in
/// `writer` was not written.
#[must_use]
pub fn unite(reader: Reader, writer: Writer) -> Option<Stream> {
    if !writer.out.is_empty() {
        return None;
    }
    drop(writer.half);
    Some(reader.half.into_stream()?.before(&reader.buf))
}

impl Reader {
    /// Reads more into the buffer; 0 at the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.half.poll_readable(cx))?;
        self.make_room();
        let n = {
            let mut limited = (&mut self.buf).limit(self.room);
            ready!(pin!(self.half.read_buf(&mut limited)).poll(cx))?
        };
        self.room = if n < READ_BYTES {
            READ_BYTES
        } else {
            LONG_READ_BYTES
        };
        Poll::Ready(Ok(n))
    }

    /// Has room for the next read, in a buffer of the core: what was given back last is still in the caches.
    fn make_room(&mut self) {
        if !self.buf.is_empty() {
            return self.buf.reserve(self.room);
        }
        if !self.buf.try_reclaim(self.room) {
            let size = if self.room > READ_BYTES {
                Size::Medium
            } else {
                Size::Small
            };
            buffers::give(std::mem::replace(&mut self.buf, buffers::take(size)));
        }
    }

    /// Holds no buffer without anything in it.
    fn let_go(&mut self) {
        if self.buf.is_empty() {
            buffers::give(std::mem::take(&mut self.buf));
        }
    }

    /// The next piece of what is received, in the memory that it was received in, if the stream has such pieces and none of
    /// it was read before: `None` if it has not.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Poll<io::Result<Option<Bytes>>>> {
        let whole = self.buf.is_empty() && self.half.gives_chunks();
        whole.then(|| self.half.poll_chunk(cx))
    }

    /// Keeps what follows a piece.
    pub(super) fn keep(&mut self, rest: &[u8]) {
        self.buf.extend_from_slice(rest);
    }

    /// What was read and not used yet.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buf
    }

    /// Waits for the first byte of a message; `false` at the end of the stream.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn started(&mut self) -> io::Result<bool> {
        while self.buf.is_empty() {
            if std::future::poll_fn(|cx| self.poll_idle(cx)).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As `poll_fill`, but an idle connection holds no buffer.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polled = self.poll_fill(cx);
        if polled.is_pending() {
            self.let_go();
        }
        polled
    }

    /// Ready when the peer has broken off or ended its side. What it sends meanwhile is kept for later, and once there is
    /// some the peer is not watched any further: so much is bounded.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.buf.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_idle(cx)) {
            Ok(0) => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(_more) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Reads and forgets until the peer ends its side, so that the answer it has not read yet is not lost to a reset; at
    /// most `limits::LINGER_BYTES` and `limits::LINGER_MS`.
    pub async fn linger(&mut self) {
        let rest = async {
            let mut read = self.buf.len();
            while read < limits::LINGER_BYTES {
                self.buf.clear();
                match std::future::poll_fn(|cx| self.poll_idle(cx)).await {
                    Ok(0) | Err(_) => return,
                    Ok(n) => read = read.saturating_add(n),
                }
            }
        };
        if rt::timeout(limits::LINGER_MS, rest).await.is_err() {
            tracing::trace!("peer does not end its side");
        }
    }

    /// Reads one head with `parse`; `None` if the stream ends before its first byte.
    ///
    /// # Errors
    /// `HeadError`.
    pub async fn head<T>(
        &mut self,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, H1Error>,
    ) -> Result<Option<T>, HeadError> {
        let mut seen = 0;
        loop {
            // Not at every read: a peer that sends byte by byte would have the whole head parsed for each.
            let first = seen == 0 && !self.buf.is_empty();
            if (first || may_decide(&self.buf, seen))
                && let Some((head, len)) = parse(&self.buf)?
            {
                self.buf.advance(len);
                self.let_go();
                return Ok(Some(head));
            }
            seen = self.buf.len();
            let n = match std::future::poll_fn(|cx| self.poll_fill(cx)).await {
                Ok(n) => n,
                Err(error) if self.buf.is_empty() => return Err(HeadError::Io(error)),
                // A peer that has said something was there.
                Err(_) => return Err(HeadError::Cut),
            };
            if n == 0 {
                return if self.buf.is_empty() {
                    Ok(None)
                } else {
                    Err(HeadError::Cut)
                };
            }
        }
    }

    /// As [`Self::is_quiet`], as far as is known without a look at what the kernel has by now. It is watched from here on.
    pub(super) fn seems_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.buf.is_empty() && self.poll_idle(&mut cx).is_pending()
    }

    /// Whether an idle upstream connection can take another request: nothing came, it has not ended.
    pub fn is_quiet(&mut self) -> bool {
        let nothing = self.half.look_again();
        if nothing && self.buf.is_empty() {
            self.let_go();
            return true;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        // Twice: the first may have been pending only because it was the turn of others.
        (0..2).all(|_| self.buf.is_empty() && self.poll_idle(&mut cx).is_pending())
    }
}

impl Writer {
    /// A message begins that ends with its body.
    pub fn begin(&mut self) {
        self.within = true;
    }

    /// The message has ended as it should.
    pub(super) fn complete(&mut self) {
        self.within = false;
    }

    /// Whether a message was begun and broken off, so that nothing can follow it.
    #[must_use]
    pub fn is_within(&self) -> bool {
        self.within
    }

    /// Breaks the connection off, so that the peer cannot take what it has for complete.
    pub fn abort(&mut self) {
        self.half.abort();
    }

    /// What waits to be written, in a buffer of the core: while there is nothing, none is held.
    pub fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = buffers::take(Size::Small);
        }
        &mut self.out
    }

    /// Bytes that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing waits to be written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.out.is_empty()
    }

    fn let_go(&mut self) {
        buffers::give(std::mem::take(&mut self.out));
    }

    /// From here on a peer that takes nothing of what is written for `ms` breaks the stream, with `Unread`.
    pub fn wait_at_most(&mut self, ms: Option<u64>) {
        self.patience_ms = ms;
    }

    /// Writes all that waits.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn flush(&mut self) -> io::Result<()> {
        let patience = self.patience_ms;
        if !self.out.is_empty() {
            write_all(&mut self.half, &self.out, patience).await?;
            self.let_go();
        }
        patiently(&mut self.half, patience, |half, cx| half.poll_flush(cx)).await
    }

    /// Writes `data` after all that waits, in one go with it and without copying it.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn write_through(&mut self, data: &[u8]) -> io::Result<()> {
        let patience = self.patience_ms;
        let mut done = 0_usize;
        let waiting = self.out.len();
        while done < waiting {
            let head = self.out.get(done..).unwrap_or_default();
            let both = [io::IoSlice::new(head), io::IoSlice::new(data)];
            let write =
                |half: Pin<&mut Half>, cx: &mut Context<'_>| half.poll_write_vectored(cx, &both);
            let n = patiently(&mut self.half, patience, write).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done = done.saturating_add(n);
        }
        self.let_go();
        let rest = data.get(done.saturating_sub(waiting)..);
        write_all(&mut self.half, rest.unwrap_or_default(), patience).await
    }

    /// Ends the writing direction.
    ///
    /// # Errors
    /// The stream broke.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.half.shutdown().await
    }
}

/// Writes all of `data` to a peer that may take nothing for so many milliseconds.
async fn write_all(half: &mut Half, mut data: &[u8], patience: Option<u64>) -> io::Result<()> {
    while !data.is_empty() {
        let write = |half: Pin<&mut Half>, cx: &mut Context<'_>| half.poll_write(cx, data);
        let n = patiently(half, patience, write).await?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        data = data.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// Ready when `write` is, or with `Unread` when the peer has taken nothing for too long.
async fn patiently<T>(
    half: &mut Half,
    patience: Option<u64>,
    mut write: impl FnMut(Pin<&mut Half>, &mut Context<'_>) -> Poll<io::Result<T>>,
) -> io::Result<T> {
    let mut watch = Watch::new(patience);
    std::future::poll_fn(|cx| match write(Pin::new(half), cx) {
        Poll::Ready(written) => Poll::Ready(written),
        Poll::Pending => {
            let gone = || half.unsent().map(|unsent| u64::MAX.saturating_sub(unsent));
            watch.poll(cx, gone).map(|()| Err(io::Error::other(Unread)))
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::io::rt::testing::{on_both, sockets};

    #[test]
    fn what_came_unasked_is_not_quiet() {
        on_both(async || {
            for ends in [false, true] {
                let (mut up, down) = sockets().await;
                let (mut reader, _writer) = split(down.into());
                // It is watched from the first look on, and does not break under more of them.
                for _ in 0..3 {
                    assert!(reader.seems_quiet());
                    rt::sleep(2).await;
                    assert!(reader.seems_quiet() && reader.is_quiet());
                }
                if ends {
                    drop(up);
                } else {
                    up.write_u8(b'x').await.unwrap();
                }
                // Nobody reads: the driver tells of it.
                while reader.seems_quiet() {
                    rt::sleep(1).await;
                }
                if !ends {
                    assert!(!reader.seems_quiet() && !reader.is_quiet());
                    assert_eq!(&reader.buf[..], b"x");
                }
            }
        });
    }

    /// The kernel is asked by `is_quiet`, whatever the driver knows.
    #[test]
    fn what_has_just_come_is_seen_before_a_request() {
        on_both(async || {
            let (mut up, down) = sockets().await;
            let (mut reader, _writer) = split(down.into());
            assert!(reader.seems_quiet());
            // On loopback it is there when the call returns; the driver has no turn in between.
            up.write_u8(b'x').await.unwrap();
            assert!(!reader.is_quiet());
        });
    }
}
