//! JWT-SVIDs (SPIFFE JWT-SVID): whose identity a token is, by the keys of that identity's own trust domain.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::jwt::algorithm::{Algorithm, Kind};
use crate::jwt::keys::{KeySet, KeySetError};
use crate::jwt::token::{TokenError, Unverified, Verified};
use crate::vocab::claims::Payload;
use crate::vocab::spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// Why a token is no JWT-SVID for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SvidError {
    /// Form, `alg` or `kid` of the header, signature, types of the claims, `exp` or `nbf`.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// `alg` is none of RS, ES, PS with 256, 384, 512 (section 2.1).
    #[error("algorithm is not one of JWT-SVID")]
    Algorithm,
    /// Another header field than `alg`, `kid`, `typ` (section 2).
    #[error("header holds more than alg, kid and typ")]
    Header,
    /// `typ` is neither `JWT` nor `JOSE` (section 2.3).
    #[error("header typ is neither JWT nor JOSE")]
    Typ,
    /// There is no `sub` (section 3.1).
    #[error("claim sub is missing")]
    NoSubject,
    /// `sub` is no SPIFFE ID (section 3.1).
    #[error("claim sub is not a SPIFFE ID")]
    Subject(#[source] SpiffeIdError),
    /// `sub` is of a trust domain that is not ours and not federated.
    #[error("claim sub is of an unknown trust domain")]
    TrustDomain,
    /// `aud` is missing or does not hold us (section 3.2).
    #[error("claim aud does not hold this audience")]
    Audience,
    /// There is no `exp` (section 3.3).
    #[error("claim exp is missing")]
    NoExpiration,
}

/// Checks everything but the signature; `audience` is us, `now_unix_s` is Unix time in seconds. `exp` and `nbf` allow the
/// skew of every other token.
///
/// # Errors
/// `SvidError` for the first rule that is broken.
pub fn check(
    header: &Map<String, Value>,
    claims: &Map<String, Value>,
    audience: &str,
    now_unix_s: i64,
    trust_domains: &[TrustDomain],
) -> Result<SpiffeId, SvidError> {
    check_header(header)?;
    let verified = Verified::check(claims.clone())?;
    check_claims(&verified, audience, now_unix_s, |domain| {
        trust_domains.iter().any(|known| known.as_str() == domain)
    })
}

fn check_header(header: &Map<String, Value>) -> Result<(), SvidError> {
    let alg = header
        .get("alg")
        .and_then(Value::as_str)
        .ok_or(TokenError::AlgMissing)?;
    if Algorithm::parse(alg).is_none_or(|alg| alg.kind() == Kind::Ed25519) {
        return Err(SvidError::Algorithm);
    }
    if header.get("kid").is_some_and(|kid| !kid.is_string()) {
        return Err(TokenError::Kid.into());
    }
    if header
        .keys()
        .any(|name| !matches!(name.as_str(), "alg" | "kid" | "typ"))
    {
        return Err(SvidError::Header);
    }
    match header.get("typ").map(Value::as_str) {
        None | Some(Some("JWT" | "JOSE")) => Ok(()),
        Some(_) => Err(SvidError::Typ),
    }
}

fn check_claims(
    claims: &Verified,
    audience: &str,
    now_unix_s: i64,
    is_known: impl FnOnce(&str) -> bool,
) -> Result<SpiffeId, SvidError> {
    let id = subject(claims)?;
    if !is_known(id.trust_domain()) {
        return Err(SvidError::TrustDomain);
    }
    if !claims.has_expiration() {
        return Err(SvidError::NoExpiration);
    }
    claims.check_time(now_unix_s)?;
    if !claims.has_audience(audience) {
        return Err(SvidError::Audience);
    }
    Ok(id)
}

fn subject(claims: &Verified) -> Result<SpiffeId, SvidError> {
    let subject = claims.text("sub").ok_or(SvidError::NoSubject)?;
    SpiffeId::parse(subject).map_err(SvidError::Subject)
}

/// The JWT keys of each trust domain, kept apart: a domain vouches for its own identities only.
#[derive(Clone, Debug, Default)]
pub struct JwtBundles {
    domains: BTreeMap<Box<str>, KeySet>,
}

