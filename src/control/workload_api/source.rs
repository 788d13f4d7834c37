//! The other side: identities of this process from another's Workload API, such as a SPIRE agent's.
//!
//! What the server pushes is verified, kept and handed out; when the server is lost, what it said last is used until it
//! expires, while this side tries to reach it again.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::message::{
    JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, Nothing, X509Svid, X509SvidResponse,
};
use super::{Method, SECURITY_HEADER, tokens};
use crate::control::svid::{Clock, Issued, Jitter};
use crate::identity::bundle::{BundleError, TrustBundles};
use crate::identity::leaf::{self, LeafError};
use crate::identity::rotation::backoff;
use crate::identity::svid::{Svid, WantedSvid};
use crate::identity::tls::{self, TlsError};
use crate::identity::verify::{SvidError, Usage, verify_svid};
use crate::vocab::limits;
use crate::vocab::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::vocab::text::chain;

/// Connecting, and a request that is answered once.
const REQUEST: Duration = Duration::from_secs(15);
/// How long the first answer is waited for.
const OFFER: Duration = Duration::from_secs(10);
/// Between two looks at whether the server still answers.
const PING: Duration = Duration::from_secs(30);
/// How long a stream must have lasted to count as a success.
const STEADY: Duration = Duration::from_secs(10);

