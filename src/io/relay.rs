//! Bytes both ways between two streams, each direction ending on its own.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::io::rt;
use crate::io::stream::{Half, Stream};

/// Buffer of a quiet direction.
const SMALL: usize = 4 * 1024;
/// Buffer of a direction that fills its small one.
const LARGE: usize = 64 * 1024;
/// Reads in a row after which the other tasks of the core get their turn.
const TURNS: u32 = 64;

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes from the downstream peer.
    pub received: u64,
    /// Bytes to the downstream peer.
    pub sent: u64,
}

/// Relays until both directions have ended. `progress` sees every read, so that the bytes are known
/// even if the relay is dropped.
///
/// # Errors
/// The first error of either direction; the other is given up then.
pub async fn relay(down: Stream, up: Stream, progress: &std::cell::Cell<Passed>) -> io::Result<()> {
    let (mut down_read, mut down_write) = down.split();
    let (mut up_read, mut up_write) = up.split();
    let upward = copy(&mut down_read, &mut up_write, |n| {
        let mut passed = progress.get();
        passed.received = passed.received.saturating_add(n);
        progress.set(passed);
    });
    let downward = copy(&mut up_read, &mut down_write, |n| {
        let mut passed = progress.get();
        passed.sent = passed.sent.saturating_add(n);
        progress.set(passed);
    });
    tokio::try_join!(upward, downward).map(|_both| ())
}

async fn copy(from: &mut Half, to: &mut Half, mut seen: impl FnMut(u64)) -> io::Result<()>
where
    Half: AsyncRead + AsyncWrite,
{
    let mut buffer = vec![0; SMALL];
    let mut turns = 0_u32;
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        seen(u64::try_from(n).unwrap_or(u64::MAX));
        to.write_all(buffer.get(..n).unwrap_or_default()).await?;
        to.flush().await?;
        if n == buffer.len() && n < LARGE {
            buffer.resize(LARGE, 0);
        }
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(TURNS) {
            rt::yield_turn().await;
        }
    }
}
