//! TLS over any stream: the handshake, and what it proved.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::BytesMut;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exchange::close::CloseReason;
use crate::identity;
use crate::identity::revocation::PeerLeaf;
use crate::io::buffers::{self, Size};
use crate::io::records::Tls;
use crate::io::rt;
use crate::io::stream::Stream;
use crate::record::{Handshake, HandshakeError, Hello, Progress, unserved};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// What a handshake proved.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// Verified SPIFFE ID of the peer's certificate; `None` if it showed none.
    pub peer: Option<SpiffeId>,
    /// What a revocation may name of that certificate.
    pub leaf: Option<Arc<PeerLeaf>>,
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
            Self::Failed(error) if revoked(error) => CloseReason::Revoked,
            Self::Failed(_) => CloseReason::Handshake,
            Self::Slow => CloseReason::Timeout,
        }
    }
}

/// Whether a handshake failed because the peer's certificate is revoked.
#[must_use]
pub fn revoked(error: &io::Error) -> bool {
    let rustls = error
        .get_ref()
        .and_then(|source| source.downcast_ref::<rustls::Error>());
    matches!(
        rustls,
        Some(rustls::Error::InvalidCertificate(CertificateError::Revoked))
    )
}

/// Serves one handshake in `limits::HANDSHAKE_MS`; `choose` gets the client's server name. If it chooses nothing, the client is
/// told so.
///
/// # Errors
/// `AcceptError`.
pub async fn accept(
    stream: Stream,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<ServerConfig>>,
) -> Result<(Stream, Proof), AcceptError> {
    match rt::timeout(limits::HANDSHAKE_MS, Box::pin(handshake(stream, choose))).await {
        Ok(done) => done.map_err(AcceptError::Failed),
        Err(rt::Elapsed) => Err(AcceptError::Slow),
    }
}

async fn handshake(
    mut stream: Stream,
    choose: impl FnOnce(Option<&str>) -> Option<Arc<ServerConfig>>,
) -> io::Result<(Stream, Proof)> {
    let mut hello = Hello::default();
    let wanted = loop {
        let bytes = receive(&mut stream).await?;
        let fed = hello.feed(&bytes);
        buffers::give(bytes);
        match fed {
            Ok(Some(wanted)) => break wanted,
            Ok(None) => {}
            Err(refused) => {
                tell(&mut stream, &refused.alert).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, refused.error));
            }
        }
    };
    let Some(config) = choose(wanted.sni.as_deref()) else {
        tell(&mut stream, &unserved(wanted.sni.as_deref())).await;
        return Err(io::Error::other(match wanted.sni {
            Some(name) => format!("no certificate is for the server name `{name}`"),
            None => "the client tells no server name".to_owned(),
        }));
    };
    let handshake = hello.answer(config).map_err(failed)?;
    let (stream, proof) = finish(stream, handshake).await?;
    let sni = wanted.sni;
    Ok((stream, Proof { sni, ..proof }))
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
    let handshake = Handshake::client(config, name).map_err(failed)?;
    Box::pin(finish(stream, handshake)).await
}

fn failed(error: HandshakeError) -> io::Error {
    match error {
        HandshakeError::Tls(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        other @ (HandshakeError::Closed
        | HandshakeError::TooLong
        | HandshakeError::Order
        | HandshakeError::Keys(_)) => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

/// The next bytes of the handshake; while they are waited for no buffer is held.
async fn receive(stream: &mut Stream) -> io::Result<BytesMut> {
    let bytes = std::future::poll_fn(|cx| {
        let mut bytes = buffers::take(Size::Small);
        let polled = pin!(stream.read_buf(&mut bytes)).poll(cx);
        match polled {
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(bytes)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                buffers::give(bytes);
                Poll::Pending
            }
        }
    })
    .await?;
    if bytes.is_empty() {
        let eof = io::ErrorKind::UnexpectedEof;
        return Err(io::Error::new(eof, "tls handshake eof"));
    }
    Ok(bytes)
}

async fn send(stream: &mut Stream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Sends an alert; the handshake has failed already, so whether it arrives is not asked.
async fn tell(stream: &mut Stream, alert: &[u8]) {
    if let Err(error) = send(stream, alert).await {
        tracing::trace!(%error, "alert was not sent");
    }
}

async fn finish(mut stream: Stream, handshake: Handshake) -> io::Result<(Stream, Proof)> {
    let mut handshake = Box::new(handshake);
    loop {
        let progress = handshake.advance();
        let output = handshake.take_output();
        match progress {
            Ok(progress) => {
                if !output.is_empty() {
                    send(&mut stream, &output).await?;
                }
                if progress == Progress::Done {
                    break;
                }
            }
            Err(error) => {
                tell(&mut stream, &output).await;
                return Err(failed(error));
            }
        }
        let bytes = receive(&mut stream).await?;
        let fed = handshake.feed(&bytes);
        buffers::give(bytes);
        fed.map_err(failed)?;
    }
    let certificates = handshake.peer_certificates();
    let leaf = certificates
        .and_then(identity::tls::peer_leaf)
        .map(Arc::new);
    let proof = Proof {
        peer: leaf.as_ref().map(|leaf| leaf.id.clone()),
        leaf,
        sni: None,
        h2: handshake.alpn() == Some(b"h2"),
    };
    let (records, early) = handshake.finish().map_err(failed)?;
    Ok((Tls::new(stream, records, &early).into(), proof))
}
