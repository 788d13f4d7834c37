//! The rules that an X509-SVID's leaf must keep beyond a valid chain (SPIFFE X509-SVID sections 2, 3.1 and 4).

use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::bundle::unix_time;
use super::revocation::{NodeName, PeerLeaf, Serial};
use crate::vocab::spiffe::{SpiffeId, SpiffeIdError};

/// The organizational unit of a leaf's subject says by this and a name which node it was issued to.
pub const NODE_UNIT: &str = "node/";

const TAG_URI: u32 = 6;
const RSA_BITS: usize = 2048;

/// Why a leaf is not an X509-SVID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LeafError {
    /// Not a certificate in DER, bytes after it, or an extension that occurs twice.
    #[error("leaf is not an X.509 certificate")]
    Parse,
    /// No URI SAN, or no SAN at all.
    #[error("leaf has no URI SAN")]
    NoUri,
    /// More than one URI SAN, whatever their scheme.
    #[error("leaf has more than one URI SAN")]
    SeveralUris,
    /// The URI is not text, or not a SPIFFE ID.
    #[error("URI SAN is not a SPIFFE ID")]
    Id(#[source] SpiffeIdError),
    /// A bare trust domain is the ID of an authority, not of a workload.
    #[error("SPIFFE ID has no path")]
    NoPath,
    /// SAN is not critical though the subject is empty.
    #[error("SAN is not critical though the subject is empty")]
    SanNotCritical,
    /// `cA` is true.
    #[error("leaf is a certificate authority")]
    Authority,
    /// Key usage is absent, not critical, without digitalSignature, or with keyCertSign or cRLSign.
    #[error("key usage is not critical digitalSignature, or allows to sign certificates or CRLs")]
    KeyUsage,
    /// Extended key usage is there without clientAuth and serverAuth.
    #[error("extended key usage lacks clientAuth or serverAuth")]
    ExtendedKeyUsage,
    /// Neither RSA of 2048 bits or more, P-256, P-384 nor Ed25519.
    #[error("key is neither RSA of 2048 bits or more, P-256, P-384 nor Ed25519")]
    Key,
}

/// What the rules found in a leaf that keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The identity.
    pub id: SpiffeId,
    /// What a revocation may name.
    pub peer: PeerLeaf,
    /// Start of the validity.
    pub not_before: UnixTime,
    /// End of the validity.
    pub not_after: UnixTime,
}

/// Applies the leaf rules. The chain and the time are not looked at: see [`super::verify::verify_svid`].
///
/// # Errors
/// `LeafError` names the first rule that is broken.
pub fn check(leaf: &CertificateDer<'_>) -> Result<Leaf, LeafError> {
    let cert = parse(leaf)?;
    let id = id_of(&cert)?;
    check_constraints(&cert)?;
    check_usages(&cert)?;
    check_key(&cert)?;
    Ok(Leaf {
        peer: peer_of(&cert, id.clone()),
        id,
        not_before: unix_time(cert.validity().not_before.timestamp()),
        not_after: unix_time(cert.validity().not_after.timestamp()),
    })
}

/// The SPIFFE ID of a leaf, with nothing else checked: for a chain that was verified before.
///
/// # Errors
/// `LeafError` if it has not exactly one URI SAN that is a SPIFFE ID with a path.
pub fn id(leaf: &CertificateDer<'_>) -> Result<SpiffeId, LeafError> {
    id_of(&parse(leaf)?)
}

/// What a revocation may name of a leaf, with nothing else checked: for a chain that was verified before.
///
/// # Errors
/// `LeafError` if it has not exactly one URI SAN that is a SPIFFE ID with a path.
pub fn peer(leaf: &CertificateDer<'_>) -> Result<PeerLeaf, LeafError> {
    let cert = parse(leaf)?;
    let id = id_of(&cert)?;
    Ok(peer_of(&cert, id))
}

