//! End-user tokens for the drill: a good one and those that must be refused.

use std::path::Path;

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};

use crate::cli::material::{USER_ISSUER, USER_KEY_ID};
use crate::cli::os;

/// Subject of the tokens.
pub const SUBJECT: &str = "user-7";

/// What is right or wrong about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing is wrong.
    None,
    /// It has expired an hour ago.
    Expired,
    /// Another issuer, signed with the right key.
    Issuer,
    /// Right claims, signed with another key under the right key id.
    Key,
    /// `alg: none` (RFC 7518 section 3.6), without a signature.
    AlgNone,
}

/// A token signed with the identity provider's key at `key_file` (PKCS #8 PEM, P-256), or flawed.
///
/// # Errors
/// If the key cannot be read or does not sign.
pub fn mint(key_file: &Path, flaw: Flaw) -> anyhow::Result<String> {
    let now = os::unix_s();
    let (issued, expires) = match flaw {
        Flaw::Expired => (now - 7200, now - 3600),
        Flaw::None | Flaw::Issuer | Flaw::Key | Flaw::AlgNone => (now, now + 3600),
    };
    let issuer = match flaw {
        Flaw::Issuer => "https://evil.example.test",
        Flaw::None | Flaw::Expired | Flaw::Key | Flaw::AlgNone => USER_ISSUER,
    };
    let claims = json!({"iss": issuer, "sub": SUBJECT, "iat": issued, "exp": expires});
    let key = match flaw {
        Flaw::AlgNone => return Ok(unsigned(&claims)),
        Flaw::Key => EncodingKey::from_ec_der(KeyPair::generate()?.serialized_der()),
        Flaw::None | Flaw::Expired | Flaw::Issuer => {
            let der = PrivateKeyDer::from_pem_slice(&os::read(key_file)?)
                .with_context(|| format!("`{}` holds no key", key_file.display()))?;
            EncodingKey::from_ec_der(der.secret_der())
        }
    };
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(USER_KEY_ID.to_owned());
    jsonwebtoken::encode(&header, &claims, &key).context("the token cannot be signed")
}

fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "none", "typ": "JWT"});
    format!("{}.{}.", part(&header), part(claims))
}

/// Claims of a token, not verified: for showing what a stolen token says.
///
/// # Errors
/// If it is no JWT.
pub fn claims(token: &str) -> anyhow::Result<Value> {
    let payload = token
        .split('.')
        .nth(1)
        .context("the token has no payload")?;
    let bytes = URL_SAFE_NO_PAD
        .decode(payload)
        .context("the payload is no base64url")?;
    serde_json::from_slice(&bytes).context("the payload is no JSON")
}
