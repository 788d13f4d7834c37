//! Upstream connections: nothing is dialled without a `Permit`, and a pooled one serves only its own key.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::io::h1::{self, Reader, Writer};
use crate::io::hbone::{self, Far, HboneError};
use crate::io::rt::{self, ConnectOptions};
use crate::io::stream::Stream;
use crate::io::tls;
use crate::policy::Permit;
use crate::vocab::addr::UpstreamAddr;
use crate::vocab::limits;

/// Where permitted traffic goes.
#[derive(Clone, Debug)]
pub enum Target {
    /// Through an HBONE tunnel.
    Hbone(Far),
    /// Plain TCP: the workload's own app, or an outside service without TLS.
    Plain {
        /// Addresses, tried in order.
        addresses: Vec<UpstreamAddr>,
        /// Socket options.
        options: ConnectOptions,
    },
    /// TLS that we originate.
    Tls {
        /// Addresses, tried in order.
        addresses: Vec<UpstreamAddr>,
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
    /// HTTP/2 failed.
    #[error("upstream does not speak HTTP/2")]
    Framing(#[source] h2::Error),
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

/// An upstream that takes one request.
#[derive(Debug)]
pub enum Upstream {
    /// An HTTP/1.1 connection.
    H1(Box<H1Upstream>),
    /// A stream of an HTTP/2 connection.
    H2(SendRequest<Bytes>),
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
    key: Key,
}

type Key = (Version, u8, String, SocketAddr, usize);

fn key(version: Version, target: &Target) -> Key {
    let none = SocketAddr::from(([0, 0, 0, 0], 0));
    match target {
        Target::Hbone(far) => {
            let who = format!("{} {} {}", far.source, far.expected, far.authority);
            (version, 0, who, far.address, Arc::as_ptr(&far.tls).addr())
        }
        Target::Plain { addresses, .. } => {
            let first = addresses.first().map_or(none, |a| a.0);
            (version, 1, String::new(), first, 0)
        }
        Target::Tls {
            addresses,
            config,
            name,
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

/// Upstream connections of this core.
#[derive(Debug, Default)]
pub struct Upstreams {
    hbone: hbone::Pool,
    idle: RefCell<BTreeMap<Key, Vec<H1Upstream>>>,
    h2: RefCell<BTreeMap<Key, SendRequest<Bytes>>>,
}

impl Upstreams {
    /// Opens a byte stream for one permitted connection.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn dial(&self, permit: Permit, target: &Target) -> Result<Stream, DialError> {
        self.open(&permit, target).await
    }

    /// An upstream for one permitted request; `fresh` does not take a connection from the pool. The
    /// permit comes back for the one repetition that a stale pooled connection may need.
    ///
    /// # Errors
    /// `DialError`.
    pub async fn request(
        &self,
        permit: Permit,
        target: &Target,
        version: Version,
        fresh: bool,
    ) -> Result<(Upstream, Permit), DialError> {
        let key = key(version, target);
        let upstream = match version {
            Version::H1 => match self.take_idle(&key).filter(|_| !fresh) {
                Some(idle) => Upstream::H1(Box::new(idle)),
                None => {
                    let (reader, writer) = h1::split(self.open(&permit, target).await?);
                    Upstream::H1(Box::new(H1Upstream {
                        reader,
                        writer,
                        reused: false,
                        key,
                    }))
                }
            },
            Version::H2 => Upstream::H2(self.h2_stream(&permit, target, key).await?),
        };
        Ok((upstream, permit))
    }

    fn take_idle(&self, key: &Key) -> Option<H1Upstream> {
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(key)?;
        // The last one in is the warmest.
        while let Some(mut connection) = list.pop() {
            if connection.reader.is_quiet() {
                connection.reused = true;
                return Some(connection);
            }
        }
        None
    }

    /// Gives back a connection whose exchange is complete.
    pub fn give_back(&self, connection: H1Upstream) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(connection.key.clone()).or_default();
        if list.len() < limits::IDLE_UPSTREAMS {
            list.push(connection);
        }
    }

    async fn h2_stream(
        &self,
        permit: &Permit,
        target: &Target,
        key: Key,
    ) -> Result<SendRequest<Bytes>, DialError> {
        let pooled = self.h2.borrow().get(&key).cloned();
        if let Some(pooled) = pooled {
            if let Ok(ready) = pooled.ready().await {
                return Ok(ready);
            }
            self.h2.borrow_mut().remove(&key);
        }
        let stream = self.open(permit, target).await?;
        let (send, connection) = h2::client::Builder::new()
            .enable_push(false)
            .max_header_list_size(u32::try_from(limits::HEAD_BYTES).unwrap_or(u32::MAX))
            .handshake::<_, Bytes>(stream)
            .await
            .map_err(DialError::Framing)?;
        rt::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
        });
        let ready = send.clone().ready().await.map_err(DialError::Framing)?;
        self.h2.borrow_mut().insert(key, send);
        Ok(ready)
    }

    async fn open(&self, permit: &Permit, target: &Target) -> Result<Stream, DialError> {
        match target {
            Target::Hbone(far) => Ok(self.hbone.open(permit, far).await?),
            Target::Plain { addresses, options } => {
                each(addresses, async |address| {
                    tcp(address, *options).await.map(Stream::from)
                })
                .await
            }
            Target::Tls {
                addresses,
                config,
                name,
            } => {
                each(addresses, async |address| {
                    tls_to(address, config, name).await
                })
                .await
            }
        }
    }

    /// Drops idle connections that ended and keys that are empty; called now and then.
    pub fn sweep(&self) {
        self.hbone.sweep();
        self.idle.borrow_mut().retain(|_key, list| {
            list.retain_mut(|c| c.reader.is_quiet());
            !list.is_empty()
        });
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

async fn tcp(address: UpstreamAddr, options: ConnectOptions) -> Result<rt::Tcp, DialError> {
    match rt::timeout(limits::CONNECT_MS, rt::connect(address.0, options)).await {
        Ok(connected) => connected.map_err(DialError::Connect),
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}

async fn tls_to(
    address: UpstreamAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &ServerName<'static>,
) -> Result<Stream, DialError> {
    let stream = tcp(address, ConnectOptions::default()).await?.into();
    let handshake = tls::connect(stream, Arc::clone(config), name.clone());
    match rt::timeout(limits::HANDSHAKE_MS, handshake).await {
        Ok(done) => done
            .map(|(stream, _proof)| stream)
            .map_err(DialError::Connect),
        Err(rt::Elapsed) => Err(DialError::Timeout),
    }
}
