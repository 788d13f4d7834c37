//! The records of an established connection, both ways: data, alerts, key updates, tickets.

use std::ops::Range;

use rustls::ConnectionTrafficSecrets;
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

use super::protect::{Key, Opened, Version};
use super::{ALERT, DATA, HANDSHAKE, RecordError, record_length};
use crate::vocab::limits;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and length of a handshake message.
const MESSAGE_HEADER_BYTES: usize = 4;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// What rustls keeps of the connection.
pub(super) enum Kernel {
    /// Of a client: it takes tickets.
    Client(KernelConnection<ClientConnectionData>),
    /// Of a server.
    Server(KernelConnection<ServerConnectionData>),
}

type Secret = Result<(u64, ConnectionTrafficSecrets), rustls::Error>;

impl Kernel {
    fn next_tx(&mut self) -> Secret {
        match self {
            Self::Client(kernel) => kernel.update_tx_secret(),
            Self::Server(kernel) => kernel.update_tx_secret(),
        }
    }

    fn next_rx(&mut self) -> Secret {
        match self {
            Self::Client(kernel) => kernel.update_rx_secret(),
            Self::Server(kernel) => kernel.update_rx_secret(),
        }
    }
}

/// What a record was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Data, at this place of the record. Never empty.
    Data(Range<usize>),
    /// Nothing for the reader.
    Nothing,
    /// The peer ends its side; nothing of it is read any more.
    Close,
}

/// Both directions after the handshake.
pub struct Records {
    tx: Key,
    rx: Key,
    kernel: Box<Kernel>,
    /// The beginning of a handshake message whose rest is in the next record.
    partial: Vec<u8>,
    /// Records without data in a row.
    barren: u32,
    /// A KeyUpdate must be sent before the next data.
    update_owed: bool,
    /// Sealed records after which the key is changed.
    update_after: u64,
    closed: bool,
    peer_closed: bool,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Records({:?}, {:?})", self.tx, self.rx)
    }
}

impl Records {
    pub(super) fn new(tx: Key, rx: Key, kernel: Kernel) -> Self {
        Self {
            // Half of what the key may seal: a batch is sealed between two looks at this.
            update_after: tx.most() / 2,
            tx,
            rx,
            kernel: Box::new(kernel),
            partial: Vec::new(),
            barren: 0,
            update_owed: false,
            closed: false,
            peer_closed: false,
        }
    }

    /// Has the key changed after so many records instead of half its limit.
    pub fn update_after(&mut self, records: u64) {
        self.update_after = records;
    }

    /// Whether this is TLS 1.3.
    #[must_use]
    pub fn is_tls13(&self) -> bool {
        self.tx.version() == Version::Tls13
    }

    /// Room that `seal` needs before and behind a payload.
    #[must_use]
    pub fn room(&self) -> (usize, usize) {
        (self.tx.head_bytes(), self.tx.tail_bytes())
    }

    /// Whether the peer has sent close_notify.
    #[must_use]
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Length of the record that begins with `bytes`, header included; `None` if its header is not complete. Judged as
    /// soon as it can be, so that no buffer grows for what is refused anyway.
    ///
    /// # Errors
    /// No record that can be opened begins so.
    pub fn length(&self, bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(kind) = bytes.first() else {
            return Ok(None);
        };
        if !self.rx.takes(*kind) {
            return Err(RecordError::Unexpected(*kind));
        }
        match record_length(bytes) {
            Some(length) if length > self.rx.longest() => Err(RecordError::TooLong),
            length => Ok(length),
        }
    }

