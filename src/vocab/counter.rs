//! A counter with one writer and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts up. Written by one thread (a data core), read by others: no read-modify-write, so no bus lock.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning thread may call it; two writers would lose counts.
    pub fn add(&self, n: u64) {
        let sum = self.0.load(Ordering::Relaxed).wrapping_add(n);
        self.0.store(sum, Ordering::Relaxed);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes of the connections of one series, as they pass.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the downstream peer.
    pub received: Counter,
    /// To the downstream peer.
    pub sent: Counter,
}
