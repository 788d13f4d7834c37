//! Which rule a denial names.

use super::*;

/// The rule that lacks the least is named, with its first failing condition.
#[test]
fn nearest_rule() {
    let mut narrow = from(&[FRONTEND]);
    narrow.to = vec![Operation {
        methods: list(&["POST"]),
        paths: list(&["/b"]),
        ..Operation::default()
    }];
    let mut near = from(&[FRONTEND]);
    near.to = vec![
        methods(&["POST"]),
        methods(&["PUT", "PATCH", "DELETE", "HEAD"]),
    ];
    let policies = [policy("p", Action::Allow, vec![narrow, near])];
    check(
        &policies,
        Some(FRONTEND),
        "/",
        Decision::Deny,
        "needs method POST, got GET",
    );
    let set = compiled(&policies, L4Deny::Api).unwrap();
    let verdict = decide(
        &set,
        &connection(Some(FRONTEND), 80),
        Some(&request("GET", "/")),
    );
    assert_eq!(
        (verdict.policy.as_ref().unwrap().name.as_str(), verdict.rule),
        ("p", Some(1))
    );
    let bare = decide(&set, &connection(Some(FRONTEND), 80), None);
    assert_eq!(
        bare.reason.text(&connection(Some(FRONTEND), 80), None),
        "needs an HTTP request, got a bare connection"
    );
    let secret = policy(
        "s",
        Action::Allow,
        vec![when("request.headers[x-key]", &["k1"])],
    );
    let set = compiled(&[secret], L4Deny::Api).unwrap();
    let mut asked = request("GET", "/");
    asked
        .headers
        .append("x-key", HeaderValue::from_static("k2"));
    let verdict = decide(&set, &connection(None, 80), Some(&asked));
    assert_eq!(
        verdict.reason.text(&connection(None, 80), Some(&asked)),
        "needs header x-key k1, got another value"
    );
}

/// A token that is missing counts once, whatever asks for it, and less than any other test: the rule that the caller meant
/// is named, not one that asks for no token, wherever the two stand.
#[test]
fn nearest_rule_without_a_token() {
    let health = Rule {
        to: vec![Operation {
            paths: list(&["/healthz"]),
            ..Operation::default()
        }],
        ..Rule::default()
    };
    let mut meant = Rule {
        from: vec![
            Source {
                principals: list(&[REVIEWS]),
                ..Source::default()
            },
            Source {
                request_principals: list(&["iss/*"]),
                ..Source::default()
            },
        ],
        ..when("request.auth.claims[roles]", &["reader"])
    };
    meant
        .when
        .extend(when("request.auth.audiences", &["api"]).when);
    let far = Rule {
        to: vec![Operation {
            paths: list(&["/healthz"]),
            ..Operation::default()
        }],
        ..when("request.auth.claims[roles]", &["reader"])
    };
    let by = |rules: Vec<Rule>| [policy("p", Action::Allow, rules)];
    let token = "needs request principal iss/*, got none";
    for rules in [
        vec![health.clone(), meant.clone()],
        vec![meant.clone(), health.clone()],
        vec![far.clone(), health.clone(), meant.clone()],
    ] {
        check(&by(rules), Some(FRONTEND), "/b", Decision::Deny, token);
    }
    // What a token would not open alone is no nearer by it.
    let needs = "needs path /healthz, got /b";
    let rules = vec![far, health.clone()];
    check(&by(rules), Some(FRONTEND), "/b", Decision::Deny, needs);
    // Of a token that is there each test counts.
    let set = compiled(&by(vec![meant.clone(), health]), L4Deny::Api).unwrap();
    let conn = connection(Some(FRONTEND), 80);
    let mut asked = request("GET", "/b");
    let claims = serde_json::json!({ "iss": "iss", "sub": "s" });
    asked.claims = Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new()));
    let verdict = decide(&set, &conn, Some(&asked));
    assert_eq!(verdict.reason.text(&conn, Some(&asked)), needs);
    // Nobody without a token passes, and who has one does.
    let claims = serde_json::json!({ "iss": "iss", "sub": "s", "roles": "reader", "aud": "api" });
    asked.claims = Some(Claims::new(claims.as_object().unwrap().clone(), Vec::new()));
    assert_eq!(decide(&set, &conn, Some(&asked)).decision, Decision::Allow);
}
