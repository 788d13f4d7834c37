//! One compact JWS (RFC 7515): form, header, signature, claim types. What a rule demands of it is in `rules`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::jwt::algorithm::Algorithm;
use crate::jwt::json;
use crate::jwt::keys::KeySet;
use crate::vocab::claims::{self, Payload};
use crate::vocab::limits;

/// Clock skew that `exp` and `nbf` allow, in seconds (Envoy's default).
pub(crate) const LEEWAY_S: i64 = 60;
/// 9999-12-31T23:59:59Z: a later date is a mistake or an overflow.
const LAST_SECOND: f64 = 253_402_300_799.0;

/// Why a token is refused. `text` has the words of Envoy's jwt_authn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum TokenError {
    /// Longer than `limits::TOKEN_BYTES`.
    #[error("token is longer than 16 KiB")]
    TooLarge,
    /// Not three base64url parts, or several credentials where one belongs.
    #[error("token is not three base64url parts")]
    Form,
    /// The header is not base64url.
    #[error("token header is not base64url")]
    HeaderEncoding,
    /// The header is not one JSON object with unique names.
    #[error("token header is not one JSON object")]
    HeaderJson,
    /// `alg` is missing or no string.
    #[error("token header has no alg")]
    AlgMissing,
    /// `alg` is not on the allow-list.
    #[error("token algorithm is not allowed")]
    Alg,
    /// `kid` is no string.
    #[error("token kid is not a string")]
    Kid,
    /// `crit`, `b64` or a `typ` that is no string: a header that this verifier does not implement (RFC 7515 section 4.1.11).
    #[error("token header demands what is not implemented")]
    HeaderUnsupported,
    /// The signature is not base64url.
    #[error("token signature is not base64url")]
    SignatureEncoding,
    /// No key of the set fits `kid` and `alg`.
    #[error("no key fits the token")]
    NoKey,
    /// The key set of the rule could not be obtained yet.
    #[error("the key set is not available")]
    KeysUnavailable,
    /// No candidate key verifies it.
    #[error("token signature does not verify")]
    Signature,
    /// The payload is not base64url.
    #[error("token payload is not base64url")]
    PayloadEncoding,
    /// The payload is not one JSON object with unique names.
    #[error("token payload is not one JSON object")]
    PayloadJson,
    /// `iss` is no string.
    #[error("claim iss is not a string")]
    IssType,
    /// `sub` is no string.
    #[error("claim sub is not a string")]
    SubType,
    /// `jti` is no string.
    #[error("claim jti is not a string")]
    JtiType,
    /// `aud` is neither a string nor a list of strings.
    #[error("claim aud is not a string or a list of strings")]
    AudType,
    /// `exp` is no date between 1970 and 9999.
    #[error("claim exp is not a date")]
    ExpType,
    /// `nbf` is no date between 1970 and 9999.
    #[error("claim nbf is not a date")]
    NbfType,
    /// `iat` is no date between 1970 and 9999.
    #[error("claim iat is not a date")]
    IatType,
    /// `iss` is not that of any rule that looks here.
    #[error("token issuer is not configured")]
    Issuer,
    /// `exp` is past.
    #[error("token is expired")]
    Expired,
    /// `requireExpiration`, and there is no `exp`.
    #[error("token has no exp")]
    NoExpiration,
    /// `nbf` is ahead.
    #[error("token is not valid yet")]
    NotYetValid,
    /// `aud` holds none of the rule's audiences.
    #[error("token audience is not allowed")]
    Audience,
    /// Several tokens that do not agree on issuer and subject.
    #[error("tokens of different identities")]
    Disagree,
}

impl TokenError {
    /// 403 for a wrong audience, 401 for everything else (Istio).
    #[must_use]
    pub fn status(self) -> u16 {
        if self == Self::Audience { 403 } else { 401 }
    }

