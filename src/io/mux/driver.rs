//! What reads and writes an HTTP/2 connection.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};

use super::outbox::{Outbox, SLICES};
use super::{Mux, MuxError, register, wake};
use crate::h2::Heads;
use crate::hbone::Tunnels;
use crate::io::clock;
use crate::io::pace::Unread;
use crate::io::stream::Stream;

/// A buffer that is received into.
const READ_BYTES: usize = 64 * 1024;
/// It is replaced when less than this is left of it.
const LEAST_READ_BYTES: usize = 16 * 1024;
thread_local! {
    /// The buffer that all connections of a core receive into: one that waits for bytes holds none.
    static SPARE: RefCell<BytesMut> = RefCell::default();
}

/// What reads and writes a connection.
#[derive(Debug)]
pub struct Driver<H: Heads = Tunnels> {
    stream: Stream,
    mux: Mux<H>,
    started: Instant,
    /// Bytes, before what TLS adds.
    written: u64,
}

impl<H: Heads> Driver<H> {
    pub(in crate::io) fn new(stream: Stream, mux: Mux<H>) -> Self {
        Self {
            stream,
            mux,
            started: clock::now(),
            written: 0,
        }
    }

    /// What the peer has taken of what was written so far, as far as that is known: a number that only grows.
    pub(in crate::io) fn taken(&mut self) -> u64 {
        let unsent = self.stream.unsent().unwrap_or(0);
        self.written.saturating_sub(unsent)
    }

    /// Ends the connection at once because its peer takes nothing.
    pub(in crate::io) fn give_up(&mut self) -> MuxError {
        self.stream.abort();
        self.mux.0.borrow_mut().unread = true;
        MuxError::Unread(Unread)
    }

    /// Reads and writes until the connection ends.
    ///
    /// # Errors
    /// It did not end in order.
    pub async fn run(mut self) -> Result<(), MuxError> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes what waits and takes what has come. Ready at the end of the connection.
    pub(in crate::io) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        let polled = self.poll_both(cx);
        if polled.is_ready() {
            self.mux.0.borrow_mut().end();
        }
        polled
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), MuxError>> {
        register(&mut self.mux.0.borrow_mut().driver, cx);
        loop {
            let written = self.poll_write(cx).map_err(MuxError::Io)?;
            {
                let state = self.mux.0.borrow();
                if state.session.is_finished() && written.is_ready() {
                    drop(state);
                    ready!(Pin::new(&mut self.stream).poll_shutdown(cx)).map_err(MuxError::Io)?;
                    return Poll::Ready(Ok(()));
                }
                // Who does not read what it has asked for is not read either; and taken first, then read on.
                if state.outbox.is_full() || !state.incoming.is_empty() {
                    return Poll::Pending;
                }
            }
            let chunk = ready!(self.poll_read(cx)).map_err(MuxError::Io)?;
            if chunk.is_empty() {
                let open = self.mux.0.borrow().session.open_streams();
                return Poll::Ready(match open {
                    0 => Ok(()),
                    _ => Err(MuxError::Io(io::ErrorKind::UnexpectedEof.into())),
                });
            }
            let now_ms = elapsed_ms(self.started);
            let taken = self.mux.0.borrow_mut().receive(now_ms, &chunk);
            if let Err(error) = taken {
                // The peer learns why if it takes it at once.
                let told = self.poll_write(cx);
                tracing::trace!(told = told.is_ready(), "GOAWAY");
                return Poll::Ready(Err(MuxError::Protocol(error)));
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if self.stream.gives_chunks() {
            let polled = self.stream.poll_chunk(cx);
            return polled.map_ok(Option::unwrap_or_default);
        }
        let mut spare = SPARE.take();
        if spare.capacity() < LEAST_READ_BYTES {
            spare.reserve(READ_BYTES);
        }
        let polled = pin!(self.stream.read_buf(&mut spare)).poll(cx);
        let chunk = spare.split().freeze();
        SPARE.set(spare);
        polled.map_ok(|_n| chunk)
    }

    /// Writes all that waits; ready when nothing does.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.mux.0.borrow_mut();
        let mut wrote = false;
        while !state.outbox.is_empty() {
            let waits = state.outbox.len();
            ready!(poll_write_first(&mut self.stream, &mut state.outbox, cx))?;
            let written = waits.saturating_sub(state.outbox.len());
            self.written = self
                .written
                .saturating_add(u64::try_from(written).unwrap_or(0));
            wrote = true;
            if state.crowded && state.outbox.has_room() {
                state.crowded = false;
                state
                    .slots
                    .iter_mut()
                    .for_each(|(_, s)| wake(&mut s.writer));
            }
        }
        drop(state);
        if wrote {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        Poll::Ready(Ok(()))
    }
}

/// Writes what is first in the outbox, as far as the stream takes it.
fn poll_write_first(
    stream: &mut Stream,
    outbox: &mut Outbox,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    if outbox.has_slots_first()
        && let Some(tls) = stream.tls()
    {
        ready!(tls.poll_clear(cx))?;
        if let Some((slots, filled)) = outbox.take_slots() {
            tls.send_slots(cx, slots, filled)?;
        }
        return Poll::Ready(Ok(()));
    }
    let n = {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = outbox.fill(&mut slices);
        let slices = slices.get(..n).unwrap_or_default();
        ready!(Pin::new(stream).poll_write_vectored(cx, slices))?
    };
    if n == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    outbox.wrote(n);
    Poll::Ready(Ok(()))
}

/// Milliseconds since an instant.
fn elapsed_ms(since: Instant) -> u64 {
    let passed = clock::now().saturating_duration_since(since);
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}

/// Its tunnels see the end, however it came.
impl<H: Heads> Drop for Driver<H> {
    fn drop(&mut self) {
        self.mux.0.borrow_mut().end();
    }
}
