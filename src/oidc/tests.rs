//! The login state machine against a browser with a cookie jar and a provider that signs with its own key.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method};
use serde_json::{Value, json};
use url::Url;

use super::*;
use crate::jwt::KeySet;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};

const NOW: i64 = 1_763_800_000;
const ISSUER: &str = "https://idp.example.test";
const HOST: &str = "portal.example.test";

struct Idp {
    key: Ed25519KeyPair,
}

impl Idp {
    fn new() -> Self {
        Self {
            key: Ed25519KeyPair::generate().unwrap(),
        }
    }

    fn keys(&self) -> Arc<KeySet> {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
        Arc::new(KeySet::parse(&jwks.to_string()).unwrap())
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// A good ID token of this login with some claims replaced (`null` removes one).
    fn token(&self, exchange: &Exchange, changes: &Value) -> String {
        let mut claims = json!({"iss": ISSUER, "sub": "alice", "aud": "edge", "exp": NOW + 300, "iat": NOW,
            "nonce": exchange.nonce});
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        self.sign(&json!({"alg": "EdDSA", "kid": "k"}), &claims)
    }
}

fn provider_with(idp: &Idp, iss_parameter: bool, end_session: Option<&str>) -> Provider {
    named("corp", idp, iss_parameter, end_session)
}

fn named(name: &str, idp: &Idp, iss_parameter: bool, end_session: Option<&str>) -> Provider {
    let settings = Settings {
        name: name.to_owned(),
        issuer: ISSUER.to_owned(),
        client_id: "edge".to_owned(),
        redirect_path: "/oauth2/callback".to_owned(),
        logout_path: "/logout".to_owned(),
        scopes: vec!["email".to_owned()],
        session_max_s: 3600,
        post_logout_path: Some("/bye".to_owned()),
    };
    let endpoints = Endpoints {
        authorization: format!("{ISSUER}/auth?tenant=1"),
        end_session: end_session.map(str::to_owned),
        iss_parameter,
        id_token_algs: vec!["none".to_owned(), "HS256".to_owned(), "EdDSA".to_owned()],
    };
    Provider::new(
        settings,
        &endpoints,
        idp.keys(),
        CookieKeys::new(&[9; 32], &[]).unwrap(),
    )
    .unwrap()
}

fn provider(idp: &Idp) -> Provider {
    provider_with(idp, false, None)
}

/// A browser that keeps cookies of one host, and numbers that stand for randomness.
struct Browser {
    host: Host,
    jar: BTreeMap<String, String>,
    random: u8,
}

impl Browser {
    fn new() -> Self {
        Self {
            host: Host::parse(HOST).unwrap(),
            jar: BTreeMap::new(),
            random: 0,
        }
    }

