//! One direction of a relay, by the way with the fewest copies.
//!
//! Between a socket and TLS or a tunnel the bytes stay where they were read: scattered into slots that are framed and sealed
//! in place and sent, or opened in the buffer that received them and written from there. Everything else is copied once.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::{Buf as _, Bytes};
use thiserror::Error;
use tokio::io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};

use crate::io::buffers::{self, LARGE_RECORDS, Size};
use crate::io::rt::{self, Tcp};
use crate::io::slots::Slots;
use crate::io::stream::Half;
use crate::io::tunnel::FRAME_HEAD_BYTES;

/// Bytes of a direction after which the other tasks of the core get their turn: about a millisecond of work.
const TURN_BYTES: usize = 1 << 20;
/// What a read costs beside its bytes, in bytes.
const READ_COST: usize = 16 * 1024;
/// Chunks that one write takes.
const CHUNKS: usize = LARGE_RECORDS * 2;

/// The side that is written to broke: an error of the other one than that which is read.
#[derive(Debug, Error)]
#[error(transparent)]
struct Sink(io::Error);

/// Marks an error of the side that is written to.
fn sink(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Sink(error))
}

/// The error itself, and whether it is one of the side that is written to.
pub(super) fn sided(error: io::Error) -> (io::Error, bool) {
    match error.downcast::<Sink>() {
        Ok(Sink(error)) => (error, true),
        Err(error) => (error, false),
    }
}

/// Moves one direction to its end, which it passes on. `seen` gets what is read before it is written.
///
/// # Errors
/// Of either side; `sided` says of which.
pub(super) async fn copy(
    from: &mut Half,
    to: &mut Half,
    mut seen: impl FnMut(u64),
) -> io::Result<()> {
    let first = from.take_prefix();
    if !first.is_empty() {
        seen(u64::try_from(first.len()).unwrap_or(u64::MAX));
        to.write_all(&first).await.map_err(sink)?;
        to.flush().await.map_err(sink)?;
    }
    let takes_slots = |half: &Half| half.with_tls(|_tls| ()).is_some();
    let is_tunnel = |half: &Half| half.with_tunnel(|_tunnel| ()).is_some();
    match (from.tcp(), to.tcp()) {
        (Some(tcp), None) if takes_slots(to) => seal(&tcp, to, seen).await,
        (Some(tcp), None) if is_tunnel(to) => frame(&tcp, to, seen).await,
        (None, None) if from.gives_chunks() && is_tunnel(to) => pass(from, to, seen).await,
        (None, Some(tcp)) if from.gives_chunks() => open(from, tcp, to, seen).await,
        (Some(_) | None, Some(_) | None) => through(from, to, seen).await,
    }
}

/// Gives the others their turn after so many bytes.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    async fn moved(&mut self, n: usize) {
        self.0 = self.0.saturating_add(n).saturating_add(READ_COST);
        if self.0 >= TURN_BYTES {
            self.0 = 0;
            rt::yield_turn().await;
        }
    }
}

