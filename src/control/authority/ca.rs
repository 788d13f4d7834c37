//! Certificates of the authority: profiles of root, issuing CA, X509-SVID and server, and the reading of requests.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::{Zeroize as _, Zeroizing};

use super::IssueError;
use crate::identity::leaf::NODE_UNIT;
use crate::identity::pem;
use crate::identity::revocation::NodeName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

const DAY_S: u64 = 24 * 3600;
const ROOT_DAYS: u64 = 3650;
const ISSUING_DAYS: u64 = 365;
/// Clocks of peers may be this much behind.
const SKEW_S: u64 = 60;

/// A certificate authority: certificate and key.
pub(super) struct Ca {
    certificate: CertificateDer<'static>,
    /// Between it and its root, if it was given with some.
    above: Vec<CertificateDer<'static>>,
    issuer: Issuer<'static, KeyPair>,
    not_before: UnixTime,
    not_after: UnixTime,
}

/// Why certificate and key are no authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Not the PEM of a certificate.
    Certificate,
    /// Not the PEM of a P-256 key.
    Key,
    /// The key is not the certificate's.
    Pair,
}

/// What a leaf is called.
#[derive(Debug)]
pub(super) struct Names {
    sans: Vec<SanType>,
    /// The node that it is issued to.
    node: Option<NodeName>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

/// Whose key a leaf is for.
#[derive(Debug)]
pub(super) enum Subject {
    /// A new P-256 key.
    NewKey,
    /// The key of a request.
    Key(rcgen::PublicKey),
}

/// A leaf.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Only for [`Subject::NewKey`].
    pub(super) key: Option<PrivateKeyDer<'static>>,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
}

/// A certificate signing request whose signature is right.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: SpiffeId,
    pub(super) dns_names: Vec<String>,
    pub(super) public_key: rcgen::PublicKey,
}

impl Ca {
    /// A self-signed root: path length 1, ten years.
    pub(super) fn new_root(trust_domain: &TrustDomain, now: UnixTime) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Certificate)?;
        let (params, validity) = ca_params(
            trust_domain,
            "root",
            1,
            now,
            now.as_secs() + ROOT_DAYS * DAY_S,
        )?;
        let certificate = params.self_signed(&key).map_err(IssueError::Certificate)?;
        Ok(Self::new(
            certificate.into(),
            Issuer::new(params, key),
            validity,
        ))
    }

    /// An issuing CA below this root: path length 0, one year or as long as the root.
    pub(super) fn new_issuing(
        &self,
        trust_domain: &TrustDomain,
        now: UnixTime,
    ) -> Result<Self, IssueError> {
        let key = KeyPair::generate().map_err(IssueError::Certificate)?;
        let until = self
            .not_after
            .as_secs()
            .min(now.as_secs() + ISSUING_DAYS * DAY_S);
        let (params, validity) = ca_params(trust_domain, "issuing", 0, now, until)?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(IssueError::Certificate)?;
        Ok(Self::new(
            certificate.into(),
            Issuer::new(params, key),
            validity,
        ))
    }

    fn new(
        certificate: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
        (not_before, not_after): (UnixTime, UnixTime),
    ) -> Self {
        Self {
            certificate,
            above: Vec::new(),
            issuer,
            not_before,
            not_after,
        }
    }

    /// Reads certificate and key.
    pub(super) fn parse(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Self, Unfit> {
        let found = pem::certificates(certificate_pem).map_err(|_e| Unfit::Certificate)?;
        let mut found = found.into_iter();
        let certificate = found.next().ok_or(Unfit::Certificate)?;
        let key = key_block(key_pem).ok_or(Unfit::Key)?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|_e| Unfit::Certificate)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Unfit::Pair);
        }
        let bound = |time: i64| {
            UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(time).unwrap_or(0)))
        };
        let validity = (
            bound(parsed.validity().not_before.timestamp()),
            bound(parsed.validity().not_after.timestamp()),
        );
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|_e| Unfit::Certificate)?;
        Ok(Self {
            above: found.collect(),
            ..Self::new(certificate.clone(), issuer, validity)
        })
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn validity(&self) -> (UnixTime, UnixTime) {
        (self.not_before, self.not_after)
    }

    pub(super) fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        pem::encode_key(self.issuer.key().serialized_der())
    }

    /// Certificate and key in one text, so that one rename replaces both.
    pub(super) fn bundle_pem(&self) -> Zeroizing<String> {
        let (certificate, key) = (self.certificate_pem(), self.key_pem());
        Zeroizing::new([certificate.as_str(), key.as_str()].concat())
    }

    /// The trust domain in the certificate's URI SAN.
    pub(super) fn trust_domain(&self) -> Option<String> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        let san = parsed.subject_alternative_name().ok()??;
        san.value.general_names.iter().find_map(|name| {
            if let GeneralName::URI(uri) = name {
                uri.strip_prefix("spiffe://").map(str::to_owned)
            } else {
                None
            }
        })
    }

    /// Signs a leaf: critical digitalSignature, no CA, 60 s back for slow clocks, never longer than this CA.
    pub(super) fn issue(
        &self,
        names: &Names,
        subject: &Subject,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Issued, IssueError> {
        let not_before =
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_sub(SKEW_S)));
        let until = now
            .as_secs()
            .saturating_add(ttl.as_secs())
            .min(self.not_after.as_secs());
        if until <= now.as_secs() || now.as_secs() < self.not_before.as_secs() {
            return Err(IssueError::Time);
        }
        let not_after = UnixTime::since_unix_epoch(Duration::from_secs(until));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(node) = &names.node {
            let unit = format!("{NODE_UNIT}{node}");
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, unit);
        }
        params.not_before = date(not_before)?;
        params.not_after = date(not_after)?;
        params.serial_number = Some(serial()?);
        params.subject_alt_names.clone_from(&names.sans);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages.clone_from(&names.usages);
        params.use_authority_key_identifier_extension = true;
        let (certificate, key) = match subject {
            Subject::Key(public) => (params.signed_by(public, &self.issuer), None),
            Subject::NewKey => {
                let pair = KeyPair::generate().map_err(IssueError::Certificate)?;
                let der = PrivatePkcs8KeyDer::from(pair.serialize_der());
                (
                    params.signed_by(&pair, &self.issuer),
                    Some(PrivateKeyDer::Pkcs8(der)),
                )
            }
        };
        let leaf = certificate.map_err(IssueError::Certificate)?.into();
        Ok(Issued {
            chain: [leaf, self.certificate.clone()]
                .into_iter()
                .chain(self.above.iter().cloned())
                .collect(),
            key,
            not_before,
            not_after,
        })
    }
}

