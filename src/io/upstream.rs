//! Upstream connections: nothing is dialled without a `Permit`, and a pooled one serves only its own key.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use smallvec::SmallVec;
use thiserror::Error;

use crate::identity::revocation::{PeerLeaf, Revocations};
use crate::io::clock;
use crate::io::early::Early;
use crate::io::h1::{self, Reader, Writer};
use crate::io::h2::{Client, NoClient, Pool};
use crate::io::hbone::{self, Far, HboneError};
use crate::io::rt::{self, ConnectOptions};
use crate::io::stream::Stream;
use crate::io::tls;
use crate::policy::Permit;
use crate::upstream::load::Reuse;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::limits;

#[cfg(test)]
mod tests;

/// Addresses of an upstream; most have one.
pub type Addresses = SmallVec<[UpstreamAddr; 1]>;

/// Where permitted traffic goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Through an HBONE tunnel.
    Hbone(Box<Far>),
    /// Plain TCP: the workload's own app, or an outside service without TLS.
    Plain {
        /// Addresses, tried in order.
        addresses: Addresses,
        /// Socket options.
        options: ConnectOptions,
        /// The client's address, which the app is to see.
        source: Option<rt::Source>,
    },
    /// TLS that we originate.
    Tls {
        /// Addresses, tried in order.
        addresses: Addresses,
        /// Socket options.
        options: ConnectOptions,
        /// Verifies the server.
        config: Arc<rustls::ClientConfig>,
        /// Name sent as SNI and looked for in the certificate.
        name: ServerName<'static>,
    },
}

/// Why an upstream cannot be used.
#[derive(Debug, Error)]
pub enum DialError {
    /// The tunnel failed.
    #[error(transparent)]
    Hbone(#[from] HboneError),
    /// TCP or TLS failed.
    #[error("cannot reach upstream")]
    Connect(#[source] io::Error),
    /// A connection to it was waited for, and could not be made.
    #[error("cannot reach upstream, as another request found just before")]
    Busy,
    /// It took too long.
    #[error("upstream connect timed out")]
    Timeout,
}

/// Protocol towards the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// How an upstream is spoken to, and its connections used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// Protocol.
    pub version: Version,
    /// `connectionPool` of its service.
    pub reuse: Reuse,
}

impl From<Version> for Manner {
    fn from(version: Version) -> Self {
        Self {
            version,
            reuse: Reuse::default(),
        }
    }
}

/// An upstream that takes one request.
#[derive(Debug)]
pub enum Upstream {
    /// An HTTP/1.1 connection.
    H1(Box<H1Upstream>),
    /// A stream of an HTTP/2 connection.
    H2(Client),
}

/// An HTTP/1.1 connection to an upstream.
#[derive(Debug)]
pub struct H1Upstream {
    /// Reading half.
    pub reader: Reader,
    /// Writing half.
    pub writer: Writer,
    /// It served a request before, so the far end may have closed it meanwhile.
    pub reused: bool,
    /// For how many milliseconds its peer keeps it without a request; `u64::MAX` if it does not say.
    pub kept_ms: u64,
    /// How it is used again, by its last request.
    reuse: Reuse,
    /// Requests that it has carried, with the one that it carries.
    carried: u32,
    key: Rc<Key>,
}

type Key = (Version, u8, String, SocketAddr, usize);

fn key(version: Version, target: &Target) -> Key {
    let none = SocketAddr::from(([0, 0, 0, 0], 0));
    match target {
        Target::Hbone(far) => {
            let also = far.also.as_deref().unwrap_or_default();
            // No part holds a space.
            let mut who = String::with_capacity(256);
            let ids = [&far.source, &far.expected];
            for id in ids.into_iter().chain(also) {
                who.push_str(id.as_str());
                who.push(' ');
            }
            who.push_str(&far.head.authority);
            (version, 0, who, far.address, Arc::as_ptr(&far.tls).addr())
        }
        Target::Plain {
            addresses, source, ..
        } => {
            let first = addresses.first().map_or(none, |a| a.0);
            // A connection that comes from one client's address is no other client's.
            let source = source.map_or_else(String::new, |s| s.ip.to_string());
            (version, 1, source, first, 0)
        }
        Target::Tls {
            addresses,
            config,
            name,
            ..
        } => {
            let first = addresses.first().map_or(none, |a| a.0);
            (
                version,
                2,
                name.to_str().into_owned(),
                first,
                Arc::as_ptr(config).addr(),
            )
        }
    }
}

/// An HTTP/1.1 connection that waits for its next request.
#[derive(Debug)]
struct Idle {
    connection: Box<H1Upstream>,
    since: Instant,
}

/// The right to ask once more what was permitted, because a pooled connection ended before it answered.
#[derive(Debug)]
#[must_use = "it is for the one repetition"]
pub struct Again(Permit);

/// Upstream connections of this core.
#[derive(Debug, Default)]
pub struct Upstreams {
    hbone: hbone::Pool,
    idle: RefCell<BTreeMap<Rc<Key>, Vec<Idle>>>,
    idle_count: Cell<usize>,
    h2: Pool<Key>,
}

impl Upstreams {
    /// Opens a byte stream for one permitted connection.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn dial(&self, permit: Permit, target: &Target) -> Result<Stream, DialError> {
        Ok(self.open(&permit, target, None).await?.0)
    }

