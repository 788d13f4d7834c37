//! The RequestAuthentication rules of one enforcement point, compiled.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};
use thiserror::Error;

use crate::jwt::keys::{KeyLookup, KeySet, KeySetError};
use crate::jwt::model::{JwtRule, KeySource, TokenHeader};
use crate::jwt::token::{TokenError, Verified};
use crate::vocab::claims::{self, Claims};
use crate::vocab::field;

/// All rules of all RequestAuthentications that are attached to one enforcement point.
#[derive(Clone, Debug, Default)]
pub struct TokenRules {
    pub(crate) rules: Vec<Rule>,
    pub(crate) locations: Vec<Location>,
    output_headers: Vec<HeaderName>,
    audience_stripping: bool,
}

/// Why rules cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenRulesError {
    /// A header name of `fromHeaders`, `outputPayloadToHeader` or `outputClaimToHeaders`.
    #[error("`{0}` is not a header name")]
    HeaderName(String),
    /// An output header that frames the message or that only our proxies set.
    #[error("a token may not set the header `{0}`")]
    HeaderReserved(String),
    /// `jwks` is no key set.
    #[error("jwks of issuer `{issuer}` is refused")]
    InlineKeys {
        /// `issuer` of the rule.
        issuer: String,
        /// What is wrong with it.
        #[source]
        source: KeySetError,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) issuer: String,
    audiences: Vec<String>,
    pub(crate) source: Arc<KeySource>,
    inline: Option<Arc<KeySet>>,
    require_expiration: bool,
    pub(crate) forward: bool,
    pub(crate) payload_header: Option<HeaderName>,
    pub(crate) claim_headers: Vec<(HeaderName, String)>,
    /// Complete: with `scope` and `permission`.
    pub(crate) space_delimited: Arc<[String]>,
}

/// A place where tokens are looked for, and the rules (indices) that look there.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) place: Place,
    pub(crate) rules: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// `Authorization: Bearer` (RFC 6750 section 2.1), scheme without case.
    Bearer,
    /// A header and the prefix at the start of its value.
    Header(HeaderName, String),
    /// A query parameter.
    Param(String),
    /// A cookie.
    Cookie(String),
}

impl TokenRules {
    /// Compiles rules; they are expected sorted by issuer, as Istio orders them, and are tried in that order.
    ///
    /// # Errors
    /// `TokenRulesError` for a header name that is none and for inline keys that are no key set.
    pub fn compile(rules: &[JwtRule]) -> Result<Self, TokenRulesError> {
        let mut compiled = Self::default();
        for (index, rule) in rules.iter().enumerate() {
            let one = Rule::compile(rule)?;
            for header in one
                .payload_header
                .iter()
                .chain(one.claim_headers.iter().map(|(header, _)| header))
            {
                if !compiled.output_headers.contains(header) {
                    compiled.output_headers.push(header.clone());
                }
            }
            for place in places(rule)? {
                match compiled.locations.iter_mut().find(|l| l.place == place) {
                    Some(known) => known.rules.push(index),
                    None => compiled.locations.push(Location {
                        place,
                        rules: vec![index],
                    }),
                }
            }
            compiled.rules.push(one);
        }
        // What a rule writes is never read as a token: it is removed from every request first.
        let outputs = &compiled.output_headers;
        compiled
            .locations
            .retain(|l| !matches!(&l.place, Place::Header(name, _) if outputs.contains(name)));
        Ok(compiled)
    }

    /// With audiences compared as Envoy does (`mesh.compat.audienceStripping`): without `http://` or `https://` before and
    /// one slash behind, on both sides. Otherwise they must be equal byte for byte (RFC 7519 section 4.1.3).
    #[must_use]
    pub fn with_audience_stripping(self, audience_stripping: bool) -> Self {
        Self {
            audience_stripping,
            ..self
        }
    }

    /// What a rule demands of a verified token of its issuer: dates, then audience.
    pub(crate) fn check(
        &self,
        rule: &Rule,
        verified: &Verified,
        now_unix_s: i64,
    ) -> Result<(), TokenError> {
        verified.check_time(now_unix_s)?;
        if rule.require_expiration && !verified.has_expiration() {
            return Err(TokenError::NoExpiration);
        }
        if self.is_for(rule, &verified.audiences()) {
            Ok(())
        } else {
            Err(TokenError::Audience)
        }
    }

