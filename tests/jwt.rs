//! Request authentication by cases: `tests/data/conformance/jwt.jsonl`, tokens with real signatures, and
//! `tests/data/signed_tokens.jsonl`, where a case says what is in its tokens and they are signed here.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    clippy::print_stdout,
    reason = "a test fails by panicking and reads its data files"
)]

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};
use ringgate::jwt::model::{JwtRule, KeySource, Reach, TokenHeader};
use ringgate::jwt::{self, KeySets, TokenCache, TokenOutcome, TokenRules};
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use ringgate::vocab::spiffe::TrustDomain;
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

#[path = "jwt/signer.rs"]
mod signer;

#[derive(Deserialize)]
struct Gaps {
    gap: Vec<Gap>,
}

#[derive(Deserialize)]
struct Gap {
    id: String,
    reason: String,
}

fn data(name: &str) -> String {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    std::fs::read_to_string(format!("{root}/tests/data/{name}")).unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect()
}

fn rule(rule: &Value) -> JwtRule {
    let header = |h: &Value| TokenHeader {
        name: h["name"].as_str().unwrap().to_lowercase(),
        prefix: h["prefix"].as_str().unwrap_or_default().to_owned(),
    };
    JwtRule {
        issuer: rule["issuer"].as_str().unwrap_or_default().to_owned(),
        audiences: texts(&rule["audiences"]),
        keys: KeySource::Uri("https://issuer.example/jwks".to_owned()),
        from_headers: rule["fromHeaders"]
            .as_array()
            .into_iter()
            .flatten()
            .map(header)
            .collect(),
        from_params: texts(&rule["fromParams"]),
        from_cookies: texts(&rule["fromCookies"]),
        forward_original_token: false,
        output_payload_to_header: None,
        output_claim_to_headers: Vec::new(),
        space_delimited_claims: Vec::new(),
        require_expiration: rule["requireExpiration"].as_bool().unwrap_or(false),
        timeout_ms: 5000,
        reach: Reach::default(),
    }
}

/// The rules of a case, as they are sorted where they hold.
fn rules(case: &Value) -> TokenRules {
    let mut rules: Vec<JwtRule> = match case["rules"].as_array() {
        Some(rules) => rules.iter().map(rule).collect(),
        None => vec![rule(&case["rule"])],
    };
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let stripping = case["rule"]["audienceStripping"] == true;
    TokenRules::compile(&rules)
        .unwrap()
        .with_audience_stripping(stripping)
}

fn key_sets(keys: &[Value]) -> KeySets {
    let set = jwt::KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap();
    KeySets {
        map: BTreeMap::from([(rule(&Value::Null).keys, set.into())]),
        generation: 1,
    }
}

fn headers(request: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in request["headers"].as_array().into_iter().flatten() {
        let name = HeaderName::from_bytes(field[0].as_str().unwrap().as_bytes()).unwrap();
        headers.append(
            name,
            HeaderValue::from_bytes(field[1].as_str().unwrap().as_bytes()).unwrap(),
        );
    }
    headers
}

