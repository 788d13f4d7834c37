//! From a head as received to the one value that policy judges and the upstream receives.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use thiserror::Error;

use crate::http::h1::{self, RawRequest};
use crate::http::marks::Marks;
use crate::http::upgrade;
use crate::policy::facts::Request;
use crate::vocab::field;
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};

/// Why a request is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadRequest {
    /// A known method in another case.
    #[error("method is misspelt")]
    Method,
    /// Host is missing, repeated, malformed or differs from the authority.
    #[error("host is missing, repeated or malformed")]
    Host,
    /// The target is neither a path nor, where allowed, absolute.
    #[error("request target is malformed")]
    Target,
    /// `Expect` says other than `100-continue`, or says it twice (RFC 9110 section 10.1.1).
    #[error("expectation is not `100-continue`")]
    Expectation,
    /// `Connection` names a field that is not the hop's to drop.
    #[error("connection names an end-to-end field")]
    Connection,
}

/// How a request reached us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Path; the host says where.
    Origin,
    /// `http://host/path`: to a proxy.
    Absolute,
    /// `https://host/path`.
    AbsoluteHttps,
    /// `host:port`: CONNECT to a proxy.
    Authority,
}

const KNOWN_METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

fn check_method(method: &Method) -> Result<(), BadRequest> {
    let text = method.as_str();
    let misspelt = KNOWN_METHODS
        .iter()
        .any(|m| m.eq_ignore_ascii_case(text) && *m != text);
    if misspelt {
        Err(BadRequest::Method)
    } else {
        Ok(())
    }
}

/// What is expected must be what every server understands: another word may make a server wait, or not, for a body.
fn check_expectation(headers: &HeaderMap, marks: Marks) -> Result<(), BadRequest> {
    if !marks.has(Marks::EXPECT) {
        return Ok(());
    }
    let mut all = headers.get_all(header::EXPECT).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(()),
        (Some(one), None) if one.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        (Some(_), _) => Err(BadRequest::Expectation),
    }
}

/// Canonical form of an HTTP/1 request.
///
/// # Errors
/// `BadRequest`.
pub fn from_h1(
    raw: RawRequest,
    mode: PathNormalization,
    unix_s: i64,
) -> Result<(Request, Form), BadRequest> {
    let marks = raw.marks();
    let asks = |framing| upgrade::asks(&raw, framing);
    let asks_upgrade = marks.has(Marks::CONNECTION) && h1::request_framing(&raw).is_ok_and(asks);
    let (method, target, mut headers) = raw.into_parts();
    check_method(&method)?;
    check_expectation(&headers, marks)?;
    let host = single_host(&headers)?;
    let (form, host, path) = if method == Method::CONNECT {
        let authority = Host::parse(&target).map_err(|_e| BadRequest::Target)?;
        if authority.port().is_none() {
            return Err(BadRequest::Target);
        }
        (Form::Authority, authority, None)
    } else if target.starts_with('/') {
        (
            Form::Origin,
            host.ok_or(BadRequest::Host)?,
            Some(CanonicalPath::from_target(mode, target).map_err(|_e| BadRequest::Target)?),
        )
    } else {
        let (authority, rest) = split_absolute(&target).ok_or(BadRequest::Target)?;
        let authority = Host::parse(authority).map_err(|_e| BadRequest::Target)?;
        // RFC 9112 section 3.2.2 ignores Host here; a different one is refused all the same.
        if host.is_some_and(|h| h != authority) {
            return Err(BadRequest::Host);
        }
        let https = target.as_bytes().get(4).is_some_and(|b| *b != b':');
        let form = if https {
            Form::AbsoluteHttps
        } else {
            Form::Absolute
        };
        (form, authority, Some(canonical_path(mode, rest)?))
    };
    drop_hop_by_hop(&mut headers, marks)?;
    if asks_upgrade {
        upgrade::mark(&mut headers);
    }
    Ok((
        Request {
            method,
            host,
            path,
            headers,
            claims: None,
            time: unix_s,
        },
        form,
    ))
}

