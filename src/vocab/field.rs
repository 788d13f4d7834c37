//! Names of header fields as servers read them that know them as variables (CGI, WSGI): `_` and `-` are one.

use http::{HeaderMap, HeaderName};

/// Whether such a server takes the two names for one. Both are in lower case.
#[must_use]
pub fn alike(a: &str, b: &str) -> bool {
    let dashed = |b: u8| if b == b'_' { b'-' } else { b };
    a.len() == b.len() && a.bytes().map(dashed).eq(b.bytes().map(dashed))
}

/// Removes the fields of which `owned` is true, by any of their spellings: `owned` gets names with `-`.
pub fn remove_owned(headers: &mut HeaderMap, owned: impl Fn(&str) -> bool) {
    let is_owned = |name: &&HeaderName| {
        let name = name.as_str();
        if name.contains('_') {
            owned(&name.replace('_', "-"))
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
