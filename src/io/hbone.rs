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

use http::{Request, StatusCode};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::sync::Notify;

use crate::h2::session::OpenError;
use crate::hbone::Code;
use crate::http::connect::Head;
use crate::identity::revocation::{PeerLeaf, Revocations, Target};
use crate::io::clock;
use crate::io::early::Early;
use crate::io::mux::{Mux, MuxError};
use crate::io::random;
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
    /// The server is revoked.
    #[error("peer at `{to}` is revoked: {target}")]
    Revoked {
        /// Address.
        to: SocketAddr,
        /// By what.
        target: Target,
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
    /// Who else may (`subjectAltNames` of the service).
    pub also: Option<Arc<[SpiffeId]>>,
    /// Who we are.
    pub source: SpiffeId,
    /// TLS configuration of `source`.
    pub tls: Arc<rustls::ClientConfig>,
    /// Head of the CONNECT.
    pub head: Head,
    /// Socket options.
    pub options: ConnectOptions,
}

impl Far {
    fn key(&self) -> Key {
        // A rotated SVID has a new configuration, so new tunnels get a new connection.
        (
            self.source.clone(),
            self.address,
            self.expected.clone(),
            self.also.clone(),
            Arc::as_ptr(&self.tls).addr(),
        )
    }

    fn accepts(&self, peer: &SpiffeId) -> bool {
        let also = self.also.as_deref().unwrap_or_default();
        *peer == self.expected || also.contains(peer)
    }
}

type Key = (
    SpiffeId,
    SocketAddr,
    SpiffeId,
    Option<Arc<[SpiffeId]>>,
    usize,
);

#[derive(Debug)]
struct Pooled {
    mux: Mux,
    /// Who answers, by the certificate that it showed.
    leaf: Arc<PeerLeaf>,
    /// Ends the connection, and with it its tunnels.
    cut: Rc<Notify>,
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

/// The connections of one key.
#[derive(Debug, Default)]
struct Slot {
    /// Never borrowed over an await: what is revoked is ended whoever connects meanwhile.
    pooled: RefCell<Vec<Pooled>>,
    /// Held while another one is made.
    connecting: tokio::sync::Mutex<()>,
}

impl Slot {
    /// One with room for a further stream.
    fn with_room(&self) -> Option<(Mux, Arc<PeerLeaf>)> {
        let mut pooled = self.pooled.borrow_mut();
        // After GOAWAY it carries what it carries, and takes no more.
        pooled.retain(|p| p.mux.is_alive());
        let found = pooled.iter().find(|p| p.has_room())?;
        Some((found.mux.clone(), Arc::clone(&found.leaf)))
    }
}

/// HBONE connections of this core. Keys come from the configuration, so they are as bounded as it is.
#[derive(Debug, Default)]
pub(super) struct Pool {
    by_key: RefCell<BTreeMap<Key, Rc<Slot>>>,
    /// As it was told last.
    revoked: RefCell<Arc<Revocations>>,
}

impl Pool {
    /// Opens a tunnel for what was permitted; what the client says meanwhile goes along.
    ///
    /// # Errors
    /// `HboneError`.
    pub(super) async fn open(
        &self,
        _permit: &Permit,
        far: &Far,
        early: Option<&Early>,
    ) -> Result<(Stream, Arc<PeerLeaf>), HboneError> {
        let within_ms = far.options.within_ms.unwrap_or(limits::CONNECT_MS);
        match rt::timeout(within_ms, self.open_inner(far, early)).await {
            Ok(opened) => opened,
            Err(rt::Elapsed) => Err(HboneError::Timeout),
        }
    }

    /// Once more if the peer says that it has not looked at it (RFC 9113 section 8.7).
    async fn open_inner(
        &self,
        far: &Far,
        early: Option<&Early>,
    ) -> Result<(Stream, Arc<PeerLeaf>), HboneError> {
        match self.open_once(far, early).await {
            Err(HboneError::Framing { source, .. }) if is_unprocessed(&source) => {
                self.open_once(far, early).await
            }
            done => done,
        }
    }

    async fn open_once(
        &self,
        far: &Far,
        early: Option<&Early>,
    ) -> Result<(Stream, Arc<PeerLeaf>), HboneError> {
        let request = connect_head(far)?;
        let framing = |source| HboneError::Framing {
            to: far.address,
            source,
        };
        // Until the first await nobody else takes the room that was found. The pool may have forgotten the slot meanwhile,
        // which drains its connections when nobody has it.
        let (mux, leaf, _slot) = self.connection(far).await?;
        let (response, tunnel) = mux.open(&request, early).await.map_err(framing)?;
        if response.status() != StatusCode::OK {
            return Err(HboneError::Refused(response.status()));
        }
        Ok((tunnel.into(), leaf))
    }

