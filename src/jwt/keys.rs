//! Key sets (RFC 7517): which keys are usable, which fit a token, and where a rule's set is found.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::jwt::algorithm::{Algorithm, Kind};
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
pub(crate) struct Key {
    kid: Option<String>,
    kind: Kind,
    /// `alg`; a key without it serves every algorithm of its kind (RFC 7517 section 4.4).
    alg: Option<Algorithm>,
    material: Material,
}

/// A public key, checked.
#[derive(Clone, Debug)]
enum Material {
    /// Modulus and exponent without leading zeros.
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// A key of one curve serves one algorithm.
    Curve(Arc<ParsedPublicKey>),
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

impl KeySet {
    /// Parses a JWKS document (RFC 7517 section 5). Keys that are unknown, broken, weak (RSA below 2048 bits, an even or
    /// trivial exponent, a point off the curve), symmetric, or not for verification are skipped.
    ///
    /// # Errors
    /// `KeySetError` if the document as a whole is no key set.
    pub fn parse(text: &str) -> Result<Self, KeySetError> {
        Self::parse_for(text, |jwk| {
            optional_text(jwk, "use").is_some_and(|usage| usage.is_none_or(|u| u == "sig"))
        })
    }

    /// The JWT keys of a SPIFFE bundle, which say what they are for and have a `kid` (SPIFFE Trust Domain and Bundle,
    /// section 4.2).
    ///
    /// # Errors
    /// As `parse`.
    pub(crate) fn parse_bundle(text: &str) -> Result<Self, KeySetError> {
        Self::parse_for(text, |jwk| {
            text_of(jwk, "use") == Some("jwt-svid") && text_of(jwk, "kid").is_some()
        })
    }

    fn parse_for(
        text: &str,
        is_meant: impl Fn(&Map<String, Value>) -> bool,
    ) -> Result<Self, KeySetError> {
        if text.len() > limits::DISCOVERY_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let mut document = json::parse_object(text.as_bytes()).map_err(|_e| KeySetError::Json)?;
        let listed = match document.get_mut("keys").map(Value::take) {
            Some(Value::Array(keys)) => keys,
            // One key stands for a set of one, as in Istio's `jwks`.
            None if document.contains_key("kty") => vec![Value::Object(document)],
            Some(_) | None => return Err(KeySetError::NoKeys),
        };
        if listed.len() > limits::KEYS_PER_SET {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = listed
            .iter()
            .filter_map(Value::as_object)
            .filter(|jwk| is_meant(jwk))
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
    ) -> impl Iterator<Item = &Key> {
        self.keys
            .iter()
            .filter(move |key| key.kind == alg.kind() && key.alg.is_none_or(|a| a == alg))
            .filter(move |key| match (kid, key.kid.as_deref()) {
                (Some(token), Some(key)) => token == key,
                (None, _) | (_, None) => true,
            })
    }
}

impl Key {
    /// `None` if the key is not one that verifies signatures here.
    fn parse(jwk: &Map<String, Value>) -> Option<Self> {
        let kid = optional_text(jwk, "kid")?;
        if !may_verify(jwk) {
            return None;
        }
        let alg = match optional_text(jwk, "alg")? {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        let (kind, material) = match text_of(jwk, "kty")? {
            "RSA" => (Kind::Rsa, rsa(jwk)?),
            "EC" => match text_of(jwk, "crv")? {
                "P-256" => (Kind::P256, ec(jwk, 32, &ECDSA_P256_SHA256_FIXED)?),
                "P-384" => (Kind::P384, ec(jwk, 48, &ECDSA_P384_SHA384_FIXED)?),
                "P-521" => (Kind::P521, ec(jwk, 66, &ECDSA_P521_SHA512_FIXED)?),
                _ => return None,
            },
            "OKP" if text_of(jwk, "crv")? == "Ed25519" => (Kind::Ed25519, ed25519(jwk)?),
            _ => return None,
        };
        if alg.is_some_and(|a| a.kind() != kind) {
            return None;
        }
        Some(Self {
            kid: kid.map(str::to_owned),
            kind,
            alg,
            material,
        })
    }

    /// Whether the key made this signature with this algorithm, which is of its kind.
    pub(crate) fn verifies(&self, alg: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, alg.rsa()) {
            (Material::Rsa(key), Some(parameters)) => {
                key.verify(parameters, message, signature).is_ok()
            }
            (Material::Curve(key), None) => {
                alg.kind() == self.kind && key.verify_sig(message, signature).is_ok()
            }
            (Material::Rsa(_), None) | (Material::Curve(_), Some(_)) => false,
        }
    }
}

fn text_of<'j>(jwk: &'j Map<String, Value>, name: &str) -> Option<&'j str> {
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

fn rsa(jwk: &Map<String, Value>) -> Option<Material> {
    let decode = |name| URL_SAFE_NO_PAD.decode(text_of(jwk, name)?).ok();
    let (n, e) = (decode("n")?, decode("e")?);
    let n = without_zeros(&n);
    let e = without_zeros(&e);
    let bits = n.len() * 8 - usize::try_from(n.first()?.leading_zeros()).ok()?;
    let odd = |number: &[u8]| number.last().is_some_and(|b| b & 1 == 1);
    // With e = 1 anybody can sign: the signature is its own encoded message.
    let trivial = e == [1];
    ((2048..=8192).contains(&bits) && odd(n) && odd(e) && !trivial && e.len() <= 8).then(|| {
        Material::Rsa(RsaPublicKeyComponents {
            n: n.to_vec(),
            e: e.to_vec(),
        })
    })
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|b| *b != 0).unwrap_or(number.len());
    number.get(first..).unwrap_or_default()
}

/// Coordinates of exactly `width` bytes (RFC 7518 section 6.2.1.2) that are a point on the curve.
fn ec(
    jwk: &Map<String, Value>,
    width: usize,
    curve: &'static dyn VerificationAlgorithm,
) -> Option<Material> {
    let mut point = vec![4_u8];
    for name in ["x", "y"] {
        let bytes = URL_SAFE_NO_PAD.decode(text_of(jwk, name)?).ok()?;
        if bytes.len() != width {
            return None;
        }
        point.extend(bytes);
    }
    curve_key(curve, &point)
}

fn ed25519(jwk: &Map<String, Value>) -> Option<Material> {
    let x = URL_SAFE_NO_PAD.decode(text_of(jwk, "x")?).ok()?;
    (x.len() == 32).then(|| curve_key(&ED25519, &x)).flatten()
}

fn curve_key(curve: &'static dyn VerificationAlgorithm, bytes: &[u8]) -> Option<Material> {
    let key = ParsedPublicKey::new(curve, bytes).ok()?;
    Some(Material::Curve(Arc::new(key)))
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
        assert_eq!(set.candidates(Some("any"), Algorithm::EdDsa).count(), 1);
        assert_eq!(set.candidates(None, Algorithm::Rs256).count(), 0);
    }
}
