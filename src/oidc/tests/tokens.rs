//! Which ID tokens are taken.

use super::*;

#[test]
fn id_tokens_that_are_refused() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let check = |what: &str, make: &dyn Fn(&Exchange) -> String| {
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, "/");
        let answer = browser.finish(&provider, &exchange, make(&exchange), NOW);
        assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
        assert!(browser.jar.is_empty(), "{what}: {:?}", browser.jar.keys());
    };
    for changes in [
        json!({"nonce": "other"}),
        json!({"nonce": null}),
        json!({"iss": "https://idp.example.test/"}),
        json!({"aud": "another"}),
        json!({"aud": null}),
        json!({"aud": ["edge", "another"]}),
        json!({"azp": "another"}),
        json!({"exp": NOW - 61}),
        json!({"exp": NOW - 1}),
        json!({"exp": null}),
        json!({"iat": NOW + 61}),
        json!({"iat": null}),
        json!({"nbf": NOW + 61}),
        json!({"sub": ""}),
        json!({"sub": null}),
        json!({"c_hash": "AAAA"}),
    ] {
        check(&changes.to_string(), &|exchange| {
            idp.token(exchange, &changes)
        });
    }
    let claims = |exchange: &Exchange| {
        let token = idp.token(exchange, &json!({}));
        let payload = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        serde_json::from_slice::<Value>(&payload).unwrap()
    };
    for alg in ["none", "None", "HS256", "RS256", "ES256"] {
        check(alg, &|exchange| {
            idp.sign(&json!({"alg": alg, "kid": "k"}), &claims(exchange))
        });
    }
    check("unsigned", &|exchange| {
        let token = idp.sign(&json!({"alg": "none"}), &claims(exchange));
        format!("{}.", token.rsplit_once('.').unwrap().0)
    });
    check("another key", &|exchange| {
        Idp::new().token(exchange, &json!({}))
    });
    check("no token", &|_| "x.y.z".to_owned());
    check("large", &|exchange| {
        idp.token(exchange, &json!({"groups": "g".repeat(17_000)}))
    });
}

#[test]
fn id_tokens_that_are_accepted() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let half = |text: &str| {
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, text.as_bytes());
        URL_SAFE_NO_PAD.encode(&hash.as_ref()[..32])
    };
    for changes in [
        json!({"aud": ["edge"]}),
        json!({"aud": ["edge", "another"], "azp": "edge"}),
        json!({"azp": "edge"}),
        json!({"c_hash": half("c0de")}),
        json!({"groups": "g".repeat(6000)}),
    ] {
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, "/");
        let answer = browser.finish(&provider, &exchange, idp.token(&exchange, &changes), NOW);
        assert_eq!(answer.status, 303, "{changes:.60}");
        assert!(
            matches!(browser.open(&provider, "/", NOW), Step::Pass(_)),
            "{changes:.60}"
        );
    }
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    for (access_token, status) in [("good", 303), ("other", 403)] {
        let id_token = idp.token(&exchange, &json!({"at_hash": half("good")}));
        let tokens = TokenResponse {
            id_token,
            access_token: Some(access_token.to_owned()),
        };
        let answer = complete(
            &provider,
            &exchange,
            Ok(tokens),
            NOW,
            &mut |bytes: &mut [u8]| bytes.fill(3),
        );
        assert_eq!(answer.status, status, "{access_token}");
    }
}

#[test]
fn a_new_key_is_noticed() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    let known = idp.token(&exchange, &json!({}));
    let unknown = idp.sign(&json!({"alg": "EdDSA", "kid": "new"}), &json!({}));
    assert!(!key_is_unknown(&provider, &known));
    assert!(key_is_unknown(&provider, &unknown));
    assert!(!key_is_unknown(&provider, "junk"));
}
