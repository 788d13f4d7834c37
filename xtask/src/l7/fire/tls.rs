//! TLS of the load: full handshakes with a client certificate.
//!
//! The proxies' certificates are not verified, only that each has the key to its own: that would cost the load time and the
//! proxies none. Key exchange is X25519 with all, for not every peer has a hybrid one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context as _, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Shot;

/// Source addresses that connections are spread over, so that ports do not run out.
const SOURCES: u8 = 50;
/// First of them, in the last byte of the proxy's own subnet.
const FIRST_SOURCE: u8 = 100;

/// How to reach a proxy.
#[derive(Clone)]
pub(super) struct Dialer {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl Dialer {
    /// Reads the client's certificate and key.
    pub(super) fn new(shot: &Shot, alpn: &str) -> Result<Self> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1],
            ..aws_lc_rs::default_provider()
        });
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified(provider)));
        let mut config = match &shot.identity {
            Some(directory) => {
                let chain = directory.join("cert-chain.pem");
                let chain = CertificateDer::pem_file_iter(&chain)
                    .with_context(|| chain.display().to_string())?
                    .collect::<Result<Vec<_>, _>>()?;
                let key = PrivateKeyDer::from_pem_file(directory.join("key.pem"))?;
                config.with_client_auth_cert(chain, key)?
            }
            None => config.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(Self {
            address: shot.address,
            name: ServerName::try_from(shot.sni.clone())?,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// A new connection with a full handshake.
    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(source(self.address.ip()))?;
        let tcp = socket
            .connect(self.address)
            .await
            .with_context(|| format!("cannot connect to {}", self.address))?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(self.name.clone(), tcp).await;
        tls.context("TLS handshake")
    }
}

/// The next source address of the proxy's own loopback subnet.
fn source(proxy: IpAddr) -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let [a, b, c, _] = match proxy {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => Ipv4Addr::LOCALHOST.octets(),
    };
    let last = FIRST_SOURCE + NEXT.fetch_add(1, Ordering::Relaxed) % SOURCES;
    SocketAddr::from(([a, b, c, last], 0))
}

/// Takes any certificate whose key the server has.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_of_the_proxys_subnet() {
        let proxy = IpAddr::from([127, 70, 3, 10]);
        let (one, other) = (source(proxy), source(proxy));
        assert_ne!(one, other);
        for source in [one, other] {
            assert!(
                source.ip().to_string().starts_with("127.70.3.1"),
                "{source}"
            );
        }
    }
}
