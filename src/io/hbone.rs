//! HBONE: HTTP/2 CONNECT over mTLS, both ends, with ztunnel's settings.
//!
//! A client keeps its connections in a pool of the core; the key holds the caller's identity, so one
//! workload's tunnel is never used for another.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::io::rt::{self, ConnectOptions};
use crate::io::stream::Stream;
use crate::io::tls;
use crate::io::tunnel::{Lease, Tunnel};
use crate::policy::Permit;
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
const HEADER_LIST_BYTES: u32 = 64 << 10;

/// An HTTP/2 server connection that takes tunnels.
pub type ServerConnection = h2::server::Connection<Stream, Bytes>;

/// Starts the HTTP/2 side of an accepted HBONE connection.
///
/// # Errors
/// The peer does not speak HTTP/2.
pub async fn serve(stream: Stream) -> Result<ServerConnection, h2::Error> {
    h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES)
        .max_concurrent_streams(limits::H2_STREAMS)
        .handshake(stream)
        .await
}

/// Why a tunnel could not be opened.
#[derive(Debug, Error)]
pub enum HboneError {
    /// TCP or TLS failed.
    #[error("cannot reach `{to}`")]
    Connect {
        /// Address.
        to: SocketAddr,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The server is not who it should be.
    #[error("`{to}` is `{got}`, expected `{want}`")]
    Identity {
        /// Address.
        to: SocketAddr,
        /// What its certificate says.
        got: String,
        /// What was expected.
        want: String,
    },
    /// HTTP/2 failed.
    #[error("tunnel to `{to}` failed")]
    Framing {
        /// Address.
        to: SocketAddr,
        /// Cause.
        #[source]
        source: h2::Error,
    },
    /// The far end answered something else than 200.
    #[error("far end answered {0}")]
    Refused(StatusCode),
    /// It took too long.
    #[error("timed out")]
    Timeout,
}

/// Where a tunnel goes and as whom.
#[derive(Clone, Debug)]
pub struct Far {
    /// HBONE listener of the far end.
    pub address: SocketAddr,
    /// Who must answer there.
    pub expected: SpiffeId,
    /// Who we are.
    pub source: SpiffeId,
    /// TLS configuration of `source`.
    pub tls: Arc<rustls::ClientConfig>,
    /// `:authority` of the CONNECT: `IP:port` or `hostname:port`.
    pub authority: String,
    /// `forwarded`'s `for`: the client's address.
    pub client: Option<SocketAddr>,
    /// Socket options.
    pub options: ConnectOptions,
}

type Key = (SpiffeId, SocketAddr, SpiffeId, usize);

#[derive(Debug)]
struct Pooled {
    send: SendRequest<Bytes>,
    streams: Rc<Cell<usize>>,
    alive: Rc<Cell<bool>>,
}

/// HBONE connections of this core.
#[derive(Debug, Default)]
pub struct Pool {
    by_key: RefCell<BTreeMap<Key, Rc<tokio::sync::Mutex<Vec<Pooled>>>>>,
}

impl Pool {
    /// Opens a tunnel for what was permitted.
    ///
    /// # Errors
    /// `HboneError`.
    pub async fn open(&self, _permit: &Permit, far: &Far) -> Result<Stream, HboneError> {
        match rt::timeout(limits::CONNECT_MS, self.open_inner(far)).await {
            Ok(opened) => opened,
            Err(rt::Elapsed) => Err(HboneError::Timeout),
        }
    }

    async fn open_inner(&self, far: &Far) -> Result<Stream, HboneError> {
        let (mut send, lease) = self.connection(far).await?;
        let framing = |source| HboneError::Framing {
            to: far.address,
            source,
        };
        let (response, body) = send
            .send_request(connect_head(far), false)
            .map_err(framing)?;
        let response = response.await.map_err(framing)?;
        if response.status() != StatusCode::OK {
            return Err(HboneError::Refused(response.status()));
        }
        Ok(Tunnel::new(body, response.into_body(), Some(lease)).into())
    }

    /// A connection with room for one more stream. Connecting is serialised per key.
    async fn connection(&self, far: &Far) -> Result<(SendRequest<Bytes>, Lease), HboneError> {
        // A rotated SVID has a new configuration, so new tunnels get a new connection.
        let key = (
            far.source.clone(),
            far.address,
            far.expected.clone(),
            Arc::as_ptr(&far.tls).addr(),
        );
        let slot = Rc::clone(self.by_key.borrow_mut().entry(key).or_default());
        let mut pooled = slot.lock().await;
        pooled.retain(|p| p.alive.get());
        for p in pooled.iter_mut() {
            if p.streams.get() >= limits::HBONE_STREAMS_PER_CONNECTION {
                continue;
            }
            if let Ok(ready) = p.send.clone().ready().await {
                p.send = ready.clone();
                return Ok((ready, Lease::take(&p.streams)));
            }
            p.alive.set(false);
        }
        let fresh = connect(far).await?;
        let got = (fresh.send.clone(), Lease::take(&fresh.streams));
        pooled.push(fresh);
        Ok(got)
    }

    /// Forgets keys whose connections are all gone; called now and then.
    pub fn sweep(&self) {
        self.by_key
            .borrow_mut()
            .retain(|_key, slot| match slot.try_lock() {
                Ok(mut pooled) => {
                    pooled.retain(|p| p.alive.get());
                    !pooled.is_empty()
                }
                Err(_busy) => true,
            });
    }
}

fn connect_head(far: &Far) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    let authority = http::uri::Authority::try_from(far.authority.as_str());
    if let Ok(authority) = authority {
        let mut parts = http::uri::Parts::default();
        parts.authority = Some(authority);
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap_or_default();
    }
    if let Some(client) = far.client
        && let Ok(value) = http::HeaderValue::try_from(format!("for=\"{client}\""))
    {
        request.headers_mut().insert(http::header::FORWARDED, value);
    }
    request
}

async fn connect(far: &Far) -> Result<Pooled, HboneError> {
    let failed = |source| HboneError::Connect {
        to: far.address,
        source,
    };
    let tcp = rt::connect(far.address, far.options)
        .await
        .map_err(failed)?;
    // The name is a dummy: identity is the SPIFFE ID, and no SNI is sent.
    let name = ServerName::IpAddress(far.address.ip().into());
    let (stream, proof) = tls::connect(tcp.into(), Arc::clone(&far.tls), name)
        .await
        .map_err(failed)?;
    if proof.peer.as_ref() != Some(&far.expected) {
        return Err(HboneError::Identity {
            to: far.address,
            got: proof
                .peer
                .map_or_else(|| "nobody".to_owned(), |id| id.to_string()),
            want: far.expected.to_string(),
        });
    }
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES / 4)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|source| HboneError::Framing {
            to: far.address,
            source,
        })?;
    let alive = Rc::new(Cell::new(true));
    let ended = Rc::clone(&alive);
    rt::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "HBONE connection ended");
        }
        ended.set(false);
    });
    Ok(Pooled {
        send,
        streams: Rc::new(Cell::new(0)),
        alive,
    })
}