/// Canonical form of an HTTP/2 request, of its pseudo-header fields and the others. `path` is missing from CONNECT.
///
/// # Errors
/// `BadRequest`.
pub fn from_h2(
    (method, authority, path): (Method, Option<&[u8]>, Option<&[u8]>),
    mut headers: HeaderMap,
    mode: PathNormalization,
    unix_s: i64,
) -> Result<(Request, Form), BadRequest> {
    let marks = Marks::of(&headers);
    check_method(&method)?;
    check_expectation(&headers, marks)?;
    let named = single_host(&headers)?;
    let authority = match authority {
        Some(authority) => {
            let text = std::str::from_utf8(authority).map_err(|_e| BadRequest::Host)?;
            Some(Host::parse(text).map_err(|_e| BadRequest::Host)?)
        }
        None => None,
    };
    let host = match (authority, named) {
        (Some(a), Some(h)) if a != h => return Err(BadRequest::Host),
        (Some(a), _) => a,
        (None, Some(h)) => h,
        (None, None) => return Err(BadRequest::Host),
    };
    let (form, path) = match path {
        None => (Form::Authority, None),
        Some(target) => {
            let target = std::str::from_utf8(target).map_err(|_e| BadRequest::Target)?;
            (Form::Origin, Some(canonical_path(mode, target)?))
        }
    };
    drop_hop_by_hop(&mut headers, marks)?;
    Ok((
        Request {
            method,
            host,
            path,
            headers,
            claims: None,
            time: unix_s,
        },
        form,
    ))
}

fn canonical_path(mode: PathNormalization, target: &str) -> Result<CanonicalPath, BadRequest> {
    CanonicalPath::parse(mode, target).map_err(|_e| BadRequest::Target)
}

/// Authority and the rest of `scheme://authority/rest`, scheme `http` or `https` in any case.
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    match rest.find(['/', '?', '#']) {
        Some(at) => {
            let (authority, path) = rest.split_at(at);
            path.starts_with('/').then_some((authority, path))
        }
        None => Some((rest, "/")),
    }
}

fn single_host(headers: &HeaderMap) -> Result<Option<Host>, BadRequest> {
    let mut all = headers.get_all(header::HOST).iter();
    let first = match all.next() {
        None => return Ok(None),
        Some(v) => v.to_str().map_err(|_e| BadRequest::Host)?,
    };
    if all.next().is_some() {
        return Err(BadRequest::Host);
    }
    Host::parse(first).map(Some).map_err(|_e| BadRequest::Host)
}

/// Fields that `Connection` may not take away: they decide what the request is, or a proxy before us has set them.
const END_TO_END: [&str; 14] = [
    "host",
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-client-cert",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-real-ip",
];

/// Removes what is the hop's own, also what `Connection` names.
fn drop_hop_by_hop(headers: &mut HeaderMap, marks: Marks) -> Result<(), BadRequest> {
    let mut named = Vec::new();
    let names = || headers.get_all(header::CONNECTION).iter();
    let names = marks.has(Marks::CONNECTION).then(names);
    for value in names.into_iter().flatten() {
        for token in value
            .to_str()
            .map_err(|_e| BadRequest::Connection)?
            .split(',')
        {
            let token = token.trim().to_ascii_lowercase();
            if END_TO_END.contains(&token.as_str()) {
                return Err(BadRequest::Connection);
            }
            if !token.is_empty() {
                named.push(HeaderName::try_from(token).map_err(|_e| BadRequest::Connection)?);
            }
        }
    }
    let trailers = marks.has(Marks::TE)
        && headers
            .get_all(header::TE)
            .iter()
            .any(|v| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"trailers"));
    for name in named {
        headers.remove(name);
    }
    if marks.has(Marks::HOP) {
        remove_hop_by_hop(headers);
    }
    headers.remove(header::HOST);
    // Those of a request go no further, so that there are none to announce.
    if marks.has(Marks::TRAILER) {
        headers.remove(header::TRAILER);
    }
    if trailers {
        // gRPC refuses calls without it.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(())
}

/// Of `Connection`: options that name no field beside those that go anyway.
const NOT_A_FIELD: [&str; 2] = ["keep-alive", "close"];

/// Removes the hop's own fields of a response.
pub fn clean_response(headers: &mut HeaderMap) {
    let is_no_field = |text: &[u8]| {
        let mut words = NOT_A_FIELD.iter();
        words.any(|word| word.as_bytes().eq_ignore_ascii_case(text))
    };
    let mut named = Vec::new();
    // What goes anyway is not looked for: most answers name nothing else.
    let values = headers.get_all(header::CONNECTION).iter();
    for value in values.filter(|value| !is_no_field(value.as_bytes())) {
        let names = value.to_str().unwrap_or_default().split(',').map(str::trim);
        let names = names.filter(|name| !is_no_field(name.as_bytes()));
        let names = names.filter_map(|name| HeaderName::try_from(name).ok());
        named.extend(names.filter(|name| !END_TO_END.contains(&name.as_str())));
    }
    for name in named {
        headers.remove(name);
    }
    remove_hop_by_hop(headers);
}

