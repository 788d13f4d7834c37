//! Names of header fields as servers read them that know them as variables (CGI, WSGI): `_` and `-` are one.

use http::{HeaderMap, HeaderName};

/// Whether such a server takes the two names for one. Both are in lower case.
#[must_use]
pub fn alike(a: &str, b: &str) -> bool {
    let dashed = |b: u8| if b == b'_' { b'-' } else { b };
    a.len() == b.len() && a.bytes().map(dashed).eq(b.bytes().map(dashed))
}

/// Fields that say where a message ends, who it is for, and what belongs to one hop.
const FRAMING: [&str; 14] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

/// Whether a field, by its name in lower case, belongs to one hop (RFC 9110 section 7.6.1).
#[must_use]
pub fn is_of_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "http2-settings"
    )
}

/// Whether policy sees a field of this name, in lower case. Those of the hop are gone by then, but for `TE: trailers` and for
/// `Upgrade: websocket` of a request that asks for one.
#[must_use]
pub fn is_judged(name: &str) -> bool {
    is_caseless(name) || !(name == "trailer" || is_of_hop(name))
}

/// Whether the values of a field that policy sees, by its name in lower case, have no case: they are ours, in lower case, whatever
/// was sent.
#[must_use]
pub fn is_caseless(name: &str) -> bool {
    matches!(name, "te" | "upgrade")
}

/// Whether what a token says may not be written into the field of this name, in lower case: a claim would frame the
/// message, or speak as one of our proxies.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    FRAMING.iter().any(|own| alike(own, name))
        || ["x-envoy-", "x-istio-"]
            .iter()
            .any(|prefix| name.get(..prefix.len()).is_some_and(|n| alike(n, prefix)))
}

/// Removes the fields of which `owned` is true, by any of their spellings: `owned` gets names with `-`. Also those whose
/// spelling with `_` a server could take for one that frames the message.
pub fn remove_owned(headers: &mut HeaderMap, owned: impl Fn(&str) -> bool) {
    let is_owned = |name: &&HeaderName| {
        let name = name.as_str();
        if name.contains('_') {
            let dashed = name.replace('_', "-");
            FRAMING.contains(&dashed.as_str()) || owned(&dashed)
        } else {
            owned(name)
        }
    };
    let names: Vec<HeaderName> = headers.keys().filter(is_owned).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved() {
        for name in [
            "host",
            "content-length",
            "content_length",
            "transfer-encoding",
            "x-envoy-original-path",
            "x_istio_attributes",
            "x-forwarded-client-cert",
        ] {
            assert!(is_reserved(name), "{name}");
        }
        for name in [
            "x-user",
            "authorization",
            "x-envoy",
            "x-hosts",
            "cookie",
            "",
        ] {
            assert!(!is_reserved(name), "{name}");
        }
    }

    #[test]
    fn judged() {
        for name in [
            "connection",
            "transfer-encoding",
            "keep-alive",
            "trailer",
            "proxy-authorization",
        ] {
            assert!(!is_judged(name), "{name}");
        }
        for name in [
            "upgrade",
            "te",
            "authorization",
            "expect",
            "content-length",
            "x-a",
        ] {
            assert!(is_judged(name), "{name}");
        }
    }

    #[test]
    fn spellings() {
        assert!(alike("x-jwt-sub", "x_jwt-sub") && alike("a", "a"));
        assert!(!alike("x-jwt-sub", "x-jwt-su") && !alike("x-a", "x.a"));
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x_a", "x_b", "x"] {
            headers.insert(name, "1".parse().unwrap());
        }
        remove_owned(&mut headers, |name| name == "x-a");
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x", "x_b"]);
    }
}
