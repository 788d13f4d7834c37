//! TLS records: the handshake is rustls's, what follows it is sealed and opened here, in place (RFC 8446 section 5).
//!
//! Sans-IO: bytes in, bytes out. `Hello` reads what a client wants, `Handshake` makes the handshake, `Records` takes over
//! with the traffic keys. A record is opened where it was received and sealed where its payload was put, so the payload
//! is never copied. TLS 1.2, which ingress clients and outside servers may still speak, differs in its header, nonce and
//! additional data alone (RFC 5246 section 6.2.3.3, RFC 5288, RFC 7905).

pub mod aead;
pub mod handshake;
pub mod protect;
pub mod session;

use thiserror::Error;

pub use handshake::{Handshake, HandshakeError, Hello, Progress, Refused, unserved};
pub use session::{Received, Records};

/// Most payload of one record (RFC 8446 section 5.1).
pub const PAYLOAD_BYTES: usize = 1 << 14;
/// Header of a record on the wire.
pub const HEADER_BYTES: usize = 5;
/// What TLS 1.3 puts behind the payload: its content type and the tag.
pub const TAIL_BYTES: usize = 17;
/// Longest record of TLS 1.3 that we send.
pub const RECORD_BYTES: usize = HEADER_BYTES + PAYLOAD_BYTES + TAIL_BYTES;
/// Longest room that any version needs before a payload: the header, and the explicit nonce of TLS 1.2.
pub const HEAD_ROOM: usize = HEADER_BYTES + 8;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Why records cannot be read or written any further.
#[derive(Debug, Error)]
pub enum RecordError {
    /// A record that has no place here.
    #[error("unexpected record or message of type {0}")]
    Unexpected(u8),
    /// Longer than the protocol allows.
    #[error("record is too long")]
    TooLong,
    /// Not sealed by the peer, or not in this order.
    #[error("record cannot be opened")]
    Forged,
    /// A message that cannot be read.
    #[error("message of type {0} cannot be read")]
    Malformed(u8),
    /// A value that the protocol does not know.
    #[error("message of type {0} has an illegal value")]
    Illegal(u8),
    /// Records without data, more than `limits::RECORDS_WITHOUT_DATA` in a row.
    #[error("too many records without data")]
    Flood,
    /// The peer of TLS 1.2 wants to begin anew.
    #[error("peer wants to renegotiate")]
    Renegotiation,
    /// The peer gave up (RFC 8446 section 6.2).
    #[error("peer sent alert {0}")]
    Alert(u8),
    /// The stream ended without a close_notify: what was received may be cut.
    #[error("peer closed the connection without close_notify")]
    Truncated,
    /// The keys have sealed as much as they may, and this version cannot change them.
    #[error("keys are exhausted")]
    Exhausted,
    /// Sealing after close_notify, before what is owed, or with too little room.
    #[error("record cannot be sealed")]
    Misused,
    /// rustls refuses new keys or a ticket.
    #[error("rustls refuses a message after the handshake")]
    Rustls(#[source] rustls::Error),
}

impl RecordError {
    /// The alert that tells the peer; `None` if there is nothing to tell (RFC 8446 section 6.2).
    #[must_use]
    pub fn alert(&self) -> Option<u8> {
        match self {
            Self::Unexpected(_) | Self::Flood => Some(10),
            Self::Forged => Some(20),
            Self::TooLong => Some(22),
            Self::Illegal(_) => Some(47),
            Self::Malformed(_) => Some(50),
            Self::Renegotiation => Some(100),
            Self::Exhausted | Self::Misused | Self::Rustls(_) => Some(80),
            Self::Alert(_) | Self::Truncated => None,
        }
    }
}

/// Length of the record that begins with `bytes`, header included; `None` if its header is not complete.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let (_, rest) = bytes.split_at_checked(3)?;
    let (length, _) = rest.split_first_chunk::<2>()?;
    Some(usize::from(u16::from_be_bytes(*length)).saturating_add(HEADER_BYTES))
}
