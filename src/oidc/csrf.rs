//! Who a request comes from, as the browser tells it: a person who follows a link, a script, another site.

use http::header::{ACCEPT, HeaderName, ORIGIN, UPGRADE};
use http::{HeaderMap, Method};

use crate::vocab::host::Host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Whether a login page would be seen by somebody: a GET navigation that accepts HTML. Everything else gets a 401.
pub(crate) fn is_navigation(method: &Method, headers: &HeaderMap) -> bool {
    let mode = headers.get(SEC_FETCH_MODE);
    let html = headers.get_all(ACCEPT).iter().any(|accept| {
        let types = accept.as_bytes().split(|b| *b == b',');
        let mut bare = types.map(|t| {
            t.split(|b| *b == b';')
                .next()
                .unwrap_or_default()
                .trim_ascii()
        });
        bare.any(|t| {
            t.eq_ignore_ascii_case(b"text/html") || t.eq_ignore_ascii_case(b"application/xhtml+xml")
        })
    });
    method == Method::GET
        && html
        && mode.is_none_or(|mode| mode == "navigate")
        && !headers.contains_key(X_REQUESTED_WITH)
        && !headers.contains_key(UPGRADE)
}

/// Whether the browser says that another site made a request that may change something (or opens a WebSocket) with our
/// cookie. Without either header it is an old browser or no browser, and `SameSite=Lax` has to do.
pub(crate) fn is_cross_site_change(
    method: &Method,
    scheme: &str,
    host: &Host,
    headers: &HeaderMap,
) -> bool {
    let safe = *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS;
    if safe && !headers.contains_key(UPGRADE) {
        return false;
    }
    let site = headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site != "same-origin" && site != "none");
    let own = format!("{scheme}://{host}");
    let origin = headers
        .get_all(ORIGIN)
        .iter()
        .any(|origin| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes()));
    site || origin
}

/// Whether another site made the browser come here.
pub(crate) fn is_cross_site(headers: &HeaderMap) -> bool {
    headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site == "cross-site")
}