/// Any carrier to any other, by a copy.
async fn through(from: &mut Half, to: &mut Half, mut seen: impl FnMut(u64)) -> io::Result<()> {
    let mut size = Size::Small;
    let mut turn = Turn::default();
    loop {
        // A direction that waits holds no buffer.
        let read = poll_fn(|cx| {
            let mut block = buffers::take_block(size);
            let mut into = ReadBuf::new(&mut block);
            match Pin::new(&mut *from).poll_read(cx, &mut into) {
                Poll::Ready(Ok(())) => {
                    let n = into.filled().len();
                    return Poll::Ready(Ok(Some((block, n))));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => buffers::give_block(block),
            }
            // The reader of the other direction sees whether that was the end or a break.
            to.poll_gone(cx).map(|()| Ok(None))
        });
        let Some((block, n)) = read.await? else {
            return Ok(());
        };
        if n == 0 {
            buffers::give_block(block);
            return to.shutdown().await.map_err(sink);
        }
        seen(u64::try_from(n).unwrap_or(u64::MAX));
        let read = block.get(..n).unwrap_or_default();
        to.write_all(read).await.map_err(sink)?;
        to.flush().await.map_err(sink)?;
        size = size.next(n, block.len());
        buffers::give_block(block);
        turn.moved(n).await;
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(gone()))
}

/// From a socket into a tunnel: read where it is framed and sealed, as far as the peer has room.
async fn frame(from: &Tcp, to: &mut Half, mut seen: impl FnMut(u64)) -> io::Result<()> {
    let mut size = Size::Small;
    let mut turn = Turn::default();
    loop {
        let read = poll_fn(|cx| {
            // The reader of the other direction sees whether that was the end or a break.
            if to.poll_gone(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            let room = to.with_tunnel(|tunnel| tunnel.poll_window(usize::MAX, cx));
            let room = ready!(room.unwrap_or_else(broken)).map_err(sink)?;
            let mut slots = Slots::take(FRAME_HEAD_BYTES, size);
            let polled = from.poll_read_vectored(cx, &mut slots.payloads(room));
            match polled {
                Poll::Ready(Ok(n)) => return Poll::Ready(Ok(Some((slots, n)))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => slots.give(),
            }
            Poll::Pending
        });
        // Until it is sent nobody else takes the room that was found.
        let Some((slots, n)) = read.await? else {
            return Ok(());
        };
        if n == 0 {
            slots.give();
            return to.shutdown().await.map_err(sink);
        }
        seen(u64::try_from(n).unwrap_or(u64::MAX));
        size = size.next(n, slots.capacity());
        let sent = to.with_tunnel(|tunnel| tunnel.send_slots(slots, n));
        sent.unwrap_or_else(|| Err(gone())).map_err(sink)?;
        turn.moved(n).await;
    }
}

/// From TLS or a tunnel into a tunnel: sent in the memory it was received in.
async fn pass(from: &mut Half, to: &mut Half, mut seen: impl FnMut(u64)) -> io::Result<()> {
    let mut turn = Turn::default();
    let mut chunks: VecDeque<Bytes> = VecDeque::new();
    loop {
        let n = poll_fn(|cx| {
            let polled = from.poll_chunks(cx, &mut chunks, CHUNKS);
            match polled {
                Poll::Ready(Ok(n)) => return Poll::Ready(Ok(Some(n))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => chunks = VecDeque::new(),
            }
            to.poll_gone(cx).map(|()| Ok(None))
        })
        .await?;
        match n {
            // The reader of the other direction sees whether that was the end or a break.
            None => return Ok(()),
            Some(0) => return to.shutdown().await.map_err(sink),
            Some(n) => seen(u64::try_from(n).unwrap_or(u64::MAX)),
        }
        for mut chunk in chunks.drain(..) {
            poll_fn(|cx| {
                let sent = to.with_tunnel(|tunnel| tunnel.poll_send(cx, &mut chunk));
                sent.unwrap_or_else(broken)
            })
            .await
            .map_err(sink)?;
        }
        turn.moved(n.unwrap_or_default()).await;
    }
}

/// From a socket into TLS: read where it is sealed, sealed where it is sent from.
async fn seal(from: &Tcp, to: &mut Half, mut seen: impl FnMut(u64)) -> io::Result<()> {
    let mut size = Size::Small;
    let mut turn = Turn::default();
    loop {
        let clear = poll_fn(|cx| to.with_tls(|tls| tls.poll_clear(cx)).unwrap_or_else(broken));
        clear.await.map_err(sink)?;
        let read = poll_fn(|cx| {
            let mut slots = Slots::take(0, size);
            let polled = from.poll_read_vectored(cx, &mut slots.payloads(usize::MAX));
            match polled {
                Poll::Ready(Ok(n)) => return Poll::Ready(Ok(Some((slots, n)))),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => slots.give(),
            }
            to.poll_gone(cx).map(|()| Ok(None))
        });
        let Some((slots, n)) = read.await? else {
            return Ok(());
        };
        if n == 0 {
            slots.give();
            return to.shutdown().await.map_err(sink);
        }
        seen(u64::try_from(n).unwrap_or(u64::MAX));
        size = size.next(n, slots.capacity());
        let mut slots = Some(slots);
        poll_fn(|cx| {
            let sent = to.with_tls(|tls| {
                // Something may have become owed while the socket was waited for.
                ready!(tls.poll_clear(cx))?;
                Poll::Ready(match slots.take() {
                    Some(slots) => tls.send_slots(cx, slots, n),
                    None => Err(gone()),
                })
            });
            sent.unwrap_or_else(broken)
        })
        .await
        .map_err(sink)?;
        turn.moved(n).await;
    }
}

/// From TLS into a socket: records opened where they were received, and written from there.
async fn open(
    from: &mut Half,
    mut tcp: Tcp,
    to: &mut Half,
    mut seen: impl FnMut(u64),
) -> io::Result<()> {
    let mut turn = Turn::default();
    let mut chunks: VecDeque<Bytes> = VecDeque::new();
    loop {
        let n = poll_fn(|cx| {
            let polled = from.poll_chunks(cx, &mut chunks, CHUNKS);
            if polled.is_pending() {
                chunks = VecDeque::new();
            }
            polled
        })
        .await?;
        if n == 0 {
            return to.shutdown().await.map_err(sink);
        }
        seen(u64::try_from(n).unwrap_or(u64::MAX));
        while !chunks.is_empty() {
            let mut sent = poll_fn(|cx| {
                let mut parts = [io::IoSlice::new(&[]); CHUNKS];
                for (part, chunk) in parts.iter_mut().zip(&chunks) {
                    *part = io::IoSlice::new(chunk);
                }
                let parts = parts.get(..chunks.len()).unwrap_or(&parts);
                Pin::new(&mut tcp).poll_write_vectored(cx, parts)
            })
            .await
            .map_err(sink)?;
            if sent == 0 {
                return Err(sink(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = chunks.front_mut()
                && sent > 0
            {
                let len = first.len().min(sent);
                first.advance(len);
                sent = sent.saturating_sub(len);
                if first.is_empty() {
                    chunks.pop_front();
                }
            }
        }
        turn.moved(n).await;
    }
}