/// Why the Workload API gave nothing.
#[derive(Debug, Error)]
pub enum AgentError {
    /// No such socket, or nobody serves it.
    #[error("Workload API cannot be reached at `{}`", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The connection failed.
    #[error("connection to the Workload API failed")]
    Http(#[source] hyper::Error),
    /// No answer in time.
    #[error("Workload API did not answer within {} s", REQUEST.as_secs())]
    Timeout,
    /// It said no.
    #[error("Workload API refused")]
    Refused(#[source] Box<Status>),
    /// It ended the stream.
    #[error("Workload API ended the stream")]
    Ended,
    /// An answer without what was asked for.
    #[error("answer of the Workload API is empty")]
    Empty,
    /// It gives this process other identities than the wanted one.
    #[error("Workload API offers {offered}, not `{wanted}`{}", .problem.as_ref().map(|p| format!("; last it said: {p}")).unwrap_or_default())]
    NotOffered {
        /// What the configuration needs.
        wanted: SpiffeId,
        /// What it gave, in words.
        offered: String,
        /// What went wrong last.
        problem: Option<String>,
    },
}

/// Why an SVID of an answer is not used.
#[derive(Debug, Error)]
enum Unfit {
    #[error("spiffe_id")]
    Id(#[source] SpiffeIdError),
    #[error("chain or bundle is not certificates in DER")]
    Der,
    #[error("bundle")]
    Bundle(#[source] BundleError),
    #[error("chain does not verify against its bundle")]
    Chain(#[source] SvidError),
    #[error("chain is of `{0}`")]
    OtherId(SpiffeId),
    #[error("leaf")]
    Leaf(#[source] LeafError),
    #[error("key does not belong to the certificate")]
    Key(#[source] TlsError),
}

/// What the server has said.
#[derive(Clone, Debug, Default)]
struct Said {
    svids: BTreeMap<SpiffeId, Arc<Svid>>,
    jwt: BTreeMap<TrustDomain, String>,
    /// Why there is no stream at the moment.
    problem: Option<String>,
}

/// The Workload API of another process. [`Self::run`] keeps it fresh.
pub struct WorkloadApiSource {
    socket: PathBuf,
    trust_domain: TrustDomain,
    federated: Vec<TrustDomain>,
    clock: Clock,
    jitter: Jitter,
    said: watch::Sender<Said>,
    bundles: watch::Sender<Arc<TrustBundles>>,
    /// Counts what was said of X.509.
    version: watch::Sender<u64>,
}

impl std::fmt::Debug for WorkloadApiSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadApiSource")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl WorkloadApiSource {
    /// A source that has asked nothing yet. Bundles are taken of `trust_domain` and of those in `federated`, of no
    /// other, whatever the server says.
    #[must_use]
    pub fn new(
        socket: PathBuf,
        trust_domain: TrustDomain,
        federated: Vec<TrustDomain>,
        clock: Clock,
        jitter: Jitter,
    ) -> Self {
        Self {
            socket,
            trust_domain,
            federated,
            clock,
            jitter,
            said: watch::Sender::default(),
            bundles: watch::Sender::default(),
            version: watch::Sender::new(0),
        }
    }

    /// Follows the server until the future is dropped.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(
            self.follow("X.509-SVIDs", || self.follow_x509()),
            self.follow("keys of JWT-SVIDs", || self.follow_jwt()),
        );
    }

    /// Changes with every answer.
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// The bundles that it has told.
    #[must_use]
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.bundles.borrow())
    }

    /// The same, now and after every change.
    #[must_use]
    pub fn subscribe_bundles(&self) -> watch::Receiver<Arc<TrustBundles>> {
        self.bundles.subscribe()
    }

    /// The key sets that it has told, by trust domain.
    #[must_use]
    pub fn jwt_bundles(&self) -> BTreeMap<TrustDomain, String> {
        self.said.borrow().jwt.clone()
    }

    /// The SVID that was pushed last, as long as it is valid. The first answer is waited for, but not for long.
    ///
    /// # Errors
    /// `AgentError::NotOffered`.
    pub async fn issue(&self, wanted: &WantedSvid, now: UnixTime) -> Result<Issued, AgentError> {
        let mut said = self.said.subscribe();
        let there = said.wait_for(|said| {
            // What it does not offer is not waited for: `renewals` tells when it does.
            let told = said.svids.values().any(|svid| !svid.expired(now));
            let svid = said.svids.get(&wanted.id);
            svid.map_or(told, |svid| !svid.expired(now))
        });
        if let Ok(Ok(said)) = timeout(OFFER, there).await
            && let Some(svid) = said.svids.get(&wanted.id)
            && !svid.expired(now)
        {
            return Ok(Issued {
                svid: Svid::clone(svid),
                bundles: self.bundles(),
            });
        }
        let said = self.said.borrow();
        let offered: Vec<String> = said.svids.keys().map(|id| format!("`{id}`")).collect();
        Err(AgentError::NotOffered {
            wanted: wanted.id.clone(),
            offered: if offered.is_empty() {
                "nothing".to_owned()
            } else {
                offered.join(", ")
            },
            problem: said.problem.clone(),
        })
    }

    /// A JWT-SVID for an identity that the server gives this process.
    ///
    /// # Errors
    /// `AgentError`.
    pub async fn jwt_svid(
        &self,
        id: &SpiffeId,
        audiences: &[String],
    ) -> Result<String, AgentError> {
        let message = JwtSvidRequest {
            audience: audiences.to_vec(),
            spiffe_id: id.to_string(),
        };
        let answer = async {
            let mut link = Link::open(&self.socket).await?;
            let codec: ProstCodec<JwtSvidRequest, JwtSvidResponse> = ProstCodec::new();
            let path = PathAndQuery::from_static(Method::FetchJwtSvid.path());
            let response = link.grpc.unary(request(message), path, codec).await;
            response.map(tonic::Response::into_inner).map_err(refused)
        };
        let answer = timeout(REQUEST, answer)
            .await
            .map_err(|_elapsed| AgentError::Timeout)??;
        let svid = answer
            .svids
            .into_iter()
            .find(|s| s.spiffe_id == id.as_str());
        svid.map(|svid| svid.svid).ok_or(AgentError::Empty)
    }

    /// Asks again and again, with a growing wait.
    async fn follow<F>(&self, what: &'static str, once: impl Fn() -> F)
    where
        F: Future<Output = AgentError>,
    {
        let mut failures = 0_u32;
        loop {
            let began = tokio::time::Instant::now();
            let error = once().await;
            failures = if began.elapsed() >= STEADY {
                1
            } else {
                failures.saturating_add(1)
            };
            let wait = backoff(failures, (self.jitter)());
            let wait_ms = wait.as_millis();
            tracing::warn!(
                failures,
                wait_ms,
                error = &error as &dyn StdError,
                "no stream of {what} from the Workload API"
            );
            let told = chain(&error);
            self.said.send_modify(|said| said.problem = Some(told));
            tokio::time::sleep(wait).await;
        }
    }

    async fn follow_x509(&self) -> AgentError {
        let opened = self.open_stream::<X509SvidResponse>(Method::FetchX509Svid);
        let (mut stream, _link) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        loop {
            match stream.message().await {
                Ok(Some(response)) => self.take_x509(&response),
                Ok(None) => return AgentError::Ended,
                Err(status) => return refused(status),
            }
        }
    }

    async fn follow_jwt(&self) -> AgentError {
        let opened = self.open_stream::<JwtBundlesResponse>(Method::FetchJwtBundles);
        let (mut stream, _link) = match opened.await {
            Ok(opened) => opened,
            Err(error) => return error,
        };
        loop {
            match stream.message().await {
                Ok(Some(response)) => self.take_jwt(&response),
                Ok(None) => return AgentError::Ended,
                Err(status) => return refused(status),
            }
        }
    }

    async fn open_stream<T>(&self, method: Method) -> Result<(Streaming<T>, Link), AgentError>
    where
        T: prost::Message + Default + 'static,
    {
        let mut link = timeout(REQUEST, Link::open(&self.socket))
            .await
            .map_err(|_elapsed| AgentError::Timeout)??;
        let codec: ProstCodec<Nothing, T> = ProstCodec::new();
        let path = PathAndQuery::from_static(method.path());
        let response = link.grpc.server_streaming(request(Nothing {}), path, codec);
        // The first answer may take as long as the server needs to have one.
        let stream = response.await.map_err(refused)?.into_inner();
        Ok((stream, link))
    }

    fn take_x509(&self, response: &X509SvidResponse) {
        let now = (self.clock)();
        let bundles = Arc::new(self.take_bundles(response));
        let mut svids = BTreeMap::new();
        for offered in &response.svids {
            match fit(offered, &bundles, now) {
                Ok(svid) => {
                    svids
                        .entry(svid.id.clone())
                        .or_insert_with(|| Arc::new(svid));
                }
                Err(error) => {
                    let id = offered.spiffe_id.escape_debug().to_string();
                    tracing::error!(
                        id,
                        error = &error as &dyn StdError,
                        "SVID of the Workload API is not used"
                    );
                }
            }
        }
        if svids.is_empty() {
            tracing::error!(
                "nothing in an answer of the Workload API can be used; the last one stays"
            );
            return;
        }
        // First: whoever takes an SVID takes the bundles that are there then.
        self.bundles.send_replace(bundles);
        self.said.send_modify(|said| {
            said.svids = svids;
            said.problem = None;
        });
        self.version
            .send_modify(|version| *version = version.wrapping_add(1));
    }

    /// The bundles of the trust domains that the mesh lists.
    fn take_bundles(&self, response: &X509SvidResponse) -> TrustBundles {
        let mut bundles = TrustBundles::new();
        let own = response.svids.iter().filter_map(|svid| {
            let id = SpiffeId::parse(&svid.spiffe_id).ok()?;
            Some((TrustDomain::parse(id.trust_domain()).ok()?, &svid.bundle))
        });
        let others = response.federated_bundles.iter();
        let others = others.filter_map(|(key, roots)| Some((domain(key)?, roots)));
        for (domain, roots) in own.chain(others) {
            if domain != self.trust_domain && !self.federated.contains(&domain) {
                tracing::debug!(%domain, "bundle of a trust domain that the mesh does not list");
                continue;
            }
            let taken = certificates(roots).and_then(|roots| {
                let mut roots = roots.iter();
                roots.try_for_each(|root| bundles.add(&domain, root).map_err(Unfit::Bundle))
            });
            if let Err(error) = taken {
                tracing::error!(%domain, error = &error as &dyn StdError, "bundle of the Workload API");
            }
        }
        bundles
    }

    fn take_jwt(&self, response: &JwtBundlesResponse) {
        let listed =
            |domain: &TrustDomain| *domain == self.trust_domain || self.federated.contains(domain);
        let told = response.bundles.iter();
        let jwt = told.filter_map(|(key, set)| {
            let domain = domain(key).filter(listed)?;
            let set = std::str::from_utf8(set).ok()?;
            Some((domain, tokens::for_svids(set)))
        });
        let jwt = jwt.collect();
        self.said.send_modify(|said| said.jwt = jwt);
    }
}

/// One HTTP/2 connection as tonic wants it.
struct Connection(http2::SendRequest<tonic::body::Body>);

impl tower_service::Service<http::Request<tonic::body::Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A connection to the socket, driven as long as it lives.
struct Link {
    grpc: tonic::client::Grpc<Connection>,
    _driver: JoinSet<()>,
}

impl Link {
    async fn open(socket: &std::path::Path) -> Result<Self, AgentError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(|source| AgentError::Connect {
                path: socket.to_owned(),
                source,
            })?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(AgentError::Http)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The stream tells what went wrong.
            let _ended = connection.await;
        });
        let origin = Uri::from_static("http://localhost");
        Ok(Self {
            grpc: tonic::client::Grpc::with_origin(Connection(sender), origin)
                .max_decoding_message_size(limits::WORKLOAD_API_ANSWER_BYTES),
            _driver: driver,
        })
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    request
}

fn refused(status: Status) -> AgentError {
    AgentError::Refused(Box::new(status))
}

/// The name of a trust domain, or its ID as the map keys have it.
fn domain(key: &str) -> Option<TrustDomain> {
    TrustDomain::parse(key.strip_prefix("spiffe://").unwrap_or(key)).ok()
}

/// Certificates in DER, one after the other.
fn certificates(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _parsed) = X509Certificate::from_der(der).map_err(|_e| Unfit::Der)?;
        let length = der.len().saturating_sub(rest.len());
        let one = der.get(..length).ok_or(Unfit::Der)?;
        found.push(CertificateDer::from(one.to_vec()));
        der = rest;
    }
    Ok(found)
}

/// The SVID of an answer if it is one: verified against its own trust domain, of the ID that it says, with its key.
fn fit(offered: &X509Svid, bundles: &TrustBundles, now: UnixTime) -> Result<Svid, Unfit> {
    let said = SpiffeId::parse(&offered.spiffe_id).map_err(Unfit::Id)?;
    let chain = certificates(&offered.x509_svid)?;
    let id = verify_svid(&chain, bundles, now, Usage::Server).map_err(Unfit::Chain)?;
    if id != said {
        return Err(Unfit::OtherId(id));
    }
    let leaf_der = chain.first().ok_or(Unfit::Der)?;
    let found = leaf::check(leaf_der).map_err(Unfit::Leaf)?;
    let key = PrivatePkcs8KeyDer::from(offered.x509_svid_key.clone());
    let svid = Svid {
        id,
        key: PrivateKeyDer::Pkcs8(key),
        not_before: found.not_before,
        not_after: found.not_after,
        chain,
    };
    tls::certified_key(&svid).map_err(Unfit::Key)?;
    Ok(svid)
}
