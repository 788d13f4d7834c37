//! Rules, edits and the cache, with tokens that a key of our own signs.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Method};
use serde_json::{Value, json};

use super::model::{JwtRule, KeySource, Reach, TokenHeader};
use super::*;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};

const NOW: i64 = 1_763_800_000;
const ISSUER: &str = "https://a.example";

struct Signer(Ed25519KeyPair);

impl Signer {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    fn jwks(&self, kid: &str) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string()
    }

    fn token(&self, claims: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA", "kid": "k"}).to_string());
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn source(name: &str) -> KeySource {
    KeySource::Uri(name.to_owned())
}

fn rule(issuer: &str) -> JwtRule {
    JwtRule {
        issuer: issuer.to_owned(),
        audiences: Vec::new(),
        keys: source(issuer),
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
    }
}

fn keys(sets: &[(&str, String)], generation: u64) -> KeySets {
    let parsed = sets
        .iter()
        .map(|(name, jwks)| (source(name), Arc::new(KeySet::parse(jwks).unwrap())));
    KeySets {
        map: parsed.collect::<BTreeMap<_, _>>(),
        generation,
    }
}

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    headers
}

fn path(target: &str) -> CanonicalPath {
    CanonicalPath::parse(PathNormalization::Base, target).unwrap()
}

fn refusal(outcome: TokenOutcome) -> (u16, TokenError, bool) {
    match outcome {
        TokenOutcome::Invalid {
            status,
            error,
            unknown_kid,
            ..
        } => (status, error, unknown_kid.is_some()),
        other @ (TokenOutcome::Anonymous { .. } | TokenOutcome::Valid { .. }) => {
            panic!("{other:?}")
        }
    }
}

fn edits(outcome: TokenOutcome) -> HeaderEdits {
    match outcome {
        TokenOutcome::Anonymous { edits } | TokenOutcome::Valid { edits, .. } => edits,
        other @ TokenOutcome::Invalid { .. } => panic!("{other:?}"),
    }
}