/// To look for what is mostly not there costs more by its hash than by the few names that are.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let of_the_hop = |name: &&HeaderName| field::is_of_hop(name.as_str());
    while let Some(name) = headers.keys().find(of_the_hop).cloned() {
        headers.remove(name);
    }
}

/// Fields that say how a message is framed, routed or read, which trailers may not change (RFC 9110 section 6.5.1).
const NOT_IN_TRAILERS: [&str; 12] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "host",
    "location",
    "set-cookie",
    "trailer",
    "www-authenticate",
];

/// Removes from trailers what may not stand there.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::parse_request;

    fn canonical(head: &str) -> Result<(Request, Form), BadRequest> {
        let text = format!("{head}\r\n\r\n");
        let parsed = parse_request(text.as_bytes()).ok().flatten();
        from_h1(
            parsed.ok_or(BadRequest::Target)?.0,
            PathNormalization::MergeSlashes,
            0,
        )
    }

    fn check(head: &str, want: Result<&str, BadRequest>) {
        let got = canonical(head)
            .map(|(r, _)| format!("{}{}", r.host, r.path.as_ref().map_or("", |p| p.as_str())));
        assert_eq!(got, want.map(str::to_owned), "{head:?}");
    }

    #[test]
    fn one_request_one_reading() {
        check("GET //a/../b HTTP/1.1\r\nhost: A.", Ok("a/b"));
        check("GET http://A:80/x HTTP/1.1\r\nhost: a:80", Ok("a:80/x"));
        check("GET http://a/x HTTP/1.1\r\nhost: b", Err(BadRequest::Host));
        check("GET HTTP://a HTTP/1.1", Ok("a/"));
        check("GET /x HTTP/1.1", Err(BadRequest::Host));
        check(
            "GET /x HTTP/1.1\r\nhost: a\r\nhost: a",
            Err(BadRequest::Host),
        );
        check("GET x HTTP/1.1\r\nhost: a", Err(BadRequest::Target));
        check("GET ftp://a/x HTTP/1.1\r\nhost: a", Err(BadRequest::Target));
        check("get / HTTP/1.1\r\nhost: a", Err(BadRequest::Method));
        check("CONNECT a:443 HTTP/1.1\r\nhost: a:443", Ok("a:443"));
        check("CONNECT a HTTP/1.1\r\nhost: a", Err(BadRequest::Target));
        check(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: authorization",
            Err(BadRequest::Connection),
        );
    }

    #[test]
    fn expectations_are_the_same_over_http_2() {
        let h2 = |expect: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in expect {
                headers.append(header::EXPECT, HeaderValue::from_static(value));
            }
            let pseudo = (Method::POST, Some(&b"a"[..]), Some(&b"/"[..]));
            from_h2(pseudo, headers, PathNormalization::MergeSlashes, 0).map(drop)
        };
        assert_eq!(h2(&[]), Ok(()));
        assert_eq!(h2(&["100-Continue"]), Ok(()));
        assert_eq!(h2(&["200-ok"]), Err(BadRequest::Expectation));
        let twice = ["100-continue", "100-continue"];
        assert_eq!(h2(&twice), Err(BadRequest::Expectation));
    }

    #[test]
    fn trailers_change_nothing() {
        let mut trailers = HeaderMap::new();
        for name in [
            "grpc-status",
            "content-length",
            "transfer-encoding",
            "set-cookie",
        ] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        clean_trailers(&mut trailers);
        assert_eq!(
            trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["grpc-status"]
        );
    }

    #[test]
    fn hop_by_hop_goes() {
        let (request, _) = canonical("GET / HTTP/1.1\r\nhost: a\r\nconnection: x-a, upgrade\r\nx-a: 1\r\nupgrade: h2c\r\nte: trailers\r\nx-b: 2").unwrap();
        let names: Vec<&str> = request.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(request.headers.contains_key("x-b") && request.headers.contains_key("te"));
        // But for what is judged of them.
        let asks = "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-key: k";
        for (head, want) in [
            (asks.to_owned(), Some("websocket")),
            (asks.replace("Upgrade", "close"), None),
        ] {
            let (request, _) = canonical(&head).unwrap();
            let upgrade = request.headers.get(header::UPGRADE);
            assert_eq!(upgrade.and_then(|v| v.to_str().ok()), want, "{head}");
            assert!(!request.headers.contains_key(header::CONNECTION));
        }
    }
}
