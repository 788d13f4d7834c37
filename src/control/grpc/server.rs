//! The serving side of the certificate service.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::UnixTime;
use serde_json::Map;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Request, Status};

use super::answer::{frame, shared, unary};
use super::{
    ALPN, CertificateRequest, CertificateResponse, NEWS_PATH, NewsRequest, NewsResponse,
    NewsRevocation, PATH, TOKEN_PATH, TokenRequest, TokenResponse,
};
use crate::control::authority::grant::{Grant, JoinTokens};
use crate::control::authority::hold;
use crate::control::authority::join::JoinError;
use crate::control::authority::news::News;
use crate::control::authority::{Authority, IssueError, TTL_MAX, ledger};
use crate::control::svid::Clock;
use crate::identity::bundle::TrustBundles;
use crate::identity::pem;
use crate::identity::revocation::{NodeName, PeerLeaf};
use crate::identity::rotation::next_rotation;
use crate::identity::tls;
use crate::telemetry::audit::{Audit, Decided};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

const STREAMS: u32 = 16;
const HEADER_BYTES: u32 = 16 * 1024;
const REQUEST: Duration = Duration::from_secs(10);
const PING: Duration = Duration::from_secs(30);
/// How long a client may take to go after it was told to.
const GOODBYE: Duration = Duration::from_secs(1);
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

/// Signs requests for nodes and for those who hold a join token.
#[derive(Clone)]
pub struct CertificateService {
    inner: Arc<Parts>,
    /// What followers are told, by its version.
    told: Arc<ArcSwapOption<(String, Bytes)>>,
}

/// What the service is made of.
pub struct Parts {
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Tokens that may be used again and again; they may change.
    pub tokens: watch::Receiver<Arc<JoinTokens>>,
    /// Lifetimes of what it signs and of the SVIDs of nodes; a request may ask for less.
    pub lives: (Duration, Duration),
    /// The time.
    pub clock: Clock,
    /// Where is recorded who was given an identity, and who was not.
    pub audit: Option<Audit>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts")
            .field("authority", &self.authority)
            .field("lives", &self.lives)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for CertificateService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateService")
            .field("tokens", &*self.inner.tokens.borrow())
            .finish_non_exhaustive()
    }
}

/// The server's certificate and when to replace it.
struct ServerTls {
    acceptor: TlsAcceptor,
    renew_at: UnixTime,
    /// The root that signed it, and what clients are verified with.
    signed_by: u32,
    bundles: Arc<TrustBundles>,
}

/// Who asks.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    /// By the certificate that it showed in the handshake.
    leaf: Option<PeerLeaf>,
}

/// By what a caller may ask.
enum Proof<'a> {
    /// It is this node.
    Node(NodeName),
    /// It holds a token of the file of join tokens.
    Held(Grant),
    /// It holds a single-use token.
    Once(&'a str),
}

impl CertificateService {
    /// `ttl` is the lifetime of what it signs; a request may ask for less.
    #[must_use]
    pub fn new(authority: Arc<Authority>, tokens: JoinTokens, ttl: Duration, clock: Clock) -> Self {
        Self::of(Parts {
            authority,
            tokens: watch::Sender::new(Arc::new(tokens)).subscribe(),
            lives: (ttl, ttl),
            clock,
            audit: None,
        })
    }

