//! Answers that the ingress gives by itself.

use http::HeaderMap;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION, REFERRER_POLICY,
};
use http::header::{WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};

use crate::vocab::claims::Claims;

/// A whole response.
#[derive(Clone, Debug, PartialEq)]
pub struct Respond {
    /// Status.
    pub status: u16,
    /// Headers; `content-length` is left to whoever sends it.
    pub headers: HeaderMap,
    /// Body.
    pub body: String,
    /// Whose session it begins or ends, for the decision record.
    pub claims: Option<Claims>,
}

impl Respond {
    /// A redirect that no cache keeps and whose target learns nothing of the URL it came from.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        match HeaderValue::from_str(location) {
            Ok(target) => {
                let mut headers = common();
                headers.insert(LOCATION, target);
                Self {
                    status,
                    headers,
                    body: String::new(),
                    claims: None,
                }
            }
            Err(_) => Self::page(
                500,
                "This page cannot be shown",
                "The address of the next page is not valid.",
            ),
        }
    }

    /// A small page of fixed text: nothing of the request is repeated in it.
    pub(crate) fn page(status: u16, title: &'static str, text: &'static str) -> Self {
        let mut headers = common();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/html; charset=utf-8"),
        );
        let policy =
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
        headers.insert(CONTENT_SECURITY_POLICY, policy);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let body = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n\
             <body><h1>{title}</h1><p>{text}</p><p><a href=\"/\">Start again</a></p></body></html>\n"
        );
        Self {
            status,
            headers,
            body,
            claims: None,
        }
    }

    /// 401 for clients that no login page helps (RFC 6750 section 3).
    pub(crate) fn unauthenticated(challenge: HeaderValue) -> Self {
        let mut headers = common();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(WWW_AUTHENTICATE, challenge);
        Self {
            status: 401,
            headers,
            body: "Jwt is missing".to_owned(),
            claims: None,
        }
    }

    /// 503 for clients that read no pages.
    pub(crate) fn unavailable() -> Self {
        let mut headers = common();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Self {
            status: 503,
            headers,
            body: "login is not available".to_owned(),
            claims: None,
        }
    }
}

fn common() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
}
