//! The login state machine against a browser with a cookie jar and a provider that signs with its own key.

mod answers;
mod binding;
mod requests;
mod tokens;

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

/// Who sends a thousand cookies of logins is not answered with a thousand, nor is each held against all others.
#[test]
fn cookies_that_no_browser_has_are_not_looked_at() {
    let idp = Idp::new();
    let provider = provider(&idp);
    let mut browser = Browser::new();
    browser.open(&provider, "/", NOW);
    let (name, value) = browser.jar.pop_first().unwrap();
    let made_up = |n: usize| format!("{}{n:011}", name.split_at(name.len() - 11).0);
    for n in 0..1500 {
        browser.jar.insert(made_up(n), "x".to_owned());
    }
    let cookies = |answer: &Respond| answer.headers.get_all(SET_COOKIE).iter().count();
    let most = crate::vocab::limits::LOGIN_COOKIES;
    let begun = respond(browser.ask(
        &provider,
        &Method::GET,
        "/",
        &[("accept", "text/html")],
        NOW,
    ));
    assert_eq!((begun.status, cookies(&begun)), (302, most + 1));
    let out = respond(browser.open(&provider, "/logout", NOW));
    assert!(cookies(&out) <= most + crate::vocab::limits::SESSION_COOKIES);
    // One that is good among a few that are not is what the login ends with.
    browser.jar.clear();
    browser.jar.insert(made_up(1), "x".to_owned());
    browser.jar.insert(name.clone(), value);
    let begun = respond(browser.open(&provider, "/", NOW + 1));
    assert_eq!(cookies(&begun), 2, "the dead one goes");
    assert!(browser.jar.contains_key(&name) && !browser.jar.contains_key(&made_up(1)));
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
