//! What a route makes of a request before it is sent, and of an answer; and the answer of a redirect.

use http::{HeaderMap, HeaderValue, header};

use crate::config::checked::route::{HeaderChange, PathChange, Redirect, RouteRule};
use crate::http::reply::Reply;
use crate::policy::Request;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathError, PathNormalization};

/// The request as it is sent; `None` if that is as it was asked for.
///
/// # Errors
/// `PathError` if what would be sent is no path.
pub fn sent(
    rule: &RouteRule,
    request: &Request,
    mode: PathNormalization,
) -> Result<Option<Request>, PathError> {
    if !rule.edits_request() {
        return Ok(None);
    }
    let mut sent = request.clone();
    if let Some(host) = &rule.rewrite.host {
        sent.host = host.clone();
    }
    if let (Some(change), Some(path)) = (&rule.rewrite.path, &request.path) {
        let target = target(change, path);
        sent.path = Some(CanonicalPath::parse(mode, &target)?);
    }
    change(&rule.request_headers, &mut sent.headers);
    Ok(Some(sent))
}

/// Changes header fields.
pub fn change(change: &HeaderChange, headers: &mut HeaderMap) {
    for name in &change.remove {
        headers.remove(name);
    }
    for (name, value) in &change.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &change.add {
        headers.append(name, value.clone());
    }
}

/// The target with another path and the same query.
fn target(change: &PathChange, path: &CanonicalPath) -> String {
    let mut target = match change {
        PathChange::Full(full) => full.clone(),
        PathChange::Prefix(len, kept) => {
            let rest = path.path().get(*len..).unwrap_or_default();
            // `/a` for `/` and the other way round: what is left of `/a` is nothing, and that is `/`.
            format!("{kept}{rest}")
        }
    };
    if target.is_empty() {
        target.push('/');
    }
    if let Some(query) = path.query() {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Where a redirect leads; `scheme` is the request's.
#[must_use]
pub fn redirect(redirect: &Redirect, request: &Request, scheme: &str) -> Reply {
    let mut reply = Reply::text(redirect.status, "");
    let host = redirect.host.as_ref().unwrap_or(&request.host);
    let port = match (redirect.port, redirect.scheme) {
        (Some(port), _) => Some(port),
        // Another scheme has a port of its own.
        (None, Some(_)) => None,
        (None, None) => request.host.port(),
    };
    let scheme = redirect.scheme.unwrap_or(scheme);
    let usual = if scheme == "https" { 443 } else { 80 };
    let target = match (&redirect.path, &request.path) {
        (Some(change), Some(path)) => target(change, path),
        (None, Some(path)) => path.as_str().to_owned(),
        (_, None) => "/".to_owned(),
    };
    let authority = authority(host, port.filter(|p| *p != usual));
    if let Ok(location) = HeaderValue::try_from(format!("{scheme}://{authority}{target}")) {
        reply.headers.insert(header::LOCATION, location);
    }
    reply
}

fn authority(host: &Host, port: Option<u16>) -> String {
    match port {
        Some(port) => format!("{}:{port}", host.name()),
        None => host.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};

    use super::*;
    use crate::config::checked::route::{Rewrite, Timeouts};

    fn request(host: &str, target: &str) -> Request {
        Request {
            method: Method::GET,
            host: Host::parse(host).unwrap(),
            path: CanonicalPath::parse(PathNormalization::Base, target).ok(),
            headers: HeaderMap::new(),
            claims: None,
            time: 0,
        }
    }

    fn rule() -> RouteRule {
        RouteRule {
            label: "default/r/0".into(),
            matches: Vec::new(),
            redirect: None,
            rewrite: Rewrite::default(),
            request_headers: HeaderChange::default(),
            response_headers: HeaderChange::default(),
            mirrors: Vec::new(),
            backends: Vec::new(),
            timeouts: Timeouts::default(),
            retry: None,
        }
    }

    #[test]
    fn prefixes_are_replaced_by_segment() {
        // The table of Gateway API's HTTPPathModifier.
        for (path, prefix, kept, want) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "", "/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/bar?a=/foo", "/foo", "/xyz", "/xyz/bar?a=/foo"),
            ("/", "", "/xyz", "/xyz/"),
            ("/foo", "", "/xyz", "/xyz/foo"),
        ] {
            let mut rule = rule();
            rule.rewrite.path = Some(PathChange::Prefix(prefix.len(), kept.to_owned()));
            let sent = sent(&rule, &request("a", path), PathNormalization::Base);
            let sent = sent.unwrap().unwrap();
            assert_eq!(sent.path.unwrap().as_str(), want, "{path} {prefix} {kept}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let asked = request("a.test:8080", "/x?q");
        assert!(
            sent(&rule(), &asked, PathNormalization::Base)
                .unwrap()
                .is_none()
        );
        let mut rule = rule();
        rule.rewrite.host = Host::parse("b.test").ok();
        rule.request_headers.set = vec![(header::ACCEPT, HeaderValue::from_static("a"))];
        let sent = sent(&rule, &asked, PathNormalization::Base);
        let sent = sent.unwrap().unwrap();
        assert_eq!(sent.host.as_str(), "b.test");
        assert_eq!(sent.path.unwrap().as_str(), "/x?q");
        assert_eq!(sent.headers[header::ACCEPT], "a");
    }

    #[test]
    fn locations() {
        let plain = Redirect {
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::FOUND,
        };
        let to = |change: fn(&mut Redirect), want: &str| {
            let mut one = plain.clone();
            change(&mut one);
            let reply = redirect(&one, &request("a.test:8080", "/x/y?q=1"), "http");
            assert_eq!(reply.headers[header::LOCATION], want);
        };
        to(|r| r.scheme = Some("https"), "https://a.test/x/y?q=1");
        to(|r| r.port = Some(80), "http://a.test/x/y?q=1");
        to(|r| r.port = Some(81), "http://a.test:81/x/y?q=1");
        to(
            |r| r.host = Host::parse("b.test").ok(),
            "http://b.test:8080/x/y?q=1",
        );
        to(
            |r| r.path = Some(PathChange::Full("/z".to_owned())),
            "http://a.test:8080/z?q=1",
        );
        to(
            |r| r.path = Some(PathChange::Prefix(2, "/z".to_owned())),
            "http://a.test:8080/z/y?q=1",
        );
    }
}
