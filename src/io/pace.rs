//! How slow a peer may be: of a body that waits for its client a little has to come from time to time, and of an answer the
//! client has to take a little. Neither is a time for the whole.

use std::cell::Cell;
use std::task::{Context, Poll, ready};

use crate::io::clock;
use crate::io::rt::Alarm;
use crate::vocab::limits;

/// Looks at a carrier within the time that its peer has.
const LOOKS: u32 = 4;

/// A client keeps its request waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request body is too slow (limits.requestBodyTimeout)")]
pub struct TooSlow;

/// A client does not take its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("client does not read its answer (limits.responseReadTimeout)")]
pub struct Unread;

/// The pace of a peer: only the time counts in which we wait for it, and `limits::PACE_BYTES` begin it anew.
#[derive(Debug)]
pub(super) struct Pace {
    within_ms: u64,
    waited_ms: u64,
    moved: u64,
    waiting: Option<(u64, Alarm)>,
}

impl Pace {
    /// In so many milliseconds of waiting `limits::PACE_BYTES` must move.
    pub(super) fn new(within_ms: u64) -> Self {
        Self {
            within_ms,
            waited_ms: 0,
            moved: 0,
            waiting: None,
        }
    }

    /// Nobody waits for the peer now.
    pub(super) fn rests(&mut self) {
        if let Some((since, _)) = self.waiting.take() {
            let waited = clock::coarse_ms().saturating_sub(since);
            self.waited_ms = self.waited_ms.saturating_add(waited);
        }
    }

    /// So much has moved.
    pub(super) fn moves(&mut self, bytes: usize) {
        self.rests();
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.moved = self.moved.saturating_add(bytes);
        if self.moved >= limits::PACE_BYTES {
            (self.moved, self.waited_ms) = (0, 0);
        }
    }

    /// The peer is waited for: ready once that has been for too long.
    pub(super) fn waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.within_ms.saturating_sub(self.waited_ms);
        let (_, wait) = self
            .waiting
            .get_or_insert_with(|| (clock::coarse_ms(), Alarm::new(left)));
        wait.poll(cx)
    }
}

/// The pace of the body of a request.
#[derive(Debug)]
pub struct BodyPace<'a> {
    pace: Pace,
    /// The answer has begun: who talks both ways may be silent for long.
    answered: &'a Cell<bool>,
}

impl<'a> BodyPace<'a> {
    /// Until `answered`, `limits::PACE_BYTES` in `within_ms` of waiting.
    #[must_use]
    pub fn new(within_ms: u64, answered: &'a Cell<bool>) -> Self {
        Self {
            pace: Pace::new(within_ms),
            answered,
        }
    }

    /// What was polled, of which `bytes` tells the size, unless it has been waited for too long.
    pub(super) fn poll<T>(
        &mut self,
        polled: Poll<T>,
        cx: &mut Context<'_>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<Result<T, TooSlow>> {
        match polled {
            Poll::Ready(value) => {
                self.pace.moves(bytes(&value));
                Poll::Ready(Ok(value))
            }
            Poll::Pending if self.answered.get() => {
                self.pace.rests();
                Poll::Pending
            }
            Poll::Pending => self.pace.waits(cx).map(|()| Err(TooSlow)),
        }
    }
}

/// Watches a carrier that takes nothing more. The kernel takes more only once much of what it holds is gone, so that a slow
/// peer looks like one that has stopped; what it holds tells them apart.
#[derive(Debug)]
pub(super) struct Watch {
    within_ms: Option<u64>,
    look: Option<Alarm>,
    gone: Option<u64>,
    quiet: u32,
}

impl Watch {
    /// The peer has so many milliseconds, and a fourth of that more; any time if `None`.
    pub(super) fn new(within_ms: Option<u64>) -> Self {
        Self {
            within_ms,
            look: None,
            gone: None,
            quiet: 0,
        }
    }

    /// The carrier waits for the peer: ready once that has taken nothing for too long. `gone` tells what it has taken so
    /// far, if that is known, as a number that only grows.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut gone: impl FnMut() -> Option<u64>,
    ) -> Poll<()> {
        let Some(ms) = self.within_ms else {
            return Poll::Pending;
        };
        loop {
            let look = self
                .look
                .get_or_insert_with(|| Alarm::new((ms / u64::from(LOOKS)).max(1)));
            ready!(look.poll(cx));
            self.look = None;
            let now = gone();
            if now > self.gone {
                self.quiet = 0;
            } else {
                self.quiet = self.quiet.saturating_add(1);
            }
            self.gone = now;
            if self.quiet >= LOOKS {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::rt::{self, Want};

    /// Runs `work` on both drivers.
    fn on_both<F: Future<Output = ()>>(work: impl Fn() -> F) {
        for want in [Want::Epoll, Want::IoUring] {
            rt::Core::build(want).unwrap().run(work());
        }
    }

    /// Waits for the peer until it is too slow.
    async fn too_slow(pace: &mut Pace) {
        std::future::poll_fn(|cx| pace.waits(cx)).await;
    }

    #[test]
    fn what_moves_begins_the_time_anew_and_waiting_adds_up() {
        on_both(|| async {
            let begun = clock::now();
            let mut pace = Pace::new(400);
            for _ in 0..8 {
                // Whatever the machine does meanwhile, its time is not over before it is.
                let waited = rt::timeout(50, too_slow(&mut pace)).await;
                assert!(waited.is_err() || begun.elapsed() >= Duration::from_millis(400));
                pace.moves(usize::try_from(limits::PACE_BYTES).unwrap());
                assert_eq!(pace.waited_ms, 0);
            }
            let (begun, mut pieces) = (clock::now(), 0);
            while rt::timeout(20, too_slow(&mut pace)).await.is_err() {
                pace.moves(1);
                pieces += 1;
                assert!(pieces < 1000, "bytes one by one are no pace");
            }
            assert!(begun.elapsed() >= Duration::from_millis(300));
        });
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        on_both(|| async {
            let mut pace = Pace::new(60_000);
            assert!(rt::timeout(10, too_slow(&mut pace)).await.is_err());
            pace.rests();
            let before = pace.waited_ms;
            rt::sleep(100).await;
            pace.rests();
            assert_eq!(pace.waited_ms, before);
        });
    }

    #[test]
    fn who_talks_both_ways_may_be_silent() {
        on_both(|| async {
            let answered = Cell::new(false);
            let mut pace = BodyPace::new(20, &answered);
            let silent = |pace: &mut BodyPace<'_>, cx: &mut Context<'_>| {
                pace.poll(Poll::<()>::Pending, cx, |()| 0)
            };
            let slow = std::future::poll_fn(|cx| silent(&mut pace, cx)).await;
            assert_eq!(slow, Err(TooSlow));
            let mut pace = BodyPace::new(20, &answered);
            answered.set(true);
            let slow = std::future::poll_fn(|cx| silent(&mut pace, cx));
            assert!(rt::timeout(200, slow).await.is_err());
        });
    }

    #[test]
    fn a_carrier_that_moves_is_waited_for() {
        on_both(|| async {
            // Moves at each of the first looks.
            let mut looked = 0;
            let mut watch = Watch::new(Some(40));
            std::future::poll_fn(|cx| {
                watch.poll(cx, || {
                    looked += 1;
                    Some(looked.min(10))
                })
            })
            .await;
            assert_eq!(looked, 10 + u64::from(LOOKS));
            let mut watch = Watch::new(None);
            let ever = std::future::poll_fn(|cx| watch.poll(cx, || None));
            assert!(rt::timeout(100, ever).await.is_err());
        });
    }
}
