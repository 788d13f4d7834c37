//! Signs the tokens that cases of our own describe, with keys that are made for each run.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA256_FIXED_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

const ABSENT: &str = "<absent>";
const SECRET: &[u8] = b"a secret that is no public key";

/// One key of each kind, and a second one of P-256 that no case lists as `p256`.
pub(crate) struct Signer {
    rsa: RsaKeyPair,
    p256: EcKey,
    other: EcKey,
    p384: EcKey,
    p521: EcKey,
    ed: Ed25519KeyPair,
}

/// An EC key as PKCS#8, so that it can sign in more than one way.
struct EcKey {
    pkcs8: Vec<u8>,
    point: Vec<u8>,
    curve: &'static str,
}

impl EcKey {
    fn new(alg: &'static EcdsaSigningAlgorithm, curve: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(alg, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(alg, pkcs8.as_ref()).unwrap();
        Self {
            pkcs8: pkcs8.as_ref().to_vec(),
            point: pair.public_key().as_ref().to_vec(),
            curve,
        }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.point[1..].split_at(self.point.len() / 2);
        json!({"kty": "EC", "crv": self.curve, "x": text(x), "y": text(y)})
    }

    fn sign(&self, alg: &'static EcdsaSigningAlgorithm, message: &[u8]) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_pkcs8(alg, &self.pkcs8).unwrap();
        let signature = pair.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Takes the fields of `edits` over; `<absent>` removes one.
fn merge(into: &mut Value, edits: &Value) {
    let into = into.as_object_mut().unwrap();
    for (name, value) in edits.as_object().into_iter().flatten() {
        if value == ABSENT {
            into.remove(name);
        } else {
            into.insert(name.clone(), value.clone());
        }
    }
}

impl Signer {
    pub(crate) fn new() -> Self {
        let p256 = || EcKey::new(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256");
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: p256(),
            other: p256(),
            p384: EcKey::new(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
            p521: EcKey::new(&ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn ec(&self, name: &str) -> &EcKey {
        match name {
            "p256" => &self.p256,
            "p256-other" => &self.other,
            "p384" => &self.p384,
            "p521" => &self.p521,
            other => panic!("key {other}"),
        }
    }

    fn modulus(&self) -> Vec<u8> {
        let n = self
            .rsa
            .public_key()
            .modulus()
            .big_endian_without_leading_zero();
        n.to_vec()
    }

    /// The public key by name, without `kid`.
    fn public(&self, name: &str) -> Value {
        match name {
            "rsa" => json!({"kty": "RSA", "n": text(self.modulus()), "e": "AQAB"}),
            "ed" => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(self.ed.public_key().as_ref())})
            }
            "oct" => json!({"kty": "oct", "k": text(SECRET)}),
            name => self.ec(name).jwk(),
        }
    }

    /// The entry of a key set that a case describes: a name, or a name and what is different about it.
    pub(crate) fn jwk(&self, described: &Value) -> Option<Value> {
        let name = described
            .as_str()
            .or_else(|| described["of"].as_str())
            .unwrap();
        let mut jwk = self.public(name);
        jwk["kid"] = name.into();
        if described["drop"] == true {
            return None;
        }
        if let Some([a, b]) = described["swap"].as_array().map(Vec::as_slice) {
            let (a, b) = (a.as_str().unwrap(), b.as_str().unwrap());
            let (first, second) = (jwk[a].take(), jwk[b].take());
            (jwk[a], jwk[b]) = (second, first);
        }
        for (field, more) in described["append"].as_object().into_iter().flatten() {
            jwk[field] =
                format!("{}{}", jwk[field].as_str().unwrap(), more.as_str().unwrap()).into();
        }
        merge(&mut jwk, &described["with"]);
        Some(jwk)
    }

    /// The token that a case describes, compact.
    pub(crate) fn token(&self, described: &Value, now: i64) -> String {
        let key = described["key"].as_str().unwrap_or("p256");
        let usual = match key {
            "rsa" => "RS256",
            "ed" => "EdDSA",
            "p384" => "ES384",
            "p521" => "ES512",
            _ => "ES256",
        };
        let mut header = json!({"alg": usual, "kid": key});
        merge(&mut header, &described["header"]);
        if header["jwk"] == "<public>" {
            header["jwk"] = self.public(key);
        }
        let named = header["alg"].as_str().unwrap_or(usual).to_owned();
        let mut claims = json!({"iss": "https://issuer.example", "sub": "alice", "exp": now + 300});
        merge(&mut claims, &described["claims"]);
        if let Some(length) = described["fill"].as_u64() {
            claims["groups"] = "g".repeat(usize::try_from(length).unwrap()).into();
        }
        let raw = |field: &str, json: &Value| {
            let written = described[field].as_str().map(str::to_owned);
            text(written.unwrap_or_else(|| json.to_string()))
        };
        let signed = format!(
            "{}.{}",
            raw("header_text", &header),
            raw("claims_text", &claims)
        );
        let how = described["sign"].as_str().unwrap_or(&named);
        loop {
            let signature = text(self.sign(key, how, usual, signed.as_bytes()));
            // Some cases change what the alphabets differ in; ECDSA gives another signature each time.
            if !key.starts_with('p') || signature.contains(['-', '_']) {
                return format!("{signed}.{signature}");
            }
        }
    }

    /// Signs as `how` says, or as is usual for the key if that is no way to sign.
    fn sign(&self, key: &str, how: &str, usual: &str, message: &[u8]) -> Vec<u8> {
        let rsa = match how {
            "RS256" => Some(&RSA_PKCS1_SHA256),
            "RS384" => Some(&RSA_PKCS1_SHA384),
            "RS512" => Some(&RSA_PKCS1_SHA512),
            _ => None,
        };
        match (key, how) {
            ("rsa", "HS256") => hs256(&self.modulus(), message),
            (_, "HS256") => hs256(SECRET, message),
            ("rsa", _) => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                let random = SystemRandom::new();
                let signed = match (how, rsa) {
                    (_, Some(pkcs1)) => self.rsa.sign(pkcs1, &random, message, &mut signature),
                    ("PS384", _) => {
                        self.rsa
                            .sign(&RSA_PSS_SHA384, &random, message, &mut signature)
                    }
                    ("PS512", _) => {
                        self.rsa
                            .sign(&RSA_PSS_SHA512, &random, message, &mut signature)
                    }
                    _ => self
                        .rsa
                        .sign(&RSA_PSS_SHA256, &random, message, &mut signature),
                };
                signed.unwrap();
                signature
            }
            ("ed", _) => self.ed.sign(message).as_ref().to_vec(),
            (_, "ES512-DER") => self.ec(key).sign(&ECDSA_P521_SHA512_ASN1_SIGNING, message),
            (_, "P521-SHA256") => self.ec(key).sign(&ECDSA_P521_SHA256_FIXED_SIGNING, message),
            _ => {
                let alg = match usual {
                    "ES384" => &ECDSA_P384_SHA384_FIXED_SIGNING,
                    "ES512" => &ECDSA_P521_SHA512_FIXED_SIGNING,
                    _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
                };
                self.ec(key).sign(alg, message)
            }
        }
    }
}

fn hs256(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, message).as_ref().to_vec()
}

/// Replaces `{name}`, `{name.header}`, `{name.payload}`, `{name.signature}` by the token or its part;
/// `{name.signature/}` is that in the standard alphabet, `{name.signature~}` that with a stray bit.
pub(crate) fn fill(template: &str, tokens: &[(String, String)]) -> String {
    let mut filled = template.to_owned();
    for (name, token) in tokens {
        let mut parts = token.split('.');
        let [header, payload, signature] = [(); 3].map(|()| parts.next().unwrap());
        let standard = signature.replace('-', "+").replace('_', "/");
        for (place, part) in [
            (format!("{{{name}}}"), token.as_str()),
            (format!("{{{name}.header}}"), header),
            (format!("{{{name}.payload}}"), payload),
            (format!("{{{name}.signature}}"), signature),
            (format!("{{{name}.signature/}}"), &standard),
            (format!("{{{name}.signature~}}"), &stray(signature)),
        ] {
            filled = filled.replace(&place, part);
        }
    }
    filled
}

/// The same with the lowest bit of the last character set, which no whole byte holds.
fn stray(signature: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (last, rest) = signature.as_bytes().split_last().unwrap();
    let at = ALPHABET.iter().position(|c| c == last).unwrap();
    let mut changed = rest.to_vec();
    changed.push(ALPHABET[at | 1]);
    String::from_utf8(changed).unwrap()
}
