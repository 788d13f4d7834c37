//! Sealed text: AES-256-GCM (NIST SP 800-38D) with everything that a replay could change bound to it.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;
use zeroize::Zeroizing;

/// Format of the sealed bytes: version, key id, expiry, nonce, ciphertext with tag.
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const EXPIRY_BYTES: usize = 8;

/// The sealed text is not ours, was changed, belongs to another cookie or host, or has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// Not base64url of our format.
    #[error("not a sealed text")]
    Form,
    /// No key of this id: sealed before the keys were changed, or by somebody else.
    #[error("sealed with an unknown key")]
    Key,
    /// Changed, or sealed for another cookie name, host or provider.
    #[error("sealed text does not authenticate")]
    Tag,
    /// Its time is over.
    #[error("sealed text is expired")]
    Expired,
    /// The source of randomness left a buffer as it was.
    #[error("no randomness")]
    Random,
    /// The key is not 32 bytes.
    #[error("cookie key is not 32 bytes")]
    KeyLength,
}

/// The key that seals and the older ones that still open. A nonce is random, so one key should seal fewer than 2^32 cookies.
#[derive(Clone)]
pub struct CookieKeys {
    keys: Arc<Vec<Key>>,
}

struct Key {
    id: [u8; KEY_ID_BYTES],
    key: LessSafeKey,
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieKeys")
            .field("count", &self.keys.len())
            .finish()
    }
}

/// Random bytes. A source that failed leaves zeros, and a nonce or a state of zeros would be one that everybody knows: that
/// is an error, at the price of one refusal in 2^64.
pub(crate) fn random<const N: usize>(rng: &mut dyn FnMut(&mut [u8])) -> Result<[u8; N], SealError> {
    let mut bytes = [0_u8; N];
    rng(&mut bytes);
    if bytes.iter().all(|b| *b == 0) {
        Err(SealError::Random)
    } else {
        Ok(bytes)
    }
}

/// What sealed text is bound to, apart from its expiry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    /// Cookie name.
    pub(crate) cookie: &'a str,
    /// Host and port of the request.
    pub(crate) host: &'a str,
    /// Issuer and client.
    pub(crate) provider: &'a str,
}

impl CookieKeys {
    /// From 32-byte keys: the first seals, all open.
    ///
    /// # Errors
    /// `SealError::KeyLength` for another length or no key at all.
    pub fn new(current: &[u8], previous: &[&[u8]]) -> Result<Self, SealError> {
        let all = std::iter::once(current).chain(previous.iter().copied());
        let keys = all.map(Key::new).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            keys: Arc::new(keys),
        })
    }

    /// Seals `text` until `expires_unix_s`; base64url, safe in a cookie.
    pub(crate) fn seal(
        &self,
        binding: Binding<'_>,
        expires_unix_s: i64,
        text: &[u8],
        rng: &mut dyn FnMut(&mut [u8]),
    ) -> Result<String, SealError> {
        let key = self.keys.first().ok_or(SealError::Key)?;
        let nonce = random::<NONCE_LEN>(rng)?;
        // With room for the tag: what grows leaves behind what it was.
        let mut sealed = Zeroizing::new(Vec::with_capacity(text.len() + MAX_TAG_LEN));
        sealed.extend_from_slice(text);
        key.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(binding.associated(expires_unix_s)),
                &mut *sealed,
            )
            .map_err(|_e| SealError::Tag)?;
        let head = [
            &[VERSION][..],
            &key.id,
            &expires_unix_s.to_be_bytes(),
            &nonce,
        ]
        .concat();
        Ok(URL_SAFE_NO_PAD.encode([head.as_slice(), sealed.as_slice()].concat()))
    }

    /// Opens what `seal` made under the same binding; returns the text and its expiry. A core opens it, whose memory nobody
    /// else wipes.
    pub(crate) fn open(
        &self,
        binding: Binding<'_>,
        sealed: &str,
        now_unix_s: i64,
    ) -> Result<(Zeroizing<Vec<u8>>, i64), SealError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(sealed)
            .map_err(|_e| SealError::Form)?;
        let (version, rest) = bytes.split_first().ok_or(SealError::Form)?;
        let (id, rest) = rest
            .split_first_chunk::<KEY_ID_BYTES>()
            .ok_or(SealError::Form)?;
        let (expiry, rest) = rest
            .split_first_chunk::<EXPIRY_BYTES>()
            .ok_or(SealError::Form)?;
        let (nonce, ciphertext) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Form)?;
        if *version != VERSION {
            return Err(SealError::Form);
        }
        let expires_unix_s = i64::from_be_bytes(*expiry);
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let key = self
            .keys
            .iter()
            .find(|key| key.id == *id)
            .ok_or(SealError::Key)?;
        let aad = Aad::from(binding.associated(expires_unix_s));
        let opened = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text);
        // The tag is behind it.
        let length = opened.map(|text| text.len()).map_err(|_e| SealError::Tag)?;
        text.truncate(length);
        if expires_unix_s <= now_unix_s {
            return Err(SealError::Expired);
        }
        Ok((text, expires_unix_s))
    }
}

