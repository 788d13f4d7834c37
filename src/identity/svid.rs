//! An X509-SVID with its private key.

use std::fmt;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroize as _;

use crate::vocab::spiffe::SpiffeId;

/// A workload's certificate, the certificates between it and the root, and its key.
pub struct Svid {
    /// The one URI SAN of the leaf.
    pub id: SpiffeId,
    /// Leaf first; the root is not in it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Key of the leaf; never printed.
    pub key: PrivateKeyDer<'static>,
    /// Start of the leaf's validity.
    pub not_before: UnixTime,
    /// End of the leaf's validity.
    pub not_after: UnixTime,
}

impl Svid {
    /// Whether the validity is over at `now`.
    #[must_use]
    pub fn expired(&self, now: UnixTime) -> bool {
        now.as_secs() > self.not_after.as_secs()
    }
}

impl Drop for Svid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Clone for Svid {
    fn clone(&self) -> Self {
        Self {
            id: self.id.clone(),
            chain: self.chain.clone(),
            key: self.key.clone_key(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("certificates", &self.chain.len())
            .field("not_before", &self.not_before.as_secs())
            .field("not_after", &self.not_after.as_secs())
            .finish_non_exhaustive()
    }
}

/// An identity that this process wants to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSvid {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// DNS SANs beside it: the hosts of the services that the workload serves, for clients that check names.
    pub dns_names: Vec<String>,
}
