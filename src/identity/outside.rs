//! Servers outside the mesh: a chain to given roots and one of the names that are expected (RFC 9525).

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use thiserror::Error as ThisError;

use crate::vocab::limits;

/// Why there is no configuration.
#[derive(Debug, ThisError)]
pub enum OutsideError {
    /// Neither a DNS name nor an IP address.
    #[error("`{0}` is neither a DNS name nor an IP address")]
    Name(String),
    /// The provider refuses the protocol versions.
    #[error("TLS 1.2 and 1.3 are not available")]
    Version(#[source] Error),
}

/// Verifies a server by its chain, `extKeyUsage` serverAuth and one of `names`; without any, by the name that it was
/// connected to. Names are those of the certificate's subjectAltName alone, never its CN, and a wildcard there stands
/// for one whole label before at least two others.
#[derive(Debug)]
pub struct OutsideVerifier {
    roots: Arc<RootCertStore>,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl OutsideVerifier {
    /// A verifier that accepts any of `names`, DNS names or IP addresses.
    ///
    /// # Errors
    /// `OutsideError::Name` for another word.
    pub fn new(roots: Arc<RootCertStore>, names: &[String]) -> Result<Self, OutsideError> {
        let name = |text: &String| {
            ServerName::try_from(text.clone()).map_err(|_e| OutsideError::Name(text.clone()))
        };
        Ok(Self {
            roots,
            names: names.iter().map(name).collect::<Result<_, _>>()?,
            provider: Arc::new(aws_lc_rs::default_provider()),
        })
    }
}

/// A client that verifies so; `alpn` in order of preference.
///
/// # Errors
/// `OutsideError`.
pub fn client_config(
    roots: Arc<RootCertStore>,
    names: &[String],
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, OutsideError> {
    let verifier = OutsideVerifier::new(roots, names)?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&verifier.provider))
        .with_safe_default_protocol_versions()
        .map_err(OutsideError::Version)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.enable_secret_extraction = true; // `record` takes over after the handshake
    Ok(Arc::new(config))
}

impl ServerCertVerifier for OutsideVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if intermediates.len() >= limits::SVID_CHAIN_CERTS {
            return Err(CertificateError::BadEncoding.into());
        }
        let cert = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &cert,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        let Some((first, others)) = self.names.split_first() else {
            verify_server_name(&cert, server_name)?;
            return Ok(ServerCertVerified::assertion());
        };
        let outcome = verify_server_name(&cert, first);
        if outcome.is_ok() || others.iter().any(|n| verify_server_name(&cert, n).is_ok()) {
            return Ok(ServerCertVerified::assertion());
        }
        outcome.map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    struct Bench {
        root: CertificateDer<'static>,
        issuer: Issuer<'static, KeyPair>,
    }

    impl Bench {
        fn new() -> Self {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&key).unwrap().der().clone();
            let issuer = Issuer::new(params, key);
            Self { root, issuer }
        }

        fn leaf(
            &self,
            sans: &[&str],
            usage: Option<ExtendedKeyUsagePurpose>,
        ) -> CertificateDer<'static> {
            let sans: Vec<String> = sans.iter().map(|s| (*s).to_owned()).collect();
            let mut params = CertificateParams::new(sans).unwrap();
            params
                .distinguished_name
                .push(DnType::CommonName, "cn.test");
            params.extended_key_usages = usage.into_iter().collect();
            let key = KeyPair::generate().unwrap();
            params.signed_by(&key, &self.issuer).unwrap().der().clone()
        }

        fn accepts(&self, leaf: &CertificateDer<'_>, names: &[&str], connected: &str) -> bool {
            let mut roots = RootCertStore::empty();
            roots.add(self.root.clone()).unwrap();
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let verifier = OutsideVerifier::new(Arc::new(roots), &names).unwrap();
            let connected = ServerName::try_from(connected.to_owned()).unwrap();
            verifier
                .verify_server_cert(leaf, &[], &connected, &[], UnixTime::now())
                .is_ok()
        }
    }

    #[test]
    fn any_of_the_names_and_no_other() {
        let bench = Bench::new();
        let leaf = bench.leaf(&["a.test", "*.b.test", "192.0.2.7"], None);
        for (names, connected, want) in [
            (&[][..], "a.test", true),
            (&[], "x.b.test", true),
            (&[], "192.0.2.7", true),
            (&[], "other.test", false),
            (&[], "cn.test", false),
            (&["cn.test"], "a.test", false),
            (&["other.test"], "a.test", false),
            (&["other.test", "a.test"], "other.test", true),
            (&["192.0.2.7"], "other.test", true),
            (&["192.0.2.8"], "a.test", false),
            (&["A.TEST"], "other.test", true),
        ] {
            assert_eq!(
                bench.accepts(&leaf, names, connected),
                want,
                "{names:?} {connected}"
            );
        }
    }

    #[test]
    fn a_name_in_the_subject_alone_is_none() {
        let bench = Bench::new();
        let leaf = bench.leaf(&[], None);
        assert!(!bench.accepts(&leaf, &[], "cn.test"));
        assert!(!bench.accepts(&leaf, &["cn.test"], "cn.test"));
    }

    #[test]
    fn usage_and_chain_hold_for_configured_names_too() {
        let bench = Bench::new();
        for (usage, want) in [
            (None, true),
            (Some(ExtendedKeyUsagePurpose::ServerAuth), true),
            (Some(ExtendedKeyUsagePurpose::ClientAuth), false),
            (Some(ExtendedKeyUsagePurpose::CodeSigning), false),
        ] {
            let leaf = bench.leaf(&["a.test"], usage.clone());
            assert_eq!(
                bench.accepts(&leaf, &["a.test"], "x.test"),
                want,
                "{usage:?}"
            );
        }
        let foreign = Bench::new().leaf(&["a.test"], None);
        assert!(!bench.accepts(&foreign, &["a.test"], "a.test"));
        let mut expired = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let past = time::OffsetDateTime::UNIX_EPOCH;
        (expired.not_before, expired.not_after) = (past, past + Duration::from_secs(9));
        let expired = expired
            .signed_by(&KeyPair::generate().unwrap(), &bench.issuer)
            .unwrap();
        assert!(!bench.accepts(expired.der(), &["a.test"], "a.test"));
    }

    #[test]
    fn names_are_exact() {
        for name in ["*.a.test", "", "a b", "spiffe://a/b"] {
            let made = OutsideVerifier::new(Arc::new(RootCertStore::empty()), &[name.to_owned()]);
            assert!(made.is_err(), "{name}");
        }
    }
}