    fn ask(
        &mut self,
        provider: &Provider,
        method: &Method,
        target: &str,
        extra: &[(&str, &str)],
        now: i64,
    ) -> Step {
        let mut headers = HeaderMap::new();
        let pairs: Vec<String> = self.jar.iter().map(|(n, v)| format!("{n}={v}")).collect();
        if !pairs.is_empty() {
            headers.insert(COOKIE, pairs.join("; ").parse().unwrap());
        }
        for (name, value) in extra {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        let path = CanonicalPath::parse(PathNormalization::Base, target).unwrap();
        let request = BrowserRequest {
            method,
            scheme: "https",
            host: &self.host,
            path: &path,
            headers: &headers,
        };
        let random = &mut self.random;
        let step = step(provider, &request, now, &mut |bytes: &mut [u8]| {
            *random = random.checked_add(1).unwrap_or(1);
            bytes.fill(*random);
        });
        if let Step::Respond(respond) = &step {
            self.keep(respond);
        }
        step
    }

    /// A person opens a page.
    fn open(&mut self, provider: &Provider, target: &str, now: i64) -> Step {
        self.ask(
            provider,
            &Method::GET,
            target,
            &[("accept", "text/html,*/*;q=0.8")],
            now,
        )
    }

    fn keep(&mut self, respond: &Respond) {
        for field in respond.headers.get_all(SET_COOKIE) {
            let field = field.to_str().unwrap();
            assert!(field.starts_with("__Host-"), "{field}");
            assert!(
                field.contains("; Path=/; ") && field.contains("; Secure; HttpOnly; SameSite=Lax"),
                "{field}"
            );
            assert!(!field.to_ascii_lowercase().contains("domain"), "{field}");
            let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
            if field.contains("Max-Age=0;") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    fn finish(
        &mut self,
        provider: &Provider,
        exchange: &Exchange,
        id_token: String,
        now: i64,
    ) -> Respond {
        let tokens = TokenResponse {
            id_token,
            access_token: None,
        };
        let respond = complete(
            provider,
            exchange,
            Ok(tokens),
            now,
            &mut |bytes: &mut [u8]| bytes.fill(200),
        );
        self.keep(&respond);
        respond
    }
}

fn respond(step: Step) -> Respond {
    match step {
        Step::Respond(respond) => respond,
        other @ (Step::Pass(_) | Step::Bearer { .. } | Step::Exchange(_)) => panic!("{other:?}"),
    }
}

fn exchange(step: Step) -> Exchange {
    match step {
        Step::Exchange(exchange) => *exchange,
        other @ (Step::Pass(_) | Step::Bearer { .. } | Step::Respond(_)) => panic!("{other:?}"),
    }
}

fn location(respond: &Respond) -> &str {
    respond.headers[LOCATION].to_str().unwrap()
}

/// Parameters of the redirect to the provider.
fn parameters(respond: &Respond) -> BTreeMap<String, String> {
    Url::parse(location(respond))
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect()
}

/// Opens `target`, is sent to the provider, and comes back with a code.
fn come_back(browser: &mut Browser, provider: &Provider, target: &str) -> Exchange {
    let sent = respond(browser.open(provider, target, NOW));
    let callback = format!(
        "/oauth2/callback?code=c0de&state={}",
        parameters(&sent)["state"]
    );
    exchange(browser.open(provider, &callback, NOW))
}

#[test]
fn a_login_from_end_to_end() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let sent = respond(browser.open(&provider, "/reports?year=2025", NOW));
    assert_eq!(sent.status, 302);
    assert_eq!(sent.headers["cache-control"], "no-store");
    let asked = parameters(&sent);
    for (name, value) in [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "edge"),
        (
            "redirect_uri",
            "https://portal.example.test/oauth2/callback",
        ),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(asked[name], value);
    }
    let callback = format!("/oauth2/callback?code=c0de&state={}", asked["state"]);
    let exchange = exchange(browser.open(&provider, &callback, NOW));
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, exchange.verifier.as_bytes());
    assert_eq!(asked["code_challenge"], URL_SAFE_NO_PAD.encode(hash));
    assert_eq!(
        (exchange.code.as_str(), &exchange.nonce),
        ("c0de", &asked["nonce"])
    );
    let token = idp.token(&exchange, &json!({}));
    let done = browser.finish(&provider, &exchange, token.clone(), NOW);
    assert_eq!((done.status, location(&done)), (303, "/reports?year=2025"));
    assert_eq!(
        browser.jar.len(),
        1,
        "the flow cookie is gone: {:?}",
        browser.jar.keys()
    );
    let Step::Pass(session) = browser.open(&provider, "/reports?year=2025", NOW + 299) else {
        panic!("no session")
    };
    assert_eq!(
        session.claims.request_principal().as_deref(),
        Some("https://idp.example.test/alice")
    );
    let mut headers = HeaderMap::new();
    headers.insert(
        COOKIE,
        format!("theme=dark; {}=x", browser.jar.keys().next().unwrap())
            .parse()
            .unwrap(),
    );
    headers.insert("authorization", "Basic abc".parse().unwrap());
    session.edits.apply(&mut headers);
    assert_eq!(headers[COOKIE], "theme=dark");
    assert_eq!(headers["authorization"], format!("Bearer {token}"));
    let again = respond(browser.open(&provider, "/reports", NOW + 300));
    assert_eq!(again.status, 302, "the session ends with the id token");
}

#[test]
fn a_session_is_bounded_by_the_setting_too() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    browser.finish(
        &provider,
        &exchange,
        idp.token(&exchange, &json!({"exp": NOW + 90_000})),
        NOW,
    );
    assert!(matches!(
        browser.open(&provider, "/", NOW + 3599),
        Step::Pass(_)
    ));
    assert!(matches!(
        browser.open(&provider, "/", NOW + 3600),
        Step::Respond(_)
    ));
}

