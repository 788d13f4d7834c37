//! Key sets (RFC 7517): which keys are usable, which fit a token, and where a rule's set is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::jwt::json;
use crate::jwt::model::KeySource;
use crate::vocab::limits;

/// The usable keys of one JWKS document.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: usize,
    /// SHA-256 of the document.
    digest: Vec<u8>,
}

/// Sets are equal if their documents are.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// Why a document is no key set. A single bad key is skipped and is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeySetError {
    /// Larger than `limits::DISCOVERY_BYTES`.
    #[error("key set is larger than 1 MiB")]
    TooLarge,
    /// Not one JSON object with unique names.
    #[error("key set is not one JSON object with unique names")]
    Json,
    /// `keys` is no list.
    #[error("key set has no list `keys`")]
    NoKeys,
    /// More than `limits::KEYS_PER_SET`.
    #[error("key set has more than 128 keys")]
    TooMany,
}

#[derive(Clone, Debug)]
struct Key {
    kid: Option<String>,
    kind: Kind,
    /// `alg`; a key without it serves every algorithm of its kind (RFC 7517 section 4.4).
    alg: Option<Algorithm>,
    material: DecodingKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

/// Where the keys of a rule are found; a snapshot's map, or a fixed set in tests.
pub trait KeyLookup {
    /// The set of this source; `None` if it could not be obtained yet (then every token is refused).
    fn key_set(&self, source: &KeySource) -> Option<&KeySet>;

    /// Changes whenever any set changes, so that verified tokens of removed keys are forgotten.
    fn generation(&self) -> u64;
}

/// All key sets of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct KeySets {
    /// Sets that were obtained.
    pub map: BTreeMap<KeySource, Arc<KeySet>>,
    /// Grows by one with every change of `map`.
    pub generation: u64,
}

impl KeyLookup for KeySets {
    fn key_set(&self, source: &KeySource) -> Option<&KeySet> {
        self.map.get(source).map(AsRef::as_ref)
    }

    fn generation(&self) -> u64 {
        self.generation
    }
}

/// The allow-list: asymmetric signatures of RFC 7518 and Ed25519 of RFC 8037. `none`, `HS*` and `ES256K` are not on it.
#[must_use]
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "RS384" => Some(Algorithm::RS384),
        "RS512" => Some(Algorithm::RS512),
        "PS256" => Some(Algorithm::PS256),
        "PS384" => Some(Algorithm::PS384),
        "PS512" => Some(Algorithm::PS512),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// The kind of key that an algorithm needs; `None` for those that are not allowed.
fn kind_of(alg: Algorithm) -> Option<Kind> {
    match alg {
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => Some(Kind::Rsa),
        Algorithm::ES256 => Some(Kind::P256),
        Algorithm::ES384 => Some(Kind::P384),
        Algorithm::EdDSA => Some(Kind::Ed25519),
        // The library marks its list as open: what it adds later is not allowed until it stands above.
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 | _ => None,
    }
}

impl KeySet {
    /// Parses a JWKS document (RFC 7517 section 5). Keys that are unknown, broken, weak (RSA below 2048 bits, an even or
    /// trivial exponent, a point off the curve), symmetric, or not for verification are skipped.
    ///
    /// # Errors
    /// `KeySetError` if the document as a whole is no key set.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        if text.len() > limits::DISCOVERY_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = json::parse_object(text.as_bytes()).map_err(|_e| KeySetError::Json)?;
        let listed = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetError::NoKeys)?;
        if listed.len() > limits::KEYS_PER_SET {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = listed
            .iter()
            .filter_map(Value::as_object)
            .filter_map(Key::parse)
            .collect();
        let skipped = listed.len() - keys.len();
        let digest = digest::digest(&digest::SHA256, text.as_bytes())
            .as_ref()
            .to_vec();
        Ok(Self {
            keys,
            skipped,
            digest,
        })
    }

    /// Usable keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is usable, so that every token is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Keys of the document that were skipped.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// Keys that a token with this `kid` and algorithm may have been signed with. A token without `kid` and a key without
    /// `kid` fit any (RFC 7515 section 4.1.4).
    pub(crate) fn candidates(
        &self,
        kid: Option<&str>,
        alg: Algorithm,
    ) -> impl Iterator<Item = &DecodingKey> {
        let kind = kind_of(alg);
        self.keys
            .iter()
            .filter(move |key| Some(key.kind) == kind && key.alg.is_none_or(|a| a == alg))
            .filter(move |key| match (kid, key.kid.as_deref()) {
                (Some(token), Some(key)) => token == key,
                (None, _) | (_, None) => true,
            })
            .map(|key| &key.material)
    }
}

