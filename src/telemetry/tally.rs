//! How many connections are open in the process, and how many its limits have refused.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Shared by the cores, which touch it once when a connection begins and once when it ends.
#[derive(Debug, Default)]
pub struct Tally {
    open: AtomicUsize,
    refused: AtomicU64,
}

impl Tally {
    /// One more is open.
    pub fn enter(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// One less is open.
    pub fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A limit refused one.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Connections and tunnels that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections and tunnels that a limit has refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}