impl JwtBundles {
    /// No trust domain.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the JWT keys of a SPIFFE bundle over (SPIFFE Trust Domain and Bundle, section 4): its entries with
    /// `use: jwt-svid` and a `kid`. What was known of the domain is replaced.
    ///
    /// # Errors
    /// `KeySetError` if the document as a whole is no bundle; a broken entry is skipped.
    pub fn set(&mut self, domain: &TrustDomain, bundle: &str) -> Result<(), KeySetError> {
        let keys = KeySet::parse_bundle(bundle)?;
        self.domains.insert(domain.as_str().into(), keys);
        Ok(())
    }

    /// Verifies a token with the keys of the trust domain that its `sub` names, and checks it as `check` does.
    ///
    /// # Errors
    /// `SvidError`.
    pub fn verify(
        &self,
        token: &str,
        audience: &str,
        now_unix_s: i64,
    ) -> Result<SpiffeId, SvidError> {
        self.verify_claims(token, audience, now_unix_s)
            .map(|(id, _claims)| id)
    }

    /// As [`Self::verify`]; with all claims of the token.
    ///
    /// # Errors
    /// `SvidError`.
    pub fn verify_claims(
        &self,
        token: &str,
        audience: &str,
        now_unix_s: i64,
    ) -> Result<(SpiffeId, Arc<Payload>), SvidError> {
        let parsed = Unverified::parse(token)?;
        check_header(parsed.header())?;
        let claims = parsed.claims()?;
        let id = subject(&claims)?;
        // The unproven subject only chooses the keys; it is proven by them or refused.
        let keys = self
            .domains
            .get(id.trust_domain())
            .ok_or(SvidError::TrustDomain)?;
        parsed.verify(keys)?;
        let id = check_claims(&claims, audience, now_unix_s, |_known| true)?;
        Ok((id, claims.claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    const NOW: i64 = 1_763_800_000;

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).unwrap()
    }

    fn key() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap()
    }

