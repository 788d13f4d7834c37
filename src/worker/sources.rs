//! How many connections each source address has at the edge, counted over all cores without a lock.
//!
//! Addresses share a table of counters, by two hashes with a key of this process: what counts is the smaller one, so
//! that an address pays for others only where both of its counters are theirs. The table is sized for as many sources at
//! their limit as the process has places for: they fill a quarter of it at most, two counters each of eight, so that one
//! source in sixteen is taken for full when the process is, and far fewer before. (Within `SOURCE_COUNTERS_MOST`, which
//! limits of a few connections come to in a process of very many cores.) Memory is the table's, however many addresses
//! there are. An IPv6 source is its /64, which one machine has all of.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::vocab::limits;

/// The counters.
pub struct Sources {
    keys: [RandomState; 2],
    counts: Box<[AtomicU32]>,
    most: u32,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sources({})", self.most)
    }
}

/// A connection of a source that counts until this is dropped.
#[derive(Debug)]
pub struct Counted {
    sources: Arc<Sources>,
    at: [usize; 2],
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.sources.leave(self.at);
    }
}

impl Sources {
    /// Counters for sources of which each may have `most` connections, in a process that may have `of_process`.
    #[must_use]
    pub fn new(most: usize, of_process: usize) -> Arc<Self> {
        let full = of_process.checked_div(most).unwrap_or(of_process);
        let counters = full
            .saturating_add(1)
            .saturating_mul(limits::COUNTERS_PER_SOURCE)
            .checked_next_power_of_two()
            .unwrap_or(limits::SOURCE_COUNTERS_MOST)
            .clamp(limits::SOURCE_COUNTERS, limits::SOURCE_COUNTERS_MOST);
        let count = || AtomicU32::new(0);
        Arc::new(Self {
            keys: [RandomState::new(), RandomState::new()],
            counts: std::iter::repeat_with(count).take(counters).collect(),
            most: u32::try_from(most).unwrap_or(u32::MAX),
        })
    }

    fn at(&self, source: IpAddr) -> [usize; 2] {
        let source = match source.to_canonical() {
            IpAddr::V4(ip) => u128::from(ip.to_bits()),
            // Beside the addresses of version 4, which are below.
            IpAddr::V6(ip) => ip.to_bits() >> 64 << 64,
        };
        let place = |key: &RandomState| {
            let hash = usize::try_from(key.hash_one(source) >> 32).unwrap_or(0);
            hash.checked_rem(self.counts.len()).unwrap_or(0)
        };
        self.keys.each_ref().map(place)
    }

    /// Counts a connection of `source`; `Err` holds how many it may have, all of which it has.
    ///
    /// # Errors
    /// The limit.
    pub fn enter(self: &Arc<Self>, source: IpAddr) -> Result<Counted, u32> {
        let at = self.at(source);
        let before = at.map(|at| {
            self.counts
                .get(at)
                .map_or(0, |c| c.fetch_add(1, Ordering::Relaxed))
        });
        let counted = Counted {
            sources: Arc::clone(self),
            at,
        };
        // Where both hashes are one counter, it has counted twice.
        if before.iter().min().is_none_or(|n| *n >= self.most) {
            return Err(self.most);
        }
        Ok(counted)
    }

    fn leave(&self, at: [usize; 2]) {
        for at in at {
            if let Some(count) = self.counts.get(at) {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_source_has_its_own() {
        let sources = Sources::new(2, 200_000);
        let held = [
            sources.enter(ip("192.0.2.1")).unwrap(),
            sources.enter(ip("::ffff:192.0.2.1")).unwrap(),
        ];
        assert_eq!(sources.enter(ip("192.0.2.1")).unwrap_err(), 2);
        let _other = sources.enter(ip("192.0.2.2")).unwrap();
        let [first, _second] = held;
        drop(first);
        let _again = sources.enter(ip("192.0.2.1")).unwrap();
        assert!(sources.enter(ip("192.0.2.1")).is_err());
    }

    #[test]
    fn a_network_of_version_6_is_one() {
        let sources = Sources::new(1, 200_000);
        let _one = sources.enter(ip("2001:db8::1")).unwrap();
        assert!(sources.enter(ip("2001:db8::ffff")).is_err());
        let _other = sources.enter(ip("2001:db8:0:1::1")).unwrap();
    }

    #[test]
    fn all_of_it_comes_back() {
        let sources = Sources::new(100, 200_000);
        let all: Vec<_> = (0..5000_u32)
            .map(|n| sources.enter(IpAddr::V4(n.into())))
            .collect();
        assert!(all.iter().all(Result::is_ok));
        drop(all);
        let left = sources.counts.iter().map(|c| c.load(Ordering::Relaxed));
        assert_eq!(left.sum::<u32>(), 0);
    }
    /// Half of the places of a process are taken by sources that have all of theirs.
    #[test]
    fn a_small_limit_is_not_one_of_all_together() {
        let sources = Sources::new(2, 100_000);
        let each = || (0..25_000_u32).map(|n| IpAddr::V4(n.into()));
        let all: Vec<_> = each().chain(each()).map(|ip| sources.enter(ip)).collect();
        let refused = all.iter().filter(|entered| entered.is_err()).count();
        assert!(refused < 1000, "{refused} of {}", all.len());
        // Nor does a source have more than its limit by that.
        assert!(each().all(|ip| sources.enter(ip).is_err()));
    }

    #[test]
    fn counters_are_bounded() {
        let counters = |most, of_process| Sources::new(most, of_process).counts.len();
        assert_eq!(counters(16_384, 200_000), limits::SOURCE_COUNTERS);
        assert_eq!(counters(8, 200_000), 262_144);
        assert_eq!(counters(1, usize::MAX), limits::SOURCE_COUNTERS_MOST);
        assert_eq!(counters(0, 10), limits::SOURCE_COUNTERS);
    }
}
