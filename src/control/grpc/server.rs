//! The serving side of the certificate service.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{ALPN, CertificateRequest, CertificateResponse, PATH};
use crate::control::authority::grant::{Grant, JoinTokens};
use crate::control::authority::{Authority, IssueError, TTL_MAX};
use crate::control::svid::Clock;
use crate::identity::pem;
use crate::identity::rotation::next_rotation;
use crate::identity::tls;
use crate::vocab::limits;

const STREAMS: u32 = 16;
const HEADER_BYTES: u32 = 16 * 1024;
const REQUEST: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the service cannot start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The listener's own address is unknown.
    #[error("listener has no address")]
    Address(#[source] std::io::Error),
    /// The authority cannot issue the server's certificate.
    #[error("no certificate for the certificate service")]
    Certificate(#[source] IssueError),
    /// rustls refuses it.
    #[error("certificate of the certificate service cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Signs requests for those who hold a join token.
#[derive(Clone)]
pub struct CertificateService {
    inner: Arc<Inner>,
}

struct Inner {
    authority: Arc<Authority>,
    tokens: JoinTokens,
    ttl: Duration,
    clock: Clock,
}

impl std::fmt::Debug for CertificateService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateService")
            .field("tokens", &self.inner.tokens)
            .finish_non_exhaustive()
    }
}

/// The server's certificate and when to replace it.
struct ServerTls {
    acceptor: TlsAcceptor,
    renew_at: UnixTime,
}

impl CertificateService {
    /// `ttl` is the lifetime of what it signs; a request may ask for less.
    #[must_use]
    pub fn new(authority: Arc<Authority>, tokens: JoinTokens, ttl: Duration, clock: Clock) -> Self {
        Self {
            inner: Arc::new(Inner {
                authority,
                tokens,
                ttl,
                clock,
            }),
        }
    }

    /// Serves until the future is dropped. Its own certificate names the listener's address, `localhost` and
    /// `dns_names`.
    ///
    /// # Errors
    /// `ServeError` if there is no certificate to start with.
    pub async fn serve(
        self,
        listener: TcpListener,
        dns_names: Vec<String>,
    ) -> Result<Infallible, ServeError> {
        let address = listener.local_addr().map_err(ServeError::Address)?;
        let mut names = vec!["localhost".to_owned()];
        names.extend(dns_names);
        let mut tls = self.server_tls(&names, address)?;
        let places = Arc::new(Semaphore::new(limits::CERTIFICATE_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            // Past the bound new connections wait in the kernel's queue.
            let place = Arc::clone(&places).acquire_owned().await;
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(error = &error as &dyn std::error::Error, "certificate service cannot accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                Some(_ended) = connections.join_next() => continue,
            };
            if (self.inner.clock)().as_secs() >= tls.renew_at.as_secs() {
                match self.server_tls(&names, address) {
                    Ok(renewed) => tls = renewed,
                    Err(error) => tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "certificate of the certificate service not renewed"
                    ),
                }
            }
            let (service, acceptor) = (self.clone(), tls.acceptor.clone());
            connections.spawn(async move {
                service.connection(acceptor, stream, peer).await;
                drop(place);
            });
        }
    }

    fn server_tls(&self, names: &[String], address: SocketAddr) -> Result<ServerTls, ServeError> {
        let now = (self.inner.clock)();
        let addresses = if address.ip().is_unspecified() {
            vec![
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]
        } else {
            vec![address.ip()]
        };
        let certificate = self
            .inner
            .authority
            .issue_server(names, &addresses, TTL_MAX, now)
            .map_err(ServeError::Certificate)?;
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(ServeError::Tls)?
            .with_no_client_auth()
            .with_single_cert(certificate.chain, certificate.key)
            .map_err(ServeError::Tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(ServerTls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            renew_at: next_rotation(now, certificate.not_after, 0.5),
        })
    }

    async fn connection(self, acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) {
        let handshake = Duration::from_millis(limits::HANDSHAKE_MS);
        let stream = match timeout(handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%peer, error = &error as &dyn std::error::Error, "handshake failed");
                return;
            }
            Err(_elapsed) => return,
        };
        let answer = hyper::service::service_fn(move |request| {
            let service = self.clone();
            async move { Ok::<_, Infallible>(service.answer(request, peer).await) }
        });
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(PING)
            .serve_connection(TokioIo::new(stream), answer)
            .await;
        if let Err(error) = served {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection of the certificate service");
        }
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
        peer: SocketAddr,
    ) -> http::Response<tonic::body::Body> {
        if request.uri().path() != PATH {
            return Status::unimplemented("unknown method").into_http();
        }
        let codec: ProstCodec<CertificateResponse, CertificateRequest> = ProstCodec::new();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(limits::CERTIFICATE_MESSAGE_BYTES);
        match timeout(
            REQUEST,
            grpc.unary(
                Create {
                    service: self,
                    peer,
                },
                request,
            ),
        )
        .await
        {
            Ok(response) => response,
            Err(_elapsed) => Status::deadline_exceeded("request took too long").into_http(),
        }
    }

    fn create(
        &self,
        request: &Request<CertificateRequest>,
        peer: SocketAddr,
    ) -> Result<CertificateResponse, Status> {
        let grant = self.authenticate(request)?;
        let message = request.get_ref();
        let ttl = match u64::try_from(message.validity_duration) {
            Ok(asked) if asked > 0 => Duration::from_secs(asked).min(self.inner.ttl),
            Ok(_) | Err(_) => self.inner.ttl,
        };
        let now = (self.inner.clock)();
        let signed = self.inner.authority.sign_csr(&message.csr, grant, ttl, now);
        let (id, chain) = signed.map_err(|error| {
            tracing::warn!(%peer, error = &error as &dyn std::error::Error, "certificate request refused");
            Status::new(code(&error), error.to_string())
        })?;
        tracing::info!(%peer, %id, "certificate issued");
        let mut cert_chain: Vec<String> = chain
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der))
            .collect();
        cert_chain.push(pem::encode_certificates(&self.inner.authority.roots()));
        Ok(CertificateResponse { cert_chain })
    }

    fn authenticate<T>(&self, request: &Request<T>) -> Result<&Grant, Status> {
        let mut values = request.metadata().get_all("authorization").iter();
        let token = match (values.next(), values.next()) {
            (Some(value), None) => value
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix("Bearer ")),
            (None | Some(_), _) => None,
        };
        token
            .and_then(|token| self.inner.tokens.grant(token))
            .ok_or_else(|| Status::unauthenticated("no known join token"))
    }
}

fn code(error: &IssueError) -> Code {
    match error {
        IssueError::ForeignId(_) | IssueError::NotGranted(_) => Code::PermissionDenied,
        IssueError::Ttl | IssueError::Name(_) | IssueError::Csr(_) => Code::InvalidArgument,
        IssueError::Time
        | IssueError::Certificate(_)
        | IssueError::Token(_)
        | IssueError::Random
        | IssueError::Store(_) => Code::Internal,
    }
}

/// The method as tonic calls it.
struct Create {
    service: CertificateService,
    peer: SocketAddr,
}

impl tower_service::Service<Request<CertificateRequest>> for Create {
    type Response = Response<CertificateResponse>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<CertificateRequest>) -> Self::Future {
        std::future::ready(self.service.create(&request, self.peer).map(Response::new))
    }
}
