//! Requests without a session: what pages, other clients and other sites get.

use super::*;

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
