//! The AEAD of one direction, by the library that is faster on this processor.
//!
//! aws-lc is the cryptography of everything else, and the fastest where it has code for 512-bit registers. On processors
//! with vector AES and 256-bit registers alone (AMD's third generation of EPYC, small Intel cores) it falls back to code
//! of one block at a time, where ring has code of its own: twice as fast for full records (decision 0014).

use std::ops::Range;

use aws_lc_rs::aead as aws;
use ring::aead as other;

use super::RecordError;

/// Length of an authentication tag.
pub(super) const TAG_BYTES: usize = 16;
/// Length of a nonce.
pub(super) const NONCE_BYTES: usize = 12;
/// A long copy is cut into such pieces: in one, it is slow on some processors where its target lies a few bytes behind its
/// source, counted within a page (decision 0012).
const COPIED_BYTES: usize = 1024;

/// Which cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// Whose code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// aws-lc.
    AwsLc,
    /// ring.
    Ring,
}

impl Library {
    /// The faster one for `suite` on this processor.
    #[must_use]
    pub fn fastest(suite: Suite) -> Self {
        if suite != Suite::Chacha20Poly1305 && has_vector_aes_of_256_bits_alone() {
            Self::Ring
        } else {
            Self::AwsLc
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_vector_aes_of_256_bits_alone() -> bool {
    use std::arch::is_x86_feature_detected as has;
    // What aws-lc asks for before it takes its 512-bit code.
    let wide = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    has!("vaes") && has!("vpclmulqdq") && has!("avx2") && !wide
}

#[cfg(not(target_arch = "x86_64"))]
fn has_vector_aes_of_256_bits_alone() -> bool {
    false
}

/// A key.
pub(super) enum Aead {
    /// With aws-lc.
    AwsLc(aws::LessSafeKey),
    /// With ring.
    Ring(Box<other::LessSafeKey>),
}

/// Nobody may know why.
fn misused<E>(_unspecified: E) -> RecordError {
    RecordError::Misused
}

impl Aead {
    pub(super) fn new(library: Library, suite: Suite, key: &[u8]) -> Result<Self, RecordError> {
        match library {
            Library::AwsLc => {
                let algorithm = match suite {
                    Suite::Aes128Gcm => &aws::AES_128_GCM,
                    Suite::Aes256Gcm => &aws::AES_256_GCM,
                    Suite::Chacha20Poly1305 => &aws::CHACHA20_POLY1305,
                };
                let key = aws::UnboundKey::new(algorithm, key).map_err(misused)?;
                Ok(Self::AwsLc(aws::LessSafeKey::new(key)))
            }
            Library::Ring => {
                let algorithm = match suite {
                    Suite::Aes128Gcm => &other::AES_128_GCM,
                    Suite::Aes256Gcm => &other::AES_256_GCM,
                    Suite::Chacha20Poly1305 => &other::CHACHA20_POLY1305,
                };
                let key = other::UnboundKey::new(algorithm, key).map_err(misused)?;
                Ok(Self::Ring(Box::new(other::LessSafeKey::new(key))))
            }
        }
    }

    /// Seals what is in `text` and `trailer` behind it into `bytes`, where both lie and the tag follows.
    ///
    /// `bytes` is as long as the text, the trailer and the tag; with `from` the text is taken from there.
    ///
    /// # Errors
    /// `RecordError::Misused` without that room.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        bytes: &mut [u8],
        trailer: &[u8],
        from: Option<&[u8]>,
    ) -> Result<(), RecordError> {
        let behind = trailer.len().saturating_add(TAG_BYTES);
        let text = bytes.len().checked_sub(behind);
        let text = text.ok_or(RecordError::Misused)?;
        if from.is_some_and(|from| from.len() != text) {
            return Err(RecordError::Misused);
        }
        match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let (aad, (text, tail)) = (aws::Aad::from(aad), bytes.split_at_mut(text));
                match from {
                    None => key.seal_in_place_scatter(nonce, aad, text, trailer, tail),
                    Some(from) => {
                        key.seal_out_of_place_scatter(nonce, aad, from, text, trailer, tail)
                    }
                }
                .map_err(misused)
            }
            Self::Ring(key) => {
                let sealed = bytes.len().saturating_sub(TAG_BYTES);
                let (plain, place) = bytes.split_at_mut(sealed);
                let (to, behind) = plain.split_at_mut(text);
                if let Some(from) = from {
                    copy(from, to);
                }
                behind.copy_from_slice(trailer);
                let nonce = other::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, other::Aad::from(aad), plain);
                place.copy_from_slice(tag.map_err(misused)?.as_ref());
                Ok(())
            }
        }
    }

    /// Opens `sealed`, tag at its end, in place; where the text is in it.
    ///
    /// # Errors
    /// `RecordError::Forged`.
    pub(super) fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8],
        sealed: &mut [u8],
    ) -> Result<Range<usize>, RecordError> {
        let opened = match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let text = key.open_in_place(nonce, aws::Aad::from(aad), sealed);
                text.map(|text| text.len()).ok()
            }
            Self::Ring(key) => {
                let nonce = other::Nonce::assume_unique_for_key(nonce);
                let text = key.open_in_place(nonce, other::Aad::from(aad), sealed);
                text.map(|text| text.len()).ok()
            }
        };
        opened.map(|len| 0..len).ok_or(RecordError::Forged)
    }
}

