//! Chains that were found good: the next handshake of the same peer builds no path and verifies no signature within it.
//!
//! A path says the same each time while the roots are the same and every certificate of it is valid. So an entry is found
//! by a digest of all that the peer presents and of what it is in the connection, counts only within the validity that all
//! certificates of the path share, and belongs to one set of roots. What is no property of a chain is never kept:
//! revocations are looked up and the peer's signature over the handshake is verified each time. A chain that was refused
//! is not remembered.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls::pki_types::{CertificateDer, UnixTime};

use super::revocation::PeerLeaf;
use super::verify::Usage;
use crate::vocab::limits;

/// SHA-256 of a chain as it was presented, and of its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChainDigest([u8; SHA256_OUTPUT_LEN]);

impl ChainDigest {
    /// Of `leaf` and what came after it.
    pub(super) fn of(
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
    ) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[match usage {
            Usage::Client => 0,
            Usage::Server => 1,
        }]);
        for certificate in std::iter::once(leaf).chain(intermediates) {
            // With its length, so that no two lists of certificates are the same bytes.
            context.update(&certificate.len().to_be_bytes());
            context.update(certificate);
        }
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }

    fn slot(&self) -> usize {
        let [a, b, ..] = self.0;
        usize::from(u16::from_be_bytes([a, b])) % limits::VERIFIED_CHAINS
    }
}

/// When every certificate of a path is valid: from the latest start to the earliest end, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// Latest start.
    pub(super) not_before: UnixTime,
    /// Earliest end.
    pub(super) not_after: UnixTime,
}

impl Validity {
    /// What both share.
    pub(super) fn within(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    fn holds(self, now: UnixTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

/// What a chain proved.
#[derive(Clone, Debug)]
pub(super) struct Proved {
    /// Of its leaf.
    pub(super) leaf: Arc<PeerLeaf>,
    /// While it does.
    pub(super) validity: Validity,
}

struct Entry {
    digest: ChainDigest,
    proved: Proved,
}

/// The chains that one set of roots vouched for, at most [`limits::VERIFIED_CHAINS`]. All cores read and write it without a
/// lock; of two chains that fall on the same place the later one stays.
#[derive(Default)]
pub(super) struct VerifiedChains {
    slots: OnceLock<Box<[ArcSwapOption<Entry>]>>,
}

impl fmt::Debug for VerifiedChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedChains({})", self.len())
    }
}

impl VerifiedChains {
    /// What the chain proved, if it still does at `now`.
    pub(super) fn find(&self, digest: &ChainDigest, now: UnixTime) -> Option<Arc<PeerLeaf>> {
        let entry = self.slots.get()?.get(digest.slot())?.load();
        let entry = entry.as_ref()?;
        let good = entry.digest == *digest && entry.proved.validity.holds(now);
        good.then(|| Arc::clone(&entry.proved.leaf))
    }

    /// Remembers a chain that was verified.
    pub(super) fn keep(&self, digest: ChainDigest, proved: Proved) {
        let slots = self.slots.get_or_init(|| {
            (0..limits::VERIFIED_CHAINS)
                .map(|_| ArcSwapOption::empty())
                .collect()
        });
        if let Some(slot) = slots.get(digest.slot()) {
            slot.store(Some(Arc::new(Entry { digest, proved })));
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        let taken = |slots: &[ArcSwapOption<Entry>]| {
            let taken = slots.iter().filter(|slot| slot.load().is_some());
            taken.count()
        };
        self.slots.get().map_or(0, |slots| taken(slots))
    }
}

#[cfg(test)]
mod tests;
