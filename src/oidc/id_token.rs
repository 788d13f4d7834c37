//! What an ID token must be (OpenID Connect Core section 3.1.3.7).

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

use crate::jwt::TokenError;
use crate::jwt::algorithm::Algorithm;
use crate::jwt::token::{LEEWAY_S, Unverified, Verified};
use crate::oidc::provider::Provider;

/// Why an ID token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum IdTokenError {
    /// Form, signature, claim types or dates.
    #[error("id token is not valid")]
    Token(#[source] TokenError),
    /// Signed with an algorithm that the provider does not name.
    #[error("id token algorithm is not one of the provider's")]
    Algorithm,
    /// `iss` is another issuer.
    #[error("id token is from another issuer")]
    Issuer,
    /// `aud` does not hold our client id.
    #[error("id token is for another client")]
    Audience,
    /// `azp` is missing though there are several audiences, or is another client.
    #[error("id token was issued to another party")]
    AuthorizedParty,
    /// `nonce` is not the one of this login.
    #[error("id token belongs to another login")]
    Nonce,
    /// `sub`, `exp` or `iat` is missing, or `iat` is ahead.
    #[error("id token lacks a claim that it must have")]
    Missing,
    /// `at_hash` or `c_hash` is of another access token or code.
    #[error("id token was issued with another access token or code")]
    Hash,
}

/// Whether the token's signature names a key that the provider's set does not hold: worth one fetch before `complete`.
#[must_use]
pub fn key_is_unknown(provider: &Provider, id_token: &str) -> bool {
    Unverified::parse(id_token)
        .is_ok_and(|token| token.verify(&provider.keys) == Err(TokenError::NoKey))
}

/// What the token was issued together with.
pub(crate) struct Context<'a> {
    pub(crate) nonce: &'a str,
    pub(crate) code: &'a str,
    pub(crate) access_token: Option<&'a str>,
}

/// Verifies an ID token and returns it with its claims.
pub(crate) fn verify(
    provider: &Provider,
    id_token: &str,
    context: &Context<'_>,
    now_unix_s: i64,
) -> Result<Verified, IdTokenError> {
    let token = Unverified::parse(id_token).map_err(IdTokenError::Token)?;
    if !provider.algs.contains(&token.alg()) {
        return Err(IdTokenError::Algorithm);
    }
    token.verify(&provider.keys).map_err(IdTokenError::Token)?;
    let claims = token.claims().map_err(IdTokenError::Token)?;
    claims.check_time(now_unix_s).map_err(IdTokenError::Token)?;
    let client = provider.settings.client_id.as_str();
    if claims.text("iss") != Some(provider.settings.issuer.as_str()) {
        return Err(IdTokenError::Issuer);
    }
    if !claims.has_audience(client) {
        return Err(IdTokenError::Audience);
    }
    let several = claims
        .claims
        .get("aud")
        .and_then(|aud| aud.as_array())
        .is_some_and(|list| list.len() > 1);
    match (claims.claims.get("azp"), several) {
        (Some(azp), _) if azp != client => return Err(IdTokenError::AuthorizedParty),
        (None, true) => return Err(IdTokenError::AuthorizedParty),
        (Some(_) | None, _) => {}
    }
    if claims.text("nonce") != Some(context.nonce) {
        return Err(IdTokenError::Nonce);
    }
    require(&claims, now_unix_s)?;
    check_hash(&claims, "c_hash", token.alg(), Some(context.code))?;
    check_hash(&claims, "at_hash", token.alg(), context.access_token)?;
    Ok(claims)
}

fn require(claims: &Verified, now_unix_s: i64) -> Result<(), IdTokenError> {
    let subject = claims.text("sub").is_some_and(|sub| !sub.is_empty());
    let latest = now_unix_s.saturating_add(LEEWAY_S);
    let issued = claims.issued_before(latest);
    if subject && issued && claims.has_expiration() {
        Ok(())
    } else {
        Err(IdTokenError::Missing)
    }
}

/// `at_hash` and `c_hash`: the left half of the hash of the text, by the hash of the signature's algorithm. Checked where
/// the token has them.
fn check_hash(
    claims: &Verified,
    name: &str,
    alg: Algorithm,
    text: Option<&str>,
) -> Result<(), IdTokenError> {
    let (Some(claim), Some(text)) = (claims.claims.get(name), text) else {
        return Ok(());
    };
    let hash = alg.hash();
    let hashed = digest::digest(hash, text.as_bytes());
    let half = hashed
        .as_ref()
        .get(..hash.output_len() / 2)
        .unwrap_or_default();
    let same = claim
        .as_str()
        .is_some_and(|claim| claim == URL_SAFE_NO_PAD.encode(half));
    if same {
        Ok(())
    } else {
        Err(IdTokenError::Hash)
    }
}
