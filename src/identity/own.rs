//! SVIDs of this process, as its own workloads prove them to each other where no handshake is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::UnixTime;

use super::bundle::TrustBundles;
use super::revocation::PeerLeaf;
use super::svid::Svid;
use super::verify::{SvidError, Usage, verify_svid};
use crate::vocab::limits;

/// When an SVID was last verified, as a client's and as a server's.
///
/// As with the connections that tunnels share, a chain that was found good counts for a time. What may change from one
/// moment to the next is looked at each time: the leaf's validity and the revocations.
#[derive(Debug)]
pub struct OwnProof {
    leaf: Arc<PeerLeaf>,
    /// Seconds since the Unix epoch; 0: never.
    client_s: AtomicU64,
    server_s: AtomicU64,
}

impl OwnProof {
    /// Of an SVID with this leaf, not verified yet.
    #[must_use]
    pub fn new(leaf: PeerLeaf) -> Self {
        Self {
            leaf: Arc::new(leaf),
            client_s: AtomicU64::new(0),
            server_s: AtomicU64::new(0),
        }
    }

    /// What the SVID proves at `now`, as a peer of that usage.
    ///
    /// # Errors
    /// Why a handshake would refuse it.
    pub fn prove(
        &self,
        svid: &Svid,
        bundles: &TrustBundles,
        usage: Usage,
        now: UnixTime,
    ) -> Result<Arc<PeerLeaf>, SvidError> {
        let verified = match usage {
            Usage::Client => &self.client_s,
            Usage::Server => &self.server_s,
        };
        let now_s = now.as_secs();
        let valid = svid.not_before.as_secs() <= now_s && !svid.expired(now);
        // A clock that was set back makes what was verified later unknown.
        let age_s = now_s.checked_sub(verified.load(Ordering::Relaxed));
        if valid && age_s.is_some_and(|age_s| age_s < limits::OWN_SVID_VERIFIED_S) {
            return match bundles.revoked(&self.leaf) {
                Some(target) => Err(SvidError::Revoked(target)),
                None => Ok(Arc::clone(&self.leaf)),
            };
        }
        verify_svid(&svid.chain, bundles, now, usage)?;
        verified.store(now_s, Ordering::Relaxed);
        Ok(Arc::clone(&self.leaf))
    }
}
