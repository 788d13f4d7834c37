//! An HBONE server of the test's own, which writes down what our node sends.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderMap, Method, Request, Response};
use rustls::pki_types::CertificateDer;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};

use crate::app::PATIENCE;
use crate::tunnel::identity;

/// One CONNECT as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Number of the TCP connection, from 0.
    pub(crate) connection: usize,
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    /// The client's leaf.
    pub(crate) client: Vec<u8>,
    pub(crate) sni: Option<String>,
}

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Status of every answer; 200 echoes.
    pub(crate) status: u16,
    /// `MAX_CONCURRENT_STREAMS`.
    pub(crate) streams: u32,
    /// Says GOAWAY after the first stream of each connection.
    pub(crate) goaway: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            status: 200,
            streams: 100,
            goaway: false,
        }
    }
}

/// It listens until the process ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Far {
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Takes any client certificate and demands one.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS as the workload whose identity is in `dir`.
pub(crate) fn server(dir: &Path) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, key) = identity(dir);
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anyone(provider)))
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

impl Far {
    /// Serves at `address`.
    pub(crate) fn start(address: &str, dir: &Path, manner: Manner) -> Self {
        let this = Self::default();
        let listener = TcpListener::bind(address).unwrap();
        let config = server(dir);
        let shared = this.clone();
        std::thread::spawn(move || {
            for (number, tcp) in listener.incoming().flatten().enumerate() {
                let (config, this) = (Arc::clone(&config), shared.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build();
                    let local = tokio::task::LocalSet::new();
                    local.block_on(
                        &runtime.unwrap(),
                        this.connection(tcp, config, manner, number),
                    );
                });
            }
        });
        this
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        config: Arc<ServerConfig>,
        manner: Manner,
        number: usize,
    ) {
        tcp.set_nonblocking(true).unwrap();
        let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
        let Ok(tls) = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await else {
            return;
        };
        let session = tls.get_ref().1;
        let client = session.peer_certificates().unwrap()[0].to_vec();
        let sni = session.server_name().map(str::to_owned);
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = h2::server::Builder::new();
        let Ok(mut connection) = builder
            .max_concurrent_streams(manner.streams)
            .handshake::<_, Bytes>(tls)
            .await
        else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            let seen = Seen {
                connection: number,
                method: request.method().clone(),
                uri: request.uri().to_string(),
                headers: request.headers().clone(),
                client: client.clone(),
                sni: sni.clone(),
            };
            self.seen.lock().unwrap().push(seen);
            tokio::task::spawn_local(stream(request, respond, manner.status));
            if manner.goaway {
                connection.graceful_shutdown();
            }
        }
    }

    /// Waits for `n` of them and takes all.
    pub(crate) fn await_seen(&self, n: usize) -> Vec<Seen> {
        let until = Instant::now() + PATIENCE;
        while self.seen.lock().unwrap().len() < n {
            assert!(Instant::now() < until, "{:?}", self.seen.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// Answers, and echoes what comes; the first line may ask for a reset.
async fn stream(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, status: u16) {
    let response = Response::builder().status(status).body(()).unwrap();
    let Ok(mut send) = respond.send_response(response, status != 200) else {
        return;
    };
    let mut body = request.into_body();
    while let Some(Ok(piece)) = body.data().await {
        drop(body.flow_control().release_capacity(piece.len()));
        let reason = match &piece[..] {
            b"reset\n" => Some(h2::Reason::CONNECT_ERROR),
            b"cancel\n" => Some(h2::Reason::CANCEL),
            _ => None,
        };
        if let Some(reason) = reason {
            return send.send_reset(reason);
        }
        if send.send_data(piece, false).is_err() {
            return;
        }
    }
    drop(send.send_data(Bytes::new(), true));
}

/// One TLS connection at `address`, to be spoken to frame by frame.
pub(crate) fn raw(listener: &TcpListener, dir: &Path) -> (crate::frames::Wire, SocketAddr) {
    let (tcp, peer) = listener.accept().unwrap();
    let session = rustls::ServerConnection::new(server(dir)).unwrap();
    let mut tls = rustls::StreamOwned::new(session, tcp);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock).unwrap();
    }
    (crate::frames::Wire::over(tls), peer)
}
