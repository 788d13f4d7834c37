//! How many connections are open in the process, and how many its limits have refused.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Shared by the cores, which touch it once when a connection begins and once when it ends.
#[derive(Debug, Default)]
pub struct Tally {
    open: AtomicUsize,
    refused: AtomicU64,
    sheds: AtomicBool,
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

    /// New work is refused from now on, or no longer.
    pub fn shed(&self, sheds: bool) {
        self.sheds.store(sheds, Ordering::Relaxed);
    }

    /// Whether new work is refused, because the process holds as much memory as it may.
    #[must_use]
    pub fn sheds(&self) -> bool {
        self.sheds.load(Ordering::Relaxed)
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
