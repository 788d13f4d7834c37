//! The demo's applications: three services inside the mesh, the partner's API and the identity provider's key
//! set outside. Ordinary HTTP/1.1 servers that know nothing of ringgate.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

use super::layout::{Layout, host};
use super::os;

/// Connections that one app serves at a time.
const CONNECTIONS: usize = 4096;
/// Pause between two lines of a stream.
const STREAM_LINE_MS: u64 = 100;

/// Which application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The shop's front.
    Frontend,
    /// Reviews of products.
    Reviews,
    /// The service with the personal data.
    CustomerApi,
    /// The partner's API, outside, HTTPS only.
    Partner,
    /// Key set of the identity provider, outside.
    Idp,
}

/// Which applications to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Selection {
    /// All.
    All,
    /// The partner and the identity provider.
    Outside,
}

struct App {
    kind: Kind,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    key_set: Bytes,
    hits: AtomicU64,
}

/// Running applications; they end when this is dropped.
#[derive(Debug)]
pub struct Apps {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Apps {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            os::ignore(stop.send(()));
        }
        if let Some(thread) = self.thread.take() {
            os::ignore(thread.join());
        }
    }
}

/// Starts the applications on a thread of their own; returns once all of them listen.
///
/// # Errors
/// If an address cannot be bound or the partner's certificate cannot be read.
pub fn start(layout: &Layout, selection: Selection) -> anyhow::Result<Apps> {
    let apps = specs(layout, selection)?;
    let (stop, stopped) = oneshot::channel();
    let (bound, wait) = std::sync::mpsc::sync_channel(1);
    let thread = os::thread("apps", move || {
        let served = serve_all(apps, stopped, &bound);
        if let Err(error) = served {
            os::ignore(bound.try_send(Err(error)));
        }
    })?;
    wait.recv().context("the apps' thread ended early")??;
    Ok(Apps {
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn specs(layout: &Layout, selection: Selection) -> anyhow::Result<Vec<App>> {
    let inside = [
        (Kind::Frontend, host::FRONTEND, 18080),
        (Kind::Reviews, host::REVIEWS, 18080),
        (Kind::CustomerApi, host::CUSTOMER_API, 18080),
        (Kind::Reviews, host::REVIEWS_2, 18080),
    ];
    let outside = [
        (Kind::Partner, host::PARTNER, 8443),
        (Kind::Idp, host::IDP, 18081),
    ];
    let inside = inside.into_iter().filter(|_| selection == Selection::All);
    let key_set = Bytes::from(os::read(&layout.file("state/idp/jwks.json"))?);
    let partner = partner_tls(layout)?;
    inside
        .chain(outside)
        .map(|(kind, host, port)| {
            let address = layout.at(host, port);
            Ok(App {
                kind,
                address: address
                    .parse()
                    .with_context(|| format!("`{address}` is no address"))?,
                tls: (kind == Kind::Partner).then(|| partner.clone()),
                key_set: key_set.clone(),
                hits: AtomicU64::new(0),
            })
        })
        .collect()
}

fn partner_tls(layout: &Layout) -> anyhow::Result<TlsAcceptor> {
    let pem = os::read(&layout.file("state/partner/cert.pem"))?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>()?;
    let pem = os::read(&layout.file("state/partner/key.pem"))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the partner's certificate")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn serve_all(
    apps: Vec<App>,
    stopped: oneshot::Receiver<()>,
    bound: &std::sync::mpsc::SyncSender<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the apps' runtime cannot be started")?;
    runtime.block_on(async {
        for app in apps {
            let listener = TcpListener::bind(app.address)
                .await
                .with_context(|| format!("an app cannot listen on `{}`", app.address))?;
            tokio::spawn(serve(Arc::new(app), listener));
        }
        os::ignore(bound.send(Ok(())));
        os::ignore(stopped.await);
        Ok(())
    })
}

async fn serve(app: Arc<App>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: let open connections end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        os::ignore(stream.set_nodelay(true));
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            match &app.tls {
                None => connection(&app, TokioIo::new(stream)).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(&app, TokioIo::new(stream)).await;
                    }
                }
            }
            drop(slot);
        });
    }
}

