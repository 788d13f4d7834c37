//! Bytes both ways between two streams, each direction ending on its own.

use std::cell::{Cell, OnceCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use crate::io::copy::copy;
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
/// The first error of either direction; the other is given up then.
pub fn relay(down: Stream, up: Stream, progress: &Meter) -> impl Future<Output = io::Result<()>> {
    // Before the future is made, which lives long: it holds no more than the halves.
    let (down_read, down_write) = down.split();
    let (up_read, up_write) = up.split();
    let writes = BreaksOff {
        halves: [down_write, up_write],
        done: false,
    };
    both_ways([down_read, up_read], writes, progress)
}

async fn both_ways(reads: [Half; 2], mut writes: BreaksOff, progress: &Meter) -> io::Result<()> {
    let [mut down_read, mut up_read] = reads;
    let [down_write, up_write] = &mut writes.halves;
    let half_closed = Cell::new(false);
    let upward = async {
        copy(&mut down_read, up_write, |n| {
            let mut passed = progress.get();
            passed.received = passed.received.saturating_add(n);
            progress.set(passed);
        })
        .await?;
        half_closed.set(true);
        io::Result::Ok(())
    };
    let downward = async {
        copy(&mut up_read, down_write, |n| {
            let mut passed = progress.get();
            passed.sent = passed.sent.saturating_add(n);
            progress.set(passed);
        })
        .await?;
        half_closed.set(true);
        io::Result::Ok(())
    };
    tokio::select! {
        // The silence begins in the turn in which a direction ends, so it is asked last.
        biased;
        both = async { tokio::try_join!(upward, downward) } => both.map(|_both| ())?,
        () = silence(&half_closed, progress) => return Err(io::ErrorKind::TimedOut.into()),
    }
    writes.done = true;
    Ok(())
}

/// Ends when one side has ended and the other has been silent for too long.
async fn silence(half_closed: &Cell<bool>, progress: &Meter) {
    // While nothing has ended no timer is held.
    std::future::poll_fn(|_cx| match half_closed.get() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
    loop {
        let before = progress.get();
        Box::pin(rt::sleep(limits::HALF_CLOSED_MS)).await;
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
