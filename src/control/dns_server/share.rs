//! What all who ask have in common, in shares: nobody takes it from the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use crate::vocab::limits;

/// Order of a connection that waits for no question.
const BUSY: u64 = u64::MAX;

/// Who has a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A workload of a node of this process, by their numbers.
    Workload { node: usize, at: usize },
    /// A user of this machine who is no workload.
    User(u32),
    /// Whom the kernel does not know here.
    Network(IpAddr),
}

impl Source {
    /// By address alone: a process of this machine has all of 127.0.0.0/8, a host all of its /64.
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let network = v6.to_bits() & (u128::MAX << 64);
                Ipv6Addr::from_bits(network).into()
            }
            other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
        })
    }
}

/// Questions that wait for a nameserver.
#[derive(Debug)]
pub(super) struct Questions {
    free: Arc<Semaphore>,
    /// One reference for each question of the source, and this one.
    held: Mutex<BTreeMap<Source, Arc<()>>>,
}

/// A place of a question; dropped, it is free.
#[derive(Debug)]
pub(super) struct Waiting {
    _of_all: OwnedSemaphorePermit,
    _of_source: Arc<()>,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(limits::DNS_QUESTIONS)),
            held: Mutex::default(),
        }
    }
}

impl Questions {
    /// A place; `None` if the source has its share. That is no more than what is still free, so that however many take
    /// theirs, one more finds a place.
    pub(super) async fn place(&self, source: Source) -> Option<Waiting> {
        let mut held = self.held.lock().await;
        if !held.contains_key(&source) {
            held.retain(|_source, places| Arc::strong_count(places) > 1);
        }
        let places = held.entry(source).or_default();
        let share = limits::DNS_QUESTIONS_EACH.min(self.free.available_permits());
        if Arc::strong_count(places) > share {
            return None;
        }
        Some(Waiting {
            _of_all: Arc::clone(&self.free).try_acquire_owned().ok()?,
            _of_source: Arc::clone(places),
        })
    }
}

/// Connections that are open.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Open>>>,
    turn: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Open {
    source: Source,
    /// When it began to wait for a question, in the order of all; or `BUSY`.
    idle: AtomicU64,
    close: Notify,
}

/// A place of a connection; dropped, it is free.
#[derive(Debug)]
pub(super) struct Connected {
    open: Arc<Open>,
    turn: Arc<AtomicU64>,
}

impl Connections {
    /// A place. Where there is none, or the source has its share, that connection is told to close which has waited for a
    /// question the longest, of all or of the source's; `None` if all of them wait for an answer.
    pub(super) async fn place(&self, source: Source) -> Option<Connected> {
        let mut open = self.open.lock().await;
        open.retain(|one| Arc::strong_count(one) > 1);
        let own = open.iter().filter(|one| one.source == source).count();
        let over = own >= limits::DNS_CONNECTIONS_EACH;
        if over || open.len() >= limits::DNS_CONNECTIONS {
            let candidates = open.iter().enumerate();
            let candidates = candidates.filter(|(_at, one)| !over || one.source == source);
            let idle = candidates.map(|(at, one)| (one.idle.load(Ordering::Relaxed), at));
            let (_order, at) = idle.filter(|(order, _at)| *order != BUSY).min()?;
            open.swap_remove(at).close.notify_one();
        }
        let one = Arc::new(Open {
            source,
            idle: AtomicU64::new(self.turn.fetch_add(1, Ordering::Relaxed)),
            close: Notify::new(),
        });
        open.push(Arc::clone(&one));
        Some(Connected {
            open: one,
            turn: Arc::clone(&self.turn),
        })
    }
}

impl Connected {
    /// Whose it is.
    pub(super) fn source(&self) -> Source {
        self.open.source
    }

    /// It waits for an answer from now on.
    pub(super) fn busy(&self) {
        self.open.idle.store(BUSY, Ordering::Relaxed);
    }

    /// It waits for the client from now on, to take an answer or to ask.
    pub(super) fn idle(&self) {
        let now = self.turn.fetch_add(1, Ordering::Relaxed);
        self.open.idle.store(now, Ordering::Relaxed);
    }

    /// Waits until its place is another's.
    pub(super) async fn closed(&self) {
        self.open.close.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn user(uid: usize) -> Source {
        Source::User(u32::try_from(uid).unwrap())
    }

    async fn take(all: &Questions, source: Source) -> Vec<Waiting> {
        let mut taken = Vec::new();
        while let Some(place) = all.place(source).await {
            taken.push(place);
        }
        taken
    }

    #[tokio::test]
    async fn questions_of_one_source_leave_places_to_others() {
        let all = Questions::default();
        let mut taken = take(&all, user(1)).await;
        assert_eq!(taken.len(), limits::DNS_QUESTIONS / 4);
        taken.pop();
        taken.extend(all.place(user(1)).await);
        assert_eq!(taken.len(), limits::DNS_QUESTIONS / 4);
        assert!(all.place(user(1)).await.is_none());
        // A few that ask for as much as they get leave something to one more.
        let mut rest = Vec::new();
        for uid in 2..7 {
            rest.extend(take(&all, user(uid)).await);
            assert!(all.place(user(100)).await.is_some(), "{uid}");
        }
        drop((taken, rest));
        assert_eq!(all.free.available_permits(), limits::DNS_QUESTIONS);
        assert!(all.place(user(200)).await.is_some());
        assert_eq!(all.held.lock().await.len(), 1, "those who hold nothing");
    }

    fn is_closed(one: &Connected) -> bool {
        let mut now = Context::from_waker(Waker::noop());
        pin!(one.closed()).poll(&mut now).is_ready()
    }

    #[tokio::test]
    async fn a_source_with_its_share_closes_its_own_that_is_idle_longest() {
        let all = Connections::default();
        let other = all.place(user(2)).await.unwrap();
        let mut own = Vec::new();
        for _ in 0..limits::DNS_CONNECTIONS / 4 {
            own.push(all.place(user(1)).await.unwrap());
        }
        own[0].busy();
        own[1].idle();
        assert!(!own.iter().any(is_closed));
        own.push(all.place(user(1)).await.unwrap());
        let closed: Vec<usize> = (0..own.len()).filter(|n| is_closed(&own[*n])).collect();
        assert_eq!(closed, [2]);
        own.iter().for_each(Connected::busy);
        assert!(all.place(user(1)).await.is_none(), "none is idle");
        assert!(!is_closed(&other));
        assert!(all.place(user(3)).await.is_some());
    }

    #[tokio::test]
    async fn a_full_pool_closes_the_one_that_is_idle_longest() {
        let all = Connections::default();
        let mut open = Vec::new();
        for n in 0..limits::DNS_CONNECTIONS {
            open.push(all.place(user(n % 8)).await.unwrap());
        }
        open[0].idle();
        open[1].busy();
        let new = all.place(user(100)).await.unwrap();
        let closed: Vec<usize> = (0..open.len()).filter(|n| is_closed(&open[*n])).collect();
        assert_eq!(closed, [2]);
        drop(open.pop());
        let last = all.place(user(101)).await.unwrap();
        assert!(!open.iter().chain([&new, &last]).any(is_closed));
        assert_eq!(all.open.lock().await.len(), limits::DNS_CONNECTIONS);
    }

    #[test]
    fn addresses_that_one_machine_has_are_one_source() {
        for (one, other, same) in [
            ("127.0.0.1", "127.83.2.9", true),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let source = |a: &str| Source::at(a.parse().unwrap());
            assert_eq!(source(one) == source(other), same, "{one} {other}");
        }
    }
}