    /// A service that is not yet reached.
    #[must_use]
    pub fn of(parts: Parts) -> Self {
        Self {
            inner: Arc::new(parts),
            told: Arc::default(),
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
        let mut hold = self.inner.authority.holds();
        // Another process may serve until then.
        hold::held(&mut hold).await;
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
                () = hold::gone(&mut hold) => break,
            };
            if self.is_stale(&tls) {
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
        // Nothing waits here for nobody, and a third process may bind the address should the second one end.
        drop(listener);
        // They end by themselves, and what they ask next is asked of the process that has taken over.
        while connections.join_next().await.is_some() {}
        std::future::pending().await
    }

    /// Half of its life is over, or roots have changed.
    fn is_stale(&self, tls: &ServerTls) -> bool {
        let authority = &self.inner.authority;
        (self.inner.clock)().as_secs() >= tls.renew_at.as_secs()
            || tls.signed_by != authority.signing_root()
            || !Arc::ptr_eq(&tls.bundles, &authority.bundles())
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
        let (signed_by, bundles) = (
            self.inner.authority.signing_root(),
            self.inner.authority.bundles(),
        );
        let certificate = self
            .inner
            .authority
            .issue_server(names, &addresses, TTL_MAX, now)
            .map_err(ServeError::Certificate)?;
        let mut config = ServerConfig::builder_with_provider(tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(ServeError::Tls)?
            .with_client_cert_verifier(tls::optional_client(Arc::clone(&bundles)))
            .with_single_cert(certificate.chain, certificate.key)
            .map_err(ServeError::Tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(ServerTls {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            renew_at: next_rotation(now, certificate.not_after, 0.5),
            signed_by,
            bundles,
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
        let certificates = stream.get_ref().1.peer_certificates();
        let caller = Caller {
            address: peer,
            leaf: certificates.and_then(tls::peer_leaf),
        };
        let mut hold = self.inner.authority.holds();
        let answer = hyper::service::service_fn(move |request| {
            let (service, caller) = (self.clone(), caller.clone());
            async move { Ok::<_, Infallible>(service.answer(request, caller).await) }
        });
        let served = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEADER_BYTES)
            .keep_alive_interval(PING)
            .serve_connection(TokioIo::new(stream), answer);
        tokio::pin!(served);
        let served = tokio::select! {
            served = &mut served => served,
            () = hold::gone(&mut hold) => {
                served.as_mut().graceful_shutdown();
                match timeout(GOODBYE, &mut served).await {
                    Ok(served) => served,
                    Err(_elapsed) => return,
                }
            }
        };
        if let Err(error) = served {
            tracing::debug!(%peer, error = &error as &dyn std::error::Error, "connection of the certificate service");
        }
    }

    async fn answer(
        self,
        request: http::Request<Incoming>,
        caller: Caller,
    ) -> http::Response<tonic::body::Body> {
        let (most, wait) = (
            limits::CERTIFICATE_MESSAGE_BYTES,
            Duration::from_millis(limits::NEWS_WAIT_MS),
        );
        match request.uri().path() {
            PATH => {
                let create = move |request: Request<CertificateRequest>| async move {
                    self.create(&request, &caller)
                };
                unary(request, most, REQUEST, create).await
            }
            NEWS_PATH => {
                let news = move |request: Request<NewsRequest>| async move {
                    self.news(&request, &caller).await
                };
                shared(request, most, wait.saturating_add(REQUEST), news).await
            }
            TOKEN_PATH => {
                let sign = move |request: Request<TokenRequest>| async move {
                    self.sign_token(&request, &caller)
                };
                unary(request, most, REQUEST, sign).await
            }
            _ => Status::unimplemented("unknown method").into_http(),
        }
    }

    fn create(
        &self,
        request: &Request<CertificateRequest>,
        caller: &Caller,
    ) -> Result<CertificateResponse, Status> {
        let signed = self.certify(request, caller);
        self.record(
            "CreateCertificate",
            caller,
            signed.as_ref().map(|(id, _)| id),
        );
        signed.map(|(_id, response)| response)
    }

    fn certify(
        &self,
        request: &Request<CertificateRequest>,
        caller: &Caller,
    ) -> Result<(SpiffeId, CertificateResponse), Status> {
        let proof = self.prove(request, caller)?;
        let message = request.get_ref();
        let asked = |most: Duration| match u64::try_from(message.validity_duration) {
            Ok(asked) if asked > 0 => Duration::from_secs(asked).min(most),
            Ok(_) | Err(_) => most,
        };
        let inner = &self.inner;
        let (ttl, node_ttl) = inner.lives;
        let (ttl, now) = (asked(ttl), (inner.clock)());
        let signed = match proof {
            Proof::Node(node) => {
                inner
                    .authority
                    .sign_for_node(&node, &message.csr, (ttl, node_ttl), now)
            }
            Proof::Held(grant) => inner
                .authority
                .sign_csr(&message.csr, &grant, ttl, now)
                .map_err(JoinError::Issue),
            Proof::Once(token) => inner.authority.join(token, &message.csr, node_ttl, now),
        };
        let peer = caller.address;
        let (id, chain) = signed.map_err(|error| {
            tracing::warn!(%peer, error = &error as &dyn std::error::Error, "certificate request refused");
            Status::new(join_code(&error), error.to_string())
        })?;
        tracing::info!(%peer, %id, "certificate issued");
        let mut cert_chain: Vec<String> = chain
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der))
            .collect();
        cert_chain.push(pem::encode_certificates(&inner.authority.roots()));
        Ok((id, CertificateResponse { cert_chain }))
    }

    /// Records who was given `id`, or why nobody was.
    fn record(&self, request: &'static str, caller: &Caller, given: Result<&SpiffeId, &Status>) {
        let Some(audit) = &self.inner.audit else {
            return;
        };
        let mut source = Map::new();
        source.insert("address".to_owned(), caller.address.to_string().into());
        if let Some(leaf) = &caller.leaf {
            source.insert("principal".to_owned(), leaf.id.to_string().into());
        }
        let (identities, reason) = match given {
            Ok(id) => (vec![id.to_string()], "granted"),
            Err(status) => (Vec::new(), status.message()),
        };
        audit.send(Decided {
            time: Duration::from_secs((self.inner.clock)().as_secs()),
            role: "authority",
            request,
            source,
            identities,
            allowed: given.is_ok(),
            reason: reason.to_owned(),
        });
    }

    /// Waits for something that the caller does not know.
    async fn news(&self, request: &Request<NewsRequest>, caller: &Caller) -> Result<Bytes, Status> {
        let known = &request.get_ref().version;
        let node = match self.prove(request, caller) {
            Ok(Proof::Node(node)) => Some(node),
            Ok(Proof::Held(_)) => None,
            Ok(Proof::Once(_)) => {
                return Err(Status::unauthenticated("a join token is for joining alone"));
            }
            Err(refused) => return Err(refused),
        };
        if let Some(node) = &node {
            self.inner.authority.note_told(node, known);
        }
        let mut news = self.inner.authority.subscribe();
        let other = news.wait_for(|news| news.version != *known);
        let wait = Duration::from_millis(limits::NEWS_WAIT_MS);
        let mut hold = self.inner.authority.holds();
        let found = tokio::select! {
            found = timeout(wait, other) => match found {
                Ok(Ok(news)) => Some(Arc::clone(&news)),
                Ok(Err(_)) | Err(_) => None,
            },
            // Another process tells what comes.
            () = hold::gone(&mut hold) => None,
        };
        let news = found.unwrap_or_else(|| Arc::clone(&news.borrow()));
        self.frame_of(&news)
    }

    /// The answer with these news; the same bytes for all who are told them.
    fn frame_of(&self, news: &News) -> Result<Bytes, Status> {
        let last = self.told.load();
        if let Some((version, frame)) = last.as_deref()
            && *version == news.version
        {
            return Ok(frame.clone());
        }
        let frame = frame(&encode(news))?;
        let told = (news.version.clone(), frame.clone());
        self.told.store(Some(Arc::new(told)));
        Ok(frame)
    }

    /// A JWT-SVID for an identity that the caller may have a certificate of.
    fn sign_token(
        &self,
        request: &Request<TokenRequest>,
        caller: &Caller,
    ) -> Result<TokenResponse, Status> {
        let signed = self.mint(request, caller);
        match &signed {
            Ok((Some(id), _)) => self.record("SignToken", caller, Ok(id)),
            // The keys alone are no secret.
            Ok((None, _)) => {}
            Err(status) => self.record("SignToken", caller, Err(status)),
        }
        signed.map(|(_id, response)| response)
    }

    fn mint(
        &self,
        request: &Request<TokenRequest>,
        caller: &Caller,
    ) -> Result<(Option<SpiffeId>, TokenResponse), Status> {
        let proof = self.prove(request, caller)?;
        let (authority, asked) = (&self.inner.authority, request.get_ref());
        if let Proof::Once(_) = proof {
            return Err(Status::unauthenticated("a join token is for joining alone"));
        }
        let key_set = authority.jwks();
        if asked.spiffe_id.is_empty() {
            let svid = String::new();
            return Ok((None, TokenResponse { svid, key_set }));
        }
        let bad = |reason: String| Status::invalid_argument(reason);
        let id = SpiffeId::parse(&asked.spiffe_id).map_err(|e| bad(format!("spiffe_id: {e}")))?;
        let audiences = &asked.audience;
        if audiences.is_empty()
            || audiences.len() > limits::JWT_SVID_AUDIENCES
            || audiences.iter().any(String::is_empty)
        {
            return Err(bad("audience".to_owned()));
        }
        let ttl =
            Duration::from_secs(asked.ttl_s).clamp(Duration::from_secs(1), self.inner.lives.0);
        let (peer, now) = (caller.address, (self.inner.clock)());
        let signed = match &proof {
            Proof::Node(node) => authority.token_for_node(node, &id, audiences, ttl, now),
            Proof::Held(grant) if grant.allows_id(&id) => authority
                .issue_jwt_svid(&id, audiences, ttl, now)
                .map_err(JoinError::Issue),
            Proof::Held(_) | Proof::Once(_) => {
                Err(JoinError::Issue(IssueError::NotGranted(id.to_string())))
            }
        };
        let svid = signed.map_err(|error| {
            tracing::warn!(%peer, error = &error as &dyn std::error::Error, "token request refused");
            Status::new(join_code(&error), error.to_string())
        })?;
        tracing::info!(%peer, %id, "JWT-SVID issued");
        Ok((Some(id), TokenResponse { svid, key_set }))
    }

    /// What the caller may ask by: its certificate if it is a node's, else its token.
    fn prove<'a, T>(&self, request: &'a Request<T>, caller: &Caller) -> Result<Proof<'a>, Status> {
        let authority = &self.inner.authority;
        if let Some(leaf) = &caller.leaf
            && let Some(target) = authority.revocations().of(leaf)
        {
            // The handshake was before.
            return Err(Status::permission_denied(format!("revoked: {target}")));
        }
        let mut values = request.metadata().get_all("authorization").iter();
        let token = match (values.next(), values.next()) {
            (Some(value), None) => value
                .to_str()
                .ok()
                .and_then(|text| text.strip_prefix("Bearer ")),
            (None | Some(_), _) => None,
        };
        if let Some(node) = caller
            .leaf
            .as_ref()
            .and_then(|leaf| NodeName::of(&leaf.id))
            .filter(|_| token.is_none())
        {
            return Ok(Proof::Node(node));
        }
        let token = token.ok_or_else(|| Status::unauthenticated("no known join token"))?;
        if let Some(grant) = self.inner.tokens.borrow().grant(token) {
            return Ok(Proof::Held(grant.clone()));
        }
        if authority.knows_token(token) {
            return Ok(Proof::Once(token));
        }
        Err(Status::unauthenticated("no known join token"))
    }
}

