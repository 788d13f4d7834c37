//! The roots of the authority: the one that signs, and during a rotation the one that comes or the one that leaves.
//!
//! A rotation has two halves of the same length. In the first one both roots are trusted and the old one signs, so that
//! the new one is everywhere before anybody is to verify by it; in the second one the new one signs, and the old one is
//! trusted until the last certificate below it has expired.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::ca::{Ca, Unfit};
use super::ledger::Data;
use super::store::{self, RootFiles, Store};
use super::{AuthorityError, IssueError};
use crate::identity::bundle::TrustBundles;
use crate::identity::rotation::next_rotation;
use crate::vocab::spiffe::TrustDomain;

/// A root with the CA that issues below it.
pub(super) struct Root {
    pub(super) number: u32,
    /// `None` where the issuing CA was given by the operator and its root's key is elsewhere.
    ca: Option<Ca>,
    /// Trusted for it: the root's certificate, or those the operator gave.
    trusted: Vec<CertificateDer<'static>>,
    issuing: ArcSwap<Ca>,
}

/// The roots that count now.
pub(super) struct Roots {
    pub(super) active: Arc<Root>,
    /// Those that the ledger names, by number.
    pub(super) known: BTreeMap<u32, Arc<Root>>,
    pub(super) bundles: Arc<TrustBundles>,
}

impl Root {
    /// A new root and its issuing CA.
    pub(super) fn generate(
        number: u32,
        domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<Self, IssueError> {
        let root = Ca::new_root(domain, now)?;
        let issuing = root.new_issuing(domain, now)?;
        Ok(Self {
            number,
            trusted: vec![root.certificate().clone()],
            ca: Some(root),
            issuing: ArcSwap::from_pointee(issuing),
        })
    }

    /// An issuing CA whose root is elsewhere.
    pub(super) fn given(issuing: Ca, trusted: Vec<CertificateDer<'static>>) -> Self {
        Self {
            number: 1,
            ca: None,
            trusted,
            issuing: ArcSwap::from_pointee(issuing),
        }
    }

    /// Reads a root of the state directory.
    pub(super) fn load(
        store: &Store,
        number: u32,
        domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let files = store.root(number)?;
        let (root_name, key_name, issuing_name) = store::names(number);
        let unfit = |certificate: &str, key: &str, reason| {
            unfit(&store.path(certificate), &store.path(key), reason)
        };
        let root = Ca::parse(files.root.as_bytes(), files.root_key.as_bytes())
            .map_err(|r| unfit(&root_name, &key_name, r))?;
        let issuing = Ca::parse(files.issuing.as_bytes(), files.issuing.as_bytes())
            .map_err(|r| unfit(&issuing_name, &issuing_name, r))?;
        let found = root.trust_domain().unwrap_or_default();
        if found != domain.as_str() {
            return Err(AuthorityError::TrustDomain {
                found,
                configured: domain.clone(),
            });
        }
        Ok(Self {
            number,
            trusted: vec![root.certificate().clone()],
            ca: Some(root),
            issuing: ArcSwap::from_pointee(issuing),
        })
    }

    /// The PEM texts that [`Self::load`] reads; `None` where the root's key is elsewhere.
    pub(super) fn files(&self) -> Option<RootFiles> {
        let root = self.ca.as_ref()?;
        Some(RootFiles {
            root: root.certificate_pem(),
            root_key: root.key_pem(),
            issuing: self.issuing.load().bundle_pem(),
        })
    }

    /// Whether this process can make a successor.
    pub(super) fn has_key(&self) -> bool {
        self.ca.is_some()
    }

    /// The issuing CA, replaced when it is past its half life. One that the operator gave is used as long as it lives.
    pub(super) fn issuing(
        &self,
        domain: &TrustDomain,
        store: Option<&Store>,
        now: UnixTime,
    ) -> Result<Arc<Ca>, IssueError> {
        let current = self.issuing.load_full();
        let Some(root) = &self.ca else {
            return Ok(current);
        };
        let (not_before, not_after) = current.validity();
        // Where another process writes, it renews; what we have holds for as long as we drain.
        if now.as_secs() < next_rotation(not_before, not_after, 0.5).as_secs()
            || store.is_some_and(|store| !store.writes())
        {
            return Ok(current);
        }
        let next = Arc::new(root.new_issuing(domain, now)?);
        if let Some(store) = store {
            store
                .replace_issuing(self.number, &next.bundle_pem())
                .map_err(|e| IssueError::Store(Box::new(e)))?;
        }
        tracing::info!(trust_domain = %domain, "issuing certificate renewed");
        self.issuing.store(Arc::clone(&next));
        Ok(next)
    }

    /// Certificate and validity, for the operator.
    pub(super) fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }
}

impl Roots {
    /// Those of `known` that the ledger names.
    pub(super) fn of(
        mut known: BTreeMap<u32, Arc<Root>>,
        data: &Data,
        domain: &TrustDomain,
    ) -> Result<Self, AuthorityError> {
        let rotation = data.rotation.as_ref();
        let counts = |number: u32| {
            number == data.active || rotation.is_some_and(|r| r.old == number || r.next == number)
        };
        known.retain(|number, _root| counts(*number));
        let active = known.get(&data.active).cloned();
        let active = active.ok_or(AuthorityError::NoRoot(data.active))?;
        let trusted: Vec<_> = known
            .values()
            .flat_map(|root| root.trusted.iter().cloned())
            .collect();
        let bundles = TrustBundles::of(domain, &trusted).map_err(AuthorityError::Root)?;
        Ok(Self {
            active,
            known,
            bundles: Arc::new(bundles),
        })
    }

    /// All trusted certificates, the older root first.
    pub(super) fn trusted(&self) -> Vec<CertificateDer<'static>> {
        self.known
            .values()
            .flat_map(|root| root.trusted.iter().cloned())
            .collect()
    }
}

/// What is wrong with certificate and key files.
pub(super) fn unfit(
    certificate: &std::path::Path,
    key: &std::path::Path,
    reason: Unfit,
) -> AuthorityError {
    match reason {
        Unfit::Certificate => AuthorityError::Unreadable {
            path: certificate.to_owned(),
            what: "certificate",
        },
        Unfit::Key => AuthorityError::Unreadable {
            path: key.to_owned(),
            what: "P-256 key in PKCS#8",
        },
        Unfit::Pair => AuthorityError::OtherKey {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        },
    }
}