#[test]
fn the_state_must_be_that_of_this_browser() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut victim = Browser::new();
    let mut attacker = Browser::new();
    attacker.random = 100;
    let theirs = parameters(&respond(attacker.open(&provider, "/", NOW)))["state"].clone();
    let own = parameters(&respond(victim.open(&provider, "/", NOW)))["state"].clone();
    let id = own.split('.').next().unwrap();
    for state in [
        theirs,
        format!("{id}.AAAA"),
        id.to_owned(),
        String::new(),
        format!("{own}x"),
        format!("../{own}"),
    ] {
        let answer = respond(victim.open(
            &provider,
            &format!("/oauth2/callback?code=c&state={state}"),
            NOW,
        ));
        assert_eq!(answer.status, 400, "{state}");
    }
    let twice = format!("/oauth2/callback?code=c&state={own}&state={own}");
    assert_eq!(respond(victim.open(&provider, &twice, NOW)).status, 400);
    assert_eq!(
        respond(victim.open(&provider, "/oauth2/callback", NOW)).status,
        400
    );
    let posted = victim.ask(
        &provider,
        &Method::POST,
        &format!("/oauth2/callback?code=c&state={own}"),
        &[],
        NOW,
    );
    assert_eq!(respond(posted).status, 405);
    let late = format!("/oauth2/callback?code=c&state={own}");
    assert_eq!(
        respond(victim.open(&provider, &late, NOW + 600)).status,
        400,
        "the flow is over after ten minutes"
    );
    assert_eq!(exchange(victim.open(&provider, &late, NOW + 599)).code, "c");
}

#[test]
fn providers_that_share_their_paths_know_their_own() {
    let idp = Idp::new();
    let (first, second) = (provider(&idp), named("second", &idp, false, None));
    let mut browser = Browser::new();
    let holders = |browser: &Browser, target: &str| {
        let path = CanonicalPath::parse(PathNormalization::Base, target).unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in &browser.jar {
            headers.append(COOKIE, format!("{name}={value}").parse().unwrap());
        }
        let request = BrowserRequest {
            method: &Method::GET,
            scheme: "https",
            host: &browser.host,
            path: &path,
            headers: &headers,
        };
        [&first, &second].map(|provider| holds(provider, &request, NOW))
    };
    assert_eq!(
        holders(&browser, "/oauth2/callback?code=c&state=x.y"),
        [false, false]
    );
    assert_eq!(holders(&browser, "/logout"), [false, false]);
    let sent = respond(browser.open(&second, "/", NOW));
    let state = &parameters(&sent)["state"];
    let back = format!("/oauth2/callback?code=c&state={state}");
    assert_eq!(holders(&browser, &back), [false, true]);
    let done = exchange(browser.open(&second, &back, NOW));
    browser.finish(&second, &done, idp.token(&done, &json!({})), NOW);
    assert_eq!(
        holders(&browser, &back),
        [false, false],
        "the flow is spent"
    );
    assert_eq!(holders(&browser, "/logout"), [false, true]);
}

