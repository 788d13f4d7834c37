//! Coarse timers of a core: for limits of seconds and minutes, of which nearly all are dropped before they are over.
//!
//! To set one and to drop it links and unlinks an entry of a list. A wheel of lists turns while any is set; what is due is
//! told up to one tick late, and never early.

use std::cell::RefCell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::io::{clock, rt};

/// Shorter limits are not for these timers.
const COARSE_MS: u64 = 1000;

const TICK_MS: u64 = 128;
/// Lists of the wheel: what is due more than one turn later waits for the turns after.
const LISTS: u64 = 512;
/// No entry.
const NONE: u32 = u32::MAX;

/// An entry: in use and linked, in use and due, or free.
#[derive(Debug)]
struct Entry {
    /// Tick at which it is due.
    due: u64,
    /// `None`: it is due and in no list any more.
    waker: Option<Waker>,
    before: u32,
    after: u32,
}

/// All timers of a core.
#[derive(Debug, Default)]
struct Wheel {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// First entry of each list; made with the first timer.
    heads: Vec<u32>,
    linked: usize,
    /// The tick up to which all that was due was told.
    told: u64,
    /// Somebody turns it.
    turning: bool,
}

thread_local! {
    static WHEEL: RefCell<Wheel> = RefCell::default();
}

fn list_of(tick: u64) -> usize {
    usize::try_from(tick % LISTS).unwrap_or(0)
}

fn tick_now() -> u64 {
    clock::coarse_ms() / TICK_MS
}

impl Wheel {
    fn entry(&mut self, at: u32) -> Option<&mut Entry> {
        usize::try_from(at)
            .ok()
            .and_then(|at| self.entries.get_mut(at))
    }

    fn head(&mut self, tick: u64) -> Option<&mut u32> {
        self.heads.get_mut(list_of(tick))
    }

    fn insert(&mut self, due: u64, waker: Waker) -> Option<u32> {
        if self.heads.is_empty() {
            self.heads.resize(usize::try_from(LISTS).unwrap_or(0), NONE);
        }
        let first = std::mem::replace(self.head(due)?, NONE);
        let entry = Entry {
            due,
            waker: Some(waker),
            before: NONE,
            after: first,
        };
        let at = match self.free.pop() {
            Some(at) => {
                *self.entry(at)? = entry;
                at
            }
            None => {
                let at = u32::try_from(self.entries.len())
                    .ok()
                    .filter(|at| *at != NONE)?;
                self.entries.push(entry);
                at
            }
        };
        if let Some(first) = self.entry(first) {
            first.before = at;
        }
        *self.head(due)? = at;
        self.linked = self.linked.saturating_add(1);
        Some(at)
    }

    /// Takes an entry out of its list, if it is in one.
    fn unlink(&mut self, at: u32) -> Option<Waker> {
        let entry = self.entry(at)?;
        let waker = entry.waker.take()?;
        let (due, before, after) = (entry.due, entry.before, entry.after);
        if let Some(before) = self.entry(before) {
            before.after = after;
        } else if let Some(head) = self.head(due) {
            *head = after;
        }
        if let Some(after) = self.entry(after) {
            after.before = before;
        }
        self.linked = self.linked.saturating_sub(1);
        Some(waker)
    }

    /// Turns to a tick: who is due.
    fn turn(&mut self, to: u64) -> Vec<Waker> {
        let mut due = Vec::new();
        let from = self.told.saturating_add(1).max(to.saturating_sub(LISTS));
        for tick in from..=to {
            let mut at = self.head(tick).map_or(NONE, |head| *head);
            while let Some((next, is_due)) = self.entry(at).map(|e| (e.after, e.due <= to)) {
                if is_due {
                    due.extend(self.unlink(at));
                }
                at = next;
            }
        }
        self.told = self.told.max(to);
        due
    }
}

/// A time limit, which begins when it is first polled.
#[derive(Debug)]
struct Timer {
    ms: u64,
    at: Option<u32>,
}

impl Timer {
    fn new(ms: u64) -> Self {
        Self { ms, at: None }
    }

    /// Ready when the time is over.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let begin = WHEEL.with_borrow_mut(|wheel| match self.at {
            Some(at) => {
                let waker = wheel.entry(at).and_then(|entry| entry.waker.as_mut());
                match waker {
                    Some(waker) => {
                        waker.clone_from(cx.waker());
                        Poll::Pending
                    }
                    None => Poll::Ready(()),
                }
            }
            None => {
                // The tick that runs does not count.
                let ticks = self.ms.div_ceil(TICK_MS).saturating_add(1);
                let now = tick_now();
                if !wheel.turning {
                    wheel.told = now;
                }
                self.at = wheel.insert(now.saturating_add(ticks), cx.waker().clone());
                Poll::Pending
            }
        });
        if begin.is_pending() {
            turn();
        }
        begin
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let Some(at) = self.at else { return };
        // Of a thread that has ended there is nothing to take out.
        let taken = WHEEL.try_with(|wheel| {
            let mut wheel = wheel.borrow_mut();
            let waker = wheel.unlink(at);
            wheel.free.push(at);
            waker
        });
        drop(taken);
    }
}

