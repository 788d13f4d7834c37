//! The seam to the runtime: build, spawn, accept, connect, receive, send, readiness, timers.
//!
//! monoio 0.2.4 is seen only here. Waiting is by readiness (`IORING_OP_POLL_ADD` or epoll), the bytes
//! move by a non-blocking call afterwards: a dropped wait loses no bytes, an idle connection holds no
//! buffer, and both drivers run the same code.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

use crate::io::kernel;

mod accept;
mod dial;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod timers;
mod turns;
mod waits;

pub use accept::Acceptor;
pub use dial::{ConnectOptions, Source};
pub(super) use dial::{connect, connect_from};
pub use tcp::Tcp;
pub use timers::{Alarm, Elapsed, sleep, timeout};
pub use turns::yield_turn;

/// Which driver a core runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring.
    IoUring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// Name in the log and in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Epoll => "epoll",
        }
    }
}

/// Which driver is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// io_uring, else epoll.
    Auto,
    /// io_uring or an error.
    IoUring,
    /// epoll.
    Epoll,
}

/// Ring sizes to try: a small RLIMIT_MEMLOCK refuses large rings.
const RING_ENTRIES: [u32; 3] = [4096, 1024, 256];

type UringRuntime = monoio::Runtime<monoio::time::TimeDriver<monoio::IoUringDriver>>;
type EpollRuntime = monoio::Runtime<monoio::time::TimeDriver<monoio::LegacyDriver>>;

/// A runtime for the thread that builds it.
#[expect(missing_debug_implementations, reason = "monoio's runtimes have none")]
pub enum Core {
    /// On io_uring.
    IoUring(UringRuntime),
    /// On epoll.
    Epoll(EpollRuntime),
}

impl Core {
    /// Builds a runtime on this thread (the ring belongs to the thread that makes it).
    ///
    /// # Errors
    /// The last error of io_uring where it is demanded, or epoll's.
    pub fn build(want: Want) -> io::Result<Self> {
        match want {
            Want::Epoll => epoll(),
            Want::IoUring => uring(),
            Want::Auto => uring().or_else(|error| {
                // Each core builds one, and all are refused for the same reason.
                static TOLD: Once = Once::new();
                TOLD.call_once(|| {
                    tracing::warn!(%error, "io_uring is refused here, epoll is used");
                });
                epoll()
            }),
        }
    }

    /// The driver that was chosen.
    #[must_use]
    pub fn driver(&self) -> Driver {
        match self {
            Self::IoUring(_) => Driver::IoUring,
            Self::Epoll(_) => Driver::Epoll,
        }
    }

    /// Runs `main` to its end.
    pub fn run<F: Future>(&mut self, main: F) -> F::Output {
        let main = async {
            timers::begin();
            spawn(turns::turn_driver());
            main.await
        };
        match self {
            Self::IoUring(runtime) => runtime.block_on(main),
            Self::Epoll(runtime) => runtime.block_on(main),
        }
    }
}

/// The driver that [`Want::Auto`] takes here, as far as the kernel decides it.
#[must_use]
pub fn automatic() -> Driver {
    if monoio::utils::detect_uring() {
        Driver::IoUring
    } else {
        Driver::Epoll
    }
}

fn uring() -> io::Result<Core> {
    if automatic() == Driver::Epoll {
        kernel::io_uring()?; // it says why
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "io_uring has not all operations that are needed",
        ));
    }
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for entries in RING_ENTRIES {
        // Measured: without these flags io_uring costs twice the CPU at L7.
        let mut flags: [io_uring::Builder; 3] = [
            io_uring::IoUring::builder(),
            io_uring::IoUring::builder(),
            io_uring::IoUring::builder(),
        ];
        let [defer, coop, _plain] = &mut flags;
        defer.setup_single_issuer().setup_defer_taskrun();
        coop.setup_coop_taskrun();
        for builder in flags {
            let built = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
                .uring_builder(builder)
                .with_entries(entries)
                .enable_timer()
                .build();
            match built {
                Ok(runtime) => return Ok(Core::IoUring(runtime)),
                Err(error) => last = error,
            }
        }
    }
    Err(last)
}

fn epoll() -> io::Result<Core> {
    let built = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_timer()
        .build();
    built.map(Core::Epoll)
}

/// Starts a task on this core. A panic in it ends it, and nothing else of the core.
pub fn spawn<F: Future<Output = ()> + 'static>(task: F) {
    drop(monoio::spawn(Contained {
        task: Some(Box::pin(task)),
    }));
}

/// A task whose panics go no further: monoio would let them unwind through the run loop, and every
/// connection of the core would be gone.
struct Contained<F> {
    task: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(task) = &mut self.task else {
            return Poll::Ready(());
        };
        // What a broken task shared with others is in cells whose guards the unwinding has dropped.
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
            Ok(polled) => polled,
            Err(_panic) => {
                tracing::error!("a task panicked and was ended");
                let task = self.task.take();
                if catch_unwind(AssertUnwindSafe(|| drop(task))).is_err() {
                    tracing::error!("the end of a task that panicked has panicked as well");
                }
                Poll::Ready(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    struct Broken;

    impl Drop for Broken {
        fn drop(&mut self) {
            panic!("in the end of a broken task");
        }
    }

    fn check(want: Want) {
        let mut core = Core::build(want).unwrap();
        let served = Rc::new(Cell::new(0));
        core.run(async {
            for n in 0..4 {
                let served = Rc::clone(&served);
                spawn(async move {
                    // One fails at once, one after a wait, one fails and then fails to end, one serves.
                    assert_ne!(n, 0, "a task fails");
                    sleep(5).await;
                    assert_ne!(n, 1, "a task fails later");
                    let _broken = (n == 2).then(|| Broken);
                    sleep(5).await;
                    if n == 2 {
                        return;
                    }
                    served.set(served.get() + 1);
                });
            }
            // What a panic prints (a backtrace, symbols and all) takes the core as long as it takes.
            for _ in 0..1000 {
                if served.get() > 0 {
                    break;
                }
                sleep(10).await;
            }
            sleep(20).await;
        });
        assert_eq!(served.get(), 1);
    }

    #[test]
    fn a_panic_ends_one_task_alone() {
        check(Want::Epoll);
        check(Want::IoUring);
    }
}
