//! What a cookie is bound to, and where a login returns to.

use super::*;

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
    assert_eq!(
        exchange(victim.open(&provider, &late, NOW + 599))
            .code
            .as_str(),
        "c"
    );
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