    /// The response body.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::TooLarge | Self::Form => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderEncoding => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson | Self::HeaderUnsupported => "Jwt header is an invalid JSON",
            Self::AlgMissing => "Jwt header [alg] field is required and must be a string",
            Self::Alg => "Jwt header [alg] is not supported",
            Self::Kid => "Jwt header [kid] field is not a string",
            Self::SignatureEncoding => "Jwt signature is an invalid Base64url encoded",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::KeysUnavailable => "Jwks remote fetch is failed",
            Self::Signature | Self::Disagree => "Jwt verification fails",
            Self::PayloadEncoding => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::IssType => "Jwt payload [iss] field is not a string",
            Self::SubType => "Jwt payload [sub] field is not a string",
            Self::JtiType => "Jwt payload [jti] field is not a string",
            Self::AudType => "Jwt payload [aud] field is not a string or string list",
            Self::ExpType => "Jwt payload [exp] field is not a positive integer",
            Self::NbfType => "Jwt payload [nbf] field is not a positive integer",
            Self::IatType => "Jwt payload [iat] field is not a positive integer",
            Self::Issuer => "Jwt issuer is not configured",
            Self::Expired | Self::NoExpiration => "Jwt is expired",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Audience => "Audiences in Jwt are not allowed",
        }
    }
}

/// A token whose form and header are good and whose signature nobody has looked at.
#[derive(Debug)]
pub(crate) struct Unverified<'t> {
    signed: &'t str,
    payload: &'t str,
    signature: &'t str,
    header: Map<String, Value>,
    alg: Algorithm,
    kid: Option<String>,
}

/// A token whose signature and claim types are good.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verified {
    /// All claims.
    pub(crate) claims: Arc<Payload>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
}

impl<'t> Unverified<'t> {
    /// Checks size, form and header (RFC 7515 section 5.2); `jku`, `jwk`, `x5u`, `x5c` and `x5t` are never read.
    pub(crate) fn parse(token: &'t str) -> Result<Self, TokenError> {
        if token.len() > limits::TOKEN_BYTES {
            return Err(TokenError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Form)?;
        if payload.contains('.')
            || [header, payload, signature]
                .iter()
                .any(|part| part.is_empty())
        {
            return Err(TokenError::Form);
        }
        let header = URL_SAFE_NO_PAD
            .decode(header)
            .map_err(|_e| TokenError::HeaderEncoding)?;
        let header = json::parse_object(&header).map_err(|_e| TokenError::HeaderJson)?;
        let (alg, kid) = read_header(&header)?;
        Ok(Self {
            signed,
            payload,
            signature,
            header,
            alg,
            kid,
        })
    }

    /// The claims, unproven until `verify` succeeds: only to choose the rules whose keys are worth trying.
    pub(crate) fn claims(&self) -> Result<Verified, TokenError> {
        let payload = URL_SAFE_NO_PAD
            .decode(self.payload)
            .map_err(|_e| TokenError::PayloadEncoding)?;
        let claims = json::parse_object(&payload).map_err(|_e| TokenError::PayloadJson)?;
        Verified::check(claims)
    }

    /// The header. Of its fields only `alg`, `kid`, `typ`, `crit` and `b64` are looked at.
    pub(crate) fn header(&self) -> &Map<String, Value> {
        &self.header
    }

    /// Whether it names no key.
    pub(crate) fn is_nameless(&self) -> bool {
        self.kid.is_none()
    }

    /// The algorithm that the header names, from the allow-list.
    pub(crate) fn alg(&self) -> Algorithm {
        self.alg
    }

    /// Verifies the signature with every key of `keys` that fits, until one does.
    pub(crate) fn verify(&self, keys: &KeySet) -> Result<(), TokenError> {
        let signature = URL_SAFE_NO_PAD
            .decode(self.signature)
            .map_err(|_e| TokenError::SignatureEncoding)?;
        let mut outcome = Err(TokenError::NoKey);
        for key in keys.candidates(self.kid.as_deref(), self.alg) {
            if key.verifies(self.alg, self.signed.as_bytes(), &signature) {
                return Ok(());
            }
            outcome = Err(TokenError::Signature);
        }
        outcome
    }
}

fn read_header(header: &Map<String, Value>) -> Result<(Algorithm, Option<String>), TokenError> {
    let alg = header
        .get("alg")
        .and_then(Value::as_str)
        .ok_or(TokenError::AlgMissing)?;
    let alg = Algorithm::parse(alg).ok_or(TokenError::Alg)?;
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err(TokenError::Kid),
    };
    let critical = header.contains_key("crit");
    let unencoded = header.get("b64").is_some_and(|b| b != &Value::Bool(true));
    let typ = header.get("typ").is_some_and(|t| !t.is_string());
    if critical || unencoded || typ {
        return Err(TokenError::HeaderUnsupported);
    }
    Ok((alg, kid))
}

