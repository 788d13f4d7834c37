//! Trust bundles: the roots of each trust domain, kept apart (SPIFFE Trust Domain and Bundle, section 4).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::revocation::{PeerLeaf, Revocations, Target};
use super::verified::{Validity, VerifiedChains};
use crate::vocab::spiffe::TrustDomain;

/// What is wrong with a root certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not a certificate in DER, or bytes after it.
    #[error("root is not an X.509 certificate")]
    Parse,
    /// `cA` is not true, or a key usage is there without keyCertSign.
    #[error("root `{0}` is not a certificate authority")]
    NotAuthority(String),
}

/// Roots by trust domain. Several roots of one domain overlap while the domain changes its root.
#[derive(Clone, Debug, Default)]
pub struct TrustBundles {
    domains: BTreeMap<Box<str>, Bundle>,
    /// What is revoked at the moment of a handshake; without it nothing is.
    revoked: Option<Arc<ArcSwap<Revocations>>>,
    /// Chains that these roots vouched for, where handshakes ask.
    verified: Option<Arc<VerifiedChains>>,
}

/// The roots of one trust domain; `anchors[i]` was made of `roots[i]`.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    roots: Vec<CertificateDer<'static>>,
    limits: Vec<RootLimits>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// What RFC 5280 section 6.1 asks of a root and a trust anchor does not carry.
#[derive(Clone, Copy, Debug)]
pub(super) struct RootLimits {
    not_before: i64,
    not_after: i64,
    path_len: Option<u32>,
}

impl TrustBundles {
    /// No trust domain.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The roots of one trust domain.
    ///
    /// # Errors
    /// `BundleError` for the first root that is none.
    pub fn of(domain: &TrustDomain, roots: &[CertificateDer<'_>]) -> Result<Self, BundleError> {
        let mut bundles = Self::new();
        for root in roots {
            bundles.add(domain, root)?;
        }
        Ok(bundles)
    }

    /// Adds a root; one that is already there changes nothing.
    ///
    /// # Errors
    /// `BundleError` if it is not a certificate authority.
    pub fn add(
        &mut self,
        domain: &TrustDomain,
        root: &CertificateDer<'_>,
    ) -> Result<(), BundleError> {
        let (limits, anchor) = parse_root(root)?;
        // Other roots vouch for other chains.
        self.verified = None;
        let bundle = self.domains.entry(domain.as_str().into()).or_default();
        if !bundle.roots.contains(root) {
            bundle.roots.push(root.clone().into_owned());
            bundle.limits.push(limits);
            bundle.anchors.push(anchor);
        }
        Ok(())
    }

    /// The bundle of a trust domain; `None` means that nothing of it is trusted.
    #[must_use]
    pub fn bundle(&self, trust_domain: &str) -> Option<&Bundle> {
        self.domains.get(trust_domain)
    }

    /// The same roots for handshakes: whatever `revoked` holds at that moment is refused, and a chain that was verified is
    /// remembered as long as this value and its clones live.
    #[must_use]
    pub fn with_revocations(&self, revoked: Arc<ArcSwap<Revocations>>) -> Self {
        Self {
            domains: self.domains.clone(),
            revoked: Some(revoked),
            verified: Some(Arc::default()),
        }
    }

    /// Chains that these very roots vouched for; `None` where none are remembered.
    pub(super) fn verified(&self) -> Option<&VerifiedChains> {
        self.verified.as_deref()
    }

    /// Why a certificate is refused now, though its chain may be good.
    pub(super) fn revoked(&self, leaf: &PeerLeaf) -> Option<Target> {
        self.revoked.as_ref()?.load().of(leaf)
    }

    /// The names of the trust domains, sorted.
    pub fn trust_domains(&self) -> impl Iterator<Item = &str> {
        self.domains.keys().map(AsRef::as_ref)
    }
}

impl Bundle {
    /// The root certificates, oldest addition first.
    #[must_use]
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The trust anchors made of the roots.
    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The limits of the root that `anchor`, an element of [`Self::anchors`], was made of.
    pub(super) fn limits_of(&self, anchor: &TrustAnchor<'_>) -> Option<RootLimits> {
        let same = |a: &&TrustAnchor<'static>| {
            std::ptr::eq(std::ptr::from_ref(*a).cast(), std::ptr::from_ref(anchor))
        };
        let index = self.anchors.iter().position(|a| same(&a))?;
        self.limits.get(index).copied()
    }
}

impl RootLimits {
    /// Whether the root itself is valid at `now`.
    pub(super) fn valid_at(self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs())
            .is_ok_and(|now| self.not_before <= now && now <= self.not_after)
    }

    /// When the root itself is valid.
    pub(super) fn validity(self) -> Validity {
        Validity {
            not_before: unix_time(self.not_before),
            not_after: unix_time(self.not_after),
        }
    }

    /// Whether `intermediates` authorities may stand below the root.
    pub(super) fn allows_depth(self, intermediates: u32) -> bool {
        self.path_len.is_none_or(|most| intermediates <= most)
    }
}

fn parse_root(
    root: &CertificateDer<'_>,
) -> Result<(RootLimits, TrustAnchor<'static>), BundleError> {
    let (rest, parsed) = X509Certificate::from_der(root).map_err(|_e| BundleError::Parse)?;
    if !rest.is_empty() {
        return Err(BundleError::Parse);
    }
    let constraints = parsed
        .basic_constraints()
        .map_err(|_e| BundleError::Parse)?;
    let usage = parsed.key_usage().map_err(|_e| BundleError::Parse)?;
    let constraints = constraints
        .map(|extension| extension.value)
        .filter(|value| value.ca && usage.is_none_or(|u| u.value.key_cert_sign()))
        .ok_or_else(|| BundleError::NotAuthority(parsed.subject().to_string()))?;
    let limits = RootLimits {
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
        path_len: constraints.path_len_constraint,
    };
    let anchor = webpki::anchor_from_trusted_cert(root)
        .map_err(|_e| BundleError::Parse)?
        .to_owned();
    Ok((limits, anchor))
}

/// Unix time of a certificate's validity bound; before 1970 counts as 0.
pub(super) fn unix_time(timestamp: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(timestamp).unwrap_or(0)))
}
