//! Request authentication: which tokens a request presents, and what they prove together.

use std::sync::Arc;

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::Value;

use crate::jwt::cache::TokenCache;
use crate::jwt::edits::HeaderEdits;
use crate::jwt::extract;
use crate::jwt::keys::KeyLookup;
use crate::jwt::model::KeySource;
use crate::jwt::rules::{Location, Place, Rule, TokenRules};
use crate::jwt::token::{TokenError, Unverified, Verified};
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;

/// Longest realm of a challenge (Envoy cuts there too).
const REALM_BYTES: usize = 256;

/// What the tokens of a request prove.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenOutcome {
    /// No token at any place of any rule.
    Anonymous {
        /// Removes the headers that only verified claims may set.
        edits: HeaderEdits,
    },
    /// Every token verified, and all are of one identity.
    Valid {
        /// Claims of the first token found.
        claims: Claims,
        /// Removes and sets headers, takes tokens out that are not to be forwarded.
        edits: HeaderEdits,
    },
    /// Some token did not verify.
    Invalid {
        /// 401, or 403 if only the audience is wrong.
        status: u16,
        /// Response body, in Envoy's words.
        text: &'static str,
        /// Which rule it broke, for the decision record.
        error: TokenError,
        /// The source whose keys do not know the token's `kid`: worth an early fetch.
        unknown_kid: Option<KeySource>,
    },
}

/// Verifies every token of a request under the rules that look at its place. `path` is `None` for CONNECT.
#[must_use]
pub fn authenticate(
    rules: &TokenRules,
    keys: &dyn KeyLookup,
    headers: &HeaderMap,
    path: Option<&CanonicalPath>,
    now_unix_s: i64,
) -> TokenOutcome {
    run(
        &mut Judge {
            rules,
            keys,
            cache: None,
            now_unix_s,
        },
        headers,
        path,
    )
}

/// As `authenticate`, with the core's cache of verified tokens.
#[must_use]
pub fn authenticate_cached(
    cache: &mut TokenCache,
    rules: &TokenRules,
    keys: &dyn KeyLookup,
    headers: &HeaderMap,
    path: Option<&CanonicalPath>,
    now_unix_s: i64,
) -> TokenOutcome {
    run(
        &mut Judge {
            rules,
            keys,
            cache: Some(cache),
            now_unix_s,
        },
        headers,
        path,
    )
}

struct Judge<'a> {
    rules: &'a TokenRules,
    keys: &'a dyn KeyLookup,
    cache: Option<&'a mut TokenCache>,
    now_unix_s: i64,
}

/// A refusal and the source that lacks the key, if that is the reason.
struct Refusal {
    error: TokenError,
    unknown_kid: Option<KeySource>,
}

impl From<TokenError> for Refusal {
    fn from(error: TokenError) -> Self {
        Self {
            error,
            unknown_kid: None,
        }
    }
}

fn run(judge: &mut Judge<'_>, headers: &HeaderMap, path: Option<&CanonicalPath>) -> TokenOutcome {
    let mut edits = HeaderEdits {
        remove: judge.rules.output_headers().to_vec(),
        ..HeaderEdits::default()
    };
    match judge.all(headers, path.and_then(CanonicalPath::query), &mut edits) {
        Ok(None) => TokenOutcome::Anonymous { edits },
        Ok(Some(claims)) => TokenOutcome::Valid { claims, edits },
        Err(Refusal { error, unknown_kid }) => TokenOutcome::Invalid {
            status: error.status(),
            text: error.text(),
            error,
            unknown_kid,
        },
    }
}

impl<'a> Judge<'a> {
    /// Every presented token must verify, and they must agree on (iss, sub): one good token does not excuse a bad one.
    fn all(
        &mut self,
        headers: &HeaderMap,
        query: Option<&str>,
        edits: &mut HeaderEdits,
    ) -> Result<Option<Claims>, Refusal> {
        let mut first: Option<Claims> = None;
        let rules = self.rules;
        for location in &rules.locations {
            for token in extract::tokens(&location.place, headers, query)? {
                let (rule, verified) = self.one(&token, location)?;
                let claims = Claims::shared(verified.claims, rule.space_delimited.clone());
                match &first {
                    Some(known) if !same_identity(known, &claims) => {
                        return Err(TokenError::Disagree.into());
                    }
                    Some(_) => {}
                    None => {
                        output(rule, &token, &claims, edits);
                        first = Some(claims);
                    }
                }
                if !rule.forward {
                    take_out(&location.place, edits);
                }
            }
        }
        Ok(first)
    }

    /// The first rule of this place that accepts the token, else the most telling refusal.
    fn one(&mut self, token: &str, location: &Location) -> Result<(&'a Rule, Verified), Refusal> {
        let rules = self.rules;
        let mut look = Look::new(self, token)?;
        let mut refusal = Refusal::from(TokenError::Issuer);
        for rule in location
            .rules
            .iter()
            .filter_map(|index| rules.rules.get(*index))
        {
            if !rule.concerns(&look.claims) {
                continue;
            }
            let attempt = look
                .verify(self, rule)
                .and_then(|()| rules.check(rule, &look.claims, self.now_unix_s));
            match attempt {
                Ok(()) => return Ok((rule, look.claims)),
                Err(error) => {
                    let new_key = look.may_be_of_a_new_key(error);
                    let unknown_kid = new_key.then(|| rule.source.as_ref().clone());
                    let telling =
                        refusal.error == TokenError::Issuer || error == TokenError::Audience;
                    refusal = Refusal {
                        error: if telling { error } else { refusal.error },
                        unknown_kid: refusal.unknown_kid.or(unknown_kid),
                    };
                }
            }
        }
        Err(refusal)
    }
}

