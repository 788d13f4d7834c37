//! A peer's chain becomes a SPIFFE ID, or nothing (SPIFFE X509-SVID section 5).

use std::cell::Cell;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, aws_lc_rs};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::bundle::{Bundle, TrustBundles};
use super::leaf::{self, LeafError};
use super::revocation::Target;
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
    let (leaf_der, intermediates) = chain.split_first().ok_or(SvidError::Empty)?;
    if chain.len() > limits::SVID_CHAIN_CERTS {
        return Err(SvidError::TooLong);
    }
    let found = leaf::check(leaf_der).map_err(SvidError::Leaf)?;
    let domain = found.id.trust_domain();
    let bundle = bundles
        .bundle(domain)
        .ok_or_else(|| SvidError::UnknownTrustDomain(domain.into()))?;
    verify_path(leaf_der, intermediates, bundle, now, usage).map_err(|failure| match failure {
        PathFailure::Webpki(source) => SvidError::Chain {
            trust_domain: domain.into(),
            source,
        },
        PathFailure::Refused(reason) => reason,
    })?;
    match bundles.revoked(&found.peer) {
        Some(target) => Err(SvidError::Revoked(target)),
        None => Ok(found.id),
    }
}

enum PathFailure {
    Webpki(webpki::Error),
    Refused(SvidError),
}

fn verify_path(
    leaf_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Bundle,
    now: UnixTime,
    usage: Usage,
) -> Result<(), PathFailure> {
    let end_entity = EndEntityCert::try_from(leaf_der).map_err(PathFailure::Webpki)?;
    let key_usage = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    // webpki goes on to the next path after a refusal; the last reason is told if none was left.
    let refused = Cell::new(None);
    let judge = |path: &VerifiedPath<'_>| {
        judge_path(path, bundle, now).map_err(|reason| {
            refused.set(Some(reason));
            webpki::Error::UnknownIssuer
        })
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
    outcome.map_err(|error| {
        refused
            .take()
            .map_or(PathFailure::Webpki(error), PathFailure::Refused)
    })
}

/// What webpki leaves out: key usage of the issuers, validity and path length of the root.
fn judge_path(path: &VerifiedPath<'_>, bundle: &Bundle, now: UnixTime) -> Result<(), SvidError> {
    let root = bundle.limits_of(path.anchor()).ok_or(SvidError::RootTime)?;
    if !root.valid_at(now) {
        return Err(SvidError::RootTime);
    }
    let mut below_root = 0_u32;
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let (_, cert) = X509Certificate::from_der(&der).map_err(|_e| SvidError::IssuerKeyUsage)?;
        let usage = cert.key_usage().map_err(|_e| SvidError::IssuerKeyUsage)?;
        if usage.is_some_and(|u| !u.value.key_cert_sign()) {
            return Err(SvidError::IssuerKeyUsage);
        }
        // Self-issued certificates do not count (RFC 5280 section 6.1.4 (l)).
        if cert.issuer().as_raw() != cert.subject().as_raw() {
            below_root = below_root.saturating_add(1);
        }
    }
    if root.allows_depth(below_root) {
        Ok(())
    } else {
        Err(SvidError::RootPathLen)
    }
}
