//! Tokens: whatever is presented, only what an issuer has signed is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use http::{HeaderMap, HeaderValue, header};
use ringgate::jwt::model::{JwtRule, KeySource, Reach};
use ringgate::jwt::{KeySet, KeySets, TokenCache, TokenOutcome, TokenRules};
use ringgate::jwt::{authenticate, authenticate_cached};
use serde_json::{Value, json};

const KEYS: &str = include_str!("../../data/conformance/jwks.json");
const TOKENS: &str = include_str!("../../data/conformance/jwt.jsonl");

struct Known {
    rules: TokenRules,
    keys: KeySets,
    /// Header and payload of every token that a key of the set may have signed.
    signed: BTreeSet<String>,
    now: i64,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let all: Value = serde_json::from_str(KEYS).expect("keys are JSON");
        let all: Vec<&Value> = all["keys"]
            .as_object()
            .expect("named keys")
            .values()
            .collect();
        let keys = KeySet::parse(&json!({ "keys": all }).to_string()).expect("a key set");
        let source = KeySource::Uri("https://issuer.example/jwks".to_owned());
        let rule = JwtRule {
            issuer: String::new(), // any: nothing but the signature stands between a token and its claims
            audiences: Vec::new(),
            keys: source.clone(),
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            forward_original_token: false,
            output_payload_to_header: None,
            output_claim_to_headers: Vec::new(),
            space_delimited_claims: Vec::new(),
            require_expiration: false,
            timeout_ms: 5000,
            reach: Reach::default(),
        };
        let words = TOKENS.split(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
        let signed = words.filter_map(|word| word.rsplit_once('.'));
        let first: Value = serde_json::from_str(TOKENS.lines().next().unwrap_or_default())
            .expect("a case is JSON");
        Known {
            rules: TokenRules::compile(&[rule]).expect("a rule"),
            keys: KeySets {
                map: BTreeMap::from([(source, keys.into())]),
                generation: 1,
            },
            signed: signed.map(|(input, _)| input.to_owned()).collect(),
            now: first["now"].as_i64().expect("a time"),
        }
    })
}

/// The value of an `Authorization` field; without a scheme, the token after `Bearer `.
pub fn run(data: &[u8]) {
    let known = known();
    let value = if data.contains(&b' ') {
        data.to_vec()
    } else {
        [b"Bearer ".as_slice(), data].concat()
    };
    let Ok(value) = HeaderValue::from_bytes(&value) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, value.clone());
    let outcome = authenticate(&known.rules, &known.keys, &headers, None, known.now);
    let mut cache = TokenCache::default();
    for _ in 0..2 {
        let (rules, keys) = (&known.rules, &known.keys);
        let cached = authenticate_cached(&mut cache, rules, keys, &headers, None, known.now);
        assert_eq!(cached, outcome, "the cache changes the answer");
    }
    match outcome {
        TokenOutcome::Valid { .. } => {
            let words = value.to_str().unwrap_or_default();
            let token = words.split_ascii_whitespace().next_back();
            let input = token.and_then(|t| t.rsplit_once('.'));
            let input = input.map(|(input, _signature)| input);
            assert!(
                input.is_some_and(|input| known.signed.contains(input)),
                "nobody signed {value:?}"
            );
        }
        TokenOutcome::Invalid { status, .. } => assert!(matches!(status, 401 | 403)),
        TokenOutcome::Anonymous { .. } => {}
    }
}