    /// As [`Self::dial`], with the certificate that the far end of an HBONE tunnel showed. What `early` has to say goes along
    /// with the request for such a tunnel.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn dial_proved(
        &self,
        permit: Permit,
        target: &Target,
        early: Option<&Early>,
    ) -> Result<(Stream, Option<Arc<PeerLeaf>>), DialError> {
        self.open(&permit, target, early).await
    }

    /// A pooled HTTP/1.1 connection for one permitted request, which waits for nothing.
    ///
    /// # Errors
    /// The permit, if there is none.
    pub fn pooled(
        &self,
        permit: Permit,
        target: &Target,
        manner: Manner,
    ) -> Result<(Upstream, Again), Permit> {
        let key = key(manner.version, target);
        let ready = match manner.version {
            Version::H1 => self.take_idle(&key, manner.reuse).map(Upstream::H1),
            Version::H2 => self.h2.ready(&key, manner.reuse).map(Upstream::H2),
        };
        match ready {
            Some(ready) => Ok((ready, Again(permit))),
            None => Err(permit),
        }
    }

    /// An upstream for one permitted request.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn request(
        &self,
        permit: Permit,
        target: &Target,
        manner: Manner,
    ) -> Result<(Upstream, Again), DialError> {
        let (key, reuse) = (key(manner.version, target), manner.reuse);
        let upstream = match manner.version {
            Version::H1 => match self.take_idle(&key, reuse) {
                Some(idle) => Upstream::H1(idle),
                None => self.fresh_h1(&permit, target, key, reuse).await?,
            },
            Version::H2 => self.h2_stream(&permit, target, key, reuse).await?,
        };
        Ok((upstream, Again(permit)))
    }

    /// An upstream for the one repetition of a request; no pooled HTTP/1.1 connection is used.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn again(
        &self,
        again: Again,
        target: &Target,
        Manner { version, reuse }: Manner,
    ) -> Result<Upstream, DialError> {
        let (Again(permit), key) = (again, key(version, target));
        match version {
            Version::H1 => self.fresh_h1(&permit, target, key, reuse).await,
            Version::H2 => self.h2_stream(&permit, target, key, reuse).await,
        }
    }

    async fn fresh_h1(
        &self,
        permit: &Permit,
        target: &Target,
        key: Key,
        reuse: Reuse,
    ) -> Result<Upstream, DialError> {
        let (reader, writer) = h1::split(self.open(permit, target, None).await?.0);
        Ok(Upstream::H1(Box::new(H1Upstream {
            reader,
            writer,
            reused: false,
            kept_ms: u64::MAX,
            reuse,
            carried: 1,
            key: Rc::new(key),
        })))
    }

    fn take_idle(&self, key: &Key, reuse: Reuse) -> Option<Box<H1Upstream>> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        // The last one in is the warmest.
        while let Some(Idle {
            mut connection,
            since,
        }) = list.pop()
        {
            self.idle_count.set(self.idle_count.get().saturating_sub(1));
            let kept_ms = connection.kept_ms;
            // Else the sweep is soon enough.
            let timed = reuse.idle_ms.is_some() || kept_ms != u64::MAX;
            let old = timed && !is_recent(since, clock::now(), reuse, kept_ms);
            if !old && reuse.takes_more(connection.carried) && connection.reader.is_quiet() {
                connection.reused = true;
                connection.reuse = reuse;
                connection.carried = connection.carried.saturating_add(1);
                return Some(connection);
            }
        }
        None
    }

    /// Gives back a connection whose exchange is complete. It is watched from here on: one that says something unasked or
    /// ends is not used again. Nor is one on which something waits to be written: that would go before the next request.
    pub fn give_back(&self, mut connection: Box<H1Upstream>) {
        if !connection.writer.is_written()
            // The kernel is asked before the next request, where it matters.
            || !connection.reader.seems_quiet()
            || !connection.reuse.takes_more(connection.carried)
        {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if self.idle_count.get() >= limits::IDLE_UPSTREAMS_PER_CORE {
            drop_oldest(&mut idle);
            self.idle_count.set(self.idle_count.get().saturating_sub(1));
        }
        if !idle.contains_key(&connection.key) {
            idle.insert(Rc::clone(&connection.key), Vec::new());
        }
        let Some(list) = idle.get_mut(&connection.key) else {
            return;
        };
        if list.len() < limits::IDLE_UPSTREAMS {
            let since = clock::now();
            list.push(Idle { connection, since });
            self.idle_count.set(self.idle_count.get().saturating_add(1));
        }
    }

    async fn h2_stream(
        &self,
        permit: &Permit,
        target: &Target,
        key: Key,
        reuse: Reuse,
    ) -> Result<Upstream, DialError> {
        let dial = async || Ok(self.open(permit, target, None).await?.0);
        match self.h2.client(key, reuse, dial).await {
            Ok(client) => Ok(Upstream::H2(client)),
            Err(NoClient::Dial(error)) => Err(error),
            Err(NoClient::Waited) => Err(DialError::Busy),
        }
    }

    async fn open(
        &self,
        permit: &Permit,
        target: &Target,
        early: Option<&Early>,
    ) -> Result<(Stream, Option<Arc<PeerLeaf>>), DialError> {
        let stream = match target {
            Target::Hbone(far) => {
                let (stream, leaf) = self.hbone.open(permit, far, early).await?;
                return Ok((stream, Some(leaf)));
            }
            Target::Plain {
                addresses,
                options,
                source,
            } => {
                each(addresses, async |address| {
                    tcp(address, *options, *source).await.map(Stream::from)
                })
                .await
            }
            Target::Tls {
                addresses,
                options,
                config,
                name,
            } => {
                each(addresses, async |address| {
                    tls_to(address, *options, config, name).await
                })
                .await
            }
        };
        Ok((stream?, None))
    }

    /// Ends HBONE connections to revoked peers; how many that were. What runs within them breaks off.
    pub fn cut(&self, revocations: &Arc<Revocations>) -> usize {
        self.hbone.cut(revocations)
    }

    /// Drops connections that ended or were idle for long, and keys that are empty; called now and then.
    pub fn sweep(&self) {
        let now = clock::now();
        self.hbone.sweep();
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_key, list| {
            list.retain_mut(|c| {
                let connection = &mut c.connection;
                is_recent(c.since, now, connection.reuse, connection.kept_ms)
                    && connection.reader.is_quiet()
            });
            !list.is_empty()
        });
        self.idle_count.set(idle.values().map(Vec::len).sum());
        self.h2
            .sweep(|used, reuse| is_recent(used, now, reuse, u64::MAX));
    }

    /// Drops everything that is idle; what is in use ends with its exchange.
    pub fn clear(&self) {
        self.idle.borrow_mut().clear();
        self.idle_count.set(0);
        self.h2.clear();
        self.hbone.clear();
    }
}

