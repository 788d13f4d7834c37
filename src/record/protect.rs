//! The key of one direction: seals and opens single records in place.

use std::ops::Range;

use rustls::ConnectionTrafficSecrets;

use super::aead::{Aead, Library, NONCE_BYTES, Suite, TAG_BYTES};
use super::{ALERT, DATA, HANDSHAKE, HEADER_BYTES, PAYLOAD_BYTES, RecordError};

const EXPLICIT_BYTES: usize = 8;
/// Records that one AES-GCM key may seal (RFC 8446 section 5.5 allows 2^24.5 full ones).
const GCM_RECORDS: u64 = 1 << 24;
/// As `GCM_RECORDS` for ChaCha20-Poly1305, which has no such bound below that of the sequence number.
const CHACHA_RECORDS: u64 = 1 << 48;

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 8446.
    Tls13,
    /// RFC 5246 with an AEAD suite.
    Tls12,
}

/// Key, nonce and sequence number of one direction.
pub struct Key {
    aead: Aead,
    iv: [u8; NONCE_BYTES],
    sequence: u64,
    version: Version,
    /// The record carries a part of its nonce: AES-GCM in TLS 1.2.
    explicit: bool,
    most: u64,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:?}, {})", self.version, self.sequence)
    }
}

/// What was in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its content type.
    pub kind: u8,
    /// Where its payload is in the record.
    pub payload: Range<usize>,
}

impl Key {
    /// From rustls's secrets and sequence number.
    ///
    /// # Errors
    /// `RecordError::Misused` for a suite that is not known here.
    pub fn new(
        version: Version,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Self, RecordError> {
        let (suite, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (Suite::Chacha20Poly1305, key, iv)
            }
            _ => return Err(RecordError::Misused),
        };
        let gcm = suite != Suite::Chacha20Poly1305;
        let iv = iv
            .as_ref()
            .try_into()
            .map_err(|_unspecified| RecordError::Misused)?;
        Ok(Self {
            aead: Aead::new(Library::fastest(suite), suite, key.as_ref())?,
            iv,
            sequence,
            version,
            explicit: gcm && version == Version::Tls12,
            most: if gcm { GCM_RECORDS } else { CHACHA_RECORDS },
        })
    }

