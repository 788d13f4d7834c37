//! The admin endpoint: plain HTTP on loopback, for readiness, generation, key set and counters. It changes nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::control::authority::Authority;

/// What the endpoint tells.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Listeners serve.
    pub ready: bool,
    /// Generation of the running configuration.
    pub generation: u64,
    /// Problems of the last reload; empty if it was good.
    pub problems: Vec<String>,
    /// Identities that are valid now.
    pub identities: usize,
}

/// Connections at a time.
const CONNECTIONS: usize = 64;

/// How long a client may take for a request head, or keep an idle connection: there are few places.
const HEAD: Duration = Duration::from_secs(10);

/// Binds the listener.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves a bound listener until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    status: watch::Receiver<Status>,
    authority: Option<Arc<Authority>>,
) {
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
        let (status, authority) = (status.clone(), authority.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let response = route(&request, &status.borrow(), authority.as_deref());
                async move { Ok::<_, Infallible>(response) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "admin connection");
            }
            drop(place);
        });
    }
}

fn route(
    request: &Request<Incoming>,
    status: &Status,
    authority: Option<&Authority>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return answer(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET".to_owned(),
        );
    }
    match request.uri().path() {
        "/livez" => answer(StatusCode::OK, "text/plain", "ok".to_owned()),
        "/readyz" if status.ready => answer(StatusCode::OK, "text/plain", "ready".to_owned()),
        "/readyz" => answer(
            StatusCode::SERVICE_UNAVAILABLE,
            "text/plain",
            "not ready".to_owned(),
        ),
        "/generation" => answer(StatusCode::OK, "text/plain", status.generation.to_string()),
        "/config/problems" => {
            let problems = serde_json::to_string(&status.problems).unwrap_or_default();
            answer(StatusCode::OK, "application/json", problems)
        }
        "/jwks.json" => match authority {
            Some(authority) => answer(StatusCode::OK, "application/json", authority.jwks()),
            None => answer(
                StatusCode::NOT_FOUND,
                "text/plain",
                "no authority in this process".to_owned(),
            ),
        },
        "/metrics" => answer(StatusCode::OK, "text/plain; version=0.0.4", metrics(status)),
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "not found".to_owned()),
    }
}

fn metrics(status: &Status) -> String {
    format!(
        "# TYPE ringgate_config_generation gauge\nringgate_config_generation {}\n\
         # TYPE ringgate_config_problems gauge\nringgate_config_problems {}\n\
         # TYPE ringgate_identities gauge\nringgate_identities {}\n\
         # TYPE ringgate_ready gauge\nringgate_ready {}\n",
        status.generation,
        status.problems.len(),
        status.identities,
        u8::from(status.ready),
    )
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