#[test]
fn output_headers_are_never_the_clients() {
    let signer = Signer::new();
    let mut rule = rule(ISSUER);
    rule.output_payload_to_header = Some("x-payload".to_owned());
    rule.output_claim_to_headers = [
        ("x-sub", "sub"),
        ("x-n", "n"),
        ("x-f", "f"),
        ("x-b", "b"),
        ("x-nested", "a.b"),
        ("x-dotted", "c.d"),
        ("x-list", "l"),
        ("x-evil", "evil"),
    ]
    .map(|(header, claim)| (header.to_owned(), claim.to_owned()))
    .to_vec();
    // Even if a rule reads tokens from the header that it writes.
    rule.from_headers = vec![
        TokenHeader {
            name: "x-payload".to_owned(),
            prefix: String::new(),
        },
        TokenHeader {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        },
    ];
    let rules = TokenRules::compile(&[rule]).unwrap();
    let keys = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let spoofed = [
        ("x-sub", "root"),
        ("x-list", "root"),
        ("X-Payload", "junk"),
        ("x-f", "1"),
        ("x-other", "stays"),
    ];
    let mut anonymous = headers(&spoofed);
    edits(authenticate(
        &rules,
        &keys,
        &anonymous,
        Some(&path("/")),
        NOW,
    ))
    .apply(&mut anonymous);
    assert_eq!(anonymous.keys().collect::<Vec<_>>(), ["x-other"]);
    let token = signer.token(
        &json!({"iss": ISSUER, "sub": "al", "n": -7, "f": 1.5, "b": true, "a": {"b": "deep"},
        "c.d": "literal", "l": ["x"], "evil": "a\r\nx-admin: 1"}),
    );
    let mut request = headers(&spoofed);
    request.insert(AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    edits(authenticate(&rules, &keys, &request, Some(&path("/")), NOW)).apply(&mut request);
    let got: BTreeMap<&str, &str> = request
        .iter()
        .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
        .collect();
    let payload = token.split('.').nth(1).unwrap();
    let want = [
        ("x-b", "true"),
        ("x-dotted", "literal"),
        ("x-n", "-7"),
        ("x-nested", "deep"),
        ("x-other", "stays"),
        ("x-payload", payload),
        ("x-sub", "al"),
    ];
    assert_eq!(got, BTreeMap::from(want));
}

#[test]
fn tokens_are_taken_out_unless_forwarded() {
    let signer = Signer::new();
    let keys = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let token = signer.token(&json!({"iss": ISSUER, "sub": "al"}));
    let mut rule = rule(ISSUER);
    rule.from_headers = vec![TokenHeader {
        name: "x-jwt".to_owned(),
        prefix: "V ".to_owned(),
    }];
    rule.from_params = vec!["t".to_owned()];
    rule.from_cookies = vec!["c".to_owned()];
    let target = format!("/a?b=1&%74={token}&t={token}&d");
    for forward in [false, true] {
        rule.forward_original_token = forward;
        let rules = TokenRules::compile(&[rule.clone()]).unwrap();
        let (value, cookie) = (format!("V {token}"), format!("a=1; c={token}"));
        let mut request = headers(&[("x-jwt", &value), ("cookie", &cookie)]);
        let edits = edits(authenticate(
            &rules,
            &keys,
            &request,
            Some(&path(&target)),
            NOW,
        ));
        edits.apply(&mut request);
        assert_eq!(request.contains_key("x-jwt"), forward);
        assert_eq!(request[COOKIE] == "a=1", !forward);
        assert_eq!(
            edits.target(&path(&target)).as_deref(),
            (!forward).then_some("/a?b=1&d")
        );
        assert_eq!(edits.target(&path("/a")), None);
    }
}

#[test]
fn policy_judges_the_target_that_is_sent() {
    let signer = Signer::new();
    let sets = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let rules = TokenRules::compile(&[rule(ISSUER)]).unwrap();
    let token = signer.token(&json!({"iss": ISSUER, "sub": "al"}));
    let check = |target: String, want: Option<&str>| {
        let asked = path(&target);
        let outcome = authenticate(&rules, &sets, &HeaderMap::new(), Some(&asked), NOW);
        let left = edits(outcome).target(&asked);
        assert_eq!(left.as_deref(), want, "{target:.40}");
        // What is left is canonical already, so that it is judged and sent as the same bytes.
        if let Some(left) = left {
            assert_eq!(path(&left).as_str(), left);
        }
    };
    check(format!("/a?access_token={token}"), Some("/a"));
    check(
        format!("/a%2Fb?x=%2f+%20&&access_token={token}&=&y;z=1&x=2"),
        Some("/a%2Fb?x=%2f+%20&&=&y;z=1&x=2"),
    );
    check(
        format!("/a?access%5Ftoken={token}&access_tokens=1"),
        Some("/a?access_tokens=1"),
    );
    check("/a?x=1".to_owned(), None);
    check("/a?access_token=&x=1".to_owned(), None);
}

#[test]
fn a_token_that_names_no_key_may_be_of_a_new_one() {
    let (old, new) = (Signer::new(), Signer::new());
    let sets = keys(&[(ISSUER, old.jwks("k"))], 1);
    let rules = TokenRules::compile(&[rule(ISSUER)]).unwrap();
    let claims = json!({"iss": ISSUER, "sub": "al"});
    let ask = |header: Value| {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = URL_SAFE_NO_PAD.encode(new.0.sign(signed.as_bytes()));
        let request = headers(&[("authorization", &format!("Bearer {signed}.{signature}"))]);
        refusal(authenticate(&rules, &sets, &request, None, NOW))
    };
    assert_eq!(
        ask(json!({"alg": "EdDSA"})),
        (401, TokenError::Signature, true)
    );
    assert_eq!(
        ask(json!({"alg": "EdDSA", "kid": "new"})),
        (401, TokenError::NoKey, true)
    );
    assert_eq!(
        ask(json!({"alg": "EdDSA", "kid": "k"})),
        (401, TokenError::Signature, false)
    );
}

#[test]
fn several_rules() {
    let (a, b) = (Signer::new(), Signer::new());
    let mut narrow = rule(ISSUER);
    narrow.audiences = vec!["api".to_owned()];
    let other = rule("https://b.example");
    let rules = TokenRules::compile(&[narrow.clone(), other]).unwrap();
    let sets = keys(
        &[(ISSUER, a.jwks("k")), ("https://b.example", b.jwks("k"))],
        1,
    );
    let ask = |rules: &TokenRules, sets: &KeySets, token: &str| {
        authenticate(
            rules,
            sets,
            &headers(&[("authorization", &format!("Bearer {token}"))]),
            Some(&path("/")),
            NOW,
        )
    };
    let valid = |signer: &Signer, claims: Value| {
        let outcome = ask(&rules, &sets, &signer.token(&claims));
        assert!(
            matches!(outcome, TokenOutcome::Valid { .. }),
            "{claims} {outcome:?}"
        );
    };
    valid(&a, json!({"iss": ISSUER, "aud": ["x", "api"]}));
    valid(&b, json!({"iss": "https://b.example"}));
    let refused = |signer: &Signer, claims: Value, want| {
        assert_eq!(
            refusal(ask(&rules, &sets, &signer.token(&claims))),
            want,
            "{claims}"
        );
    };
    refused(
        &a,
        json!({"iss": ISSUER, "aud": "x"}),
        (403, TokenError::Audience, false),
    );
    refused(
        &a,
        json!({"iss": ISSUER, "aud": "x", "exp": NOW - 61}),
        (401, TokenError::Expired, false),
    );
    refused(
        &b,
        json!({"iss": ISSUER, "aud": "api"}),
        (401, TokenError::Signature, false),
    );
    refused(
        &a,
        json!({"iss": "https://c.example"}),
        (401, TokenError::Issuer, false),
    );
    // The keys of one source did not come: its tokens are refused, others are not.
    let half = keys(&[("https://b.example", b.jwks("old"))], 2);
    let token = a.token(&json!({"iss": ISSUER, "aud": "api"}));
    assert_eq!(
        refusal(ask(&rules, &half, &token)),
        (401, TokenError::KeysUnavailable, false)
    );
    let token = b.token(&json!({"iss": "https://b.example"}));
    assert_eq!(
        refusal(ask(&rules, &half, &token)),
        (401, TokenError::NoKey, true)
    );
    // A second rule of the same issuer may accept what the first one refuses.
    let wide = TokenRules::compile(&[narrow, rule(ISSUER)]).unwrap();
    let outcome = ask(&wide, &sets, &a.token(&json!({"iss": ISSUER, "aud": "x"})));
    assert!(matches!(outcome, TokenOutcome::Valid { .. }), "{outcome:?}");
}

#[test]
fn every_token_must_verify_and_agree() {
    let signer = Signer::new();
    let sets = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let rules = TokenRules::compile(&[rule(ISSUER)]).unwrap();
    let token = |sub: &str, n: i64| signer.token(&json!({"iss": ISSUER, "sub": sub, "n": n}));
    let ask = |header: &str, param: &str| {
        let target = format!("/?access_token={param}");
        authenticate(
            &rules,
            &sets,
            &headers(&[("authorization", &format!("Bearer {header}"))]),
            Some(&path(&target)),
            NOW,
        )
    };
    let TokenOutcome::Valid { claims, .. } = ask(&token("al", 1), &token("al", 2)) else {
        panic!("both are good")
    };
    assert_eq!(
        claims.claim("n"),
        Some(&json!(1)),
        "the header is looked at first"
    );
    assert_eq!(
        refusal(ask(&token("al", 1), &token("bo", 2))),
        (401, TokenError::Disagree, false)
    );
    assert_eq!(
        refusal(ask(&token("al", 1), "junk")),
        (401, TokenError::Form, false)
    );
    assert_eq!(
        refusal(ask("", &token("al", 1))),
        (401, TokenError::Form, false)
    );
}

#[test]
fn options() {
    let signer = Signer::new();
    let sets = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let mut strict = rule(ISSUER);
    strict.require_expiration = true;
    strict.space_delimited_claims = vec!["roles".to_owned()];
    let rules = TokenRules::compile(&[strict]).unwrap();
    let ask = |claims: Value| {
        let token = signer.token(&claims);
        authenticate(
            &rules,
            &sets,
            &headers(&[("authorization", &format!("Bearer {token}"))]),
            None,
            NOW,
        )
    };
    assert_eq!(
        refusal(ask(json!({"iss": ISSUER}))),
        (401, TokenError::NoExpiration, false)
    );
    let TokenOutcome::Valid { claims, .. } = ask(json!({"iss": ISSUER, "exp": NOW - 60})) else {
        panic!("in the leeway")
    };
    assert!(
        ["roles", "scope", "permission"]
            .iter()
            .all(|name| claims.is_space_delimited(name))
    );
    let mut bad = rule(ISSUER);
    bad.output_payload_to_header = Some("not a header".to_owned());
    assert_eq!(
        TokenRules::compile(&[bad]).err(),
        Some(TokenRulesError::HeaderName("not a header".to_owned()))
    );
    let mut framing = rule(ISSUER);
    framing.output_claim_to_headers = vec![("Transfer-Encoding".to_owned(), "te".to_owned())];
    assert_eq!(
        TokenRules::compile(&[framing]).err(),
        Some(TokenRulesError::HeaderReserved(
            "transfer-encoding".to_owned()
        ))
    );
    let mut inline = rule(ISSUER);
    inline.keys = KeySource::Inline("INVALID".to_owned());
    assert!(matches!(
        TokenRules::compile(&[inline.clone()]),
        Err(TokenRulesError::InlineKeys { .. })
    ));
    inline.keys = KeySource::Inline(signer.jwks("k"));
    let rules = TokenRules::compile(&[inline]).unwrap();
    let token = signer.token(&json!({"iss": ISSUER}));
    let request = headers(&[("authorization", &format!("Bearer {token}"))]);
    let outcome = authenticate(&rules, &KeySets::default(), &request, None, NOW);
    assert!(
        matches!(outcome, TokenOutcome::Valid { .. }),
        "inline keys need no lookup: {outcome:?}"
    );
}

#[test]
fn the_cache_forgets_in_time() {
    let signer = Signer::new();
    let mut cache = TokenCache::with_capacity(3);
    let rules = TokenRules::compile(&[rule(ISSUER)]).unwrap();
    let mut audience = rule(ISSUER);
    audience.audiences = vec!["api".to_owned()];
    let other_point = TokenRules::compile(&[audience]).unwrap();
    let sets = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let token = signer.token(&json!({"iss": ISSUER, "sub": "al", "exp": NOW + 10}));
    let request = headers(&[("authorization", &format!("Bearer {token}"))]);
    let mut ask = |rules: &TokenRules, sets: &KeySets, now| {
        authenticate_cached(&mut cache, rules, sets, &request, None, now)
    };
    assert!(matches!(
        ask(&rules, &sets, NOW),
        TokenOutcome::Valid { .. }
    ));
    assert!(matches!(
        ask(&rules, &sets, NOW + 70),
        TokenOutcome::Valid { .. }
    ));
    assert_eq!(
        refusal(ask(&rules, &sets, NOW + 71)),
        (401, TokenError::Expired, false)
    );
    assert_eq!(
        refusal(ask(&other_point, &sets, NOW)),
        (403, TokenError::Audience, false),
        "rules are not cached"
    );
    let removed = keys(&[(ISSUER, signer.jwks("another"))], 2);
    assert_eq!(
        refusal(ask(&rules, &removed, NOW)),
        (401, TokenError::NoKey, true),
        "a removed key ends its tokens"
    );
    assert_eq!(
        refusal(ask(
            &rules,
            &KeySets {
                generation: 3,
                ..KeySets::default()
            },
            NOW
        ))
        .1,
        TokenError::KeysUnavailable
    );
}

#[test]
fn what_verified_for_one_source_is_not_good_for_another() {
    let signer = Signer::new();
    let mut cache = TokenCache::default();
    let sets = keys(
        &[("a", signer.jwks("k")), ("b", Signer::new().jwks("k"))],
        1,
    );
    let point = |name: &str| {
        TokenRules::compile(&[JwtRule {
            keys: source(name),
            ..rule(ISSUER)
        }])
        .unwrap()
    };
    let request = headers(&[(
        "authorization",
        &format!("Bearer {}", signer.token(&json!({"iss": ISSUER}))),
    )]);
    let mut ask =
        |name: &str| authenticate_cached(&mut cache, &point(name), &sets, &request, None, NOW);
    for _ in 0..2 {
        assert!(matches!(ask("a"), TokenOutcome::Valid { .. }));
        assert_eq!(refusal(ask("b")), (401, TokenError::Signature, false));
    }
}

#[test]
fn the_cache_is_bounded_and_keeps_what_is_used() {
    let signer = Signer::new();
    let mut cache = TokenCache::with_capacity(3);
    let rules = TokenRules::compile(&[rule(ISSUER)]).unwrap();
    let sets = keys(&[(ISSUER, signer.jwks("k"))], 1);
    let mut token = |n: usize, length: usize| {
        let token = signer.token(&json!({"iss": ISSUER, "n": n, "pad": "p".repeat(length)}));
        let request = headers(&[("authorization", &format!("Bearer {token}"))]);
        let outcome = authenticate_cached(&mut cache, &rules, &sets, &request, None, NOW);
        assert!(matches!(outcome, TokenOutcome::Valid { .. }), "{n}");
        token
    };
    let (first, second) = (token(1, 1), token(2, 1));
    token(3, 1);
    token(1, 1);
    token(4, 1);
    token(5, 5000);
    assert_eq!(cache.len(), 3, "and the large one is not kept");
    assert!(cache.find(&first, 1, NOW).is_some(), "used since");
    assert!(
        cache.find(&second, 1, NOW).is_none(),
        "the oldest that was not used"
    );
    assert!(cache.find(&first, 2, NOW).is_none(), "other key sets");
    assert!(
        cache.find(&format!("{first}A"), 1, NOW).is_none(),
        "the whole token counts"
    );
}

#[test]
fn challenges() {
    let host = Host::parse("Api.example:8443").unwrap();
    let value = www_authenticate("https", &host, Some(&path("/a/b?token=secret")));
    assert_eq!(
        value,
        "Bearer realm=\"https://api.example:8443/a/b\", error=\"invalid_token\""
    );
    let value = www_authenticate_missing(
        "https",
        &host,
        Some(&path(&format!("/{}", "a".repeat(1000)))),
    );
    assert_eq!(value.len(), "Bearer realm=\"\"".len() + 256);
}

#[test]
fn preflights() {
    let full = headers(&[
        ("origin", "https://x"),
        ("access-control-request-method", "PUT"),
    ]);
    assert!(is_cors_preflight(&Method::OPTIONS, &full));
    assert!(!is_cors_preflight(&Method::GET, &full));
    assert!(!is_cors_preflight(
        &Method::OPTIONS,
        &headers(&[("origin", "https://x")])
    ));
    let empty = headers(&[("origin", ""), ("access-control-request-method", "PUT")]);
    assert!(!is_cors_preflight(&Method::OPTIONS, &empty));
}
