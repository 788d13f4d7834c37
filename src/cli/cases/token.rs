//! `jwt` cases: a token as sent, the keys of the rule, and what verification says.

use std::collections::BTreeMap;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use url::form_urlencoded;

use crate::cli::cases::expect::{Judged, one_of, show};
use crate::cli::cases::harness::{Harness, NOW_UNIX_S};
use crate::cli::cases::json::{Broken, integer_or, member, pairs, texts};
use crate::cli::cases::resources;
use crate::jwt::model::KeySource;
use crate::jwt::{
    KeySets, TokenCache, TokenOutcome, TokenRules, authenticate, authenticate_cached,
};
use crate::vocab::path::{CanonicalPath, PathNormalization};

/// Where the key set of a case is said to come from.
const KEYS_URI: &str = "https://keys.test/jwks.json";

/// Judges a case; the answer must be the same with the cache of verified tokens, empty and filled.
pub(super) fn judge(case: &Value, harness: &Harness, path: &Path) -> Judged {
    run(case, harness, path).into()
}

fn run(case: &Value, harness: &Harness, file: &Path) -> Broken<Judged> {
    let mut rule = case.get("rule").ok_or("`rule` is missing")?.clone();
    if let Some(map) = rule.as_object_mut() {
        map.insert("jwksUri".to_owned(), json!(KEYS_URI));
    }
    let resource = json!({
        "kind": "RequestAuthentication",
        "metadata": { "name": "case" },
        "spec": { "jwtRules": [rule] },
    });
    let mesh = resources::read(case, &[resource])?;
    let read = mesh.request_authentications.first();
    let rules = read.map(|r| r.rules.as_slice()).unwrap_or_default();
    let set = harness.key_set(&texts(case, "keys")?, file)?;
    let keys = KeySets {
        map: BTreeMap::from([(KeySource::Uri(KEYS_URI.to_owned()), set.into())]),
        generation: 1,
    };
    let rules = TokenRules::compile(rules).map_err(|error| error.to_string())?;
    let request = case.get("request").ok_or("`request` is missing")?;
    let headers = headers(request)?;
    let path = target(request)?;
    let now = integer_or(case, "now", NOW_UNIX_S)?;
    let outcome = authenticate(&rules, &keys, &headers, Some(&path), now);
    let mut cache = TokenCache::default();
    for turn in 1..=2 {
        let cached = authenticate_cached(&mut cache, &rules, &keys, &headers, Some(&path), now);
        if cached != outcome {
            return Err(format!("the cache changes the answer of turn {turn}"));
        }
    }
    Ok(compare(case, &outcome))
}

fn headers(request: &Value) -> Broken<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(request, "headers")? {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| format!("`{name}`: {e}"))?;
        // What no field value can hold does not reach verification.
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|error| format!("header `{name}`: {error}"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn target(request: &Value) -> Broken<CanonicalPath> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in pairs(request, "query")? {
        query.append_pair(name, value);
    }
    let target = format!("/?{}", query.finish());
    CanonicalPath::parse(PathNormalization::Base, &target).map_err(|error| error.to_string())
}

fn compare(case: &Value, outcome: &TokenOutcome) -> Judged {
    let (got, status, principal, why) = match outcome {
        TokenOutcome::Anonymous { .. } => ("anonymous", None, None, None),
        TokenOutcome::Valid { claims, .. } => ("accept", None, claims.request_principal(), None),
        TokenOutcome::Invalid { status, error, .. } => {
            ("reject", Some(*status), None, Some(error.to_string()))
        }
    };
    let judged = Judged::compare(case, "expect", json!(got), why);
    // Status and principal belong to the answer that is expected, not to one that is as good.
    if case.get("expect") != Some(&json!(got)) {
        return judged;
    }
    let wrong_status = || {
        let (got, want) = (json!(status?), member(case, "status")?);
        let good = got == *want || one_of(case.get("also_status"), &got);
        (!good).then(|| format!("status {got}, expected {}", show(want)))
    };
    let wrong_principal = || {
        // An empty string says that there is no principal.
        let want = case.get("principal").filter(|_| got == "accept")?;
        let (want, got) = (
            want.as_str().unwrap_or_default(),
            principal.unwrap_or_default(),
        );
        (want != got).then(|| format!("principal `{got}`, expected `{want}`"))
    };
    let wrong = wrong_status().or_else(wrong_principal);
    judged.and(wrong)
}
