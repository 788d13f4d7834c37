//! What those who trust the authority have to know at once: its roots, and what is revoked.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;

use super::ledger;
use crate::identity::revocation::Revocations;
use crate::vocab::text::hex;

/// Roots and revocations at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Differs whenever the rest does.
    pub version: String,
    /// Trusted roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// Revocations.
    pub revocations: Arc<Revocations>,
}

impl News {
    /// With the version that belongs to the content.
    #[must_use]
    pub fn new(roots: Vec<CertificateDer<'static>>, revocations: Arc<Revocations>) -> Self {
        let mut context = Context::new(&SHA256);
        for root in &roots {
            context.update(&u64::try_from(root.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(root);
        }
        for (target, reason) in revocations.iter() {
            let (kind, value) = ledger::words(&target);
            context.update(format!("\n{kind} {value} {reason}").as_bytes());
        }
        Self {
            version: hex(context.finish().as_ref()),
            roots,
            revocations,
        }
    }
}
