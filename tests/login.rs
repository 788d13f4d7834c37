//! The login at the ingress from end to end: a real provider (the npm package `oidc-provider`), a real backend, the built
//! program with `config/ingress-login.toml`, and curl with a cookie jar as the browser.
//!
//! Needs node, npm and curl and fails without them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a test fails by panicking, reads files and says why"
)]

#[path = "oidc/idp.rs"]
mod idp;
#[path = "login/system.rs"]
mod system;

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use ringgate::cli::curl::Answer;
use ringgate::cli::os;
use ringgate::vocab::limits;
use serde_json::json;
use system::{Browser, PORTAL, REPORTS, System, all, parameters};

const PAGE: &str = "https://portal.example.com:8443/reports?year=2025";
const LOGOUT: &str = "https://portal.example.com:8443/oidc/logout";
const LIMIT: Duration = Duration::from_secs(30);
const JSON: [&str; 2] = ["-H", "accept: application/json"];

fn plain(_config: &mut String) {}

/// What the backend saw: it answers with the head it got.
fn seen(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.seen());
    answer.body.to_ascii_lowercase()
}

fn is_sent_to_login(answer: &Answer, system: &System) {
    assert_eq!(answer.status, 302, "{}", answer.seen());
    let to = answer.header("location").unwrap();
    assert!(to.starts_with(&format!("{}/auth?", system.issuer)), "{to}");
}

fn is_challenged(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.seen());
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(
        challenge.starts_with("Bearer realm="),
        "{what}: {challenge}"
    );
    assert_eq!(all(answer, "location"), [""; 0], "{what}");
    assert_eq!(all(answer, "set-cookie"), [""; 0], "{what}");
}

#[test]
fn the_example_is_good() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringgate"))
        .args(["check", "--config", "config/ingress-login.toml"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (warnings, verdict) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(
        verdict.starts_with("no errors, but a start here"),
        "{verdict}"
    );
    // The example names certificates of its reader.
    let found: Vec<&str> = warnings
        .lines()
        .filter(|l| l.starts_with("warning: "))
        .collect();
    assert_eq!(found.len(), 2, "{warnings}");
    assert!(found[0].contains("cert.pem"), "{warnings}");
    assert!(found[1].contains("key.pem"), "{warnings}");
}

#[test]
fn a_login_with_epoll() {
    a_login("epoll");
}

#[test]
fn a_login_with_io_uring() {
    a_login("io_uring");
}

fn a_login(io: &'static str) {
    let system = System::start(io, plain);
    let browser = system.browser("alice");
    let sent = browser.open(PAGE);
    is_sent_to_login(&sent, &system);
    the_authorization_request(&sent);
    let callback = browser.authenticate("alice", sent.header("location").unwrap());
    assert!(
        callback.starts_with(&format!("{PORTAL}/oidc/callback?code=")),
        "{callback}"
    );
    let done = browser.open(&callback);
    assert_eq!(
        (done.status, done.header("location")),
        (303, Some("/reports?year=2025")),
        "{}",
        done.seen()
    );
    the_session_cookie(&done);

    let page = browser.call(PAGE, &["-H", "accept: text/html", "-H", "x-user: mallory"]);
    let head = seen(&page);
    assert!(
        head.starts_with("get /reports?year=2025 http/1.1\r\nhost: portal.example.com:8443\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nx-user: alice\r\n") && !head.contains("mallory"),
        "{head}"
    );
    assert!(!head.contains("authorization:"), "{head}");
    only_the_browser_and_we_have_the_cookie(&system, &browser, &page);
    the_records(&system);
    assert_eq!(
        seen(&browser.call(PAGE, &["--http1.1"]))
            .matches("x-user: alice")
            .count(),
        1
    );

    // The token goes upstream where the rule says so, and a reload ends no session.
    system.reload(
        "forwardOriginalToken = false",
        "forwardOriginalToken = true",
    );
    let head = seen(&browser.open(PAGE));
    let token = head.split("\r\nauthorization: bearer ").nth(1);
    assert_eq!(
        token.unwrap().lines().next().unwrap().split('.').count(),
        3,
        "{head}"
    );
}

fn the_authorization_request(sent: &Answer) {
    let asked = parameters(sent.header("location").unwrap());
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "edge"),
        (
            "redirect_uri",
            "https://portal.example.com:8443/oidc/callback",
        ),
        ("scope", "openid email groups"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(asked[name], value, "{name}");
    }
    assert_eq!(asked["code_challenge"].len(), 43);
    assert!(
        asked["state"].len() >= 32 && asked["nonce"].len() >= 32,
        "{asked:?}"
    );
    assert_eq!(sent.header("cache-control"), Some("no-store"));
    let [flow] = all(sent, "set-cookie")[..] else {
        panic!("{:?}", sent.headers)
    };
    is_guarded(flow, "__Host-ringgate-f-");
}

