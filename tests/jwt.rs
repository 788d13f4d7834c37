//! Conformance of request authentication: `tests/data/conformance/jwt.jsonl`, tokens with real signatures.
#![allow(
    clippy::unwrap_used,
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

fn rule(case: &Value) -> JwtRule {
    let rule = &case["rule"];
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

fn key_sets(case: &Value, all: &Value) -> KeySets {
    let keys: Vec<Value> = texts(&case["keys"])
        .iter()
        .map(|name| all["keys"][name].clone())
        .collect();
    let set = jwt::KeySet::parse(&json!({ "keys": keys }).to_string()).unwrap();
    KeySets {
        map: BTreeMap::from([(rule(case).keys, set.into())]),
        generation: 1,
    }
}

fn headers(case: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in case["request"]["headers"].as_array().into_iter().flatten() {
        let name = HeaderName::from_bytes(field[0].as_str().unwrap().as_bytes()).unwrap();
        headers.append(
            name,
            HeaderValue::from_bytes(field[1].as_str().unwrap().as_bytes()).unwrap(),
        );
    }
    headers
}

fn path(case: &Value) -> CanonicalPath {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for pair in case["request"]["query"].as_array().into_iter().flatten() {
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
    let expected = case.get("principal").and_then(Value::as_str)?;
    // An empty string in the data says that there is no principal.
    (kind == "accept" && principal.as_deref().unwrap_or_default() != expected)
        .then(|| format!("principal {principal:?}"))
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
        let rules = TokenRules::compile(&[rule(&case)]).unwrap();
        let keys = key_sets(&case, &all);
        let (headers, path, now) = (headers(&case), path(&case), case["now"].as_i64().unwrap());
        let outcome = jwt::authenticate(&rules, &keys, &headers, Some(&path), now);
        let mut cache = TokenCache::default();
        for turn in 1..=2 {
            let cached =
                jwt::authenticate_cached(&mut cache, &rules, &keys, &headers, Some(&path), now);
            assert_eq!(
                cached, outcome,
                "{id}: the cache changes the answer of turn {turn}"
            );
        }
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
