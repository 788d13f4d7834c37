//! The admin endpoint: plain HTTP on loopback, for readiness, generation, key set, metrics and what is open. It changes
//! nothing. The endpoints for metrics and readiness alone, which others than the operator may reach, are the same server
//! with fewer paths.

mod patience;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::checked::Mesh;
use crate::control::authority::Authority;
use crate::control::launcher::Lost;
use crate::control::observe::Observed;
use crate::control::serving::Serving;
use crate::control::status::About;
use crate::control::svid::SvidSet;
use crate::control::{endpoints, identities};
use crate::io::clock;
use crate::role::endpoints::Endpoints;
use crate::telemetry::metrics::exposition::Exposition;
use patience::Patience;

/// What the endpoint tells.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Listeners serve.
    pub ready: bool,
    /// Generation of the running configuration.
    pub generation: u64,
    /// When it was loaded, in Unix seconds.
    pub loaded_at: u64,
    /// Problems of the last reload; empty if it was good.
    pub problems: Vec<String>,
    /// When the last reload was refused, in Unix seconds; `None` if it was good.
    pub refused_at: Option<u64>,
    /// Certificates, keys and roots that cannot be used, in whose place the last good ones are.
    pub files: Vec<String>,
    /// Certificates that listeners serve.
    pub serving: Arc<Serving>,
    /// Key sets of token rules that were never obtained.
    pub key_sets_missing: usize,
    /// Identities that are valid now.
    pub identities: usize,
    /// The identities.
    pub svids: Arc<SvidSet>,
    /// Where they come from.
    pub source: &'static str,
    /// How much is revoked.
    pub revocations: usize,
    /// What the process cannot do any more, since its launcher has ended.
    pub lost: Option<Lost>,
    /// Reloads that were asked for.
    pub hangups: Hangups,
    /// What became of the last SIGUSR2; `None` if there was none.
    pub upgrade: Option<String>,
    /// Services and their endpoints.
    pub upstreams: Option<(Arc<Mesh>, Arc<Endpoints>)>,
}

/// How often the process was asked by SIGHUP to read its configuration again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hangups {
    /// Signals that have come.
    pub heard: u64,
    /// Those of them that had come when the last reload began which has ended.
    pub answered: u64,
}

impl Status {
    /// Whether it is to be given traffic: all listeners serve, and where traffic is captured the rules for it can be kept.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready && !self.lost.is_some_and(|lost| lost.captures)
    }
}

const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at a time.
const CONNECTIONS: usize = 64;

/// How long a client may take for a request head, or keep an idle connection: there are few places.
const HEAD: Duration = Duration::from_secs(10);

/// How long a client may take nothing of its answers.
const TAKES_NOTHING: Duration = Duration::from_secs(30);

/// Binds the listener.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Which paths a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// All.
    Admin,
    /// Metrics.
    Metrics,
    /// Readiness.
    Readiness,
}

/// What answers.
#[derive(Clone, Debug)]
pub struct Source {
    /// State of the process.
    pub status: watch::Receiver<Status>,
    /// Its authority.
    pub authority: Option<Arc<Authority>>,
    /// Metrics and what is open.
    pub observed: Observed,
    /// The process.
    pub about: Arc<About>,
}

/// Serves a bound listener until the future is dropped.
pub async fn serve(listener: TcpListener, face: Face, source: Source) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let source = source.clone();
        tokio::spawn(async move {
            connection(stream, face, source).await;
            drop(place);
        });
    }
}

async fn connection<S>(stream: S, face: Face, source: Source)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(route(&request, face, &source).await) }
    });
    let stream = Patience::new(stream, TAKES_NOTHING);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}

