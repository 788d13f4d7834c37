//! Value forms: Istio's four string forms, path templates, whole-string regular expressions, request principals.

use std::collections::HashSet;

use regex::bytes::{Regex, RegexBuilder};

use crate::vocab::claims::Claims;
use crate::vocab::limits;

/// Up to this many exact values are compared one by one; more are hashed.
const LINEAR: usize = 4;

/// What `*` alone demands of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Star {
    /// Present and not empty.
    NotEmpty,
    /// Present (header fields, query parameters).
    Present,
}

/// The values of one field: exact `abc`, prefix `abc*`, suffix `*abc` (checked first) and presence `*`. An
/// asterisk anywhere else is an ordinary character.
#[derive(Clone, Debug)]
pub(super) struct TextSet {
    exact: Exact,
    prefixes: Vec<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    star: Option<Star>,
}

#[derive(Clone, Debug)]
enum Exact {
    Few(Vec<Box<[u8]>>),
    Many(HashSet<Box<[u8]>>),
}

impl TextSet {
    /// Sorts the values by form.
    pub(super) fn new<'v>(values: impl Iterator<Item = &'v str>, star: Star) -> Self {
        let (mut exact, mut prefixes, mut suffixes, mut present) =
            (Vec::new(), Vec::new(), Vec::new(), None);
        for value in values {
            if value == "*" {
                present = Some(star);
            } else if let Some(suffix) = value.strip_prefix('*') {
                suffixes.push(suffix.as_bytes().into());
            } else if let Some(prefix) = value.strip_suffix('*') {
                prefixes.push(prefix.as_bytes().into());
            } else {
                exact.push(value.as_bytes().into());
            }
        }
        let exact = if exact.len() > LINEAR {
            Exact::Many(exact.into_iter().collect())
        } else {
            Exact::Few(exact)
        };
        Self {
            exact,
            prefixes,
            suffixes,
            star: present,
        }
    }

    /// Whether any value matches.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        let star = match self.star {
            Some(Star::Present) => true,
            Some(Star::NotEmpty) => !value.is_empty(),
            None => false,
        };
        star || match &self.exact {
            Exact::Few(exact) => exact.iter().any(|e| **e == *value),
            Exact::Many(exact) => exact.contains(value),
        } || self.prefixes.iter().any(|p| value.starts_with(p))
            || self.suffixes.iter().any(|s| value.ends_with(s))
    }
}

/// Whether `value` matches one value of a policy field (exact, prefix, suffix or presence).
#[must_use]
pub fn text_matches(pattern: &str, value: &str) -> bool {
    TextSet::new(std::iter::once(pattern), Star::NotEmpty).matches(value.as_bytes())
}

/// A path template: literal pieces, `{*}` (one segment) and at most one `{**}` (the rest, before a literal).
#[derive(Clone, Debug)]
pub(super) struct Template {
    /// What stands before `{**}`, or everything.
    head: Vec<Piece>,
    /// The literal after `{**}`, if there is one.
    tail: Option<Box<[u8]>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(Box<[u8]>),
    Segment,
}

const ONE: &str = "{*}";
const REST: &str = "{**}";

/// Bytes that an operator may stand for, `/` apart.
fn segment_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@*=".contains(&b)
}

impl Template {
    /// Whether a value of `paths` is meant as a template (or is wrong by holding a brace).
    pub(super) fn is_one(value: &str) -> bool {
        value.contains(['{', '}'])
    }