#[test]
fn cookies_serve_one_host_and_one_provider() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let state = parameters(&respond(browser.open(&provider, "/", NOW)))["state"].clone();
    let callback = format!("/oauth2/callback?code=c&state={state}");
    browser.host = Host::parse("other.example.test").unwrap();
    assert_eq!(respond(browser.open(&provider, &callback, NOW)).status, 400);
    browser.host = Host::parse(HOST).unwrap();
    let exchange = exchange(browser.open(&provider, &callback, NOW));
    browser.finish(&provider, &exchange, idp.token(&exchange, &json!({})), NOW);
    assert!(matches!(browser.open(&provider, "/", NOW), Step::Pass(_)));
    browser.host = Host::parse("other.example.test").unwrap();
    assert_eq!(respond(browser.open(&provider, "/", NOW)).status, 302);
}

#[test]
fn a_changed_session_is_no_session() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    browser.finish(&provider, &exchange, idp.token(&exchange, &json!({})), NOW);
    let (name, value) = browser
        .jar
        .first_key_value()
        .map(|(n, v)| (n.clone(), v.clone()))
        .unwrap();
    for at in (2..value.len()).step_by(7) {
        let other = if value.as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        let mut changed = value.clone();
        changed.replace_range(at..=at, other);
        browser.jar = BTreeMap::from([(name.clone(), changed)]);
        assert_eq!(
            respond(browser.open(&provider, "/", NOW)).status,
            302,
            "character {at}"
        );
    }
    // A flow cookie does not serve as a session.
    let mut thief = Browser::new();
    respond(thief.open(&provider, "/", NOW));
    let flow = thief.jar.values().next().unwrap().clone();
    thief.jar = BTreeMap::from([(name, format!("1.{flow}"))]);
    assert_eq!(respond(thief.open(&provider, "/", NOW)).status, 302);
}

#[test]
fn returns_to_this_origin_only() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let long = format!("/{}", "a".repeat(2000));
    for (target, want) in [
        ("/a/b?c=d", "/a/b?c=d"),
        ("//evil.example/", "/"),
        ("///evil.example/", "/"),
        ("/logout/../a", "/a"),
        ("/a?next=//evil.example", "/a?next=//evil.example"),
        (long.as_str(), "/"),
    ] {
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, target);
        let done = browser.finish(&provider, &exchange, idp.token(&exchange, &json!({})), NOW);
        assert_eq!((done.status, location(&done)), (303, want), "{target}");
    }
    for target in [
        "/\\evil.example/",
        "/%5cevil.example/",
        "/\u{9}/evil.example",
        "https://evil.example/",
    ] {
        let Ok(path) = CanonicalPath::parse(PathNormalization::None, target) else {
            continue;
        };
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, path.as_str());
        let back = Url::parse(&format!("https://{HOST}/"))
            .unwrap()
            .join(&exchange.return_to)
            .unwrap();
        assert_eq!(back.host_str(), Some(HOST), "{target}");
    }
}

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

#[test]
fn clients_that_no_page_helps_get_401() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let html = ("accept", "text/html");
    let cases: [(&Method, &[(&str, &str)]); 7] = [
        (&Method::GET, &[]),
        (&Method::GET, &[("accept", "*/*")]),
        (&Method::GET, &[("accept", "application/json, text/htmlx")]),
        (
            &Method::GET,
            &[html, ("x-requested-with", "XMLHttpRequest")],
        ),
        (&Method::GET, &[html, ("sec-fetch-mode", "cors")]),
        (&Method::GET, &[html, ("upgrade", "websocket")]),
        (&Method::POST, &[html]),
    ];
    for (method, headers) in cases {
        let answer = respond(Browser::new().ask(&provider, method, "/api?token=1", headers, NOW));
        assert_eq!(answer.status, 401, "{method} {headers:?}");
        assert_eq!(
            answer.headers["www-authenticate"],
            "Bearer realm=\"https://portal.example.test/api\""
        );
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    let navigation = [
        html,
        ("sec-fetch-mode", "navigate"),
        ("user-agent", "kube-probe/1.30"),
    ];
    assert_eq!(
        respond(Browser::new().ask(&provider, &Method::GET, "/", &navigation, NOW)).status,
        302
    );
}

