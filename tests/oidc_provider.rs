//! The whole login against a real provider: the npm package `oidc-provider`, started on a free loopback port.
//!
//! Needs node and npm and fails without them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "a test fails by panicking, reads files and the clock"
)]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{CONTENT_TYPE, COOKIE, HeaderValue, LOCATION, SET_COOKIE};
use http::{HeaderMap, Method, Request, Response};
use ringgate::control::http_client::HttpClient;
use ringgate::control::jwks;
use ringgate::control::oidc_client::{DiscoveryError, Login, LoginKeeper, Logins, Registration};
use ringgate::jwt::model::{JwtRule, KeySource, Reach};
use ringgate::jwt::{self, KeySets, TokenOutcome, TokenRules};
use ringgate::oidc::{
    self, BrowserRequest, CookieKeys, Exchange, ExchangeError, Provider, Respond, Session,
    Settings, Step,
};
use ringgate::vocab::host::Host;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};
use url::Url;

const ORIGIN: &str = "https://portal.example.test";
const SOON: Duration = Duration::from_secs(10);

#[path = "oidc/idp.rs"]
mod idp;

use idp::Idp;

fn start() -> Idp {
    Idp::start(&[format!("{ORIGIN}/oauth2/callback")])
}

fn registration(idp: &Idp, client_id: &str, secret: Option<&str>) -> Registration {
    Registration {
        settings: Settings {
            name: "corp".to_owned(),
            issuer: idp.issuer.clone(),
            client_id: client_id.to_owned(),
            redirect_path: "/oauth2/callback".to_owned(),
            logout_path: "/logout".to_owned(),
            scopes: ["openid", "email", "groups"].map(str::to_owned).to_vec(),
            session_max_s: 3600,
            post_logout_path: None,
        },
        client_secret: secret.map(|text| text.to_owned().into()),
        cookie_keys: CookieKeys::new(&[5; 32], &[]).unwrap(),
        allow_http_loopback: true,
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

fn random(bytes: &mut [u8]) {
    aws_lc_rs::rand::fill(bytes).unwrap();
}

fn location(headers: &HeaderMap) -> String {
    headers[LOCATION].to_str().unwrap().to_owned()
}

/// Cookies of the portal and of the provider, which are different hosts.
#[derive(Default)]
struct Browser {
    portal: BTreeMap<String, String>,
    idp: BTreeMap<String, String>,
}

fn keep(jar: &mut BTreeMap<String, String>, headers: &HeaderMap) {
    for field in headers.get_all(SET_COOKIE) {
        let field = field.to_str().unwrap();
        let (name, value) = field.split(';').next().unwrap().split_once('=').unwrap();
        if value.is_empty() {
            jar.remove(name);
        } else {
            jar.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn cookie_header(jar: &BTreeMap<String, String>) -> HeaderValue {
    let pairs: Vec<String> = jar
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("; ").parse().unwrap()
}

impl Browser {
    /// A page of the portal, as the ingress judges it.
    fn portal(&mut self, provider: &Provider, target: &str) -> Step {
        let mut headers = HeaderMap::new();
        headers.insert("accept", "text/html".parse().unwrap());
        headers.insert(COOKIE, cookie_header(&self.portal));
        let (host, path) = (
            Host::parse("portal.example.test").unwrap(),
            canonical(target),
        );
        let request = BrowserRequest {
            method: &Method::GET,
            scheme: "https",
            host: &host,
            path: &path,
            headers: &headers,
        };
        let step = oidc::step(provider, &request, now(), &mut random);
        if let Step::Respond(respond) = &step {
            keep(&mut self.portal, &respond.headers);
        }
        step
    }

    fn session(&mut self, provider: &Provider) -> Option<Session> {
        match self.portal(provider, "/") {
            Step::Pass(session) => Some(*session),
            Step::Bearer { .. } | Step::Respond(_) | Step::Exchange(_) => None,
        }
    }

    async fn idp(&mut self, http: &HttpClient, url: &str, form: Option<&str>) -> Response<Vec<u8>> {
        let mut request = Request::new(form.unwrap_or_default().as_bytes().to_vec());
        *request.uri_mut() = url.parse().unwrap();
        request
            .headers_mut()
            .insert(COOKIE, cookie_header(&self.idp));
        request
            .headers_mut()
            .insert("accept", "text/html".parse().unwrap());
        if form.is_some() {
            *request.method_mut() = Method::POST;
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(CONTENT_TYPE, kind);
        }
        let response = http.send(request, SOON).await.unwrap();
        keep(&mut self.idp, response.headers());
        response
    }

    /// Walks the provider's pages as alice until it sends the browser back; gives the target at the portal.
    async fn log_in(&mut self, http: &HttpClient, from: &str) -> String {
        let mut url = Url::parse(from).unwrap();
        for _ in 0..12 {
            let mut page = self.idp(http, url.as_str(), None).await;
            if page.status() == 200 {
                let body = String::from_utf8(page.body().clone()).unwrap();
                let form = if body.contains("name=\"login\"") {
                    "prompt=login&login=alice&password=any"
                } else {
                    "prompt=consent"
                };
                page = self.idp(http, url.as_str(), Some(form)).await;
            }
            assert!(
                page.status().is_redirection(),
                "{url}: {} {:?}",
                page.status(),
                page.body()
            );
            let next = location(page.headers());
            if let Some(target) = next.strip_prefix(ORIGIN) {
                return target.to_owned();
            }
            url = url.join(&next).unwrap();
        }
        panic!("no way back to the portal, at {url}");
    }

    /// From a page of the portal to a code in hand.
    async fn code(
        &mut self,
        http: &HttpClient,
        provider: &Provider,
        page: &str,
    ) -> (Exchange, String) {
        let sent = respond(self.portal(provider, page));
        assert_eq!(sent.status, 302);
        let target = self.log_in(http, &location(&sent.headers)).await;
        match self.portal(provider, &target) {
            Step::Exchange(exchange) => (*exchange, target),
            other @ (Step::Pass(_) | Step::Bearer { .. } | Step::Respond(_)) => panic!("{other:?}"),
        }
    }
}

fn canonical(target: &str) -> CanonicalPath {
    CanonicalPath::parse(PathNormalization::MergeSlashes, target).unwrap()
}

fn respond(step: Step) -> Respond {
    match step {
        Step::Respond(respond) => respond,
        other @ (Step::Pass(_) | Step::Bearer { .. } | Step::Exchange(_)) => panic!("{other:?}"),
    }
}

#[test]
fn logins() {
    let idp = start();
    let http = HttpClient::loopback_only();
    for (client_id, secret) in [("edge", Some("an odd:secret/+%")), ("public", None)] {
        block_on(one_login(
            &idp,
            &http,
            &registration(&idp, client_id, secret),
        ));
    }
    block_on(refusals(&idp, &http));
}

async fn one_login(idp: &Idp, http: &HttpClient, registration: &Registration) {
    let login = Login::discover(http, registration).await.unwrap();
    let provider = &login.provider;
    let mut browser = Browser::default();
    let (exchange, callback) = browser.code(http, provider, "/reports?year=2025").await;
    assert!(
        callback.contains("iss="),
        "the provider names itself (RFC 9207): {callback}"
    );
    let done = login.finish(&exchange, &now, &mut random).await;
    keep(&mut browser.portal, &done.headers);
    assert_eq!(
        (done.status, location(&done.headers).as_str()),
        (303, "/reports?year=2025")
    );
    let session = browser.session(provider).expect("a session");
    assert_eq!(
        session.claims.request_principal(),
        Some(format!("{}/alice", idp.issuer))
    );
    assert_eq!(
        session.claims.claim("email").and_then(|v| v.as_str()),
        Some("alice@example.test")
    );
    assert!(
        (now() + 290..=now() + 300).contains(&session.expires_unix_s),
        "{session:?}"
    );
    forwarded(idp, http, registration, &session).await;
    // The callback again: the flow is spent here, and the code there.
    assert_eq!(respond(browser.portal(provider, &callback)).status, 400);
    assert_eq!(
        login.redeem(&exchange).await.err(),
        Some(ExchangeError::Refused)
    );
    let out = respond(browser.portal(provider, "/logout"));
    assert_eq!(out.status, 303);
    assert!(browser.portal.is_empty(), "{:?}", browser.portal.keys());
    let page = browser.idp(http, &location(&out.headers), None).await;
    assert_eq!(page.status(), 200, "the provider knows the logout request");
    assert!(browser.session(provider).is_none());
}

/// The token that goes upstream is good for a RequestAuthentication that discovers its keys.
async fn forwarded(idp: &Idp, http: &HttpClient, registration: &Registration, session: &Session) {
    let source = KeySource::Discovery(idp.issuer.clone());
    let rule = JwtRule {
        issuer: idp.issuer.clone(),
        audiences: vec![registration.settings.client_id.clone()],
        keys: source.clone(),
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        forward_original_token: true,
        output_payload_to_header: None,
        output_claim_to_headers: vec![("x-user".to_owned(), "sub".to_owned())],
        space_delimited_claims: Vec::new(),
        require_expiration: true,
        timeout_ms: 5000,
        reach: Reach::default(),
    };
    let rules = TokenRules::compile(&[rule]).unwrap();
    let set = jwks::fetch(http, &source, SOON).await.unwrap();
    let keys = KeySets {
        map: BTreeMap::from([(source, set.into())]),
        generation: 1,
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-user", "mallory".parse().unwrap());
    session.edits.apply(&mut headers);
    match jwt::authenticate(&rules, &keys, &headers, Some(&canonical("/")), now()) {
        TokenOutcome::Valid { claims, edits } => {
            assert_eq!(claims.subject(), Some("alice"));
            edits.apply(&mut headers);
            assert_eq!(headers["x-user"], "alice");
            assert!(headers.contains_key("authorization"));
        }
        other @ (TokenOutcome::Anonymous { .. } | TokenOutcome::Invalid { .. }) => {
            panic!("{other:?}")
        }
    }
}

async fn refusals(idp: &Idp, http: &HttpClient) {
    let good = registration(idp, "edge", Some("an odd:secret/+%"));
    let login = Login::discover(http, &good).await.unwrap();
    let mut browser = Browser::default();
    let (exchange, _) = browser.code(http, &login.provider, "/").await;
    let stolen = Exchange {
        verifier: "x".repeat(43).into(),
        ..exchange
    };
    assert_eq!(
        login.redeem(&stolen).await.err(),
        Some(ExchangeError::Refused),
        "another PKCE verifier"
    );
    let answer = login.finish(&stolen, &now, &mut random).await;
    assert_eq!(answer.status, 400);
    let mut browser = Browser::default();
    let (exchange, _) = browser.code(http, &login.provider, "/").await;
    let replayed = Exchange {
        nonce: "other".to_owned(),
        ..exchange
    };
    let answer = login.finish(&replayed, &now, &mut random).await;
    keep(&mut browser.portal, &answer.headers);
    assert_eq!(answer.status, 400, "another nonce");
    assert!(browser.portal.is_empty());
    let wrong = Login::discover(http, &registration(idp, "edge", Some("wrong")))
        .await
        .unwrap();
    let (exchange, _) = Browser::default().code(http, &wrong.provider, "/").await;
    assert_eq!(
        wrong.redeem(&exchange).await.err(),
        Some(ExchangeError::Malformed),
        "another client secret"
    );
    let mut slash = good.clone();
    slash.settings.issuer.push('/');
    let outcome = Login::discover(http, &slash).await;
    assert!(
        matches!(outcome, Err(DiscoveryError::Issuer { .. })),
        "{outcome:?}"
    );
    let outcome = Login::discover(
        http,
        &Registration {
            allow_http_loopback: false,
            ..good
        },
    )
    .await;
    assert!(
        matches!(outcome, Err(DiscoveryError::Insecure(_))),
        "{outcome:?}"
    );
}

#[test]
fn a_provider_that_goes_away_leaves_sessions_and_keys() {
    let idp = start();
    let registration = registration(&idp, "edge", Some("an odd:secret/+%"));
    block_on(async {
        let http = HttpClient::loopback_only();
        let (mut published, keeper) =
            LoginKeeper::new(http.clone(), vec![registration], Logins::new());
        let running = tokio::spawn(keeper.run());
        tokio::time::timeout(SOON, published.changed())
            .await
            .expect("in time")
            .unwrap();
        let login = published.borrow().get("corp").cloned().expect("discovered");
        let mut browser = Browser::default();
        let (exchange, _) = browser.code(&http, &login.provider, "/").await;
        let done = login.finish(&exchange, &now, &mut random).await;
        keep(&mut browser.portal, &done.headers);
        let (late, _) = Browser::default().code(&http, &login.provider, "/").await;
        drop(idp);
        assert!(browser.session(&login.provider).is_some());
        assert_eq!(
            login.redeem(&late).await.err(),
            Some(ExchangeError::Unreachable)
        );
        assert_eq!(login.finish(&late, &now, &mut random).await.status, 502);
        drop(published);
        tokio::time::timeout(SOON, running)
            .await
            .expect("ends when nobody listens")
            .unwrap();
    });
}