fn encode(news: &News) -> NewsResponse {
    let revocation = |(target, reason): (_, &str)| {
        let (kind, value) = ledger::words(&target);
        NewsRevocation {
            kind: kind.to_owned(),
            value,
            reason: reason.to_owned(),
        }
    };
    NewsResponse {
        version: news.version.clone(),
        roots: news.roots.iter().map(|der| der.to_vec()).collect(),
        revocations: news.revocations.iter().map(revocation).collect(),
    }
}

fn join_code(error: &JoinError) -> Code {
    match error {
        JoinError::Unknown | JoinError::Used | JoinError::Expired | JoinError::Revoked => {
            Code::Unauthenticated
        }
        JoinError::OtherId(_) | JoinError::Barred(_) | JoinError::NoNode(_) => {
            Code::PermissionDenied
        }
        JoinError::Ledger(_) => Code::Unavailable,
        JoinError::Issue(error) => code(error),
    }
}

fn code(error: &IssueError) -> Code {
    match error {
        IssueError::ForeignId(_) | IssueError::NotGranted(_) | IssueError::Barred(_) => {
            Code::PermissionDenied
        }
        IssueError::Ttl | IssueError::Name(_) | IssueError::Csr(_) => Code::InvalidArgument,
        IssueError::Time
        | IssueError::Certificate(_)
        | IssueError::Token(_)
        | IssueError::Random
        | IssueError::Store(_) => Code::Internal,
    }
}