async fn connection<S>(app: &Arc<App>, stream: S)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let answer = app.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(stream, service)
        .await;
    // A client that goes away early is no event for a demo app.
    os::ignore(served);
}

impl App {
    fn answer<B>(&self, request: &Request<B>) -> Response<Content> {
        let path = request.uri().path();
        if path == "/-/hits" {
            return self.counter(request);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        match self.kind {
            Kind::Frontend => Content::json(&json!({"app": "frontend-service", "path": path})),
            Kind::Reviews => Content::json(&json!({"app": "reviews-service", "path": path,
                "reviews": [{"product": 1, "stars": 5}]})),
            Kind::CustomerApi => customer_api(request),
            Kind::Partner => partner(request),
            Kind::Idp if path == "/jwks.json" => Content::bytes(self.key_set.clone()),
            Kind::Idp => Content::error(StatusCode::NOT_FOUND),
        }
    }

    /// Requests so far, itself not counted. Only for who asks by the app's own address: a request for the
    /// service's name has come through the mesh.
    fn counter<B>(&self, request: &Request<B>) -> Response<Content> {
        let host = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok());
        if host == Some(self.address.to_string().as_str()) {
            Content::bytes(self.hits.load(Ordering::Relaxed).to_string().into())
        } else {
            Content::error(StatusCode::NOT_FOUND)
        }
    }
}

const USERS: [(u32, &str, &str); 3] = [
    (7, "Ada", "ada@example.test"),
    (8, "Grace", "grace@example.test"),
    (9, "Barbara", "barbara@example.test"),
];

fn customer_api<B>(request: &Request<B>) -> Response<Content> {
    let user =
        |(id, name, email): (u32, &str, &str)| json!({"id": id, "name": name, "email": email});
    let path = request.uri().path();
    if path == "/stream" {
        return Response::new(Content::lines());
    }
    if path == "/api/v1/echo" {
        return echo(request);
    }
    if path == "/api/v1/users/export" {
        let users: Vec<_> = USERS.into_iter().map(user).collect();
        return Content::json(&json!({"users": users}));
    }
    let wanted = path.strip_prefix("/api/v1/users/");
    let found = USERS
        .into_iter()
        .find(|(id, _, _)| wanted == Some(id.to_string().as_str()));
    found.map_or_else(
        || Content::error(StatusCode::NOT_FOUND),
        |found| Content::json(&user(found)),
    )
}

/// What the app sees of a request, so that one can look at what the mesh adds and removes.
fn echo<B>(request: &Request<B>) -> Response<Content> {
    let headers: Vec<_> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    Content::json(&json!({"method": request.method().as_str(),
        "target": request.uri().to_string(), "headers": headers}))
}

fn partner<B>(request: &Request<B>) -> Response<Content> {
    if request.uri().path() != "/v1/rates" {
        return Content::error(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::GET {
        return Content::error(StatusCode::METHOD_NOT_ALLOWED);
    }
    // This listener speaks nothing but TLS: who gets this answer has come by TLS.
    Content::json(&json!({"partner": "rates", "transport": "tls",
        "query": request.uri().query(), "usd": 1.09}))
}

/// A body: whole, or a line every 100 ms for ever.
#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Lines(tokio::time::Interval, u64),
}

impl Content {
    fn lines() -> Self {
        Self::Lines(
            tokio::time::interval(Duration::from_millis(STREAM_LINE_MS)),
            0,
        )
    }

    fn bytes(bytes: Bytes) -> Response<Self> {
        Response::new(Self::Whole(Some(bytes)))
    }

    fn json(value: &serde_json::Value) -> Response<Self> {
        let mut response = Self::bytes(format!("{value}\n").into());
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }

    fn error(status: StatusCode) -> Response<Self> {
        let mut response = Self::json(&json!({"error": status.as_u16()}));
        *response.status_mut() = status;
        response
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(pace, line) => {
                ready!(pace.poll_tick(task));
                *line += 1;
                let text = format!("line {line}\n");
                Poll::Ready(Some(Ok(Frame::data(text.into()))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(
                bytes
                    .as_ref()
                    .map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            ),
            Self::Lines(..) => SizeHint::default(),
        }
    }
}
