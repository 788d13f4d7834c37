//! How many connections each peer has, by the identity that it has proved.
//!
//! The counts are the process's: one peer may be connected at every core. Cores look a count up without waiting for anybody;
//! the first connection of a peer replaces the whole map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::vocab::spiffe::SpiffeId;

/// With so many peers those that are gone are forgotten when another one comes.
const TIDY: usize = 1024;

type Counts = BTreeMap<SpiffeId, Arc<AtomicUsize>>;

/// The counts, and what each may be at most.
#[derive(Debug)]
pub(super) struct Peers {
    most: usize,
    counts: ArcSwap<Counts>,
}

/// A connection of a peer that is counted until this is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peers {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            counts: ArcSwap::default(),
        }
    }

    /// Counts one more of `peer`.
    ///
    /// # Errors
    /// The limit, which is reached.
    pub(super) fn take(&self, peer: &SpiffeId) -> Result<Counted, usize> {
        let count = match self.counts.load().get(peer) {
            Some(count) => Arc::clone(count),
            None => self.first(peer),
        };
        if count.fetch_add(1, Ordering::Relaxed) < self.most {
            return Ok(Counted(count));
        }
        count.fetch_sub(1, Ordering::Relaxed);
        Err(self.most)
    }

    /// The count of a peer that had none. One that is forgotten in the very moment in which its peer comes back counts that
    /// one connection apart.
    fn first(&self, peer: &SpiffeId) -> Arc<AtomicUsize> {
        let own = Arc::new(AtomicUsize::new(0));
        let before = self.counts.rcu(|counts| {
            if counts.contains_key(peer) {
                return Arc::clone(counts);
            }
            let tidy = counts.len() >= TIDY;
            let stays = |count: &Arc<AtomicUsize>| !tidy || Arc::strong_count(count) > 1;
            let mut next: Counts = counts
                .iter()
                .filter(|(_peer, count)| stays(count))
                .map(|(peer, count)| (peer.clone(), Arc::clone(count)))
                .collect();
            next.insert(peer.clone(), Arc::clone(&own));
            Arc::new(next)
        });
        // Another core may have been faster.
        before.get(peer).map_or(own, Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: usize) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/a/sa/n{n}")).unwrap()
    }

    #[test]
    fn each_peer_has_its_own_count() {
        let peers = Peers::new(2);
        let held = [peers.take(&peer(1)).unwrap(), peers.take(&peer(1)).unwrap()];
        assert_eq!(peers.take(&peer(1)).unwrap_err(), 2);
        let other = peers.take(&peer(2)).unwrap();
        drop(held);
        assert!(peers.take(&peer(1)).is_ok());
        drop(other);
    }

    #[test]
    fn who_is_gone_is_forgotten_and_who_is_here_is_not() {
        let peers = Peers::new(1);
        let held = peers.take(&peer(0)).unwrap();
        for n in 1..TIDY + 100 {
            drop(peers.take(&peer(n)).unwrap());
        }
        assert!(peers.counts.load().len() <= TIDY);
        assert!(peers.take(&peer(0)).is_err(), "it is still here");
        drop(held);
        assert!(peers.take(&peer(0)).is_ok());
    }

    #[test]
    fn cores_count_together() {
        let peers = Peers::new(64);
        let taken = std::thread::scope(|scope| {
            let all: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..32)
                            .filter_map(|_| peers.take(&peer(7)).ok())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            all.into_iter()
                .flat_map(|one| one.join().unwrap())
                .collect::<Vec<Counted>>()
        });
        assert_eq!(taken.len(), 64);
    }
}