impl Key {
    fn new(bytes: &[u8]) -> Result<Self, SealError> {
        let unbound = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_e| SealError::KeyLength)?;
        let named = Zeroizing::new([&b"ringgate cookie key id"[..], bytes].concat());
        let hash = digest::digest(&digest::SHA256, &named);
        let id = hash
            .as_ref()
            .first_chunk()
            .copied()
            .ok_or(SealError::KeyLength)?;
        Ok(Self {
            id,
            key: LessSafeKey::new(unbound),
        })
    }
}

impl Binding<'_> {
    /// Associated data: each part with its length, so that no two bindings have the same bytes.
    fn associated(&self, expires_unix_s: i64) -> Vec<u8> {
        let mut data = vec![VERSION];
        for part in [self.cookie, self.host, self.provider] {
            data.extend(part.len().to_be_bytes());
            data.extend(part.as_bytes());
        }
        data.extend(expires_unix_s.to_be_bytes());
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: Binding<'_> = Binding {
        cookie: "c",
        host: "h",
        provider: "p",
    };

    fn rng(bytes: &mut [u8]) {
        bytes.fill(7);
    }

    fn sealed(keys: &CookieKeys) -> String {
        keys.seal(BINDING, 100, b"secret", &mut rng).unwrap()
    }

    #[test]
    fn opens_what_it_sealed() {
        let keys = CookieKeys::new(&[1; 32], &[]).unwrap();
        assert_eq!(
            keys.open(BINDING, &sealed(&keys), 99),
            Ok((Zeroizing::new(b"secret".to_vec()), 100))
        );
        assert_eq!(
            keys.open(BINDING, &sealed(&keys), 100),
            Err(SealError::Expired)
        );
    }

    #[test]
    fn bound_to_cookie_host_and_provider() {
        let keys = CookieKeys::new(&[1; 32], &[]).unwrap();
        for other in [
            Binding {
                cookie: "d",
                ..BINDING
            },
            Binding {
                host: "i",
                ..BINDING
            },
            Binding {
                provider: "q",
                ..BINDING
            },
            Binding {
                cookie: "ch",
                host: "",
                ..BINDING
            },
        ] {
            assert_eq!(
                keys.open(other, &sealed(&keys), 0),
                Err(SealError::Tag),
                "{other:?}"
            );
        }
    }

    #[test]
    fn every_byte_counts() {
        let keys = CookieKeys::new(&[1; 32], &[]).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(sealed(&keys)).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(
                keys.open(BINDING, &URL_SAFE_NO_PAD.encode(&changed), 0)
                    .is_err(),
                "byte {at}"
            );
            assert!(
                keys.open(BINDING, &URL_SAFE_NO_PAD.encode(&bytes[..at]), 0)
                    .is_err(),
                "first {at} bytes"
            );
        }
    }

    #[test]
    fn keys_rotate() {
        let old = CookieKeys::new(&[1; 32], &[]).unwrap();
        let new = CookieKeys::new(&[2; 32], &[&[1; 32]]).unwrap();
        assert!(new.open(BINDING, &sealed(&old), 0).is_ok());
        assert_eq!(old.open(BINDING, &sealed(&new), 0), Err(SealError::Key));
        assert_eq!(
            CookieKeys::new(&[1; 31], &[]).err(),
            Some(SealError::KeyLength)
        );
    }
}
