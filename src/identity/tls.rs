//! rustls configurations of the mesh: TLS 1.3, both sides with an SVID, names never looked at.
//!
//! The key exchange offers X25519MLKEM768 first. There is no resumption: every connection proves its peer's key anew, and a
//! certificate that has expired or is revoked, or a root that was withdrawn, ends at the next connection. What a chain of
//! certificates says is remembered ([`TrustBundles::with_revocations`]), the signature over the handshake never.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, InconsistentKeys, OtherError,
    PeerIncompatible, SignatureScheme,
};
use thiserror::Error;
use zeroize::Zeroize as _;

use super::bundle::TrustBundles;
use super::leaf;
use super::revocation::PeerLeaf;
use super::svid::Svid;
use super::verify::{SvidError, Usage, verify_peer};
use crate::vocab::spiffe::SpiffeId;

/// Why an SVID cannot be used for TLS.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The key cannot be read, or is not the leaf's.
    #[error("key of `{id}` cannot be used")]
    Key {
        /// Of the SVID.
        id: SpiffeId,
        /// rustls's reason.
        #[source]
        source: rustls::Error,
    },
    /// The provider refuses the protocol version.
    #[error("TLS 1.3 is not available")]
    Version(#[source] rustls::Error),
}

/// What the server asks of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client without a certificate fails the handshake.
    Required,
    /// A client may come without a certificate; one that it sends must be good.
    Optional,
}

/// Verifies the SVID of a client that shows one, where TLS is served to others too: a certificate is not demanded.
#[must_use]
pub fn optional_client(bundles: Arc<TrustBundles>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(PeerVerifier {
        bundles,
        expected: Expected::AnyOfBundles,
        client_auth: ClientAuth::Optional,
    })
}

/// Whom the client accepts as its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any ID that a bundle vouches for.
    AnyOfBundles,
    /// One of these; none of them if empty.
    OneOf(BTreeSet<SpiffeId>),
}

impl Expected {
    /// Exactly this ID.
    #[must_use]
    pub fn only(id: SpiffeId) -> Self {
        Self::OneOf(BTreeSet::from([id]))
    }

    fn accepts(&self, id: &SpiffeId) -> bool {
        match self {
            Self::AnyOfBundles => true,
            Self::OneOf(ids) => ids.contains(id),
        }
    }
}

/// Reason in the TLS error of a server that proved another identity than the expected one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("peer is `{0}`, which is not an expected identity")]
pub struct UnexpectedPeer(pub SpiffeId);

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            // First what is cheaper: a key schedule by SHA-256, which processors have instructions for, and fewer rounds of
            // AES. The certificates' curves are no stronger than 128 bits (docs/decisions/0020).
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
            aws_lc_rs::kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    })
});

/// The cryptography of the mesh: AES-GCM suites of TLS 1.3, X25519MLKEM768 first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Chain and key in rustls's form. Make it once per SVID and share it between the configurations.
///
/// # Errors
/// `TlsError::Key` if the key cannot be read or does not belong to the leaf.
pub fn certified_key(svid: &Svid) -> Result<Arc<CertifiedKey>, TlsError> {
    let fail = |source| TlsError::Key {
        id: svid.id.clone(),
        source,
    };
    certified(svid.chain.clone(), svid.key.clone_key()).map_err(fail)
}

/// A chain with its key, whose DER is wiped.
///
/// # Errors
/// The key cannot be read, or does not belong to the leaf.
pub fn certified(
    chain: Vec<CertificateDer<'static>>,
    mut key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let signs = any_supported_type(&key);
    key.zeroize();
    let certified = CertifiedKey::new(chain, signs?);
    match certified.keys_match() {
        // A kind of key that does not tell its public part.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Ok(Arc::new(certified))
        }
        Err(error) => Err(error),
    }
}