/// From when to when a certificate is valid, whatever else it says; `None` if it is none.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(UnixTime, UnixTime)> {
    let cert = parse(certificate).ok()?;
    let validity = cert.validity();
    Some((
        unix_time(validity.not_before.timestamp()),
        unix_time(validity.not_after.timestamp()),
    ))
}

fn peer_of(cert: &X509Certificate<'_>, id: SpiffeId) -> PeerLeaf {
    let mut units = cert.subject().iter_organizational_unit();
    let node = units.find_map(|unit| {
        let name = unit.as_str().ok()?.strip_prefix(NODE_UNIT)?;
        NodeName::parse(name).ok()
    });
    PeerLeaf {
        id,
        serial: Serial::of_bytes(cert.raw_serial()),
        node,
    }
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, LeafError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) | Err(_) => Err(LeafError::Parse),
    }
}

fn id_of(cert: &X509Certificate<'_>) -> Result<SpiffeId, LeafError> {
    let san = cert
        .subject_alternative_name()
        .map_err(|_e| LeafError::Parse)?
        .ok_or(LeafError::NoUri)?;
    // A URI that is not text counts too: it must not hide beside a good one.
    let mut uris = san
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(Some(*uri)),
            GeneralName::Invalid(tag, _) if tag.0 == TAG_URI => Some(None),
            GeneralName::OtherName(..)
            | GeneralName::RFC822Name(_)
            | GeneralName::DNSName(_)
            | GeneralName::X400Address(_)
            | GeneralName::DirectoryName(_)
            | GeneralName::EDIPartyName(_)
            | GeneralName::IPAddress(_)
            | GeneralName::RegisteredID(_)
            | GeneralName::Invalid(..) => None,
        });
    let uri = uris.next().ok_or(LeafError::NoUri)?;
    if uris.next().is_some() {
        return Err(LeafError::SeveralUris);
    }
    let uri = uri.ok_or(LeafError::Id(SpiffeIdError::Path))?;
    let id = SpiffeId::parse(uri).map_err(LeafError::Id)?;
    if id.path().is_empty() {
        return Err(LeafError::NoPath);
    }
    if cert.subject().iter_rdn().next().is_none() && !san.critical {
        return Err(LeafError::SanNotCritical);
    }
    Ok(id)
}

fn check_constraints(cert: &X509Certificate<'_>) -> Result<(), LeafError> {
    let constraints = cert.basic_constraints().map_err(|_e| LeafError::Parse)?;
    if constraints.is_some_and(|c| c.value.ca) {
        Err(LeafError::Authority)
    } else {
        Ok(())
    }
}

fn check_usages(cert: &X509Certificate<'_>) -> Result<(), LeafError> {
    let usage = cert
        .key_usage()
        .map_err(|_e| LeafError::Parse)?
        .ok_or(LeafError::KeyUsage)?;
    let flags = usage.value;
    if !usage.critical || !flags.digital_signature() || flags.key_cert_sign() || flags.crl_sign() {
        return Err(LeafError::KeyUsage);
    }
    match cert.extended_key_usage().map_err(|_e| LeafError::Parse)? {
        Some(extended) if !(extended.value.client_auth && extended.value.server_auth) => {
            Err(LeafError::ExtendedKeyUsage)
        }
        Some(_) | None => Ok(()),
    }
}

fn check_key(cert: &X509Certificate<'_>) -> Result<(), LeafError> {
    use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519};
    let spki = cert.public_key();
    if spki.algorithm.algorithm == OID_SIG_ED25519 {
        return Ok(());
    }
    let good = match spki.parsed().map_err(|_e| LeafError::Key)? {
        PublicKey::RSA(rsa) => rsa.key_size() >= RSA_BITS,
        PublicKey::EC(_) => {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|p| p.as_oid().ok());
            curve.is_some_and(|oid| oid == OID_EC_P256 || oid == OID_NIST_EC_P384)
        }
        PublicKey::DSA(_)
        | PublicKey::GostR3410(_)
        | PublicKey::GostR3410_2012(_)
        | PublicKey::Unknown(_) => false,
    };
    if good { Ok(()) } else { Err(LeafError::Key) }
}
