//! What a provider answers by the browser.

use super::*;

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