    /// Parses a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        let trimmed = value.strip_prefix('/').unwrap_or(value);
        let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
        let mut rest_seen = false;
        for segment in trimmed.split('/') {
            match segment {
                ONE if rest_seen => return Err("`{*}` may not stand after `{**}`"),
                REST if rest_seen => return Err("`{**}` may stand only once"),
                REST => rest_seen = true,
                ONE => {}
                literal => {
                    let fits = |b: u8| segment_byte(b) && b != b'*';
                    if literal.is_empty() || !literal.bytes().all(fits) {
                        return Err(
                            "a template segment is `{*}`, `{**}` or a literal without `{`, `}` and `*`",
                        );
                    }
                }
            }
        }
        let (head, tail) = match value.split_once(REST) {
            Some((head, tail)) => (head, Some(tail.as_bytes().into())),
            None => (value, None),
        };
        let mut pieces = Vec::new();
        for (i, literal) in head.split(ONE).enumerate() {
            if i > 0 {
                pieces.push(Piece::Segment);
            }
            pieces.push(Piece::Literal(literal.as_bytes().into()));
        }
        Ok(Self { head: pieces, tail })
    }

    /// Whether the whole path matches.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let mut rest = path;
        for piece in &self.head {
            let left = match piece {
                Piece::Literal(literal) => rest.strip_prefix(&**literal),
                Piece::Segment => {
                    let end = rest
                        .iter()
                        .position(|b| !segment_byte(*b))
                        .unwrap_or(rest.len());
                    if end == 0 { None } else { rest.get(end..) }
                }
            };
            match left {
                Some(left) => rest = left,
                None => return false,
            }
        }
        match &self.tail {
            None => rest.is_empty(),
            Some(tail) => rest
                .strip_suffix(&**tail)
                .is_some_and(|middle| middle.iter().all(|b| *b == b'/' || segment_byte(*b))),
        }
    }
}

/// Compiles a regular expression that must match a whole value: bytes, ASCII classes, `.` is any byte.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn whole_regex(pattern: &str) -> Result<Regex, String> {
    if pattern.chars().count() > limits::REGEX_BYTES {
        return Err(format!(
            "regular expression is longer than {} characters",
            limits::REGEX_BYTES
        ));
    }
    let build = |text: &str| {
        RegexBuilder::new(text)
            .unicode(false)
            .dot_matches_new_line(true)
            .size_limit(limits::REGEX_COMPILED_BYTES)
            .build()
            .map_err(|e| regex_message(&e))
    };
    // On its own first, so that an unbalanced parenthesis cannot step out of the anchored group.
    build(pattern)?;
    build(&format!(r"\A(?:{pattern})\z"))
}

fn regex_message(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    format!(
        "bad regular expression: {}",
        last.strip_prefix("error: ").unwrap_or(last)
    )
}

/// One value of `requestPrincipals`: the value is cut at its last `/`, the halves are matched with `iss` and `sub`.
#[derive(Clone, Debug)]
pub(super) struct RequestPrincipal {
    issuer: Half,
    subject: Half,
}

#[derive(Clone, Debug)]
enum Half {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
}

impl Half {
    fn matches(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *value,
            Self::Prefix(prefix) => value.starts_with(&**prefix),
            Self::Suffix(suffix) => value.ends_with(&**suffix),
        }
    }
}

impl RequestPrincipal {
    /// Reads a value; every text is one, though some never match (policy semantics section 2.7).
    pub(super) fn new(value: &str) -> Self {
        let cut = value.rsplit_once('/');
        let (issuer, subject) = if value == "*" {
            (Half::Any, Half::Any)
        } else if let Some(suffix) = value.strip_prefix('*') {
            match (cut, suffix.rsplit_once('/')) {
                (Some(("*", subject)), _) => (Half::Any, Half::Exact(subject.into())),
                (_, Some((issuer, subject))) => {
                    (Half::Suffix(issuer.into()), Half::Exact(subject.into()))
                }
                (_, None) => (Half::Any, Half::Suffix(suffix.into())),
            }
        } else if let Some(prefix) = value.strip_suffix('*') {
            match prefix.rsplit_once('/') {
                Some((issuer, "")) => (Half::Exact(issuer.into()), Half::Any),
                Some((issuer, subject)) => {
                    (Half::Exact(issuer.into()), Half::Prefix(subject.into()))
                }
                None => (Half::Prefix(prefix.into()), Half::Any),
            }
        } else {
            let (issuer, subject) = cut.unwrap_or((value, ""));
            (Half::Exact(issuer.into()), Half::Exact(subject.into()))
        };
        Self { issuer, subject }
    }