/// A limit by its length: coarse timers cost next to nothing, short ones have to be exact.
enum Limit {
    Coarse(Timer),
    Fine(Pin<Box<monoio::time::Sleep>>),
}

impl Limit {
    fn new(ms: u64) -> Self {
        if ms < COARSE_MS {
            Self::Fine(Box::pin(monoio::time::sleep(Duration::from_millis(ms))))
        } else {
            Self::Coarse(Timer::new(ms))
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Coarse(timer) => timer.poll(cx),
            Self::Fine(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

/// A wait that is polled by hand.
pub struct Alarm(Limit);

impl Alarm {
    /// Of `ms`, as `sleep` counts it.
    #[must_use]
    pub fn new(ms: u64) -> Self {
        Self(Limit::new(ms))
    }

    /// Ready when it is over.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll(cx)
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alarm").finish_non_exhaustive()
    }
}

/// Waits; from a second on up to two ticks of `timers` longer.
pub async fn sleep(ms: u64) {
    let mut limit = Limit::new(ms);
    std::future::poll_fn(|cx| limit.poll(cx)).await;
}

/// The time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// Runs `work` for at most `ms`, as `sleep` counts it. Dropping unfinished work is safe: waits are by readiness.
///
/// # Errors
/// `Elapsed`.
pub async fn timeout<F: Future>(ms: u64, work: F) -> Result<F::Output, Elapsed> {
    let mut work = pin!(work);
    // What is done at once needs no timer.
    let mut limit = None;
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => {
            let limit = limit.get_or_insert_with(|| Limit::new(ms));
            limit.poll(cx).map(|()| Err(Elapsed))
        }
    })
    .await
}

/// Has the wheel turned as long as there is a timer.
fn turn() {
    let begins = WHEEL.with_borrow_mut(|wheel| !std::mem::replace(&mut wheel.turning, true));
    if begins {
        rt::spawn(async {
            loop {
                monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
                let due = WHEEL.with_borrow_mut(|wheel| wheel.turn(tick_now()));
                due.into_iter().for_each(Waker::wake);
                let at_rest = WHEEL.with_borrow_mut(|wheel| {
                    wheel.turning = wheel.linked > 0;
                    !wheel.turning
                });
                if at_rest {
                    return;
                }
            }
        });
    }
}

/// A runtime begins on this thread: whoever turned the wheel of the one before has ended with it.
pub(super) fn begin() {
    WHEEL.with_borrow_mut(|wheel| wheel.turning = false);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The wheel against a list of what is set.
    #[test]
    fn what_is_due_is_told_once_and_not_early() {
        let mut wheel = Wheel {
            told: 1000,
            ..Wheel::default()
        };
        let mut set: Vec<(u32, u64)> = Vec::new();
        let mut seed = 7_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut now = 1000;
        for _ in 0..20_000 {
            match random(4) {
                0 | 1 => {
                    let due = now + 1 + random(3 * LISTS);
                    let at = wheel.insert(due, Waker::noop().clone()).unwrap();
                    set.push((at, due));
                }
                2 if !set.is_empty() => {
                    let nth = usize::try_from(random(set.len() as u64)).unwrap();
                    let (at, _) = set.swap_remove(nth);
                    assert!(wheel.unlink(at).is_some());
                    wheel.free.push(at);
                }
                _ => {
                    let leap = random(50) == 0;
                    now += random(if leap { 2 * LISTS } else { 3 });
                    let told = wheel.turn(now).len();
                    let due: Vec<(u32, u64)> =
                        set.iter().copied().filter(|(_, due)| *due <= now).collect();
                    assert_eq!(told, due.len(), "at {now}");
                    set.retain(|(_, due)| *due > now);
                    for (at, _) in due {
                        assert!(wheel.unlink(at).is_none(), "told, so in no list");
                        wheel.free.push(at);
                    }
                }
            }
            assert_eq!(wheel.linked, set.len());
        }
        assert!(wheel.entries.len() < 12_000, "places are used again");
    }

    #[test]
    fn limits_are_kept_on_both_drivers() {
        for want in [rt::Want::Epoll, rt::Want::IoUring] {
            let mut core = rt::Core::build(want).unwrap();
            core.run(async {
                let begun = clock::now();
                let over = timeout(COARSE_MS, std::future::pending::<()>()).await;
                assert_eq!(over, Err(Elapsed));
                assert!(begun.elapsed() >= Duration::from_millis(COARSE_MS));
                let done = timeout(COARSE_MS, sleep(10)).await;
                assert_eq!(done, Ok(()));
                // The wheel rests and begins anew.
                sleep(3 * TICK_MS).await;
                sleep(COARSE_MS).await;
            });
        }
    }
}