fn the_session_cookie(done: &Answer) {
    let live: Vec<&str> = all(done, "set-cookie")
        .into_iter()
        .filter(|c| !c.contains("=; "))
        .collect();
    let [session] = live[..] else {
        panic!("{live:?}")
    };
    is_guarded(session, "__Host-ringgate-s-");
    let flow = all(done, "set-cookie")
        .into_iter()
        .find(|c| c.starts_with("__Host-ringgate-f-"));
    assert!(flow.unwrap().contains("=; Path=/; Max-Age=0;"), "{flow:?}");
}

fn is_guarded(cookie: &str, prefix: &str) {
    assert!(cookie.starts_with(prefix), "{cookie}");
    let attributes: Vec<&str> = cookie
        .split("; ")
        .skip(1)
        .filter(|a| !a.starts_with("Max-Age="))
        .collect();
    assert_eq!(
        attributes,
        ["Path=/", "Secure", "HttpOnly", "SameSite=Lax"],
        "{cookie}"
    );
}

fn only_the_browser_and_we_have_the_cookie(system: &System, browser: &Browser<'_>, page: &Answer) {
    assert_eq!(
        all(page, "set-cookie"),
        ["app=1"],
        "the backend sets no cookie of ours"
    );
    let mut cookie = browser.session().join("; ");
    cookie.push_str("; theme=dark; __Host-ringgate-f-x-y=z");
    let cookie = format!("cookie: {cookie}");
    // With a session, and at a page that no login policy is about.
    for path in ["/reports", "/healthz"] {
        let url = format!("{PORTAL}{path}");
        let head = seen(
            &system
                .browser(path.trim_matches('/'))
                .call(&url, &["-H", &cookie]),
        );
        assert!(head.contains("\r\ncookie: theme=dark\r\n"), "{head}");
        assert!(!head.contains("ringgate-"), "{head}");
    }
    let head = seen(
        &system
            .browser("nobody")
            .call(&format!("{PORTAL}/healthz"), &["-H", "x-user: mallory"]),
    );
    assert!(!head.contains("x-user"), "{head}");
}

fn the_records(system: &System) {
    let alice = format!("{}/alice", system.issuer);
    let page = system.record("/reports?year=2025", 200);
    assert_eq!(
        (&page["verdict"], &page["user"]["principal"]),
        (&json!("allow"), &json!(alice)),
        "{page}"
    );
    assert_eq!(page["policy"], "edge/portal");
    let begun = system.record("/reports?year=2025", 302);
    assert_eq!(
        (&begun["close"], &begun["reason"]),
        (&json!("login"), &json!("login provider `corp` answers 302"))
    );
    assert_eq!(begun["verdict"], "deny");
    let done = system.record("/oidc/callback", 303);
    assert_eq!(
        done["user"]["principal"],
        json!(alice),
        "who logged in: {done}"
    );
    assert!(
        !system.all_records().contains("code="),
        "codes are credentials"
    );
}