fn copy(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.chunks(COPIED_BYTES).zip(to.chunks_mut(COPIED_BYTES)) {
        if from.len() == to.len() {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: [(Suite, usize); 3] = [
        (Suite::Aes128Gcm, 16),
        (Suite::Aes256Gcm, 32),
        (Suite::Chacha20Poly1305, 32),
    ];

    /// What one library seals the other opens, and both seal alike, in place and from elsewhere.
    #[test]
    fn libraries_agree() {
        let libraries = [Library::AwsLc, Library::Ring];
        for (suite, key_bytes) in SUITES {
            let key: Vec<u8> = (0..key_bytes).map(|n| u8::try_from(n).unwrap()).collect();
            let [one, two] = libraries.map(|library| Aead::new(library, suite, &key).unwrap());
            for len in [0, 1, 15, 16, 17, 100, 1023, 1024, 1025, 5000, 16_384] {
                let text: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
                let nonce = [u8::try_from(len % 256).unwrap(); NONCE_BYTES];
                for trailer in [&b""[..], b"T"] {
                    let mut sealed = Vec::new();
                    for aead in [&one, &two] {
                        let mut within = [&text[..], &vec![0; trailer.len() + TAG_BYTES]].concat();
                        let mut out = vec![9; within.len()];
                        aead.seal(nonce, b"header", &mut within, trailer, None)
                            .unwrap();
                        aead.seal(nonce, b"header", &mut out, trailer, Some(&text))
                            .unwrap();
                        sealed.extend([within, out]);
                    }
                    assert!(sealed.iter().all(|s| *s == sealed[0]), "{suite:?} {len}");
                    for aead in [&one, &two] {
                        let mut copy = sealed[0].clone();
                        let at = aead.open(nonce, b"header", &mut copy).unwrap();
                        assert_eq!(copy[at], [&text[..], trailer].concat());
                        let mut forged = sealed[0].clone();
                        forged[len / 2] ^= 1;
                        let error = aead.open(nonce, b"header", &mut forged).unwrap_err();
                        assert!(matches!(error, RecordError::Forged));
                        let error = aead.open(nonce, b"other", &mut sealed[0].clone());
                        assert!(matches!(error, Err(RecordError::Forged)));
                    }
                }
            }
        }
    }

    #[test]
    fn too_little_room_is_refused() {
        for library in [Library::AwsLc, Library::Ring] {
            let aead = Aead::new(library, Suite::Aes128Gcm, &[7; 16]).unwrap();
            let nonce = [1; NONCE_BYTES];
            assert!(aead.seal(nonce, b"", &mut [0; 15], b"", None).is_err());
            assert!(aead.seal(nonce, b"", &mut [0; 16], b"x", None).is_err());
            assert!(
                aead.seal(nonce, b"", &mut [0; 20], b"", Some(&[0; 5]))
                    .is_err()
            );
            assert!(aead.open(nonce, b"", &mut [0; 15]).is_err());
            assert!(Aead::new(library, Suite::Aes128Gcm, &[7; 15]).is_err());
        }
    }
}