/// A token that is being looked at. A known one is not parsed again.
struct Look<'t> {
    token: &'t str,
    parsed: Option<Unverified<'t>>,
    /// Unproven until `verify` says so.
    claims: Verified,
    /// The source under whose keys it verified before.
    known: Option<Arc<KeySource>>,
}

impl<'t> Look<'t> {
    fn new(judge: &mut Judge<'_>, token: &'t str) -> Result<Self, TokenError> {
        let generation = judge.keys.generation();
        let hit = judge
            .cache
            .as_deref_mut()
            .and_then(|cache| cache.find(token, generation, judge.now_unix_s));
        if let Some((source, claims)) = hit {
            return Ok(Self {
                token,
                parsed: None,
                claims,
                known: Some(source),
            });
        }
        let parsed = Unverified::parse(token)?;
        let claims = parsed.claims()?;
        Ok(Self {
            token,
            parsed: Some(parsed),
            claims,
            known: None,
        })
    }

    /// Whether a newer key set may verify it: no key is called so, or it names none and none of those that there are does.
    fn may_be_of_a_new_key(&self, error: TokenError) -> bool {
        let nameless = self.parsed.as_ref().is_some_and(Unverified::is_nameless);
        error == TokenError::NoKey || (error == TokenError::Signature && nameless)
    }

    /// Signature under the rule's keys, unless it is known to be good under them.
    fn verify(&mut self, judge: &mut Judge<'_>, rule: &Rule) -> Result<(), TokenError> {
        let keys = rule.keys(judge.keys)?;
        if self
            .known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, &rule.source) || *known == rule.source)
        {
            return Ok(());
        }
        let parsed = match self.parsed.take() {
            Some(parsed) => parsed,
            None => Unverified::parse(self.token)?,
        };
        let outcome = parsed.verify(keys);
        self.parsed = Some(parsed);
        if outcome.is_ok()
            && let Some(cache) = judge.cache.as_deref_mut()
        {
            cache.insert(
                self.token,
                &rule.source,
                judge.keys.generation(),
                self.claims.clone(),
            );
        }
        outcome
    }
}

fn same_identity(a: &Claims, b: &Claims) -> bool {
    a.claim("iss") == b.claim("iss") && a.claim("sub") == b.claim("sub")
}

/// `outputPayloadToHeader` and `outputClaimToHeaders` of the rule that accepted the token.
fn output(rule: &Rule, token: &str, claims: &Claims, edits: &mut HeaderEdits) {
    if let Some(header) = &rule.payload_header {
        let payload = token
            .split('.')
            .nth(1)
            .and_then(|payload| HeaderValue::from_str(payload).ok());
        edits
            .set
            .extend(payload.map(|payload| (header.clone(), payload)));
    }
    for (header, claim) in &rule.claim_headers {
        let value = find_claim(claims, claim).and_then(header_value);
        edits.set.extend(value.map(|value| (header.clone(), value)));
    }
}

/// A claim by its name, or by its path with dots (`a.b`) if there is none of that name.
fn find_claim<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    claims.claim(name).or_else(|| {
        let mut steps = name.split('.');
        let outermost = claims.claim(steps.next()?)?;
        steps.try_fold(outermost, |value, step| value.as_object()?.get(step))
    })
}

/// Strings, integers and booleans; others, and strings that no header can hold, are not written.
fn header_value(claim: &Value) -> Option<HeaderValue> {
    match claim {
        Value::String(text) => HeaderValue::from_bytes(text.as_bytes()).ok(),
        Value::Number(number) if number.is_i64() || number.is_u64() => {
            HeaderValue::from_str(&number.to_string()).ok()
        }
        Value::Bool(flag) => Some(HeaderValue::from_static(if *flag {
            "true"
        } else {
            "false"
        })),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

fn take_out(place: &Place, edits: &mut HeaderEdits) {
    let header = |edits: &mut HeaderEdits, name: HeaderName| {
        if !edits.remove.contains(&name) {
            edits.remove.push(name);
        }
    };
    match place {
        Place::Bearer => header(edits, AUTHORIZATION),
        Place::Header(name, _) => header(edits, name.clone()),
        Place::Param(name) => edits.drop_params.push(name.clone()),
        Place::Cookie(name) => edits.drop_cookies.push(name.clone()),
    }
}

/// The `www-authenticate` value of a refused token (RFC 6750 section 3), with Envoy's realm: the request's URI without query.
#[must_use]
pub fn www_authenticate(scheme: &str, host: &Host, path: Option<&CanonicalPath>) -> HeaderValue {
    challenge(scheme, host, path, ", error=\"invalid_token\"")
}

/// The `www-authenticate` value where a token is missing.
#[must_use]
pub fn www_authenticate_missing(
    scheme: &str,
    host: &Host,
    path: Option<&CanonicalPath>,
) -> HeaderValue {
    challenge(scheme, host, path, "")
}

fn challenge(scheme: &str, host: &Host, path: Option<&CanonicalPath>, error: &str) -> HeaderValue {
    let path = path.map_or("", CanonicalPath::path);
    let uri = format!("{scheme}://{host}{path}");
    // A quoted string holds neither quotes nor backslashes here, and what a header cannot hold is left out.
    let safe = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    let realm: String = uri.chars().filter(safe).take(REALM_BYTES).collect();
    HeaderValue::from_str(&format!("Bearer realm=\"{realm}\"{error}"))
        .unwrap_or_else(|_e| HeaderValue::from_static("Bearer"))
}