/// The server side. `alpn` in order of preference; a client that offers none is accepted, one that offers only
/// others is not.
///
/// # Errors
/// `TlsError` if the SVID's key cannot be used.
pub fn mesh_server_config(
    svid: &Svid,
    bundles: Arc<TrustBundles>,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let key = certified_key(svid)?;
    let verifier = Arc::new(PeerVerifier {
        bundles,
        expected: Expected::AnyOfBundles,
        client_auth,
    });
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Version)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true; // `record` takes over after the handshake
    Ok(Arc::new(config))
}

/// The client side. No SNI is sent; connect with [`server_name`].
///
/// # Errors
/// `TlsError` if the SVID's key cannot be used.
pub fn mesh_client_config(
    svid: &Svid,
    bundles: Arc<TrustBundles>,
    alpn: &[&[u8]],
    expected: Expected,
) -> Result<Arc<ClientConfig>, TlsError> {
    let key = certified_key(svid)?;
    let verifier = Arc::new(PeerVerifier {
        bundles,
        expected,
        client_auth: ClientAuth::Required,
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Version)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.enable_secret_extraction = true; // `record` takes over after the handshake
    Ok(Arc::new(config))
}

/// The server name to connect with: rustls wants one, the mesh has none (ztunnel uses the same).
#[must_use]
pub fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

/// The identity of a peer whose chain the handshake has already verified; `None` if it sent none.
#[must_use]
pub fn peer_id(certs: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    leaf::id(certs.first()?).ok()
}

/// What a revocation may name of a peer whose chain the handshake has already verified; `None` if it sent none.
#[must_use]
pub fn peer_leaf(certs: &[CertificateDer<'_>]) -> Option<PeerLeaf> {
    leaf::peer(certs.first()?).ok()
}

/// Both verifiers: they differ in the usage that they ask for.
#[derive(Debug)]
struct PeerVerifier {
    bundles: Arc<TrustBundles>,
    expected: Expected,
    client_auth: ClientAuth,
}

impl PeerVerifier {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), rustls::Error> {
        let peer =
            verify_peer(end_entity, intermediates, &self.bundles, now, usage).map_err(tls_error)?;
        if self.expected.accepts(&peer.id) {
            return Ok(());
        }
        let reason = CertificateError::Other(OtherError(Arc::new(UnexpectedPeer(peer.id.clone()))));
        Err(rustls::Error::InvalidCertificate(reason))
    }

    fn verify_signature(
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &PROVIDER.signature_verification_algorithms,
        )
    }
}

/// TLS 1.2 is not configured; a signature of it is a bug or an attack.
fn no_tls12() -> rustls::Error {
    rustls::Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)
}

/// The alert follows from the variant (RFC 8446 section 6.2); the reason stays in the source.
fn tls_error(error: SvidError) -> rustls::Error {
    let plain = match &error {
        SvidError::UnknownTrustDomain(_) => Some(CertificateError::UnknownIssuer),
        SvidError::RootTime => Some(CertificateError::Expired),
        SvidError::Revoked(_) => Some(CertificateError::Revoked),
        SvidError::Chain { source, .. } => plain_reason(source),
        SvidError::Empty
        | SvidError::TooLong
        | SvidError::Leaf(_)
        | SvidError::IssuerKeyUsage
        | SvidError::RootPathLen => None,
    };
    let reason = plain.unwrap_or_else(|| CertificateError::Other(OtherError(Arc::new(error))));
    rustls::Error::InvalidCertificate(reason)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "webpki's error is open ended; the rest keeps its text as a source"
)]
fn plain_reason(error: &webpki::Error) -> Option<CertificateError> {
    match *error {
        webpki::Error::CertExpired { .. } => Some(CertificateError::Expired),
        webpki::Error::CertNotValidYet { .. } => Some(CertificateError::NotValidYet),
        webpki::Error::UnknownIssuer => Some(CertificateError::UnknownIssuer),
        webpki::Error::InvalidSignatureForPublicKey => Some(CertificateError::BadSignature),
        _ => None,
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        match self.client_auth {
            ClientAuth::Required => true,
            ClientAuth::Optional => false,
        }
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Usage::Client)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Usage::Server)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Self::verify_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        PROVIDER
            .signature_verification_algorithms
            .supported_schemes()
    }
}
