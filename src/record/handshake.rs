//! The handshake: rustls's unbuffered connection, fed record by record until the traffic keys are there.
//!
//! Record by record, because what follows the handshake is not rustls's: it would decrypt and keep data that came along.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ProtocolVersion, ServerConfig};
use thiserror::Error;

use super::protect::{Key, Version};
use super::session::{Kernel, Records};
use super::{ALERT, CHANGE_CIPHER_SPEC, DATA, PAYLOAD_BYTES, RecordError, record_length};
use crate::vocab::limits;

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// rustls's reason.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The peer said close_notify.
    #[error("peer closed the connection during the handshake")]
    Closed,
    /// More than `limits::TLS_HANDSHAKE_BYTES` wait for their end.
    #[error("handshake message is too long")]
    TooLong,
    /// Something was done out of order.
    #[error("handshake ended out of order")]
    Order,
    /// The keys cannot be used.
    #[error("traffic keys cannot be used")]
    Keys(#[source] RecordError),
}

/// A hello that is answered with an alert.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Refused {
    /// rustls's reason.
    pub error: rustls::Error,
    /// The alert's bytes.
    pub alert: Vec<u8>,
}

/// The first words of a client, read before it is decided who answers.
#[derive(Default)]
pub struct Hello {
    acceptor: Acceptor,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for Hello {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hello({} bytes)", self.bytes.len())
    }
}

/// The alert (RFC 8446 section 6.2) for a hello with the server name `name` that nobody here answers: unrecognized_name, or
/// missing_extension where there is none (section 9.2).
#[must_use]
pub fn unserved(name: Option<&str>) -> [u8; 7] {
    let description = match name {
        Some(_) => 112,
        None => 109,
    };
    // A fatal one.
    [ALERT, 3, 3, 0, 2, 2, description]
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Server name (SNI), lower case, without the dot that it is not to have at its end (RFC 6066 section 3), which rustls takes away. An
    /// IP address counts as none.
    pub sni: Option<String>,
}

impl Hello {
    /// Takes bytes of the client; `None` if its hello is not complete.
    ///
    /// # Errors
    /// It is none.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Wanted>, Refused> {
        self.bytes.extend_from_slice(bytes);
        let mut rest = bytes;
        while !rest.is_empty() {
            let full = |error: std::io::Error| Refused {
                error: rustls::Error::General(error.to_string()),
                alert: Vec::new(),
            };
            if self.acceptor.read_tls(&mut rest).map_err(full)? == 0 {
                break;
            }
            match self.acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let sni = hello.server_name().map(str::to_ascii_lowercase);
                    return Ok(Some(Wanted { sni }));
                }
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_err() {
                        bytes.clear();
                    }
                    let alert = bytes;
                    return Err(Refused { error, alert });
                }
            }
        }
        Ok(None)
    }

    /// Whether nothing has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Answers the client with `config`.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn answer(self, config: Arc<ServerConfig>) -> Result<Handshake, HandshakeError> {
        let side = Side::Server(UnbufferedServerConnection::new(config)?);
        Ok(Handshake::new(side, self.bytes))
    }
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Send `take_output`, then feed more.
    More,
    /// Send `take_output`, then `finish`.
    Done,
}

/// A handshake under way.
pub struct Handshake {
    side: Side,
    /// What came and is not used yet.
    incoming: Vec<u8>,
    /// Of `incoming` what rustls has seen: whole records.
    shown: usize,
    outgoing: Vec<u8>,
}

impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake({} bytes wait)", self.incoming.len())
    }
}

/// What one turn of rustls came to.
enum Turn {
    Again,
    More,
    Traffic,
}