#[test]
fn clients_that_read_no_pages_are_told_so() {
    let system = System::start("auto", plain);
    let client = system.browser("client");
    let html = "accept: text/html";
    for args in [
        &JSON[..],
        &[],
        &["-H", html, "-H", "x-requested-with: XMLHttpRequest"],
        &["-H", html, "-H", "sec-fetch-mode: cors"],
        &["-H", html, "--data", "a=b"],
        &["-H", html, "--head"],
        &[
            "-H",
            html,
            "--cookie",
            "__Host-ringgate-s-x=1.junk",
            "-H",
            "sec-fetch-mode: no-cors",
        ],
    ] {
        is_challenged(&client.call(PAGE, args), &format!("{args:?}"));
    }
    let grpc = client.call(
        PAGE,
        &["-H", "content-type: application/grpc", "--data", "x"],
    );
    assert_eq!(
        (grpc.status, grpc.header("grpc-status")),
        (200, Some("16")),
        "{}",
        grpc.seen()
    );
    assert_eq!(system.record("/reports?year=2025", 401)["verdict"], "deny");
    // The paths of the login are served though no route is there, and on every host.
    for (path, args, status) in [
        ("/oidc/callback", &[][..], 400),
        ("/oidc/callback?code=a&code=b&state=c", &[], 400),
        ("/oidc/callback", &["--data", "code=a"], 405),
        ("/oidc/logout", &["-X", "DELETE"], 405),
    ] {
        let answer = client.call(&format!("{REPORTS}{path}"), args);
        assert_eq!(answer.status, status, "{path} {args:?}: {}", answer.seen());
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
    }
}

#[test]
fn policy_has_the_last_word() {
    let mut other = String::new();
    let system = System::start("auto", |config| other = second_issuer(config));
    let admin = format!("{PORTAL}/admin");
    let (alice, bob) = (system.browser("alice"), system.browser("bob"));
    alice.log_in("alice", PAGE);
    bob.log_in("bob", PAGE);
    assert!(seen(&alice.open(&admin)).contains("x-user: alice"));
    assert!(seen(&bob.open(PAGE)).contains("x-user: bob"));
    let denied = bob.open(&admin);
    assert_eq!(
        (denied.status, denied.body.as_str()),
        (403, "RBAC: access denied")
    );
    let record = system.record("/admin", 403);
    assert_eq!(
        record["user"]["principal"],
        json!(format!("{}/bob", system.issuer))
    );
    assert_eq!(
        (&record["verdict"], &record["close"]),
        (&json!("deny"), &json!("denied")),
        "{record}"
    );
    // A page that is allowed but not routed, and one that another site posts to.
    let forged = ["-H", "origin: https://evil.example.com", "--data", "a=b"];
    assert_eq!(alice.call(PAGE, &forged).status, 403);
    assert_eq!(
        alice
            .call(
                PAGE,
                &[
                    "-H",
                    "origin: https://portal.example.com:8443",
                    "--data",
                    "a=b"
                ]
            )
            .status,
        200
    );
    assert_eq!(alice.open(&format!("{PORTAL}/elsewhere")).status, 404);
    bearer_tokens(&system, &alice, &other);
}

/// A token stands in for a session if it is the provider's own, whatever else the session says.
fn bearer_tokens(system: &System, alice: &Browser<'_>, other: &str) {
    system.reload(
        "forwardOriginalToken = false",
        "forwardOriginalToken = true",
    );
    let page = alice.open(PAGE);
    assert_eq!(page.status, 200);
    let (_, rest) = page
        .body
        .split_once("authorization: ")
        .expect("the token goes upstream");
    let token = format!("authorization: {}", rest.lines().next().unwrap());
    let client = system.browser("client");
    assert!(seen(&client.call(PAGE, &["-H", &token])).contains("x-user: alice"));
    let other = format!("authorization: Bearer {other}");
    for (token, why) in [
        (other.as_str(), "valid, but not of the login provider"),
        ("authorization: Bearer junk", "no token"),
        (&format!("{token}x"), "changed"),
    ] {
        is_challenged(&client.call(PAGE, &["-H", token]), why);
        is_challenged(&alice.call(PAGE, &["-H", token]), why);
    }
    // The other issuer's token is good where nobody has to log in.
    assert_eq!(
        client
            .call(&format!("{PORTAL}/healthz"), &["-H", &other])
            .status,
        200
    );
    assert_eq!(
        client
            .call(
                &format!("{PORTAL}/healthz"),
                &["-H", "authorization: Bearer junk"]
            )
            .status,
        401
    );
}