    /// How records look.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Records that this key has sealed or opened.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Records that this key may seal.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.most
    }

    /// Bytes before the payload of a record.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        if self.explicit {
            HEADER_BYTES + EXPLICIT_BYTES
        } else {
            HEADER_BYTES
        }
    }

    /// Bytes behind the payload of a record.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        match self.version {
            Version::Tls13 => 1 + TAG_BYTES,
            Version::Tls12 => TAG_BYTES,
        }
    }

    /// Longest record that may come, header included (RFC 8446 section 5.2, RFC 5246 section 6.2.3).
    #[must_use]
    pub fn longest(&self) -> usize {
        match self.version {
            Version::Tls13 => HEADER_BYTES + PAYLOAD_BYTES + 256,
            Version::Tls12 => HEADER_BYTES + PAYLOAD_BYTES + 2048,
        }
    }

    /// Whether a record that says this of itself can be one that the peer sealed.
    #[must_use]
    pub fn takes(&self, kind: u8) -> bool {
        match self.version {
            Version::Tls13 => kind == DATA,
            Version::Tls12 => matches!(kind, ALERT | HANDSHAKE | DATA),
        }
    }

    fn nonce(&self) -> [u8; NONCE_BYTES] {
        let mut nonce = self.iv;
        let [_, _, _, _, counter @ ..] = &mut nonce;
        let sequence: [u8; 8] = self.sequence.to_be_bytes();
        for (byte, with) in counter.iter_mut().zip(sequence) {
            *byte ^= with;
        }
        nonce
    }

    /// The next sequence number; a key that has counted to the end is not used again.
    fn next(&mut self) -> Result<(), RecordError> {
        self.sequence = self.sequence.checked_add(1).ok_or(RecordError::Exhausted)?;
        Ok(())
    }

    /// Seals the payload at `payload` of `bytes` in place; `head_bytes` before and `tail_bytes` behind it become parts of
    /// the record. Where the record is in `bytes`.
    ///
    /// # Errors
    /// `RecordError::Misused` without that room, `RecordError::Exhausted` at the key's limit.
    pub fn seal(
        &mut self,
        bytes: &mut [u8],
        payload: Range<usize>,
        kind: u8,
    ) -> Result<Range<usize>, RecordError> {
        self.seal_either(bytes, payload, None, kind)
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
        kind: u8,
    ) -> Result<Range<usize>, RecordError> {
        self.seal_either(bytes, at..at.saturating_add(plain.len()), Some(plain), kind)
    }

    fn seal_either(
        &mut self,
        bytes: &mut [u8],
        payload: Range<usize>,
        from: Option<&[u8]>,
        kind: u8,
    ) -> Result<Range<usize>, RecordError> {
        let misused = RecordError::Misused;
        if payload.len() > PAYLOAD_BYTES {
            return Err(misused);
        }
        if self.sequence >= self.most {
            return Err(RecordError::Exhausted);
        }
        let Some(start) = payload.start.checked_sub(self.head_bytes()) else {
            return Err(misused);
        };
        let end = payload.end.saturating_add(self.tail_bytes());
        let record = bytes.get_mut(start..end).ok_or(misused)?;
        let (head, rest) = record.split_at_mut(self.head_bytes());
        let nonce = self.nonce();
        let on_wire = u16::try_from(end.saturating_sub(start).saturating_sub(HEADER_BYTES));
        let [high, low] = on_wire
            .map_err(|_unspecified| RecordError::Misused)?
            .to_be_bytes();
        let outer = match self.version {
            Version::Tls13 => DATA,
            Version::Tls12 => kind,
        };
        let header = [outer, 3, 3, high, low];
        let (first, explicit) = head.split_at_mut(HEADER_BYTES);
        first.copy_from_slice(&header);
        let nonce_end = nonce.split_last_chunk::<EXPLICIT_BYTES>();
        if let (false, Some((_, end))) = (explicit.is_empty(), nonce_end) {
            explicit.copy_from_slice(end);
        }
        let aad12;
        let (aad, kinds): (&[u8], &[u8]) = match self.version {
            Version::Tls13 => (&header, &[kind]),
            Version::Tls12 => {
                aad12 = self.aad12(kind, payload.len())?;
                (&aad12, &[])
            }
        };
        self.aead.seal(nonce, aad, rest, kinds, from)?;
        self.next()?;
        Ok(start..end)
    }

    /// Opens one whole record in place.
    ///
    /// # Errors
    /// `RecordError::Forged`, `RecordError::TooLong`, or `RecordError::Unexpected` if there is nothing but padding in it.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, RecordError> {
        let (header, body) = record
            .split_first_chunk_mut::<HEADER_BYTES>()
            .ok_or(RecordError::Forged)?;
        let [outer, ..] = *header;
        let opened = match self.version {
            Version::Tls13 => {
                let plain = self.aead.open(self.nonce(), header, body)?;
                let plain = body.get(plain).unwrap_or_default();
                if plain.len() > PAYLOAD_BYTES + 1 {
                    return Err(RecordError::TooLong);
                }
                let last = plain.iter().rposition(|byte| *byte != 0);
                let last = last.ok_or(RecordError::Unexpected(0))?;
                Opened {
                    kind: plain.get(last).copied().unwrap_or_default(),
                    payload: HEADER_BYTES..HEADER_BYTES.saturating_add(last),
                }
            }
            Version::Tls12 => {
                let head = self.head_bytes();
                let (explicit, body) = body
                    .split_at_mut_checked(head.saturating_sub(HEADER_BYTES))
                    .ok_or(RecordError::Forged)?;
                let mut nonce = self.nonce();
                if let [_, _, _, _, counter @ ..] = &mut nonce
                    && counter.len() == explicit.len()
                {
                    counter.copy_from_slice(explicit);
                }
                let len = body.len().checked_sub(TAG_BYTES);
                let len = len.ok_or(RecordError::Forged)?;
                if len > PAYLOAD_BYTES {
                    return Err(RecordError::TooLong);
                }
                let aad = self.aad12(outer, len)?;
                self.aead.open(nonce, &aad, body)?;
                Opened {
                    kind: outer,
                    payload: head..head.saturating_add(len),
                }
            }
        };
        self.next()?;
        Ok(opened)
    }

    /// Additional data of TLS 1.2 (RFC 5246 section 6.2.3.3).
    fn aad12(&self, kind: u8, len: usize) -> Result<[u8; 13], RecordError> {
        let len = u16::try_from(len).map_err(|_unspecified| RecordError::TooLong)?;
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.sequence.to_be_bytes();
        let [high, low] = len.to_be_bytes();
        Ok([s0, s1, s2, s3, s4, s5, s6, s7, kind, 3, 3, high, low])
    }
}