async fn route(request: &Request<Incoming>, face: Face, source: &Source) -> Response<Text> {
    if request.method() != Method::GET {
        return answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET".to_owned());
    }
    let (path, admin) = (request.uri().path(), face == Face::Admin);
    let status = source.status.borrow().clone();
    match path {
        "/metrics" | "/stats/prometheus" if face != Face::Readiness => {
            match source.observed.metrics(&status).await {
                Ok(pieces) => typed(StatusCode::OK, OPEN_METRICS, Text::Pieces(pieces)),
                Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
            }
        }
        "/readyz" | "/healthz/ready" if face != Face::Metrics => readiness(&status),
        "/livez" if face != Face::Metrics => answer(StatusCode::OK, TEXT, "ok".to_owned()),
        "/connections" if admin => {
            let open = source.observed.connections().await;
            answer(StatusCode::OK, JSON, open.to_string())
        }
        "/status" if admin => {
            let counts = source.observed.counts().await;
            let told = source.about.to_json(&status, counts);
            answer(StatusCode::OK, JSON, told.to_string())
        }
        "/generation" if admin => answer(StatusCode::OK, TEXT, status.generation.to_string()),
        "/config/problems" if admin => {
            let all: Vec<&String> = status.problems.iter().chain(&status.files).collect();
            let problems = serde_json::json!(all).to_string();
            answer(StatusCode::OK, JSON, problems)
        }
        "/endpoints" if admin => {
            let told = status.upstreams.as_ref().map(|(mesh, endpoints)| {
                endpoints::to_json(mesh, endpoints, clock::millis()).to_string()
            });
            answer(
                StatusCode::OK,
                JSON,
                told.unwrap_or_else(|| "[]".to_owned()),
            )
        }
        "/identities" if admin => {
            let now = rustls::pki_types::UnixTime::now();
            let told = identities::to_json(&status.svids, status.source, now);
            answer(StatusCode::OK, JSON, told.to_string())
        }
        "/jwks.json" if admin => match &source.authority {
            Some(authority) => answer(StatusCode::OK, JSON, authority.jwks()),
            None => answer(
                StatusCode::NOT_FOUND,
                TEXT,
                "no authority in this process".to_owned(),
            ),
        },
        _ => answer(StatusCode::NOT_FOUND, TEXT, "not found".to_owned()),
    }
}

fn readiness(status: &Status) -> Response<Text> {
    if status.is_ready() {
        return answer(StatusCode::OK, TEXT, "ready".to_owned());
    }
    let why = status.lost.map(|lost| format!(": {lost}"));
    let text = format!("not ready{}", why.unwrap_or_default());
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

/// What is answered: text that is there, or that is made while it is sent.
enum Text {
    Whole(Option<String>),
    Pieces(Exposition),
}

impl Body for Text {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut *self {
            Self::Whole(text) => text.take(),
            Self::Pieces(pieces) => pieces.next(),
        };
        Poll::Ready(next.map(|text| Ok(Frame::data(Bytes::from(text)))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(text) => {
                let len = text.as_ref().map_or(0, String::len);
                SizeHint::with_exact(u64::try_from(len).unwrap_or(u64::MAX))
            }
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Text> {
    typed(status, kind, Text::Whole(Some(body)))
}

fn typed(status: StatusCode, kind: &'static str, body: Text) -> Response<Text> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncWriteExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::config;

    const LONG: Duration = Duration::from_secs(3600);

    /// One of the few places is not for a client that asks and never reads.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_loses_its_place() {
        let config = "[authority]\nstateDir = \"state\"\n[mesh]\ntrustDomain = \"a.test\"\n";
        let files = [("a.toml".into(), config.to_owned())];
        let config = config::parse(&files, Path::new("")).unwrap();
        let (_status, status) = watch::channel(Status::default());
        let source = Source {
            status,
            authority: None,
            observed: Observed::new().0,
            about: About::new(&config, 1),
        };
        let (mut client, server) = tokio::io::duplex(4096);
        let asks = async {
            // Until nothing of it is read any more.
            while client
                .write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .is_ok()
            {}
        };
        let served = connection(server, Face::Readiness, source);
        let both = async { tokio::join!(asks, served) };
        timeout(LONG, both).await.expect("the connection ends");
    }
}