/// Adds a rule for an issuer that is not the login provider; gives a token of it.
fn second_issuer(config: &mut String) -> String {
    let key = KeyPair::generate().unwrap();
    let point = key.der_bytes();
    let (x, y) = (
        URL_SAFE_NO_PAD.encode(&point[1..33]),
        URL_SAFE_NO_PAD.encode(&point[33..65]),
    );
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "k", "x": x, "y": y}]});
    config.push_str(&format!(
        "\n[[requestAuthentication]]\nname = \"others\"\nnamespace = \"edge\"\n\
         targetRefs = [{{ group = \"gateway.networking.k8s.io\", kind = \"Gateway\", name = \"public\" }}]\n\
         jwtRules = [{{ issuer = \"https://other.example.com\", jwks = '{jwks}' }}]\n"
    ));
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("k".to_owned());
    let claims =
        json!({"iss": "https://other.example.com", "sub": "machine", "exp": os::unix_s() + 600});
    jsonwebtoken::encode(
        &header,
        &claims,
        &EncodingKey::from_ec_der(key.serialized_der()),
    )
    .unwrap()
}

#[test]
fn a_login_belongs_to_one_browser_and_happens_once() {
    let system = System::start("auto", plain);
    let none = [""; 0];
    let victim = system.browser("victim");
    let callback = victim.come_back("alice", PAGE);
    // Somebody else's browser, and a state that is not ours.
    let other = system.browser("other");
    let (head, state) = callback.split_once("state=").unwrap();
    let rest = state.split_once('&').map_or("", |(_, rest)| rest);
    let foreign = other.come_back("bob", PAGE);
    let forged = format!("{head}state={}&{rest}", parameters(&foreign)["state"]);
    for (browser, url, why) in [
        (
            &other,
            callback.as_str(),
            "a callback that another browser began",
        ),
        (&victim, &forged, "another login's state"),
        (&victim, &format!("{head}{rest}"), "no state"),
        (
            &victim,
            &callback.replace("portal.", "reports."),
            "another host",
        ),
    ] {
        let answer = browser.open(url);
        assert_eq!(answer.status, 400, "{why}: {}", answer.seen());
        assert_eq!(browser.session(), none, "{why}");
        is_sent_to_login(&browser.open(PAGE), &system);
    }
    // A thief who has the cookies of the login too can only be the first.
    let thief = victim.copy("thief");
    assert_eq!(victim.open(&callback).status, 303);
    for (browser, why) in [
        (&victim, "the flow is spent"),
        (&thief, "the code is spent"),
    ] {
        let answer = browser.open(&callback);
        assert_eq!(answer.status, 400, "{why}: {}", answer.seen());
    }
    assert_eq!(thief.session(), none);
    // The provider revokes nothing that we keep: the session that was won goes on.
    assert_eq!(victim.open(PAGE).status, 200);
}

