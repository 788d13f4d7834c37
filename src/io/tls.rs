//! TLS over any stream: the handshake, and what it proved.

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector, TlsStream};

use crate::exchange::close::CloseReason;
use crate::identity;
use crate::io::rt;
use crate::io::stream::Stream;
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// What a handshake proved.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Verified SPIFFE ID of the peer's certificate; `None` if it showed none.
    pub peer: Option<SpiffeId>,
    /// Server name that the client asked for, lower case.
    pub sni: Option<String>,
    /// Negotiated application protocol.
    pub h2: bool,
}

/// Why a client's handshake failed.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The peer's doing or the stream's, as rustls reports it.
    #[error("{0}")]
    Failed(io::Error),
    /// Longer than `limits::HANDSHAKE_MS`.
    #[error("handshake is too slow")]
    Slow,
}

impl AcceptError {
    /// The reason for the record.
    #[must_use]
    pub fn close(&self) -> CloseReason {
        match self {
            Self::Failed(_) => CloseReason::Handshake,
            Self::Slow => CloseReason::Timeout,
        }
    }
}

/// Serves one handshake in `limits::HANDSHAKE_MS`; `choose` gets the client's server name.
///
/// # Errors
/// `AcceptError`.
pub async fn accept(
    stream: Stream,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<ServerConfig>>,
) -> Result<(Stream, Proof), AcceptError> {
    match rt::timeout(limits::HANDSHAKE_MS, handshake(stream, choose)).await {
        Ok(done) => done.map_err(AcceptError::Failed),
        Err(rt::Elapsed) => Err(AcceptError::Slow),
    }
}

async fn handshake(
    stream: Stream,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<ServerConfig>>,
) -> io::Result<(Stream, Proof)> {
    let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    let sni = hello
        .client_hello()
        .server_name()
        .map(str::to_ascii_lowercase);
    let config = choose(sni.as_deref())
        .ok_or_else(|| io::Error::other("no certificate for this server name"))?;
    let tls = hello.into_stream(config).await?;
    let (_, session) = tls.get_ref();
    let proof = Proof {
        peer: session.peer_certificates().and_then(identity::tls::peer_id),
        sni,
        h2: session.alpn_protocol() == Some(b"h2"),
    };
    Ok((Stream::from(TlsStream::from(tls)), proof))
}

/// Makes one handshake as a client, without a time limit of its own.
///
/// # Errors
/// The peer's or the stream's, as rustls reports it.
pub(super) async fn connect(
    stream: Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<(Stream, Proof)> {
    let tls = TlsConnector::from(config).connect(name, stream).await?;
    let (_, session) = tls.get_ref();
    let proof = Proof {
        peer: session.peer_certificates().and_then(identity::tls::peer_id),
        sni: None,
        h2: session.alpn_protocol() == Some(b"h2"),
    };
    Ok((Stream::from(TlsStream::from(tls)), proof))
}