    /// Whether a verified token has such issuer and subject; both must be non-empty strings.
    pub(super) fn matches(&self, claims: &Claims) -> bool {
        match (claims.issuer(), claims.subject()) {
            (Some(issuer), Some(subject)) => {
                self.issuer.matches(issuer) && self.subject.matches(subject)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, path: &str, want: bool) {
        assert_eq!(
            Template::parse(template).unwrap().matches(path.as_bytes()),
            want,
            "{template} {path}"
        );
    }

    #[test]
    fn templates() {
        check("/foo/{*}", "/foo/bar", true);
        check("/foo/{*}", "/foo/", false);
        check("/foo/{*}", "/foo/bar/baz", false);
        check("/foo/{*}", "/foo/bar/", false);
        check("/foo/{**}", "/foo/", true);
        check("/foo/{**}", "/foo/a/b", true);
        check("/foo/{**}", "/foo", false);
        check("/foo/{**}/", "/foo/bar/", true);
        check("/foo/{**}/", "/foo//", true);
        check("/foo/{**}/", "/foo/bar/baz.txt", false);
        check("/foo/{**}/x", "/foo/x", false);
        check("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true);
        check("/foo/{*}/bar/{**}", "/foo/buzz/bar/x/y", true);
        check("/foo/{*}/bar/{**}", "/foo/bar/baz", false);
        check("/store/{*}/cart", "/store//cart", false);
        check("/{*}", "/a[b]", false);
        for bad in [
            "/{*}x",
            "/{**}/{*}",
            "/{**}/{**}",
            "/{a}",
            "/a//{*}",
            "/a*/{*}",
            "/}",
            "/{*}{*}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn text() {
        for (pattern, value, want) in [
            ("abc", "abc", true),
            ("abc", "ABC", false),
            ("abc*", "abcd", true),
            ("*abc", "xabc", true),
            ("*abc*", "xabc*", true),
            ("*abc*", "xabcx", false),
            ("**", "x*", true),
            ("a*c", "abc", false),
            ("a*c", "a*c", true),
            ("*", "", false),
            ("*", "x", true),
        ] {
            assert_eq!(text_matches(pattern, value), want, "{pattern} {value}");
        }
        let many = TextSet::new(["a", "b", "c", "d", "e", "f*"].into_iter(), Star::Present);
        assert!(many.matches(b"e") && many.matches(b"fx") && !many.matches(b"g"));
    }

    #[test]
    fn regexes() {
        let whole = |p: &str, v: &str| whole_regex(p).unwrap().is_match(v.as_bytes());
        assert!(whole("a|ab", "ab") && !whole("a", "ab") && whole("/v[0-9]+/.*", "/v1/\nx"));
        assert!(!whole(r"\d", "\u{663}") && whole("(?i)/A", "/a"));
        for bad in [
            "a)|(b",
            "(",
            r"(a)\1",
            "(?=a)",
            "a{100000}{100000}",
            &"a".repeat(1025),
        ] {
            assert!(whole_regex(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn request_principals() {
        let claims = |iss: &str, sub: &str| {
            let map = serde_json::json!({ "iss": iss, "sub": sub });
            Claims::new(map.as_object().unwrap().clone(), Vec::new())
        };
        let token = claims("https://a.com", "user-1");
        for (value, want) in [
            ("*", true),
            ("https://a.com/user-1", true),
            ("https://a.com/*", true),
            ("https://a.com/user*", true),
            ("*/user-1", true),
            ("*a.com/user-1", true),
            ("*-1", true),
            ("https*", true),
            ("*/*", false),
            ("https*/user-1", false),
            ("https://a*", false),
            ("https://a.com", false),
            ("", false),
        ] {
            assert_eq!(
                RequestPrincipal::new(value).matches(&token),
                want,
                "{value}"
            );
        }
        assert!(!RequestPrincipal::new("*").matches(&claims("", "x")));
        assert!(
            !RequestPrincipal::new("https://a.com/a/b").matches(&claims("https://a.com", "a/b"))
        );
    }
}
