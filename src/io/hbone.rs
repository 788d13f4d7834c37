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
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::io::clock;
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

/// Asks the peer now and then whether it is there; ends when it does not answer. An HTTP/2 connection that carries
/// tunnels may be silent for hours, so nothing else tells.
pub async fn silent(ping: Option<PingPong>) {
    if let Some(mut ping) = ping {
        loop {
            rt::sleep(limits::PING_MS).await;
            match rt::timeout(limits::PONG_MS, ping.ping(Ping::opaque())).await {
                Ok(Ok(_pong)) => {}
                // The connection ends by itself.
                Ok(Err(_ended)) => break,
                Err(rt::Elapsed) => return,
            }
        }
    }
    std::future::pending::<()>().await;
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
    /// The authority of the CONNECT is none.
    #[error("`{authority}` is no host and port")]
    Authority {
        /// As it was to be sent.
        authority: String,
        /// Cause.
        #[source]
        source: http::Error,
    },
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
    /// When it was last seen to carry a tunnel.
    used: Instant,
}

impl Pooled {
    fn has_room(&self) -> bool {
        let most = limits::HBONE_STREAMS_PER_CONNECTION.min(self.send.current_max_send_streams());
        self.alive.get() && self.streams.get() < most
    }

    /// Whether it stays in the pool. One that goes still carries its tunnels to their end.
    fn stays(&mut self, now: Instant) -> bool {
        if self.streams.get() > 0 {
            self.used = now;
        }
        let idle = now.saturating_duration_since(self.used);
        self.alive.get() && idle < Duration::from_millis(limits::IDLE_HBONE_MS)
    }
}

/// HBONE connections of this core. Keys come from the configuration, so they are as bounded as it is.
#[derive(Debug, Default)]
pub(super) struct Pool {
    by_key: RefCell<BTreeMap<Key, Rc<tokio::sync::Mutex<Vec<Pooled>>>>>,
}

impl Pool {
    /// Opens a tunnel for what was permitted.
    ///
    /// # Errors
    /// `HboneError`.
    pub(super) async fn open(&self, _permit: &Permit, far: &Far) -> Result<Stream, HboneError> {
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
            .send_request(connect_head(far)?, false)
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
        for p in pooled.iter().filter(|p| p.has_room()) {
            // Not ready after GOAWAY: it carries what it carries, and takes no more.
            if let Ok(ready) = p.send.clone().ready().await {
                return Ok((ready, Lease::take(&p.streams)));
            }
            p.alive.set(false);
        }
        let fresh = connect(far).await?;
        let got = (fresh.send.clone(), Lease::take(&fresh.streams));
        pooled.push(fresh);
        Ok(got)
    }

    /// Forgets connections that are gone or idle for long; called now and then.
    pub(super) fn sweep(&self) {
        let now = clock::now();
        self.by_key
            .borrow_mut()
            .retain(|_key, slot| match slot.try_lock() {
                Ok(mut pooled) => {
                    pooled.retain_mut(|p| p.stays(now));
                    !pooled.is_empty()
                }
                Err(_busy) => true,
            });
    }

    /// Forgets all connections; each ends with its last tunnel.
    pub(super) fn clear(&self) {
        self.by_key.borrow_mut().clear();
    }
}

fn connect_head(far: &Far) -> Result<Request<()>, HboneError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    let mut parts = http::uri::Parts::default();
    let malformed = |source| HboneError::Authority {
        authority: far.authority.clone(),
        source,
    };
    let authority = far.authority.parse::<http::uri::Authority>();
    parts.authority = Some(authority.map_err(|e| malformed(e.into()))?);
    *request.uri_mut() = http::Uri::from_parts(parts).map_err(|e| malformed(e.into()))?;
    if let Some(client) = far.client
        && let Ok(value) = http::HeaderValue::try_from(format!("for=\"{client}\""))
    {
        request.headers_mut().insert(http::header::FORWARDED, value);
    }
    Ok(request)
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
    let (send, mut connection) = h2::client::Builder::new()
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
    let silent = silent(connection.ping_pong());
    rt::spawn(async move {
        tokio::select! {
            done = connection => {
                if let Err(error) = done {
                    tracing::debug!(%error, "HBONE connection ended");
                }
            }
            () = silent => tracing::debug!("HBONE peer does not answer"),
        }
        ended.set(false);
    });
    Ok(Pooled {
        send,
        streams: Rc::new(Cell::new(0)),
        alive,
        used: clock::now(),
    })
}