impl Key {
    /// `None` if the key is not one that verifies signatures here.
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let kid = optional_text(jwk, "kid")?;
        let usage = optional_text(jwk, "use")?;
        if usage.is_some_and(|u| u != "sig") || !may_verify(jwk) {
            return None;
        }
        let alg = match optional_text(jwk, "alg")? {
            Some(name) => Some(algorithm(name)?),
            None => None,
        };
        let (kind, material) = match text(jwk, "kty")? {
            "RSA" => (Kind::Rsa, rsa(jwk)?),
            "EC" => match text(jwk, "crv")? {
                "P-256" => (Kind::P256, ec(jwk, 32, Kind::P256)?),
                "P-384" => (Kind::P384, ec(jwk, 48, Kind::P384)?),
                _ => return None,
            },
            "OKP" if text(jwk, "crv")? == "Ed25519" => (Kind::Ed25519, ed25519(jwk)?),
            _ => return None,
        };
        if alg.is_some_and(|a| kind_of(a) != Some(kind)) {
            return None;
        }
        Some(Self {
            kid: kid.map(str::to_owned),
            kind,
            alg,
            material,
        })
    }
}

fn text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Option<&'j str> {
    jwk.get(name)?.as_str()
}

/// `Some(None)` if absent, `None` if present but no string.
#[expect(
    clippy::option_option,
    reason = "absent and malformed are different answers"
)]
fn optional_text<'j>(jwk: &'j Map<String, Value>, name: &str) -> Option<Option<&'j str>> {
    match jwk.get(name) {
        None => Some(None),
        Some(value) => value.as_str().map(Some),
    }
}

/// `key_ops` absent or with `verify` (RFC 7517 section 4.3).
fn may_verify(jwk: &Map<String, Value>) -> bool {
    match jwk.get("key_ops") {
        None => true,
        Some(ops) => ops
            .as_array()
            .is_some_and(|list| list.iter().any(|op| op == "verify")),
    }
}

fn rsa(jwk: &Map<String, Value>) -> Option<DecodingKey> {
    let decode = |name| URL_SAFE_NO_PAD.decode(text(jwk, name)?).ok();
    let (n, e) = (decode("n")?, decode("e")?);
    let n = without_zeros(&n);
    let e = without_zeros(&e);
    let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
    let odd = |number: &[u8]| number.last().is_some_and(|b| b & 1 == 1);
    // With e = 1 anybody can sign: the signature is its own encoded message.
    let trivial = e == [1];
    ((2048..=8192).contains(&bits) && odd(n) && odd(e) && !trivial && e.len() <= 8)
        .then(|| DecodingKey::from_rsa_raw_components(n, e))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|b| *b != 0).unwrap_or(number.len());
    number.get(first..).unwrap_or_default()
}

fn ec(jwk: &Map<String, Value>, width: usize, kind: Kind) -> Option<DecodingKey> {
    let (x, y) = (text(jwk, "x")?, text(jwk, "y")?);
    let mut point = vec![4_u8];
    for coordinate in [x, y] {
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok()?;
        if bytes.len() != width {
            return None;
        }
        point.extend(bytes);
    }
    let on_curve = match kind {
        Kind::P256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point).is_ok(),
        Kind::P384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &point).is_ok(),
        Kind::Rsa | Kind::Ed25519 => false,
    };
    if !on_curve {
        return None;
    }
    DecodingKey::from_ec_components(x, y).ok()
}

fn ed25519(jwk: &Map<String, Value>) -> Option<DecodingKey> {
    let x = text(jwk, "x")?;
    (URL_SAFE_NO_PAD.decode(x).ok()?.len() == 32)
        .then(|| DecodingKey::from_ed_components(x).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_that_is_no_key_set() {
        let check =
            |text: &str, want| assert_eq!(KeySet::parse(text).err(), Some(want), "{text:.40}");
        check("", KeySetError::Json);
        check("[]", KeySetError::Json);
        check("{}", KeySetError::NoKeys);
        check("{\"keys\":{}}", KeySetError::NoKeys);
        check("{\"keys\":[],\"keys\":[]}", KeySetError::Json);
        check(
            &" ".repeat(limits::DISCOVERY_BYTES + 1),
            KeySetError::TooLarge,
        );
        check(
            &format!("{{\"keys\":[{}1]}}", "1,".repeat(limits::KEYS_PER_SET)),
            KeySetError::TooMany,
        );
    }

    #[test]
    fn unusable_keys_are_skipped() {
        let set = KeySet::parse(
            r#"{"keys":[1,{},{"kty":"oct","k":"AAAA"},{"kty":"RSA","n":"AQAB","e":"AQAB"},
                {"kty":"OKP","crv":"Ed25519","x":"IBprU49Q7Fh4QnGw3LC_2cIjv3Bf0dEdIKLguMvOzGM","kid":7},
                {"kty":"OKP","crv":"Ed25519","x":"IBprU49Q7Fh4QnGw3LC_2cIjv3Bf0dEdIKLguMvOzGM","alg":"RS256"},
                {"kty":"OKP","crv":"Ed25519","x":"IBprU49Q7Fh4QnGw3LC_2cIjv3Bf0dEdIKLguMvOzGM"}]}"#,
        )
        .unwrap();
        assert_eq!((set.len(), set.skipped()), (1, 6));
        assert_eq!(set.candidates(Some("any"), Algorithm::EdDSA).count(), 1);
        assert_eq!(set.candidates(None, Algorithm::RS256).count(), 0);
        assert_eq!(set.candidates(None, Algorithm::HS256).count(), 0);
    }
}
