//! By what a service knows a call, so that the same endpoint takes the next one (`loadBalancer.consistentHash`).

use std::fmt::Write as _;
use std::net::IpAddr;

use http::HeaderValue;

use crate::jwt::extract::cookies;
use crate::policy::Request;
use crate::upstream::hash::{ConsistentHash, HashKey, hash, hash_of};

/// Who calls, and what.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The request; `None` at L4.
    pub request: Option<&'a Request>,
    /// The client's address.
    pub source: IpAddr,
}

/// The hash of what the rule looks at; `None` if the call has none. `fresh` is the value of the cookie that it is given.
#[must_use]
pub fn key(rule: &ConsistentHash, call: Call<'_>, fresh: u64) -> Option<u64> {
    let of = |value: &[u8]| hash(std::iter::once(value));
    match &rule.key {
        HashKey::SourceIp => Some(hash_of(call.source)),
        HashKey::Header(name) => {
            let headers = &call.request?.headers;
            headers.get(name)?;
            Some(hash(
                headers.get_all(name).iter().map(HeaderValue::as_bytes),
            ))
        }
        HashKey::Query(name) => {
            let path = call.request?.path.as_ref()?;
            let mut found = None;
            path.any_query_value(name.as_bytes(), |value| {
                found = Some(of(value));
                true
            });
            found
        }
        HashKey::Cookie(cookie) => {
            let value = presented(call.request?, &cookie.name);
            value
                .map(of)
                .or_else(|| cookie.ttl_s.map(|_| of(&digits(fresh))))
        }
    }
}

/// The cookie that a request without it is given (`set-cookie`).
#[must_use]
pub fn given(
    rule: &ConsistentHash,
    request: &Request,
    fresh: u64,
    secure: bool,
) -> Option<HeaderValue> {
    let HashKey::Cookie(cookie) = &rule.key else {
        return None;
    };
    let ttl = cookie.ttl_s?;
    if presented(request, &cookie.name).is_some() {
        return None;
    }
    let digits = digits(fresh);
    let mut text = format!("{}={}", cookie.name, std::str::from_utf8(&digits).ok()?);
    if ttl != 0 {
        write!(text, "; Max-Age={ttl}").ok()?;
    }
    if let Some(path) = &cookie.path {
        write!(text, "; Path={path}").ok()?;
    }
    text.push_str("; HttpOnly");
    if secure {
        text.push_str("; Secure");
    }
    HeaderValue::from_str(&text).ok()
}

fn presented<'r>(request: &'r Request, name: &str) -> Option<&'r [u8]> {
    let mut all = cookies(&request.headers);
    let found = all.find(|(n, v)| *n == name.as_bytes() && !v.is_empty());
    found.map(|(_, value)| value)
}

/// In hexadecimal, the first digit first.
fn digits(n: u64) -> [u8; 16] {
    let mut text = [b'0'; 16];
    let mut shift = 64_u32;
    for place in &mut text {
        shift = shift.saturating_sub(4);
        let digit = u8::try_from(n >> shift & 0xf).unwrap_or(0);
        *place = match digit {
            0..=9 => b'0'.saturating_add(digit),
            _ => b'a'.saturating_add(digit).saturating_sub(10),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, Method};

    use super::*;
    use crate::upstream::hash::{Cookie, Shape};
    use crate::vocab::host::Host;
    use crate::vocab::path::{CanonicalPath, PathNormalization};

    fn request(target: &str, fields: &[(&str, &str)]) -> Request {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        Request {
            method: Method::GET,
            host: Host::parse("api").unwrap(),
            path: Some(CanonicalPath::parse(PathNormalization::Base, target).unwrap()),
            headers,
            claims: None,
            time: 0,
        }
    }

    fn rule(key: HashKey) -> ConsistentHash {
        ConsistentHash {
            key,
            shape: Shape::Ring(64),
        }
    }

    fn found(key: HashKey, target: &str, fields: &[(&str, &str)]) -> Option<u64> {
        let request = request(target, fields);
        let call = Call {
            request: Some(&request),
            source: [192, 0, 2, 1].into(),
        };
        super::key(&rule(key), call, 0xAB)
    }

    fn cookie(ttl_s: Option<u64>) -> HashKey {
        HashKey::Cookie(Cookie {
            name: "stay".to_owned(),
            path: None,
            ttl_s,
        })
    }

    #[test]
    fn what_a_call_is_known_by() {
        let header = || HashKey::Header(HeaderName::from_static("x-user"));
        assert_eq!(found(header(), "/", &[]), None);
        let one = found(header(), "/", &[("x-user", "a")]);
        assert_eq!(one, Some(hash([b"a".as_slice()].into_iter())));
        // Two values are not one.
        assert_ne!(
            one,
            found(header(), "/", &[("x-user", "a"), ("x-user", "b")])
        );
        let query = || HashKey::Query("u".to_owned());
        assert_eq!(found(query(), "/?v=a", &[]), None);
        assert_eq!(found(query(), "/?u=a&u=b", &[]), one);
        assert_eq!(found(query(), "/?u=%61", &[]), one);
        assert_eq!(found(cookie(None), "/", &[("cookie", "x=y; stay=a")]), one);
        assert_eq!(found(cookie(None), "/", &[("cookie", "stay=")]), None);
        // What it will be known by next time.
        let fresh = found(cookie(Some(9)), "/", &[]);
        let next = [("cookie", "stay=00000000000000ab")];
        assert_eq!(fresh, found(cookie(None), "/", &next));
        let ip = hash_of([192, 0, 2, 1].into());
        assert_eq!(found(HashKey::SourceIp, "/", &[]), Some(ip));
    }

    #[test]
    fn the_cookie_that_is_given() {
        let set = |key, fields: &[(&str, &str)], secure| {
            let value = given(&rule(key), &request("/", fields), 0xAB, secure)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let text = |key, secure| set(key, &[], secure).unwrap_or_default();
        assert_eq!(
            text(cookie(Some(9)), true),
            "stay=00000000000000ab; Max-Age=9; HttpOnly; Secure"
        );
        assert_eq!(
            text(cookie(Some(0)), false),
            "stay=00000000000000ab; HttpOnly"
        );
        assert_eq!(text(cookie(None), false), "");
        assert_eq!(text(HashKey::SourceIp, false), "");
        assert_eq!(
            set(cookie(Some(9)), &[("cookie", "stay=mine")], false),
            None
        );
    }
}