    /// Takes one whole record, opened in place.
    ///
    /// # Errors
    /// The connection cannot go on; `RecordError::alert` says what the peer is told.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Received, RecordError> {
        if self.peer_closed {
            return Ok(Received::Close);
        }
        let Opened { kind, payload } = self.rx.open(record)?;
        if !self.partial.is_empty() && kind != HANDSHAKE {
            return Err(RecordError::Unexpected(kind));
        }
        let received = match kind {
            DATA if payload.is_empty() => Received::Nothing,
            DATA => Received::Data(payload),
            ALERT => self.take_alert(record.get(payload).unwrap_or_default())?,
            HANDSHAKE => {
                let fragment = record.get(payload).unwrap_or_default();
                match self.rx.version() {
                    Version::Tls13 => self.take_handshake(fragment)?,
                    Version::Tls12 => self.refuse_handshake(fragment)?,
                }
                Received::Nothing
            }
            other => return Err(RecordError::Unexpected(other)),
        };
        if received == Received::Nothing {
            self.barren = self.barren.saturating_add(1);
            if self.barren > limits::RECORDS_WITHOUT_DATA {
                return Err(RecordError::Flood);
            }
        } else {
            self.barren = 0;
        }
        Ok(received)
    }

    fn take_alert(&mut self, alert: &[u8]) -> Result<Received, RecordError> {
        let &[level, description] = alert else {
            return Err(RecordError::Malformed(ALERT));
        };
        match (self.rx.version(), level, description) {
            (_, _, CLOSE_NOTIFY) => {
                self.peer_closed = true;
                Ok(Received::Close)
            }
            // Whatever its level says, TLS 1.3 knows one more alert that is no error (RFC 8446 section 6.1).
            (Version::Tls13, _, USER_CANCELED) | (Version::Tls12, WARNING, _) => {
                Ok(Received::Nothing)
            }
            (_, _, other) => Err(RecordError::Alert(other)),
        }
    }

    /// TLS 1.2: a client is told that it may renegotiate and need not (RFC 5246 section 7.4.1.1); nobody else may ask.
    fn refuse_handshake(&self, fragment: &[u8]) -> Result<(), RecordError> {
        match (&*self.kernel, fragment) {
            (Kernel::Client(_), [0, 0, 0, 0]) => Ok(()),
            (Kernel::Client(_) | Kernel::Server(_), _) => Err(RecordError::Renegotiation),
        }
    }

    fn take_handshake(&mut self, fragment: &[u8]) -> Result<(), RecordError> {
        if fragment.is_empty() {
            return Err(RecordError::Unexpected(HANDSHAKE));
        }
        let whole;
        let mut rest = fragment;
        if !self.partial.is_empty() {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(fragment);
            whole = joined;
            rest = &whole;
        }
        while let Some(&kind) = rest.first() {
            let known = match &*self.kernel {
                Kernel::Client(_) => matches!(kind, NEW_SESSION_TICKET | KEY_UPDATE),
                Kernel::Server(_) => kind == KEY_UPDATE,
            };
            if !known {
                return Err(RecordError::Unexpected(kind));
            }
            let Some((body, behind)) = message(rest)? else {
                self.partial = rest.to_vec();
                return Ok(());
            };
            if kind == KEY_UPDATE {
                self.take_key_update(body, behind)?;
            } else if let Kernel::Client(kernel) = &mut *self.kernel {
                kernel
                    .handle_new_session_ticket(body)
                    .map_err(RecordError::Rustls)?;
            }
            rest = behind;
        }
        Ok(())
    }

    /// RFC 8446 sections 4.6.3 and 5.1: what follows in the same record would be sealed with the old key.
    fn take_key_update(&mut self, body: &[u8], behind: &[u8]) -> Result<(), RecordError> {
        let requested = match body {
            [0] => false,
            [1] => true,
            [_] => return Err(RecordError::Illegal(KEY_UPDATE)),
            _ => return Err(RecordError::Malformed(KEY_UPDATE)),
        };
        if let Some(kind) = behind.first() {
            return Err(RecordError::Unexpected(*kind));
        }
        let secret = self.kernel.next_rx().map_err(RecordError::Rustls)?;
        self.rx = Key::new(Version::Tls13, secret)?;
        // However often it is asked for, one answer before the next data does.
        self.update_owed |= requested && !self.closed;
        Ok(())
    }

    /// Whether something must be sent before the next data.
    #[must_use]
    pub fn owes(&self) -> bool {
        let due = self.is_tls13() && self.tx.sequence() >= self.update_after;
        !self.closed && (self.update_owed || due)
    }

    /// Appends what is owed to `out`, sealed.
    ///
    /// # Errors
    /// rustls has no new key.
    pub fn pay(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if !self.owes() {
            return Ok(());
        }
        // The peer keeps its own count, so it is not asked for an update in return.
        self.append(&[KEY_UPDATE, 0, 0, 1, 0], HANDSHAKE, out)?;
        let secret = self.kernel.next_tx().map_err(RecordError::Rustls)?;
        self.tx = Key::new(Version::Tls13, secret)?;
        self.update_owed = false;
        Ok(())
    }

    /// Seals data in place, see `Key::seal`. What is owed must have been paid before.
    ///
    /// # Errors
    /// `RecordError::Misused`, `RecordError::Exhausted`.
    pub fn seal(
        &mut self,
        bytes: &mut [u8],
        payload: Range<usize>,
    ) -> Result<Range<usize>, RecordError> {
        if self.closed || self.update_owed {
            return Err(RecordError::Misused);
        }
        self.tx.seal(bytes, payload, DATA)
    }

    /// As `seal`, of `plain` into the place at `at`, without a copy of it.
    ///
    /// # Errors
    /// As `seal`.
    pub fn seal_from(
        &mut self,
        bytes: &mut [u8],
        at: usize,
        plain: &[u8],
    ) -> Result<Range<usize>, RecordError> {
        if self.closed || self.update_owed {
            return Err(RecordError::Misused);
        }
        self.tx.seal_from(bytes, at, plain, DATA)
    }

    /// Appends close_notify to `out`; no data follows it.
    ///
    /// # Errors
    /// As `seal`.
    pub fn close(&mut self, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if !self.closed {
            self.append(&[WARNING, CLOSE_NOTIFY], ALERT, out)?;
            self.closed = true;
        }
        Ok(())
    }

    /// Appends the alert for `error` to `out`, if there is one; no data follows it.
    ///
    /// # Errors
    /// As `seal`.
    pub fn give_up(&mut self, error: &RecordError, out: &mut Vec<u8>) -> Result<(), RecordError> {
        if let (false, Some(alert)) = (self.closed, error.alert()) {
            self.append(&[FATAL, alert], ALERT, out)?;
        }
        self.closed = true;
        Ok(())
    }

    fn append(&mut self, payload: &[u8], kind: u8, out: &mut Vec<u8>) -> Result<(), RecordError> {
        let start = out.len().saturating_add(self.tx.head_bytes());
        let end = start.saturating_add(payload.len());
        out.resize(start, 0);
        out.extend_from_slice(payload);
        out.resize(end.saturating_add(self.tx.tail_bytes()), 0);
        self.tx.seal(out, start..end, kind)?;
        Ok(())
    }
}

/// The body of a message, and what is behind it.
type Message<'b> = (&'b [u8], &'b [u8]);

/// The first message; `None` if it is not complete.
fn message(bytes: &[u8]) -> Result<Option<Message<'_>>, RecordError> {
    let Some(([kind, a, b, c], rest)) = bytes.split_first_chunk::<MESSAGE_HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, *a, *b, *c]);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > limits::POST_HANDSHAKE_BYTES {
        return Err(RecordError::Malformed(*kind));
    }
    Ok(rest.split_at_checked(length))
}