impl Verified {
    /// Checks the types of the registered claims (RFC 7519 section 4.1).
    pub(crate) fn check(claims: Map<String, Value>) -> Result<Self, TokenError> {
        for (name, error) in [
            ("iss", TokenError::IssType),
            ("sub", TokenError::SubType),
            ("jti", TokenError::JtiType),
        ] {
            if claims.get(name).is_some_and(|v| !v.is_string()) {
                return Err(error);
            }
        }
        let audience = claims.get("aud").is_none_or(|aud| match aud {
            Value::String(_) => true,
            Value::Array(list) => list.iter().all(Value::is_string),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        });
        if !audience {
            return Err(TokenError::AudType);
        }
        let iat = date(&claims, "iat", TokenError::IatType)?;
        let exp = date(&claims, "exp", TokenError::ExpType)?;
        let nbf = date(&claims, "nbf", TokenError::NbfType)?;
        Ok(Self {
            claims: Arc::new(claims.into()),
            exp,
            nbf,
            iat,
        })
    }

    /// `exp` and `nbf` against the clock, with `LEEWAY_S`.
    pub(crate) fn check_time(&self, now_unix_s: i64) -> Result<(), TokenError> {
        if self
            .exp
            .is_some_and(|exp| seconds(now_unix_s) > exp + seconds(LEEWAY_S))
        {
            return Err(TokenError::Expired);
        }
        if self
            .nbf
            .is_some_and(|nbf| nbf > seconds(now_unix_s) + seconds(LEEWAY_S))
        {
            return Err(TokenError::NotYetValid);
        }
        Ok(())
    }

    /// Whether the token says when it ends.
    pub(crate) fn has_expiration(&self) -> bool {
        self.exp.is_some()
    }

    /// Whether there is an `iat`, and it is not after `latest_unix_s`.
    pub(crate) fn issued_before(&self, latest_unix_s: i64) -> bool {
        self.iat.is_some_and(|iat| iat <= seconds(latest_unix_s))
    }

    /// `exp` in whole seconds, rounded down.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "`date` admits 0 to LAST_SECOND only"
    )]
    pub(crate) fn expires_unix_s(&self) -> Option<i64> {
        self.exp.map(|exp| exp.floor() as i64)
    }

    /// Whether `aud` holds `wanted`, byte for byte.
    pub(crate) fn has_audience(&self, wanted: &str) -> bool {
        self.audiences().any(|given| given == wanted)
    }

    /// What `aud` holds.
    pub(crate) fn audiences(&self) -> impl Iterator<Item = &str> + Clone {
        claims::audiences(&self.claims)
    }

    /// A string claim.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name)?.as_str()
    }
}

/// A NumericDate (RFC 7519 section 2): an integer or fraction of seconds.
fn date(
    claims: &Map<String, Value>,
    name: &str,
    error: TokenError,
) -> Result<Option<f64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => match value.as_f64() {
            Some(seconds) if (0.0..=LAST_SECOND).contains(&seconds) => Ok(Some(seconds)),
            Some(_) | None => Err(error),
        },
    }
}

/// Unix seconds as a double: exact up to the year 285 million.
fn seconds(unix_s: i64) -> f64 {
    unix_s as f64
}