/// A certificate for each host. A callback on a connection for the other one ends nothing, and its code, which is still good,
/// is in no record.
#[test]
fn a_login_where_each_host_has_its_certificate() {
    let system = System::start("auto", |config| {
        let one = "certificate = \"tls/cert.pem\"\nkey = \"file:tls/key.pem\"\n";
        assert!(config.contains(one), "{config}");
        *config = config.replace(
            one,
            "certificate = \"tls/portal.pem\"\nkey = \"file:tls/portal.key\"\n\
             [[ingress.listener.certificates]]\ncertificate = \"tls/reports.pem\"\nkey = \"file:tls/reports.key\"\n",
        );
    });
    let bob = system.browser("bob");
    bob.log_in("bob", &format!("{REPORTS}/reports/q1"));
    assert!(seen(&bob.open(&format!("{REPORTS}/reports/q1"))).contains("x-user: bob"));

    let alice = system.browser("alice");
    let callback = alice.come_back("alice", PAGE);
    let other = callback.replace("portal.", "reports.");
    for version in ["--http1.1", "--http2"] {
        let args = [version, "-H", "host: portal.example.com:8443"];
        let answer = alice.call(&other, &args);
        assert_eq!(answer.status, 421, "{version}: {}", answer.seen());
        assert_eq!(all(&answer, "set-cookie"), [""; 0], "{version}");
    }
    let record = system.record("/oidc/callback", 421);
    assert_eq!(record["close"], "misdirected", "{record}");
    let code = &parameters(&callback)["code"];
    assert!(
        !system.all_records().contains(code.as_str()),
        "{}",
        system.all_records()
    );
    assert_eq!(alice.open(&callback).status, 303);
    assert!(seen(&alice.open(PAGE)).contains("x-user: alice"));
}

#[test]
fn a_session_is_good_as_it_is_and_where_it_is() {
    let system = System::start("auto", plain);
    let browser = system.browser("alice");
    browser.log_in("alice", PAGE);
    let [cookie] = &browser.session()[..] else {
        panic!("{:?}", browser.session())
    };
    let stranger = system.browser("stranger");
    let with = |cookie: &str, url: &str| {
        let cookie = format!("cookie: {cookie}");
        stranger.call(url, &["-H", "accept: text/html", "-H", &cookie])
    };
    assert_eq!(with(cookie, PAGE).status, 200);
    let (name, value) = cookie.split_once('=').unwrap();
    for at in [0, 2, 10, 30, value.len() / 2, value.len() - 2] {
        let mut changed = value.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = format!("{name}={}", String::from_utf8(changed).unwrap());
        is_sent_to_login(&with(&changed, PAGE), &system);
    }
    is_sent_to_login(&with(&cookie[..cookie.len() - 4], PAGE), &system);
    // Another host of the same gateway, and the same host on another port: the browser is sent back there.
    let elsewhere = with(cookie, &format!("{REPORTS}/reports"));
    is_sent_to_login(&elsewhere, &system);
    let redirect =
        |answer: &Answer| parameters(answer.header("location").unwrap())["redirect_uri"].clone();
    assert_eq!(
        redirect(&elsewhere),
        "https://reports.example.com:8443/oidc/callback"
    );
    let port = with(cookie, "https://portal.example.com/reports");
    is_sent_to_login(&port, &system);
    assert_eq!(redirect(&port), "https://portal.example.com/oidc/callback");
    let reports = system.browser("reports");
    let done = reports.log_in("bob", &format!("{REPORTS}/reports/q1"));
    assert_eq!(done.header("location"), Some("/reports/q1"));
    assert!(seen(&reports.open(&format!("{REPORTS}/reports/q1"))).contains("x-user: bob"));
}