/// Whether a connection that is idle since then is kept; its peer keeps it for `kept_ms`.
fn is_recent(since: Instant, now: Instant, reuse: Reuse, kept_ms: u64) -> bool {
    let most = reuse.idle_ms.unwrap_or(limits::IDLE_UPSTREAM_MS);
    let most = most.min(kept_ms);
    now.saturating_duration_since(since) < Duration::from_millis(most)
}

/// Makes room for one more idle connection.
fn drop_oldest(idle: &mut BTreeMap<Rc<Key>, Vec<Idle>>) {
    // Of each key the first is the oldest.
    let oldest = idle
        .iter()
        .filter_map(|(key, list)| Some((list.first()?.since, key)))
        .min();
    if let Some(key) = oldest.map(|(_since, key)| Rc::clone(key))
        && let Some(list) = idle.get_mut(&key)
    {
        drop(list.drain(..1));
        if list.is_empty() {
            idle.remove(&key);
        }
    }
}

/// The first address that can be connected to.
async fn each(
    addresses: &[UpstreamAddr],
    connect: impl AsyncFn(UpstreamAddr) -> Result<Stream, DialError>,
) -> Result<Stream, DialError> {
    let all = async {
        let mut last = DialError::Connect(io::ErrorKind::AddrNotAvailable.into());
        for address in addresses {
            match connect(*address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    tracing::debug!(%address, %error, "upstream address");
                    last = error;
                }
            }
        }
        Err(last)
    };
    // On the heap: it lives while connecting, its exchange much longer.
    match rt::timeout(limits::CONNECT_ALL_MS, Box::pin(all)).await {
        Ok(outcome) => outcome,
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}

async fn tcp(
    address: UpstreamAddr,
    options: ConnectOptions,
    source: Option<rt::Source>,
) -> Result<rt::Tcp, DialError> {
    match rt::timeout(
        options.within_ms.unwrap_or(limits::CONNECT_MS),
        rt::connect_from(source, address.0, options),
    )
    .await
    {
        Ok(connected) => connected.map_err(DialError::Connect),
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}

async fn tls_to(
    address: UpstreamAddr,
    options: ConnectOptions,
    config: &Arc<rustls::ClientConfig>,
    name: &ServerName<'static>,
) -> Result<Stream, DialError> {
    let Some(within_ms) = options.within_ms else {
        return tls_within(address, options, config, name).await;
    };
    // One time for both halves, on the heap as few have it.
    let made = Box::pin(tls_within(address, options, config, name));
    match rt::timeout(within_ms, made).await {
        Ok(made) => made,
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}

async fn tls_within(
    address: UpstreamAddr,
    options: ConnectOptions,
    config: &Arc<rustls::ClientConfig>,
    name: &ServerName<'static>,
) -> Result<Stream, DialError> {
    let stream = tcp(address, options, None).await?.into();
    let handshake = tls::connect(stream, Arc::clone(config), name.clone());
    match rt::timeout(limits::HANDSHAKE_MS, handshake).await {
        Ok(done) => done
            .map(|(stream, _proof)| stream)
            .map_err(DialError::Connect),
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}
