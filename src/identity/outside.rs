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
    roots: RootCertStore,
    names: Vec<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

impl OutsideVerifier {
    /// A verifier that accepts any of `names`, DNS names or IP addresses.
    ///
    /// # Errors
    /// `OutsideError::Name` for another word.
    pub fn new(roots: RootCertStore, names: &[String]) -> Result<Self, OutsideError> {
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
    roots: RootCertStore,
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