#[test]
fn a_bearer_credential_is_left_to_request_authentication() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    browser.finish(&provider, &exchange, idp.token(&exchange, &json!({})), NOW);
    let step = browser.ask(
        &provider,
        &Method::GET,
        "/",
        &[("authorization", "bearer junk")],
        NOW,
    );
    let Step::Bearer { edits } = step else {
        panic!("{step:?}")
    };
    assert_eq!(
        edits.drop_cookies.len(),
        1,
        "the session does not go upstream"
    );
    let step = browser.ask(
        &provider,
        &Method::GET,
        "/",
        &[("authorization", "Basic junk")],
        NOW,
    );
    assert!(matches!(step, Step::Pass(_)), "{step:?}");
}

#[test]
fn other_sites_cannot_act_in_the_users_name() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    browser.finish(&provider, &exchange, idp.token(&exchange, &json!({})), NOW);
    let mut status = |method: &Method, headers: &[(&str, &str)]| match browser.ask(
        &provider,
        method,
        "/transfer",
        headers,
        NOW,
    ) {
        Step::Pass(_) => 200,
        Step::Respond(respond) => respond.status,
        other @ (Step::Bearer { .. } | Step::Exchange(_)) => panic!("{other:?}"),
    };
    let (own, evil) = (
        ("origin", "https://portal.example.test"),
        ("origin", "https://evil.example"),
    );
    assert_eq!(
        status(&Method::POST, &[own, ("sec-fetch-site", "same-origin")]),
        200
    );
    assert_eq!(status(&Method::POST, &[]), 200);
    assert_eq!(status(&Method::POST, &[evil]), 403);
    assert_eq!(status(&Method::POST, &[("origin", "null")]), 403);
    assert_eq!(status(&Method::POST, &[own, evil]), 403);
    assert_eq!(
        status(&Method::DELETE, &[("sec-fetch-site", "same-site")]),
        403
    );
    assert_eq!(
        status(&Method::GET, &[evil, ("sec-fetch-site", "cross-site")]),
        200
    );
    assert_eq!(status(&Method::GET, &[evil, ("upgrade", "websocket")]), 403);
}

#[test]
fn the_issuer_parameter() {
    let idp = Idp::new();
    for (advertised, iss, good) in [
        (false, None, true),
        (false, Some(ISSUER), true),
        (false, Some("https://evil.example"), false),
        (true, None, false),
        (true, Some(ISSUER), true),
    ] {
        let provider = provider_with(&idp, advertised, None);
        let mut browser = Browser::new();
        let state = parameters(&respond(browser.open(&provider, "/", NOW)))["state"].clone();
        let iss = iss.map(|iss| format!("&iss={iss}")).unwrap_or_default();
        let step = browser.open(
            &provider,
            &format!("/oauth2/callback?code=c&state={state}{iss}"),
            NOW,
        );
        assert_eq!(
            matches!(step, Step::Exchange(_)),
            good,
            "{advertised} {iss}"
        );
    }
}

#[test]
fn errors_of_the_provider() {
    let idp = Idp::new();
    let provider = provider(&idp);
    for (query, status) in [
        ("error=access_denied", 403),
        ("error=<script>", 400),
        ("code=c&error=x", 400),
        ("code=", 400),
    ] {
        let mut browser = Browser::new();
        let state = parameters(&respond(browser.open(&provider, "/", NOW)))["state"].clone();
        let answer = respond(browser.open(
            &provider,
            &format!("/oauth2/callback?{query}&state={state}"),
            NOW,
        ));
        assert_eq!(answer.status, status, "{query}");
        assert!(!answer.body.contains("script"));
        assert!(browser.jar.is_empty(), "{query}: the flow is spent");
    }
    for (error, status) in [
        (ExchangeError::Refused, 400),
        (ExchangeError::Unreachable, 502),
        (ExchangeError::Malformed, 502),
    ] {
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, "/");
        let answer = complete(
            &provider,
            &exchange,
            Err(error),
            NOW,
            &mut |_: &mut [u8]| {},
        );
        browser.keep(&answer);
        assert_eq!(answer.status, status);
        assert!(browser.jar.is_empty());
    }
}

