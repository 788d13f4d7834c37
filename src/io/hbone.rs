//! HBONE: HTTP/2 CONNECT over mTLS, both ends, with ztunnel's settings.
//!
//! A client keeps its connections in a pool of the core; the key holds the caller's identity, so one
//! workload's tunnel is never used for another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode};
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::io::clock;
use crate::io::mux::{Mux, MuxError};
use crate::io::rt::{self, ConnectOptions};
use crate::io::stream::Stream;
use crate::io::tls;
use crate::policy::Permit;
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

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
        source: MuxError,
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
    mux: Mux,
    /// When it was last seen to carry a tunnel.
    used: Instant,
}

/// A connection that leaves the pool still carries its tunnels to their end.
impl Drop for Pooled {
    fn drop(&mut self) {
        self.mux.drain();
    }
}

impl Pooled {
    fn has_room(&self) -> bool {
        let open = self.mux.open_streams();
        open < limits::HBONE_STREAMS_PER_CONNECTION && self.mux.room_for_streams() > 0
    }

    /// Whether it stays in the pool. One that goes still carries its tunnels to their end.
    fn stays(&mut self, now: Instant) -> bool {
        if self.mux.open_streams() > 0 {
            self.used = now;
        }
        let idle = now.saturating_duration_since(self.used);
        self.mux.is_alive() && idle < Duration::from_millis(limits::IDLE_HBONE_MS)
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
        let request = connect_head(far)?;
        let framing = |source| HboneError::Framing {
            to: far.address,
            source,
        };
        // Until the first await nobody else takes the room that was found.
        let mux = self.connection(far).await?;
        let (response, tunnel) = mux.open(&request).await.map_err(framing)?;
        if response.status() != StatusCode::OK {
            return Err(HboneError::Refused(response.status()));
        }
        Ok(tunnel.into())
    }

    /// A connection with room for one more stream. Connecting is serialised per key.
    async fn connection(&self, far: &Far) -> Result<Mux, HboneError> {
        // A rotated SVID has a new configuration, so new tunnels get a new connection.
        let key = (
            far.source.clone(),
            far.address,
            far.expected.clone(),
            Arc::as_ptr(&far.tls).addr(),
        );
        let slot = Rc::clone(self.by_key.borrow_mut().entry(key).or_default());
        let mut pooled = slot.lock().await;
        // After GOAWAY it carries what it carries, and takes no more.
        pooled.retain(|p| p.mux.is_alive());
        if let Some(p) = pooled.iter().find(|p| p.has_room()) {
            return Ok(p.mux.clone());
        }
        let fresh = connect(far).await?;
        let mux = fresh.mux.clone();
        pooled.push(fresh);
        Ok(mux)
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
    let (mux, driver) = Mux::client(stream);
    let silent = mux.clone().silent();
    rt::spawn(async move {
        tokio::select! {
            done = driver.run() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "HBONE connection ended");
                }
            }
            () = silent => tracing::debug!("HBONE peer does not answer"),
        }
    });
    Ok(Pooled {
        mux,
        used: clock::now(),
    })
}