    /// A connection with room for one more stream, and what keeps it from draining until that is open. Connecting is
    /// serialised per key.
    async fn connection(&self, far: &Far) -> Result<(Mux, Arc<PeerLeaf>, Rc<Slot>), HboneError> {
        let slot = Rc::clone(self.by_key.borrow_mut().entry(far.key()).or_default());
        // Whoever finds room does not wait behind another one's dial.
        if let Some((mux, leaf)) = slot.with_room() {
            return Ok((mux, leaf, slot));
        }
        let turn = slot.connecting.lock().await;
        let (mux, leaf) = match slot.with_room() {
            Some(found) => found,
            None => self.admit(connect(far).await?, &slot, far.address)?,
        };
        drop(turn);
        Ok((mux, leaf, slot))
    }

    /// Puts a new connection into the pool, unless its peer was revoked since its handshake asked.
    fn admit(
        &self,
        fresh: Pooled,
        slot: &Slot,
        to: SocketAddr,
    ) -> Result<(Mux, Arc<PeerLeaf>), HboneError> {
        if let Some(target) = self.revoked.borrow().of(&fresh.leaf) {
            fresh.cut.notify_one();
            return Err(HboneError::Revoked { to, target });
        }
        let got = (fresh.mux.clone(), Arc::clone(&fresh.leaf));
        slot.pooled.borrow_mut().push(fresh);
        Ok(got)
    }

    /// Forgets connections that are gone or idle for long; called now and then.
    pub(super) fn sweep(&self) {
        let now = clock::now();
        self.by_key.borrow_mut().retain(|_key, slot| {
            let mut pooled = slot.pooled.borrow_mut();
            pooled.retain_mut(|p| p.stays(now));
            !pooled.is_empty() || slot.connecting.try_lock().is_err()
        });
    }

    /// Ends the connections to revoked peers, and their tunnels with them; how many that were. Those that are being made
    /// are judged by the same when they are.
    pub(super) fn cut(&self, revocations: &Arc<Revocations>) -> usize {
        self.revoked.replace(Arc::clone(revocations));
        if revocations.is_empty() {
            return 0;
        }
        let mut ended = 0_usize;
        for slot in self.by_key.borrow().values() {
            slot.pooled.borrow_mut().retain(|p| {
                let stays = revocations.of(&p.leaf).is_none();
                if !stays {
                    p.cut.notify_one();
                    ended = ended.saturating_add(1);
                }
                stays
            });
        }
        ended
    }

    /// Forgets all connections; each ends with its last tunnel.
    pub(super) fn clear(&self) {
        self.by_key.borrow_mut().clear();
    }
}

/// Whether the peer has refused a stream unseen, has left it out of those that it serves before it goes, or has said that it
/// goes before the stream was sent.
fn is_unprocessed(error: &MuxError) -> bool {
    matches!(
        error,
        MuxError::Reset(Code::REFUSED_STREAM) | MuxError::Open(OpenError::GoingAway)
    )
}

fn connect_head(far: &Far) -> Result<Request<()>, HboneError> {
    let random = random::bytes().unwrap_or_default();
    far.head
        .request(random)
        .map_err(|source| HboneError::Authority {
            authority: far.head.authority.clone(),
            source,
        })
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
    let other = |got: String| HboneError::Identity {
        to: far.address,
        got,
        want: far.expected.to_string(),
    };
    let leaf = proof.leaf.ok_or_else(|| other("nobody".to_owned()))?;
    if !far.accepts(&leaf.id) {
        return Err(other(leaf.id.to_string()));
    }
    Ok(begun(stream, leaf))
}

/// Runs a connection that `leaf` was shown on.
fn begun(stream: Stream, leaf: Arc<PeerLeaf>) -> Pooled {
    let (mux, driver) = Mux::client(stream);
    let silent = mux.clone().silent();
    let cut = Rc::new(Notify::new());
    let told = Rc::clone(&cut);
    rt::spawn(async move {
        tokio::select! {
            done = driver.run() => {
                if let Err(error) = done {
                    tracing::debug!(%error, "HBONE connection ended");
                }
            }
            () = silent => tracing::debug!("HBONE peer does not answer"),
            () = told.notified() => {
                tracing::debug!("HBONE peer is revoked");
                // One turn for the tunnels to hear why, before they hear that it is over.
                rt::yield_turn().await;
            }
        }
    });
    Pooled {
        mux,
        leaf,
        cut,
        used: clock::now(),
    }
}

#[cfg(test)]
mod tests;
