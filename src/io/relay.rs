//! Bytes both ways between two streams, each direction ending on its own.

use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use thiserror::Error;

use crate::exchange::close::CloseReason;
use crate::io::copy::{copy, sided};
use crate::io::rt;
use crate::io::stream::{Half, Stream};
use crate::vocab::counter::Traffic;
use crate::vocab::limits;

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Bytes from the downstream peer.
    pub received: u64,
    /// Bytes to the downstream peer.
    pub sent: u64,
}

/// Counts what passes, for the record and, once it is open, live for the metrics.
#[derive(Debug, Default)]
pub struct Meter {
    passed: Cell<Passed>,
    live: OnceCell<Arc<Traffic>>,
    twin: OnceCell<Rc<Self>>,
}

impl Meter {
    /// What has passed.
    #[must_use]
    pub fn get(&self) -> Passed {
        self.passed.get()
    }

    /// Sets what has passed; it never falls.
    pub fn set(&self, passed: Passed) {
        let before = self.passed.replace(passed);
        if let Some(live) = self.live.get() {
            live.received
                .add(passed.received.saturating_sub(before.received));
            live.sent.add(passed.sent.saturating_sub(before.sent));
        }
        if let Some(twin) = self.twin.get() {
            twin.set(passed);
        }
    }

    /// Ends when nothing has moved for at least `ms`, and before it has not for twice as long.
    pub async fn idle(&self, ms: u64) {
        loop {
            let before = self.get();
            rt::sleep(ms).await;
            if before == self.get() {
                return;
            }
        }
    }

    /// Has `twin` count the same; the first call holds.
    pub fn pair(&self, twin: &Rc<Self>) {
        if self.twin.set(Rc::clone(twin)).is_ok() {
            twin.set(self.passed.get());
        }
    }

    /// Counts in `live` as well from now on; the first call holds.
    pub fn attach(&self, live: &Arc<Traffic>) {
        let passed = self.passed.get();
        if self.live.set(Arc::clone(live)).is_ok() {
            live.received.add(passed.received);
            live.sent.add(passed.sent);
        }
    }
}

/// Relays until both directions have ended. `progress` sees every read, so that the bytes are known
/// even if the relay is dropped. A relay that fails or is dropped breaks both streams off: neither peer may take what it
/// has for complete.
///
/// # Errors
/// The first that breaks of either side; all is given up then.
pub fn relay(
    down: Stream,
    up: Stream,
    progress: &Meter,
) -> impl Future<Output = Result<(), Broken>> {
    // Before the future is made, which lives long: it holds no more than the halves.
    let (down_read, down_write) = down.split();
    let (up_read, up_write) = up.split();
    let writes = BreaksOff {
        halves: [down_write, up_write],
        done: false,
    };
    both_ways([down_read, up_read], writes, progress)
}

/// Which side of a relay broke off, and how.
#[derive(Debug, Error)]
pub enum Broken {
    /// The downstream.
    #[error(transparent)]
    Downstream(io::Error),
    /// The upstream.
    #[error(transparent)]
    Upstream(io::Error),
    /// Neither: one side has ended, and the other one has said nothing for too long.
    #[error("silent for {} s after the other side has ended", limits::HALF_CLOSED_MS / 1000)]
    Silent,
}

impl Broken {
    /// Why what was relayed is over.
    #[must_use]
    pub const fn close(&self) -> CloseReason {
        match self {
            Self::Downstream(_) => CloseReason::DownstreamReset,
            Self::Upstream(_) => CloseReason::UpstreamReset,
            Self::Silent => CloseReason::Timeout,
        }
    }

    fn upward(error: io::Error) -> Self {
        match sided(error) {
            (error, false) => Self::Downstream(error),
            (error, true) => Self::Upstream(error),
        }
    }

    fn downward(error: io::Error) -> Self {
        match sided(error) {
            (error, false) => Self::Upstream(error),
            (error, true) => Self::Downstream(error),
        }
    }
}

async fn both_ways(reads: [Half; 2], writes: BreaksOff, progress: &Meter) -> Result<(), Broken> {
    let ([mut down_read, mut up_read], mut writes) = (reads, writes);
    let [down_write, up_write] = &mut writes.halves;
    // Pinned where they stand: joined by a future of their own each would be held twice.
    let mut upward = pin!(copy(&mut down_read, up_write, |n| {
        let mut passed = progress.get();
        passed.received = passed.received.saturating_add(n);
        progress.set(passed);
    }));
    let mut downward = pin!(copy(&mut up_read, down_write, |n| {
        let mut passed = progress.get();
        passed.sent = passed.sent.saturating_add(n);
        progress.set(passed);
    }));
    let (mut up_ended, mut down_ended) = (false, false);
    // While nothing has ended no timer is held.
    let mut silent = None;
    poll_fn(|cx| {
        if !up_ended && let Poll::Ready(ended) = upward.as_mut().poll(cx) {
            ended.map_err(Broken::upward)?;
            up_ended = true;
        }
        if !down_ended && let Poll::Ready(ended) = downward.as_mut().poll(cx) {
            ended.map_err(Broken::downward)?;
            down_ended = true;
        }
        match (up_ended, down_ended) {
            (true, true) => Poll::Ready(Ok(())),
            (false, false) => Poll::Pending,
            (true, false) | (false, true) => silent
                .get_or_insert_with(|| Box::pin(silence(progress)))
                .as_mut()
                .poll(cx)
                .map(|()| Err(Broken::Silent)),
        }
    })
    .await?;
    writes.done = true;
    Ok(())
}

/// Ends when the side that has not ended has been silent for too long.
async fn silence(progress: &Meter) {
    loop {
        let before = progress.get();
        rt::sleep(limits::HALF_CLOSED_MS).await;
        if before == progress.get() {
            return;
        }
    }
}

struct BreaksOff {
    halves: [Half; 2],
    done: bool,
}

impl Drop for BreaksOff {
    fn drop(&mut self) {
        if !self.done {
            self.halves.iter().for_each(Half::abort);
        }
    }
}
