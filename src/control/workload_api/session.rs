//! One connection to the Workload API: who it speaks for, and what that process gets.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tonic::codegen::tokio_stream::Stream;
use tonic::{Code, Response, Status};
use tonic_prost::ProstCodec;

use super::attest::{self, Entitled, Entry};
use super::message::{
    JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse, Nothing, ValidateJwtSvidRequest,
    ValidateJwtSvidResponse, X509BundlesResponse, X509Svid, X509SvidResponse,
};
use super::tokens::{MintError, Tokens};
use super::{Call, Method, SECURITY_HEADER};
use crate::control::authority::IssueError;
use crate::control::grpc::RemoteError;
use crate::control::svid::{Clock, SvidSet};
use crate::identity::bundle::TrustBundles;
use crate::identity::leaf;
use crate::identity::revocation::Revocations;
use crate::identity::svid::Svid;
use crate::io::peer::{Facts, Peer};
use crate::telemetry::audit::{Audit, Decided};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// One request that is answered once.
const REQUEST: Duration = Duration::from_secs(20);
/// How long a stream waits for an identity that the process is entitled to and that is not there.
const FIRST: Duration = Duration::from_secs(10);
/// Between two looks at whether it has come.
const FIRST_LOOK: Duration = Duration::from_millis(200);
/// Between two looks at whether the process at the other end is still what it was.
const LOOK: Duration = Duration::from_secs(30);

/// What all connections share.
pub(super) struct Shared {
    pub(super) entries: watch::Receiver<Arc<Vec<Entry>>>,
    pub(super) svids: watch::Receiver<Arc<SvidSet>>,
    pub(super) revoked: watch::Receiver<Arc<Revocations>>,
    pub(super) tokens: Tokens,
    pub(super) jwt_svid_ttl: Duration,
    pub(super) clock: Clock,
    pub(super) audit: Audit,
}

impl Shared {
    /// Whether an identity is revoked, by itself or by the node that its SVID was issued to.
    fn is_barred(&self, id: &SpiffeId) -> bool {
        let revoked = Arc::clone(&self.revoked.borrow());
        if revoked.is_empty() {
            return false;
        }
        let svid = self.svids.borrow().by_id.get(id).map(Arc::clone);
        let node = svid.and_then(|svid| leaf::peer(svid.chain.first()?).ok()?.node);
        revoked.of_identity(id, node.as_ref()).is_some()
    }

    pub(super) fn record(
        &self,
        source: Map<String, Value>,
        request: &'static str,
        identities: Vec<String>,
        denied: Option<&str>,
    ) {
        let reason = denied.unwrap_or("process matches an entry");
        self.audit.send(Decided {
            time: Duration::from_secs((self.clock)().as_secs()),
            role: "workloadApi",
            request,
            source,
            identities,
            allowed: denied.is_none(),
            reason: reason.to_owned(),
        });
    }
}

/// What one user takes up.
#[derive(Debug, Default)]
pub(super) struct User {
    pub(super) connections: AtomicUsize,
    /// Seconds since the epoch in the upper half, requests within that second in the lower.
    window: AtomicU64,
}

/// Whether a request is within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Within,
    /// The first of its second that is not.
    Exceeded,
    Over,
}

impl User {
    pub(super) fn take(&self, now_s: u64) -> Budget {
        const LOW: u64 = u32::MAX as u64;
        let next = |old: u64| {
            let count = if old >> 32 == now_s { old & LOW } else { 0 };
            Some(now_s << 32 | count.saturating_add(1).min(LOW))
        };
        let old = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_default();
        let before = if old >> 32 == now_s { old & LOW } else { 0 };
        match before.cmp(&u64::from(limits::WORKLOAD_API_REQUESTS_PER_USER)) {
            std::cmp::Ordering::Less => Budget::Within,
            std::cmp::Ordering::Equal => Budget::Exceeded,
            std::cmp::Ordering::Greater => Budget::Over,
        }
    }

    /// Whether it asked something in this second.
    pub(super) fn is_active(&self, now_s: u64) -> bool {
        self.window.load(Ordering::Relaxed) >> 32 == now_s
    }
}