impl Names {
    /// An X509-SVID: client and server.
    pub(super) fn svid(
        id: &SpiffeId,
        dns_names: &[String],
        node: Option<&NodeName>,
    ) -> Result<Self, IssueError> {
        let mut sans = vec![SanType::URI(ia5(id.as_str())?)];
        for name in dns_names {
            sans.push(SanType::DnsName(dns(name)?));
        }
        Ok(Self {
            sans,
            node: node.cloned(),
            usages: vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        })
    }

    /// A server outside the mesh's identities.
    pub(super) fn server(dns_names: &[String], addresses: &[IpAddr]) -> Result<Self, IssueError> {
        let mut sans = Vec::new();
        for name in dns_names {
            sans.push(SanType::DnsName(dns(name)?));
        }
        sans.extend(addresses.iter().copied().map(SanType::IpAddress));
        Ok(Self {
            sans,
            node: None,
            usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        })
    }
}

impl Request {
    /// Reads PKCS#10 in PEM. The key must be P-256; what else the request asks for must be in an SVID anyway.
    pub(super) fn parse(csr_pem: &str) -> Result<Self, IssueError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|_e| {
            IssueError::Csr(
                "not a PKCS#10 request with a valid signature, or an extension is unknown",
            )
        })?;
        if request.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::Csr("key is not P-256"));
        }
        if matches!(request.params.is_ca, IsCa::Ca(_)) {
            return Err(IssueError::Csr("asks for a certificate authority"));
        }
        let mut id = None;
        let mut dns_names = Vec::new();
        for san in &request.params.subject_alt_names {
            match san {
                SanType::URI(uri) if id.is_none() => {
                    id = Some(
                        SpiffeId::parse(uri.as_str())
                            .map_err(|_e| IssueError::Csr("URI is not a SPIFFE ID"))?,
                    );
                }
                SanType::URI(_) => return Err(IssueError::Csr("more than one URI")),
                SanType::DnsName(name) => dns_names.push(name.as_str().to_owned()),
                SanType::Rfc822Name(_) | SanType::IpAddress(_) | SanType::OtherName(_) | _ => {
                    return Err(IssueError::Csr("names other than URI and DNS"));
                }
            }
        }
        let id = id.ok_or(IssueError::Csr("no URI"))?;
        Ok(Self {
            id,
            dns_names,
            public_key: request.public_key,
        })
    }
}

/// The first private key block of a PEM text.
pub(super) fn key_block(pem: &[u8]) -> Option<KeyPair> {
    let mut key = pem::private_key(pem).ok()?;
    let pair = if let PrivateKeyDer::Pkcs8(der) = &key {
        KeyPair::from_pkcs8_der_and_sign_algo(der, &rcgen::PKCS_ECDSA_P256_SHA256).ok()
    } else {
        None
    };
    key.zeroize();
    pair
}

fn ca_params(
    trust_domain: &TrustDomain,
    what: &str,
    path_len: u8,
    now: UnixTime,
    until: u64,
) -> Result<(CertificateParams, (UnixTime, UnixTime)), IssueError> {
    if until <= now.as_secs() {
        return Err(IssueError::Time);
    }
    let not_before =
        UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_sub(SKEW_S)));
    let not_after = UnixTime::since_unix_epoch(Duration::from_secs(until));
    let serial_number = serial()?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    name.push(DnType::CommonName, format!("ringgate {what} CA"));
    // Two CAs of the same kind differ in their names, so that a peer's path builder does not confuse them.
    name.push(
        DnType::CustomDnType(vec![2, 5, 4, 5]),
        serial_number.to_string(),
    );
    params.distinguished_name = name;
    params.serial_number = Some(serial_number);
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{trust_domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    Ok((params, (not_before, not_after)))
}

fn serial() -> Result<SerialNumber, IssueError> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_e| IssueError::Random)?;
    // Positive and of full length (RFC 5280 section 4.1.2.2).
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn date(time: UnixTime) -> Result<OffsetDateTime, IssueError> {
    let seconds = i64::try_from(time.as_secs()).map_err(|_e| IssueError::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_e| IssueError::Time)
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, IssueError> {
    rcgen::string::Ia5String::try_from(text).map_err(|_e| IssueError::Name(text.to_owned()))
}

fn dns(name: &str) -> Result<rcgen::string::Ia5String, IssueError> {
    let bad = || IssueError::Name(name.to_owned());
    // A leading `*.` is a wildcard (RFC 9525 section 6.3); the rest must be a DNS name.
    rustls::pki_types::DnsName::try_from(name.strip_prefix("*.").unwrap_or(name))
        .map_err(|_e| bad())?;
    ia5(name)
}