    /// The key as a bundle entry, with `extra` over what it would hold.
    fn entry(key: &EcdsaKeyPair, extra: &Value) -> Value {
        let point = key.public_key().as_ref();
        let (x, y) = point[1..].split_at(66);
        let mut entry = json!({"kty": "EC", "crv": "P-521", "use": "jwt-svid", "kid": "k",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)});
        for (name, value) in extra.as_object().unwrap() {
            entry[name] = value.clone();
        }
        entry
    }

    fn token(key: &EcdsaKeyPair, header: &Value, claims: &Value) -> String {
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!("{}.{}", encode(header), encode(claims));
        let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn claims() -> Value {
        json!({"sub": "spiffe://example.org/ns/foo/sa/bar", "aud": ["reports"], "exp": NOW + 300})
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        claims[name] = value;
        claims
    }

    #[test]
    fn a_domain_vouches_for_its_own_identities_alone() {
        let (ours, theirs) = (key(), key());
        let mut bundles = JwtBundles::new();
        for (name, key) in [("example.org", &ours), ("other.org", &theirs)] {
            let bundle = json!({"keys": [{"kty": "EC"}, entry(key, &json!({}))]}).to_string();
            bundles.set(&domain(name), &bundle).unwrap();
        }
        let header = json!({"alg": "ES512", "kid": "k", "typ": "JWT"});
        let ask = |key: &EcdsaKeyPair, claims: &Value| {
            bundles.verify(&token(key, &header, claims), "reports", NOW)
        };
        let id = ask(&ours, &claims()).unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/ns/foo/sa/bar");
        assert_eq!(
            ask(&theirs, &claims()),
            Err(TokenError::Signature.into()),
            "another domain's key"
        );
        let foreign = with("sub", json!("spiffe://other.org/x"));
        assert_eq!(ask(&ours, &foreign), Err(TokenError::Signature.into()));
        assert!(ask(&theirs, &foreign).is_ok(), "federated");
        let unknown = with("sub", json!("spiffe://a.example.org/x"));
        assert_eq!(ask(&ours, &unknown), Err(SvidError::TrustDomain));
        let good = token(&ours, &header, &claims());
        let changed = good.replacen('.', ".e30", 1);
        assert!(bundles.verify(&changed, "reports", NOW).is_err());
        assert_eq!(
            bundles.verify(&good, "other", NOW),
            Err(SvidError::Audience)
        );
        assert_eq!(
            bundles.verify(&good, "reports", NOW + 361),
            Err(TokenError::Expired.into())
        );
    }

    #[test]
    fn bundle_entries_say_what_they_are_for() {
        let key = key();
        let header = json!({"alg": "ES512", "kid": "k"});
        for (extra, good) in [
            (json!({}), true),
            (json!({"alg": "ES512"}), true),
            (json!({"use": "sig"}), false),
            (json!({"use": "x509-svid"}), false),
            (json!({"use": null}), false),
            (json!({"kid": null}), false),
            (json!({"alg": "ES256"}), false),
            (json!({"key_ops": ["sign"]}), false),
        ] {
            let mut bundles = JwtBundles::new();
            let bundle = json!({"keys": [entry(&key, &extra)], "spiffe_sequence": 1}).to_string();
            bundles.set(&domain("example.org"), &bundle).unwrap();
            let found = bundles.verify(&token(&key, &header, &claims()), "reports", NOW);
            let want = if good {
                Ok(())
            } else {
                Err(SvidError::Token(TokenError::NoKey))
            };
            assert_eq!(found.map(drop), want, "{extra}");
        }
        assert!(JwtBundles::new().set(&domain("example.org"), "[]").is_err());
    }

    #[test]
    fn rules() {
        let run = |header: Value, claims: Value| {
            let object = |value: &Value| value.as_object().unwrap().clone();
            let known = [domain("example.org")];
            check(&object(&header), &object(&claims), "reports", NOW, &known).map(drop)
        };
        let header = |name: &str, value: Value| {
            let mut header = json!({"alg": "RS256", "kid": "k"});
            header[name] = value;
            header
        };
        let plain = || header("kid", json!("k"));
        assert_eq!(run(plain(), claims()), Ok(()));
        for (header, want) in [
            (json!({}), TokenError::AlgMissing.into()),
            (header("alg", json!("EdDSA")), SvidError::Algorithm),
            (header("alg", json!("none")), SvidError::Algorithm),
            (header("alg", json!("HS256")), SvidError::Algorithm),
            (header("alg", json!("ES256K")), SvidError::Algorithm),
            (header("kid", json!(1)), TokenError::Kid.into()),
            (header("jwk", json!({})), SvidError::Header),
            (header("x5u", json!("https://x")), SvidError::Header),
            (header("crit", json!([])), SvidError::Header),
            (header("typ", json!("jwt")), SvidError::Typ),
            (header("typ", json!("at+jwt")), SvidError::Typ),
            (header("typ", json!(null)), SvidError::Typ),
        ] {
            assert_eq!(run(header.clone(), claims()), Err(want), "{header}");
        }
        for (name, value, want) in [
            ("sub", json!(7), TokenError::SubType.into()),
            ("sub", json!("spiffe://other.org/x"), SvidError::TrustDomain),
            (
                "sub",
                json!("spiffe://EXAMPLE.org/x"),
                SvidError::Subject(SpiffeIdError::TrustDomain),
            ),
            (
                "sub",
                json!("spiffe://example.org/x/"),
                SvidError::Subject(SpiffeIdError::Path),
            ),
            ("aud", json!("reports2"), SvidError::Audience),
            ("aud", json!(["reports", 1]), TokenError::AudType.into()),
            ("exp", json!(NOW - 61), TokenError::Expired.into()),
            ("exp", json!("1763800300"), TokenError::ExpType.into()),
            ("nbf", json!(NOW + 61), TokenError::NotYetValid.into()),
        ] {
            let claims = with(name, value);
            assert_eq!(run(plain(), claims.clone()), Err(want), "{claims}");
        }
        let mut endless = claims();
        endless.as_object_mut().unwrap().remove("exp");
        assert_eq!(run(plain(), endless), Err(SvidError::NoExpiration));
    }

    #[test]
    fn ed25519_is_not_in_the_list_even_with_its_key() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let mut bundles = JwtBundles::new();
        let bundle = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "use": "jwt-svid", "kid": "k",
            "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())}]});
        bundles
            .set(&domain("example.org"), &bundle.to_string())
            .unwrap();
        let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let signed = format!(
            "{}.{}",
            encode(json!({"alg": "EdDSA", "kid": "k"})),
            encode(claims())
        );
        let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
        assert_eq!(
            bundles.verify(&format!("{signed}.{signature}"), "reports", NOW),
            Err(SvidError::Algorithm)
        );
    }
}