/// A refusal.
struct Denial(Status);

/// One connection.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) peer: Peer,
    /// What the process was when it connected.
    pub(super) first: Facts,
    pub(super) user: Arc<User>,
    /// The process is no longer what it was: the connection has to be made anew.
    pub(super) stale: Notify,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.user.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// What the process at the other end is entitled to, now.
    fn judge(&self) -> Result<(Facts, Vec<Entitled>), Denial> {
        let denied = |reason: &str| Denial(Status::permission_denied(reason));
        let facts = self
            .peer
            .facts()
            .map_err(|error| denied(&error.to_string()))?;
        if !attest::unchanged(&self.peer, &self.first, &facts) {
            self.stale.notify_one();
            return Err(denied(
                "the process has changed its program or its user since it connected; connect anew",
            ));
        }
        let entries = Arc::clone(&self.shared.entries.borrow());
        let mut entitled = attest::entitled(&entries, &self.peer, &facts);
        if entitled.is_empty() {
            return Err(denied("no entry matches this process"));
        }
        entitled.retain(|entitled| !self.shared.is_barred(&entitled.id));
        if entitled.is_empty() {
            return Err(denied("the identity is revoked"));
        }
        Ok((facts, entitled))
    }

    fn record(&self, method: Method, identities: Vec<String>, denied: Option<&str>) {
        let source = attest::describe(&self.peer, self.peer.facts().ok().as_ref());
        self.shared
            .record(source, method.label(), identities, denied);
    }

    fn refuse(&self, method: Method, denial: Denial) -> Status {
        self.record(method, Vec::new(), Some(denial.0.message()));
        denial.0
    }

    /// The answer to one request.
    pub(super) async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> http::Response<tonic::body::Body> {
        let Some(method) = Method::of(request.uri().path()) else {
            return Status::unimplemented("unknown method").into_http();
        };
        match self.user.take((self.shared.clock)().as_secs()) {
            Budget::Within => {}
            exceeded @ (Budget::Exceeded | Budget::Over) => {
                let status = Status::resource_exhausted("too many requests of this user");
                if exceeded == Budget::Exceeded {
                    self.record(method, Vec::new(), Some(status.message()));
                }
                return status.into_http();
            }
        }
        let mut values = request.headers().get_all(SECURITY_HEADER).iter();
        if values.next().is_none_or(|value| value != "true") || values.next().is_some() {
            let status = Status::invalid_argument(format!(
                "security header missing from request: `{SECURITY_HEADER}: true`"
            ));
            return self.refuse(method, Denial(status)).into_http();
        }
        match method {
            Method::FetchX509Svid => self.stream(method, request, x509_svids).await,
            Method::FetchX509Bundles => self.stream(method, request, x509_bundles).await,
            Method::FetchJwtBundles => self.stream(method, request, jwt_bundles).await,
            Method::FetchJwtSvid => self.fetch_jwt_svid(request).await,
            Method::ValidateJwtSvid => self.validate_jwt_svid(request).await,
        }
    }

    async fn stream<T>(
        self: Arc<Self>,
        method: Method,
        request: http::Request<Incoming>,
        make: Make<T>,
    ) -> http::Response<tonic::body::Body>
    where
        T: prost::Message + Default + PartialEq + Clone + 'static,
    {
        let codec: ProstCodec<T, Nothing> = ProstCodec::new();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(limits::WORKLOAD_API_REQUEST_BYTES);
        let service = Call(move |_nothing: Nothing| {
            let (send, receive) = mpsc::channel(1);
            let task = tokio::spawn(Arc::clone(&self).push(method, make, send));
            let pushes = Pushes {
                receive,
                task: task.abort_handle(),
            };
            std::future::ready(Ok(Response::new(pushes)))
        });
        grpc.server_streaming(service, request).await
    }

    /// Sends what is there, and again whenever it changes, until the process is no longer entitled to it.
    async fn push<T: PartialEq + Clone>(
        self: Arc<Self>,
        method: Method,
        make: Make<T>,
        send: mpsc::Sender<Result<T, Status>>,
    ) {
        let mut svids = self.shared.svids.clone();
        let mut entries = self.shared.entries.clone();
        let mut revoked = self.shared.revoked.clone();
        let mut last: Option<T> = None;
        let began = tokio::time::Instant::now();
        loop {
            svids.mark_unchanged();
            entries.mark_unchanged();
            revoked.mark_unchanged();
            let made = self.judge().map(|(_facts, who)| (make(&self, &who), who));
            let waited = began.elapsed() >= FIRST;
            let denial = match made {
                Ok((Some(message), who)) => {
                    if last.as_ref() != Some(&message) {
                        self.record(method, names(&who), None);
                        if send.send(Ok(message.clone())).await.is_err() {
                            return;
                        }
                        last = Some(message);
                    }
                    None
                }
                Ok((None, _who)) if last.is_none() && !waited => None,
                Ok((None, _who)) => Some(Denial(Status::unavailable(
                    "the identity is not there, its source is silent or has refused it",
                ))),
                Err(denial) => Some(denial),
            };
            if let Some(denial) = denial {
                let status = self.refuse(method, denial);
                // Whoever has gone does not need to be told.
                let _told = send.send(Err(status)).await;
                return;
            }
            let pause = if last.is_none() { FIRST_LOOK } else { LOOK };
            tokio::select! {
                Ok(()) = svids.changed() => {}
                Ok(()) = entries.changed() => {}
                Ok(()) = revoked.changed() => {}
                () = tokio::time::sleep(pause) => {}
                () = send.closed() => return,
            }
        }
    }

    async fn fetch_jwt_svid(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> http::Response<tonic::body::Body> {
        let codec: ProstCodec<JwtSvidResponse, JwtSvidRequest> = ProstCodec::new();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(limits::WORKLOAD_API_REQUEST_BYTES);
        let service = Call(move |asked: JwtSvidRequest| {
            let this = Arc::clone(&self);
            boxed(async move {
                let answer = Box::pin(this.mint(&asked)).await;
                this.tell(Method::FetchJwtSvid, answer, |response| {
                    response.svids.iter().map(|s| s.spiffe_id.clone()).collect()
                })
            })
        });
        in_time(grpc.unary(service, request)).await
    }

    async fn mint(&self, asked: &JwtSvidRequest) -> Result<JwtSvidResponse, Denial> {
        let bad = |reason: &str| Denial(Status::invalid_argument(reason));
        let (_facts, mut entitled) = self.judge()?;
        if asked.audience.is_empty() || asked.audience.iter().any(String::is_empty) {
            return Err(bad("an audience is missing"));
        }
        if asked.audience.len() > limits::JWT_SVID_AUDIENCES {
            return Err(bad("too many audiences"));
        }
        if !asked.spiffe_id.is_empty() {
            let wanted = SpiffeId::parse(&asked.spiffe_id)
                .map_err(|error| bad(&format!("spiffe_id: {error}")))?;
            entitled.retain(|entitled| entitled.id == wanted);
            if entitled.is_empty() {
                return Err(Denial(Status::permission_denied(
                    "the process does not have this identity",
                )));
            }
        }
        let now = (self.shared.clock)();
        let mut svids = Vec::new();
        for Entitled { id, hint } in entitled {
            let (tokens, ttl) = (&self.shared.tokens, self.shared.jwt_svid_ttl);
            let minted = tokens.mint(&id, &asked.audience, ttl, now).await;
            let svid = minted.map_err(|error| {
                let reported = &error as &dyn std::error::Error;
                tracing::warn!(%id, error = reported, "no JWT-SVID");
                Denial(match error {
                    MintError::Nobody => Status::unimplemented(error.to_string()),
                    MintError::Authority(IssueError::Barred(_)) => {
                        Status::permission_denied("the identity is revoked")
                    }
                    MintError::Remote(RemoteError::Refused(ref status))
                        if matches!(
                            status.code(),
                            Code::PermissionDenied | Code::Unimplemented
                        ) =>
                    {
                        Status::new(status.code(), error.to_string())
                    }
                    MintError::Authority(_) | MintError::Remote(_) | MintError::Agent(_) => {
                        Status::unavailable(error.to_string())
                    }
                })
            })?;
            svids.push(JwtSvid {
                spiffe_id: id.to_string(),
                svid,
                hint,
            });
        }
        Ok(JwtSvidResponse { svids })
    }

    async fn validate_jwt_svid(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> http::Response<tonic::body::Body> {
        let codec: ProstCodec<ValidateJwtSvidResponse, ValidateJwtSvidRequest> = ProstCodec::new();
        let mut grpc = tonic::server::Grpc::new(codec)
            .max_decoding_message_size(limits::WORKLOAD_API_REQUEST_BYTES);
        let service = Call(move |asked: ValidateJwtSvidRequest| {
            let answer = self.validate(&asked);
            std::future::ready(self.tell(Method::ValidateJwtSvid, answer, |response| {
                vec![response.spiffe_id.clone()]
            }))
        });
        in_time(grpc.unary(service, request)).await
    }

    fn validate(&self, asked: &ValidateJwtSvidRequest) -> Result<ValidateJwtSvidResponse, Denial> {
        let bad = |reason: &str| Denial(Status::invalid_argument(reason));
        self.judge()?;
        if asked.audience.is_empty() {
            return Err(bad("the audience is missing"));
        }
        if asked.svid.is_empty() {
            return Err(bad("the JWT-SVID is missing"));
        }
        let now = i64::try_from((self.shared.clock)().as_secs()).unwrap_or(i64::MAX);
        let bundles =
            self.shared.tokens.bundles().map_err(|error| {
                Denial(Status::unavailable(format!("keys of JWT-SVIDs: {error}")))
            })?;
        let (id, claims) = bundles
            .verify_claims(&asked.svid, &asked.audience, now)
            .map_err(|error| bad(&format!("JWT-SVID: {error}")))?;
        Ok(ValidateJwtSvidResponse {
            spiffe_id: id.to_string(),
            claims: Some(structure(&claims)),
        })
    }

    /// Records an answer and hands it on.
    fn tell<T>(
        &self,
        method: Method,
        answer: Result<T, Denial>,
        identities: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<Response<T>, Status> {
        match answer {
            Ok(answer) => {
                self.record(method, identities(&answer), None);
                Ok(Response::new(answer))
            }
            Err(denial) => Err(self.refuse(method, denial)),
        }
    }
}

/// Makes a message for what a process is entitled to; `None` if nothing of it is there.
type Make<T> = fn(&Session, &[Entitled]) -> Option<T>;

fn x509_svids(session: &Session, entitled: &[Entitled]) -> Option<X509SvidResponse> {
    let set = Arc::clone(&session.shared.svids.borrow());
    let revoked = Arc::clone(&session.shared.revoked.borrow());
    let now = (session.shared.clock)();
    let good = |svid: &Svid| {
        let leaf = svid.chain.first().and_then(|der| leaf::peer(der).ok());
        !svid.expired(now) && leaf.is_some_and(|leaf| revoked.of(&leaf).is_none())
    };
    let mut svids = Vec::new();
    let mut own = Vec::new();
    for Entitled { id, hint } in entitled {
        let Some(svid) = set.by_id.get(id).filter(|svid| good(svid)) else {
            continue;
        };
        own.push(id.trust_domain().to_owned());
        svids.push(X509Svid {
            spiffe_id: id.to_string(),
            x509_svid: concat(&svid.chain),
            x509_svid_key: svid.key.secret_der().to_vec(),
            bundle: set
                .bundles
                .bundle(id.trust_domain())
                .map(|bundle| concat(bundle.roots()))
                .unwrap_or_default(),
            hint: hint.clone(),
        });
    }
    let mut federated_bundles = bundles(&set.bundles);
    federated_bundles.retain(|key, _roots| !own.iter().any(|own| *key == domain_id(own)));
    (!svids.is_empty()).then_some(X509SvidResponse {
        svids,
        crl: Vec::new(),
        federated_bundles,
    })
}

fn x509_bundles(session: &Session, _entitled: &[Entitled]) -> Option<X509BundlesResponse> {
    let bundles = bundles(&session.shared.svids.borrow().bundles);
    (!bundles.is_empty()).then_some(X509BundlesResponse {
        crl: Vec::new(),
        bundles,
    })
}

fn jwt_bundles(session: &Session, _entitled: &[Entitled]) -> Option<JwtBundlesResponse> {
    let sets = session.shared.tokens.key_sets().into_iter();
    let bundles: BTreeMap<_, _> = sets
        .map(|(domain, set)| (domain_id(domain.as_str()), set.into_bytes()))
        .collect();
    (!bundles.is_empty()).then_some(JwtBundlesResponse { bundles })
}

fn bundles(bundles: &TrustBundles) -> BTreeMap<String, Vec<u8>> {
    let roots = |domain: &str| bundles.bundle(domain).map(|b| concat(b.roots()));
    let all = bundles.trust_domains();
    all.filter_map(|domain| Some((domain_id(domain), roots(domain)?)))
        .collect()
}

fn domain_id(domain: &str) -> String {
    format!("spiffe://{domain}")
}

fn concat(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|certificate| certificate.iter().copied())
        .collect()
}

fn names(entitled: &[Entitled]) -> Vec<String> {
    entitled.iter().map(|e| e.id.to_string()).collect()
}

async fn in_time(
    answer: impl Future<Output = http::Response<tonic::body::Body>>,
) -> http::Response<tonic::body::Body> {
    match timeout(REQUEST, answer).await {
        Ok(response) => response,
        Err(_elapsed) => Status::deadline_exceeded("request took too long").into_http(),
    }
}

fn boxed<T>(
    future: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = T> + Send>> {
    Box::pin(future)
}

/// JSON as protobuf has it; its numbers are all floating point.
fn structure(claims: &Map<String, Value>) -> prost_types::Struct {
    let fields = claims.iter().map(|(name, v)| (name.clone(), value(v)));
    prost_types::Struct {
        fields: fields.collect(),
    }
}

fn value(json: &Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(list) => Kind::ListValue(prost_types::ListValue {
            values: list.iter().map(value).collect(),
        }),
        Value::Object(map) => Kind::StructValue(structure(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// The messages of one stream. Its task ends with it.
struct Pushes<T> {
    receive: mpsc::Receiver<Result<T, Status>>,
    task: AbortHandle,
}

impl<T> Stream for Pushes<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receive.poll_recv(cx)
    }
}

impl<T> Drop for Pushes<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_many_requests_a_second() {
        let user = User::default();
        for second in [5, 6, 8] {
            for _ in 0..limits::WORKLOAD_API_REQUESTS_PER_USER {
                assert_eq!(user.take(second), Budget::Within);
            }
            assert_eq!(user.take(second), Budget::Exceeded);
            assert_eq!(user.take(second), Budget::Over);
            assert!(user.is_active(second) && !user.is_active(second + 1));
        }
    }

    #[test]
    fn claims_keep_their_shape() {
        use prost_types::value::Kind;
        let json = serde_json::json!({"a": [1, null, true, {"b": "c"}], "exp": 1_764_000_000_u64});
        let made = structure(json.as_object().unwrap());
        assert_eq!(
            made.fields["exp"].kind,
            Some(Kind::NumberValue(1_764_000_000.0))
        );
        let Some(Kind::ListValue(list)) = &made.fields["a"].kind else {
            panic!("{made:?}")
        };
        let kinds: Vec<_> = list
            .values
            .iter()
            .map(|v| v.kind.clone().unwrap())
            .collect();
        assert_eq!(
            kinds[..3],
            [
                Kind::NumberValue(1.0),
                Kind::NullValue(0),
                Kind::BoolValue(true)
            ]
        );
        let Kind::StructValue(inner) = &kinds[3] else {
            panic!("{kinds:?}")
        };
        assert_eq!(
            inner.fields["b"].kind,
            Some(Kind::StringValue("c".to_owned()))
        );
    }
}