/// `SameSite=Lax` sends the cookie along with what a neighbouring host begins; who opens a WebSocket does more than look.
#[test]
fn another_host_opens_no_websocket_in_our_name() {
    let system = System::start("auto", plain);
    let browser = system.browser("alice");
    browser.log_in("alice", PAGE);
    let open = |more: &[&str]| {
        let fields = [
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-version: 13",
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let mut args = vec!["--http1.1"];
        for field in fields.iter().chain(more) {
            args.extend(["-H", field]);
        }
        browser.call(PAGE, &args).status
    };
    let origin = format!("origin: {PORTAL}");
    // The backend switches to nothing and answers.
    assert_eq!(open(&[&origin, "sec-fetch-site: same-origin"]), 200);
    assert_eq!(open(&[]), 200);
    for theirs in [
        &[
            "origin: https://cdn.example.com",
            "sec-fetch-site: same-site",
        ][..],
        &["origin: https://cdn.example.com"],
        &["origin: null"],
        &["sec-fetch-site: cross-site"],
    ] {
        assert_eq!(open(theirs), 403, "{theirs:?}");
    }
    // Who has no session is not sent to a page that nobody sees.
    let stranger = system.browser("stranger");
    let fields = [
        "-H",
        "accept: text/html",
        "-H",
        "connection: Upgrade",
        "-H",
        "upgrade: websocket",
        "-H",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "--http1.1",
    ];
    is_challenged(&stranger.call(PAGE, &fields), "a WebSocket");
}

/// Anyone may begin a login and come back with it again and again: what that costs the provider, and the process, is bounded.
#[test]
fn a_login_that_comes_back_many_times_is_redeemed_a_few_at_a_time() {
    let mut system = System::start("auto", plain);
    let page = system.browser("mallory").open(PAGE);
    let sent = parameters(page.header("location").unwrap());
    let cookie = all(&page, "set-cookie").concat();
    let cookie = format!("cookie: {}", cookie.split(';').next().unwrap());
    let issuer = system.issuer.strip_prefix("http://").unwrap().to_owned();
    // The provider takes connections from now on and says nothing.
    system.idp = None;
    let listener = TcpListener::bind(issuer).unwrap();
    let most = Arc::new(AtomicUsize::new(0));
    let (open, peak) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&most));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, open) = (stream.unwrap(), Arc::clone(&open));
            peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::spawn(move || {
                os::ignore(std::io::copy(&mut stream, &mut std::io::sink()));
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let (state, issuer) = (&sent["state"], &system.issuer);
    let callback = format!("{PORTAL}/oidc/callback?code=[1-90]&state={state}&iss={issuer}");
    let many = [
        "-Z",
        "--parallel-immediate",
        "--parallel-max",
        "90",
        "-o",
        "/dev/null",
        "-m",
        "60",
        "-H",
        &cookie,
    ];
    system.browser("mallory").call(&callback, &many);
    let answered = || {
        let all = system.all_records();
        let of_callback =
            |line: &&str| line.contains("/oidc/callback") && line.contains("\"status\":502");
        all.lines().filter(of_callback).count()
    };
    assert!(
        os::wait_until(LIMIT, || answered() == 90),
        "{} of 90",
        answered()
    );
    let most = most.load(Ordering::SeqCst);
    // Those that end are counted a little longer, and the provider's keys are asked for beside them.
    let few = limits::REDEEMED..=2 * limits::REDEEMED;
    assert!(few.contains(&most), "{most} connections at a time");
}

#[test]
fn logout_ends_it_here_and_there() {
    // The login's own paths are not among those that the policy is about.
    let system = System::start("auto", |config| {
        let (all, some) = ("notPaths = [\"/healthz\"]", "paths = [\"/reports\"]");
        assert!(config.contains(all), "{config}");
        *config = config.replace(all, some);
    });
    let browser = system.browser("alice");
    browser.log_in("alice", PAGE);
    let forced = browser.call(LOGOUT, &["-H", "sec-fetch-site: cross-site"]);
    assert_eq!(
        forced.status,
        403,
        "another site cannot sign out: {}",
        forced.seen()
    );
    assert_eq!(browser.open(PAGE).status, 200);
    let out = browser.open(LOGOUT);
    assert_eq!(out.status, 303, "{}", out.seen());
    let to = out.header("location").unwrap();
    assert!(
        to.starts_with(&format!("{}/session/end?", system.issuer)),
        "{to}"
    );
    assert_eq!(parameters(to)["client_id"], "edge");
    assert_eq!(parameters(to)["id_token_hint"].split('.').count(), 3);
    assert_eq!(browser.session(), [""; 0]);
    assert_eq!(
        browser.open(to).status,
        200,
        "the provider knows the request"
    );
    is_sent_to_login(&browser.open(PAGE), &system);
    let record = system.record("/oidc/logout", 303);
    assert_eq!(
        record["user"]["principal"],
        json!(format!("{}/alice", system.issuer)),
        "{record}"
    );
}

#[test]
fn who_is_in_stays_in_while_the_provider_is_away() {
    let mut system = System::start("auto", |config| {
        config.push_str("\n[[peerAuthentication]]\nname = \"default\"\nmtls.mode = \"STRICT\"\n");
    });
    system.browser("alice").log_in("alice", PAGE);
    system.restart();
    assert_eq!(
        system.browser("alice").open(PAGE).status,
        200,
        "the cookie key is in a file"
    );
    let late = system.browser("late").come_back("bob", PAGE);
    system.idp = None;
    assert!(seen(&system.browser("alice").open(PAGE)).contains("x-user: alice"));
    let failed = system.browser("late").open(&late);
    assert_eq!(failed.status, 502, "{}", failed.seen());
    assert!(
        failed.body.contains("<h1>Login is not possible now</h1>"),
        "{}",
        failed.body
    );
    assert_eq!(system.browser("late").session(), [""; 0]);
    a_reload_keeps_known_providers(&system);
    // A process that never saw the provider can judge no session, and lets nobody in.
    system.restart();
    for name in ["alice", "late"] {
        let page = system.browser(name).open(PAGE);
        assert_eq!(page.status, 503, "{name}: {}", page.seen());
        assert!(
            page.body.contains("<h1>Login is not possible now</h1>"),
            "{}",
            page.body
        );
        let api = system.browser(name).call(PAGE, &JSON);
        assert_eq!(
            (api.status, api.body.as_str()),
            (503, "login is not available")
        );
    }
    assert_eq!(
        system
            .browser("late")
            .open(&format!("{PORTAL}/healthz"))
            .status,
        200
    );
}

/// Another provider comes, and one whose secret is missing does not.
fn a_reload_keeps_known_providers(system: &System) {
    let add = |name: &str, secret: &str| {
        format!(
            "[[extensionProvider]]\nname = \"{name}\"\noidc = {{ issuer = \"{}\", clientId = \"x\", \
             clientSecretFile = \"{secret}\", dangerous_allowHttpIssuerOnLoopback = true }}\n\n[[peerAuthentication]]",
            system.issuer
        )
    };
    let mark = "[[peerAuthentication]]";
    system.reload(mark, &add("second", "secrets/oidc-client"));
    assert_eq!(system.browser("alice").open(PAGE).status, 200);
    let generation = system.admin("/generation");
    system.edit(mark, &add("third", "secrets/missing"));
    let told = os::wait_until(Duration::from_secs(10), || {
        system.admin("/config/problems").contains("secrets/missing")
    });
    assert!(told, "{}", system.admin("/config/problems"));
    assert_eq!(system.admin("/generation"), generation);
    assert_eq!(system.browser("alice").open(PAGE).status, 200);
    system.edit(&add("third", "secrets/missing"), mark);
}

#[test]
fn a_user_may_refuse() {
    let system = System::start("auto", plain);
    let browser = system.browser("alice");
    let sent = browser.open(PAGE);
    let first = browser.open(sent.header("location").unwrap());
    let interaction = first
        .header("location")
        .expect("the provider shows a page")
        .to_owned();
    let base = if interaction.starts_with('/') {
        format!("{}{interaction}", system.issuer)
    } else {
        interaction
    };
    let aborted = browser.open(&format!("{base}/abort"));
    let resumed = browser.open(aborted.header("location").unwrap());
    let callback = resumed.header("location").unwrap();
    assert!(callback.contains("error=access_denied"), "{callback}");
    let answer = browser.open(callback);
    assert_eq!(answer.status, 403, "{}", answer.seen());
    assert_eq!(browser.session(), [""; 0]);
}
