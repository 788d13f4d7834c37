//! A peer's chain becomes a SPIFFE ID, or nothing (SPIFFE X509-SVID section 5).

use std::cell::Cell;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, aws_lc_rs};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bundle::{Bundle, TrustBundles, unix_time};
use super::leaf::{self, LeafError};
use super::revocation::{PeerLeaf, Target};
use super::verified::{ChainDigest, Proved, Validity};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// What the peer is in the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It opened the connection.
    Client,
    /// It accepted the connection.
    Server,
}

/// Why a chain is no proof of an identity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SvidError {
    /// No certificate.
    #[error("peer sent no certificate")]
    Empty,
    /// More certificates than [`limits::SVID_CHAIN_CERTS`].
    #[error("chain is longer than {} certificates", limits::SVID_CHAIN_CERTS)]
    TooLong,
    /// The leaf breaks a rule of the standard.
    #[error("leaf is not an X509-SVID")]
    Leaf(#[source] LeafError),
    /// There is no bundle for the trust domain of the ID.
    #[error("no bundle for trust domain `{0}`")]
    UnknownTrustDomain(Box<str>),
    /// No valid path to a root of the ID's own trust domain.
    #[error("no valid path to a root of trust domain `{trust_domain}`")]
    Chain {
        /// Of the leaf's ID.
        trust_domain: Box<str>,
        /// The verifier's reason.
        #[source]
        source: webpki::Error,
    },
    /// It is revoked.
    #[error("revoked: {0}")]
    Revoked(Target),
    /// An issuing certificate has a key usage without keyCertSign (RFC 5280 section 6.1.4 (n)).
    #[error("an issuing certificate may not sign certificates")]
    IssuerKeyUsage,
    /// The root is not yet, or no longer, valid.
    #[error("root is outside its validity")]
    RootTime,
    /// The root's path length allows fewer authorities below it.
    #[error("path is longer than the root allows")]
    RootPathLen,
}

/// Signature algorithms that may occur in a chain; RSA keys from 2048 to 8192 bits.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::ED25519,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// Verifies `chain` (leaf first, as the peer sent it) and returns the identity that it proves.
///
/// The roots are those of the trust domain that the leaf's own ID names, so no authority can speak for another
/// domain. CN and DNS names are never looked at. URI name constraints are not evaluated: a chain that has any is
/// refused.
///
/// # Errors
/// `SvidError` names the first thing found wrong.
pub fn verify_svid(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: UnixTime,
    usage: Usage,
) -> Result<SpiffeId, SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Empty)?;
    verify_peer(leaf, intermediates, bundles, now, usage).map(|peer| peer.id.clone())
}

/// As [`verify_svid`]; a chain that `bundles` remember is not verified again, only its validity and the revocations are
/// looked at.
///
/// # Errors
/// `SvidError` names the first thing found wrong.
pub(super) fn verify_peer(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: UnixTime,
    usage: Usage,
) -> Result<Arc<PeerLeaf>, SvidError> {
    if intermediates.len() >= limits::SVID_CHAIN_CERTS {
        return Err(SvidError::TooLong);
    }
    let memory = bundles
        .verified()
        .map(|chains| (chains, ChainDigest::of(leaf, intermediates, usage)));
    let known = memory.and_then(|(chains, digest)| chains.find(&digest, now));
    if let Some(peer) = known {
        return not_revoked(peer, bundles);
    }
    let proved = prove(leaf, intermediates, bundles, now, usage)?;
    let peer = not_revoked(Arc::clone(&proved.leaf), bundles)?;
    if let Some((chains, digest)) = memory {
        chains.keep(digest, proved);
    }
    Ok(peer)
}

fn not_revoked(peer: Arc<PeerLeaf>, bundles: &TrustBundles) -> Result<Arc<PeerLeaf>, SvidError> {
    match bundles.revoked(&peer) {
        Some(target) => Err(SvidError::Revoked(target)),
        None => Ok(peer),
    }
}

fn prove(
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    now: UnixTime,
    usage: Usage,
) -> Result<Proved, SvidError> {
    let found = leaf::check(leaf_der).map_err(SvidError::Leaf)?;
    let domain = found.id.trust_domain();
    let bundle = bundles
        .bundle(domain)
        .ok_or_else(|| SvidError::UnknownTrustDomain(domain.into()))?;
    let issuers =
        verify_path(leaf_der, intermediates, bundle, now, usage).map_err(
            |failure| match failure {
                PathFailure::Webpki(source) => SvidError::Chain {
                    trust_domain: domain.into(),
                    source,
                },
                PathFailure::Refused(reason) => reason,
            },
        )?;
    let own = Validity {
        not_before: found.not_before,
        not_after: found.not_after,
    };
    Ok(Proved {
        leaf: Arc::new(found.peer),
        validity: own.within(issuers),
    })
}

enum PathFailure {
    Webpki(webpki::Error),
    Refused(SvidError),
}

/// When the issuers of the path that was found are valid.
fn verify_path(
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: UnixTime,
    usage: Usage,
) -> Result<Validity, PathFailure> {
    let end_entity = EndEntityCert::try_from(leaf_der).map_err(PathFailure::Webpki)?;
    let key_usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    // webpki goes on to the next path after a refusal; the last reason is told if none was left.
    let refused = Cell::new(None);
    let accepted = Cell::new(None);
    let judge = |path: &VerifiedPath<'_>| match judge_path(path, bundle, now) {
        Ok(validity) => {
            accepted.set(Some(validity));
            Ok(())
        }
        Err(reason) => {
            refused.set(Some(reason));
            Err(webpki::Error::UnknownIssuer)
        }
    };
    let outcome = end_entity
        .verify_for_usage(
            ALGORITHMS,
            bundle.anchors(),
            intermediates,
            now,
            key_usage,
            None,
            Some(&judge),
        )
        .map(|_path| ());
    match (outcome, accepted.take()) {
        (Ok(()), Some(validity)) => Ok(validity),
        (Ok(()), None) => Err(PathFailure::Webpki(webpki::Error::UnknownIssuer)),
        (Err(error), _) => Err(refused
            .take()
            .map_or(PathFailure::Webpki(error), PathFailure::Refused)),
    }
}

/// What webpki leaves out: key usage of the issuers, validity and path length of the root. When all of them are valid.
fn judge_path(
    path: &VerifiedPath<'_>,
    bundle: &Bundle,
    now: UnixTime,
) -> Result<Validity, SvidError> {
    let root = bundle.limits_of(path.anchor()).ok_or(SvidError::RootTime)?;
    if !root.valid_at(now) {
        return Err(SvidError::RootTime);
    }
    let mut validity = root.validity();
    let mut below_root = 0_u32;
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let (_, cert) = X509Certificate::from_der(&der).map_err(|_e| SvidError::IssuerKeyUsage)?;
        let usage = cert.key_usage().map_err(|_e| SvidError::IssuerKeyUsage)?;
        if usage.is_some_and(|u| !u.value.key_cert_sign()) {
            return Err(SvidError::IssuerKeyUsage);
        }
        validity = validity.within(Validity {
            not_before: unix_time(cert.validity().not_before.timestamp()),
            not_after: unix_time(cert.validity().not_after.timestamp()),
        });
        // Self-issued certificates do not count (RFC 5280 section 6.1.4 (l)).
        if cert.issuer().as_raw() != cert.subject().as_raw() {
            below_root = below_root.saturating_add(1);
        }
    }
    if root.allows_depth(below_root) {
        Ok(validity)
    } else {
        Err(SvidError::RootPathLen)
    }
}
