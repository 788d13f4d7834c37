//! The end of a login: the code is redeemed, the ID token is judged, the session begins.

use std::fmt;

use thiserror::Error;

use crate::oidc::cookie;
use crate::oidc::flow::Exchange;
use crate::oidc::id_token::{self, Context, IdTokenError};
use crate::oidc::provider::Provider;
use crate::oidc::respond::Respond;
use crate::oidc::seal::Binding;
use crate::oidc::step::claims;

/// What the token endpoint answered (RFC 6749 section 5.1, OpenID Connect Core section 3.1.3.3).
#[derive(Clone, PartialEq, Eq)]
pub struct TokenResponse {
    /// `id_token`, compact, byte for byte.
    pub id_token: String,
    /// `access_token`.
    pub access_token: Option<String>,
}

impl fmt::Debug for TokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenResponse")
    }
}

/// Why a code was not redeemed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExchangeError {
    /// The provider says no: the code was used before, is expired, or is not ours.
    #[error("provider refuses the code")]
    Refused,
    /// The provider does not answer, or too late.
    #[error("provider cannot be reached")]
    Unreachable,
    /// The answer is no token response or lacks the ID token.
    #[error("token response is not valid")]
    Malformed,
}

/// Ends a login: sets the session cookie and returns to where it began, or says why not. The flow cookie is cleared either
/// way, so that a login cannot be replayed.
#[must_use]
pub fn complete(
    provider: &Provider,
    exchange: &Exchange,
    redeemed: Result<TokenResponse, ExchangeError>,
    now_unix_s: i64,
    rng: &mut dyn FnMut(&mut [u8]),
) -> Respond {
    let mut respond = match redeemed {
        Ok(tokens) => begin_session(provider, exchange, &tokens, now_unix_s, rng),
        Err(ExchangeError::Refused) => Respond::page(
            400,
            "Login failed",
            "The login was used before or took too long.",
        ),
        Err(ExchangeError::Unreachable) => Respond::page(
            502,
            "Login is not possible now",
            "The login service does not answer.",
        ),
        Err(ExchangeError::Malformed) => Respond::page(
            502,
            "Login is not possible now",
            "The login service gave an answer that is not valid.",
        ),
    };
    cookie::clear(&mut respond.headers, &exchange.flow_cookie);
    respond
}

fn begin_session(
    provider: &Provider,
    exchange: &Exchange,
    tokens: &TokenResponse,
    now_unix_s: i64,
    rng: &mut dyn FnMut(&mut [u8]),
) -> Respond {
    let context = Context {
        nonce: &exchange.nonce,
        code: &exchange.code,
        access_token: tokens.access_token.as_deref(),
    };
    let verified = match id_token::verify(provider, &tokens.id_token, &context, now_unix_s) {
        Ok(verified) => verified,
        Err(IdTokenError::Nonce) => {
            return Respond::page(400, "Login failed", "The answer belongs to another login.");
        }
        Err(
            IdTokenError::Token(_)
            | IdTokenError::Algorithm
            | IdTokenError::Issuer
            | IdTokenError::Audience
            | IdTokenError::AuthorizedParty
            | IdTokenError::Missing
            | IdTokenError::Hash,
        ) => {
            return Respond::page(
                403,
                "Login failed",
                "The identity that the login service gave is not valid.",
            );
        }
    };
    let longest = now_unix_s.saturating_add(provider.settings.session_max_s);
    let expires = verified
        .expires_unix_s()
        .map_or(now_unix_s, |exp| exp.min(longest));
    // Within the leeway a token is still good, but a session that is over at once would send the browser round for ever.
    if expires <= now_unix_s {
        return Respond::page(
            403,
            "Login failed",
            "The identity that the login service gave is over already.",
        );
    }
    let name = &provider.session_cookie;
    let binding = Binding {
        cookie: name,
        host: &exchange.host,
        provider: &provider.identity,
    };
    let Ok(sealed) = provider
        .cookie_keys
        .seal(binding, expires, tokens.id_token.as_bytes(), rng)
    else {
        return Respond::page(500, "Login failed", "The session cannot be kept.");
    };
    let mut respond = Respond::redirect(303, &exchange.return_to);
    match cookie::set_parts(&mut respond.headers, name, &sealed, expires - now_unix_s) {
        Some(()) => {
            respond.claims = Some(claims(verified));
            respond
        }
        None => Respond::page(
            502,
            "Login failed",
            "The identity that the login service gave is too large for cookies.",
        ),
    }
}