    /// Whether a token for these audiences is one that the rule takes.
    fn is_for<'a>(&self, rule: &Rule, given: &(impl Iterator<Item = &'a str> + Clone)) -> bool {
        let same = |wanted: &str, given: &str| {
            wanted == given || (self.audience_stripping && stripped(wanted) == stripped(given))
        };
        let held = |wanted: &String| given.clone().any(|given| same(wanted, given));
        rule.audiences.is_empty() || rule.audiences.iter().any(held)
    }

    /// Whether verified claims are such as one of these rules takes, by issuer and audience. Claims that another
    /// enforcement point's rules took say nothing here unless they are.
    #[must_use]
    pub fn takes(&self, claims: &Claims) -> bool {
        self.rules.iter().any(|rule| {
            let issuer = rule.issuer.is_empty() || claims.issuer() == Some(rule.issuer.as_str());
            issuer && self.is_for(rule, &claims::audiences(claims.map()))
        })
    }

    /// Whether nothing is verified here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Headers that the rules may write; `authenticate` puts their removal into every outcome's edits. A caller that does not
    /// authenticate a request (a CORS preflight) must remove them itself.
    #[must_use]
    pub fn output_headers(&self) -> &[HeaderName] {
        &self.output_headers
    }

    /// The key sets that these rules need.
    pub fn key_sources(&self) -> impl Iterator<Item = &KeySource> {
        self.rules.iter().map(|rule| rule.source.as_ref())
    }
}

impl Rule {
    fn compile(rule: &JwtRule) -> Result<Self, TokenRulesError> {
        let inline = match &rule.keys {
            KeySource::Inline(text) => Some(Arc::new(KeySet::parse(text).map_err(|source| {
                TokenRulesError::InlineKeys {
                    issuer: rule.issuer.clone(),
                    source,
                }
            })?)),
            KeySource::Uri(_) | KeySource::Discovery(_) => None,
        };
        let mut claim_headers = Vec::with_capacity(rule.output_claim_to_headers.len());
        for (header, claim) in &rule.output_claim_to_headers {
            claim_headers.push((output_name(header)?, claim.clone()));
        }
        let space_delimited = rule.space_delimited_claims.iter().cloned();
        Ok(Self {
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            source: Arc::new(rule.keys.clone()),
            inline,
            require_expiration: rule.require_expiration,
            forward: rule.forward_original_token,
            payload_header: rule
                .output_payload_to_header
                .as_deref()
                .map(output_name)
                .transpose()?,
            claim_headers,
            space_delimited: space_delimited
                .chain(["scope".to_owned(), "permission".to_owned()])
                .collect(),
        })
    }

    /// Whether the rule is about tokens of this issuer; a rule without issuer is about all of them.
    pub(crate) fn concerns(&self, verified: &Verified) -> bool {
        self.issuer.is_empty() || verified.claims.issuer() == Some(self.issuer.as_str())
    }

    /// Its keys.
    pub(crate) fn keys<'k>(&'k self, lookup: &'k dyn KeyLookup) -> Result<&'k KeySet, TokenError> {
        match &self.inline {
            Some(keys) => Ok(keys),
            None => lookup
                .key_set(&self.source)
                .ok_or(TokenError::KeysUnavailable),
        }
    }
}

fn stripped(audience: &str) -> &str {
    let rest = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// Istio: if any location is configured, the defaults are off.
fn places(rule: &JwtRule) -> Result<Vec<Place>, TokenRulesError> {
    let mut places = Vec::new();
    for TokenHeader { name, prefix } in &rule.from_headers {
        let name = header_name(name)?;
        let bearer = name == AUTHORIZATION && prefix.trim_end().eq_ignore_ascii_case("bearer");
        places.push(if bearer {
            Place::Bearer
        } else {
            Place::Header(name, prefix.clone())
        });
    }
    places.extend(rule.from_params.iter().cloned().map(Place::Param));
    places.extend(rule.from_cookies.iter().cloned().map(Place::Cookie));
    if places.is_empty() {
        places.extend([Place::Bearer, Place::Param("access_token".to_owned())]);
    }
    Ok(places)
}

fn header_name(name: &str) -> Result<HeaderName, TokenRulesError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_e| TokenRulesError::HeaderName(name.to_owned()))
}

fn output_name(name: &str) -> Result<HeaderName, TokenRulesError> {
    let name = header_name(name)?;
    if field::is_reserved(name.as_str()) {
        return Err(TokenRulesError::HeaderReserved(name.as_str().to_owned()));
    }
    Ok(name)
}

/// A CORS preflight carries no credentials: tokens are not looked at, authorization still is (Istio's
/// `bypass_cors_preflight`).
#[must_use]
pub fn is_cors_preflight(method: &http::Method, headers: &HeaderMap) -> bool {
    let given = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    *method == http::Method::OPTIONS && given("origin") && given("access-control-request-method")
}