fn path(request: &Value) -> CanonicalPath {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for pair in request["query"].as_array().into_iter().flatten() {
        query.append_pair(pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    }
    CanonicalPath::parse(PathNormalization::Base, &format!("/a?{}", query.finish())).unwrap()
}

fn answer(outcome: &TokenOutcome) -> (&'static str, u16, Option<String>) {
    match outcome {
        TokenOutcome::Anonymous { .. } => ("anonymous", 0, None),
        TokenOutcome::Valid { claims, .. } => ("accept", 0, claims.request_principal()),
        TokenOutcome::Invalid { status, .. } => ("reject", *status, None),
    }
}

/// What is wrong with the answer, if anything.
fn judge(case: &Value, outcome: &TokenOutcome) -> Option<String> {
    let (kind, status, principal) = answer(outcome);
    let expected = case["expect"].as_str().unwrap_or_default();
    if kind != expected {
        return (!texts(&case["also_ok"]).iter().any(|ok| ok == kind))
            .then(|| format!("{kind}: {outcome:?}"));
    }
    if kind == "reject" && Some(u64::from(status)) != case["status"].as_u64() {
        return Some(format!("status {status}"));
    }
    if let (TokenOutcome::Invalid { text, .. }, Some(wanted)) = (outcome, case["text"].as_str())
        && *text != wanted
    {
        return Some(format!("body `{text}`"));
    }
    let expected = case.get("principal").and_then(Value::as_str)?;
    // An empty string in the data says that there is no principal.
    (kind == "accept" && principal.as_deref().unwrap_or_default() != expected)
        .then(|| format!("principal {principal:?}"))
}

/// The answer, without the cache and with it: it must not make a difference.
fn ask(case: &Value, keys: &KeySets, request: &Value) -> TokenOutcome {
    let rules = rules(case);
    let (headers, path, now) = (
        headers(request),
        path(request),
        case["now"].as_i64().unwrap(),
    );
    let outcome = jwt::authenticate(&rules, keys, &headers, Some(&path), now);
    let mut cache = TokenCache::default();
    for turn in 1..=2 {
        let cached = jwt::authenticate_cached(&mut cache, &rules, keys, &headers, Some(&path), now);
        let id = &case["id"];
        assert_eq!(
            cached, outcome,
            "{id}: the cache changes the answer of turn {turn}"
        );
    }
    outcome
}

#[test]
fn own_cases() {
    let signer = signer::Signer::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for line in data("signed_tokens.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let now = case["now"].as_i64().unwrap();
        let described = case["tokens"].as_object().unwrap().iter();
        let tokens: Vec<(String, String)> = described
            .map(|(name, token)| (name.clone(), signer.token(token, now)))
            .collect();
        let keys = case["keys"].as_array().unwrap().iter();
        let keys: Vec<Value> = keys.filter_map(|key| signer.jwk(key)).collect();
        let mut request = case["request"].clone();
        for list in request.as_object_mut().unwrap().values_mut() {
            for pair in list.as_array_mut().unwrap() {
                pair[1] = signer::fill(pair[1].as_str().unwrap(), &tokens).into();
            }
        }
        count += 1;
        let outcome = ask(&case, &key_sets(&keys), &request);
        if let Some(problem) = judge(&case, &outcome) {
            wrong.push(format!("{}: {} ({problem})", case["id"], case["why"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 190, "only {count} cases");
}

#[test]
fn conformance() {
    let all: Value = serde_json::from_str(&data("conformance/jwks.json")).unwrap();
    let gaps: Gaps = toml::from_str(&data("known-gaps-jwt.toml")).unwrap();
    let mut gaps: BTreeMap<String, String> =
        gaps.gap.into_iter().map(|g| (g.id, g.reason)).collect();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in data("conformance/jwt.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        let keys: Vec<Value> = texts(&case["keys"])
            .iter()
            .map(|name| all["keys"][name].clone())
            .collect();
        let outcome = ask(&case, &key_sets(&keys), &case["request"]);
        count += 1;
        match (judge(&case, &outcome), gaps.remove(id)) {
            (Some(problem), None) => wrong.push(format!("{id}: {} ({problem})", case["why"])),
            (None, Some(reason)) => {
                wrong.push(format!("{id}: listed as a gap ({reason}), but passes"));
            }
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    wrong.extend(gaps.keys().map(|id| format!("{id}: a gap without a case")));
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count >= 144, "only {count} cases");
}

/// `kind: jwt-svid` of `spiffe_id.jsonl`: header and claims, the signature taken as valid.
#[test]
fn jwt_svid_conformance() {
    let known: Vec<TrustDomain> = ["example.org", "other.org"]
        .iter()
        .map(|name| TrustDomain::parse(name).unwrap())
        .collect();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for line in data("conformance/spiffe_id.jsonl").lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if case["kind"] != "jwt-svid" {
            continue;
        }
        let found = jwt::svid::check(
            case["header"].as_object().unwrap(),
            case["claims"].as_object().unwrap(),
            case["audience"].as_str().unwrap(),
            case["now"].as_i64().unwrap(),
            &known,
        );
        count += 1;
        if case["accept"] != found.is_ok() && case["also_ok"] != found.is_ok() {
            wrong.push(format!("{}: {found:?}", case["name"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count >= 15, "only {count} cases");
}