impl Handshake {
    /// As a client.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, HandshakeError> {
        let side = Side::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self::new(side, Vec::new()))
    }

    fn new(side: Side, incoming: Vec<u8>) -> Self {
        Self {
            side,
            incoming,
            shown: 0,
            outgoing: Vec::new(),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(connection) => connection,
            Side::Server(connection) => connection,
        }
    }

    /// Takes bytes of the peer, for the next `advance`.
    ///
    /// # Errors
    /// `HandshakeError::TooLong`.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), HandshakeError> {
        if self.incoming.len().saturating_add(bytes.len()) > limits::TLS_HANDSHAKE_BYTES {
            return Err(HandshakeError::TooLong);
        }
        self.incoming.extend_from_slice(bytes);
        Ok(())
    }

    /// Goes as far as what came allows. `take_output` is to be sent in any case, with the alert if this fails.
    ///
    /// # Errors
    /// `HandshakeError`.
    pub fn advance(&mut self) -> Result<Progress, HandshakeError> {
        let outcome = self.turns();
        if outcome.is_err() {
            // The alert waits behind the error.
            while let Ok(Turn::Again) = self.turn() {}
        }
        outcome
    }

    fn turns(&mut self) -> Result<Progress, HandshakeError> {
        loop {
            match self.turn()? {
                Turn::Again => continue,
                Turn::Traffic if !self.common().is_handshaking() => return Ok(Progress::Done),
                Turn::Traffic | Turn::More => {}
            }
            let unseen = self.incoming.get(self.shown..).unwrap_or_default();
            match show(unseen) {
                Some(more) => self.shown = self.shown.saturating_add(more),
                None => return Ok(Progress::More),
            }
        }
    }

    fn turn(&mut self) -> Result<Turn, HandshakeError> {
        let shown = self.incoming.get_mut(..self.shown).unwrap_or_default();
        let (discard, turn) = match &mut self.side {
            Side::Client(connection) => {
                take(connection.process_tls_records(shown), &mut self.outgoing)
            }
            Side::Server(connection) => {
                take(connection.process_tls_records(shown), &mut self.outgoing)
            }
        };
        let discard = discard.min(self.shown);
        drop(self.incoming.drain(..discard));
        self.shown = self.shown.saturating_sub(discard);
        turn
    }

    /// What is to be sent.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Certificates of the peer, verified; `None` if it showed none.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.common().peer_certificates()
    }

    /// Negotiated application protocol.
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The records of the established connection, and what came behind the handshake.
    ///
    /// # Errors
    /// The handshake is not done, something of it is not sent, or the configuration does not give out the keys
    /// (`enable_secret_extraction`).
    pub fn finish(self) -> Result<(Records, Vec<u8>), HandshakeError> {
        let met = self.common().protocol_version();
        let version = if met == Some(ProtocolVersion::TLSv1_3) {
            Version::Tls13
        } else if met == Some(ProtocolVersion::TLSv1_2) {
            Version::Tls12
        } else {
            return Err(HandshakeError::Order);
        };
        if self.shown != 0 || !self.outgoing.is_empty() {
            return Err(HandshakeError::Order);
        }
        let (secrets, kernel) = match self.side {
            Side::Client(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Client(kernel))
            }
            Side::Server(connection) => {
                let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
                (secrets, Kernel::Server(kernel))
            }
        };
        let tx = Key::new(version, secrets.tx).map_err(HandshakeError::Keys)?;
        let rx = Key::new(version, secrets.rx).map_err(HandshakeError::Keys)?;
        Ok((Records::new(tx, rx, kernel), self.incoming))
    }
}

/// How much of `unseen` to show next: a whole record, or all where rustls will refuse it.
fn show(unseen: &[u8]) -> Option<usize> {
    let kind = unseen.first()?;
    if !(CHANGE_CIPHER_SPEC..=DATA).contains(kind) {
        return Some(unseen.len());
    }
    let length = record_length(unseen)?;
    if length > PAYLOAD_BYTES.saturating_add(2048 + 5) {
        return Some(unseen.len());
    }
    (unseen.len() >= length).then_some(length)
}

/// Does what rustls asks for. The bytes that are used up, and what follows.
fn take<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Turn, HandshakeError>) {
    let turn = match status.state {
        Ok(ConnectionState::EncodeTlsData(data)) => encode(data, outgoing).map(|()| Turn::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Ok(Turn::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Turn::More),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Turn::Traffic),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(HandshakeError::Closed),
        // Early data is not accepted, and other data is not shown.
        Ok(_) => Err(HandshakeError::Order),
        Err(error) => Err(HandshakeError::Tls(error)),
    };
    (status.discard, turn)
}

fn encode<Data>(
    mut data: EncodeTlsData<'_, Data>,
    outgoing: &mut Vec<u8>,
) -> Result<(), HandshakeError> {
    let start = outgoing.len();
    let mut room = 1024;
    for _ in 0..2 {
        outgoing.resize(start.saturating_add(room), 0);
        match data.encode(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start.saturating_add(written));
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => break,
        }
    }
    outgoing.truncate(start);
    Err(HandshakeError::Order)
}