#[test]
fn logins_under_way_are_bounded() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    let mut states = Vec::new();
    for second in 0..10 {
        let sent = respond(browser.open(&provider, "/", NOW + second));
        states.push(parameters(&sent)["state"].clone());
        assert!(browser.jar.len() <= crate::vocab::limits::LOGIN_FLOWS);
    }
    let works = |browser: &mut Browser, state: &str| {
        matches!(
            browser.open(
                &provider,
                &format!("/oauth2/callback?code=c&state={state}"),
                NOW + 9
            ),
            Step::Exchange(_)
        )
    };
    let alive: Vec<bool> = states
        .iter()
        .map(|state| works(&mut browser, state))
        .collect();
    assert_eq!(
        alive,
        [
            false, false, false, false, false, false, true, true, true, true
        ],
        "the newest stay"
    );
}

#[test]
fn logout() {
    let idp = Idp::new();
    let endpoint = format!("{ISSUER}/session/end");
    for end_session in [None, Some(endpoint.as_str())] {
        let provider = provider_with(&idp, false, end_session);
        let mut browser = Browser::new();
        let exchange = come_back(&mut browser, &provider, "/");
        let token = idp.token(&exchange, &json!({"groups": "g".repeat(6000)}));
        browser.finish(&provider, &exchange, token.clone(), NOW);
        let forged = browser.ask(
            &provider,
            &Method::GET,
            "/logout",
            &[("sec-fetch-site", "cross-site")],
            NOW,
        );
        assert_eq!(respond(forged).status, 403);
        assert!(browser.jar.len() > 1, "a large session has several cookies");
        let answer = respond(browser.open(&provider, "/logout", NOW));
        assert!(browser.jar.is_empty(), "{:?}", browser.jar.keys());
        match end_session {
            None => assert_eq!(answer.status, 200),
            Some(endpoint) => {
                assert!(location(&answer).starts_with(endpoint));
                let asked = parameters(&answer);
                assert_eq!(asked["id_token_hint"], token);
                assert_eq!(
                    asked["post_logout_redirect_uri"],
                    "https://portal.example.test/bye"
                );
            }
        }
    }
}

#[test]
fn without_randomness_nobody_logs_in() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let (host, path) = (
        Host::parse(HOST).unwrap(),
        CanonicalPath::parse(PathNormalization::Base, "/").unwrap(),
    );
    let mut headers = HeaderMap::new();
    headers.insert("accept", "text/html".parse().unwrap());
    let request = BrowserRequest {
        method: &Method::GET,
        scheme: "https",
        host: &host,
        path: &path,
        headers: &headers,
    };
    let answer = respond(step(&provider, &request, NOW, &mut |_: &mut [u8]| {}));
    assert_eq!(
        (answer.status, answer.headers.contains_key(SET_COOKIE)),
        (500, false)
    );
    let mut browser = Browser::new();
    let exchange = come_back(&mut browser, &provider, "/");
    let tokens = TokenResponse {
        id_token: idp.token(&exchange, &json!({})),
        access_token: None,
    };
    let answer = complete(
        &provider,
        &exchange,
        Ok(tokens),
        NOW,
        &mut |_: &mut [u8]| {},
    );
    browser.keep(&answer);
    assert_eq!(answer.status, 500);
    assert!(browser.jar.is_empty());
}
