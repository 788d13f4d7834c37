//! Value forms: Istio's four string forms, path templates, request principals.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::policy::radix::Radix;
use crate::vocab::claims::Claims;

/// Up to this many values are compared one by one; more are looked up.
const LINEAR: usize = 8;

/// What `*` alone demands of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Star {
    /// Present and not empty.
    NotEmpty,
    /// Present (header fields, query parameters).
    Present,
}

/// One value of a field as written, and how it is compared: exact `abc`, prefix `abc*`, suffix `*abc` (checked first)
/// and presence `*`. An asterisk anywhere else is an ordinary character.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    form: TextForm,
    written: Arc<str>,
}

/// How a value is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextForm {
    Exact,
    Prefix,
    Suffix,
    NotEmpty,
    Present,
}

impl Pattern {
    /// Reads a value.
    pub(super) fn new(written: Arc<str>, star: Star) -> Self {
        let form = match (&*written, star) {
            ("*", Star::NotEmpty) => TextForm::NotEmpty,
            ("*", Star::Present) => TextForm::Present,
            (text, _) if text.starts_with('*') => TextForm::Suffix,
            (text, _) if text.ends_with('*') => TextForm::Prefix,
            _ => TextForm::Exact,
        };
        Self { form, written }
    }

    /// How it is compared, and the text without its asterisk.
    pub(super) fn parts(&self) -> (TextForm, &[u8]) {
        let text = self.written.as_bytes();
        let bare = match self.form {
            TextForm::Exact => Some(text),
            TextForm::Prefix => text.split_last().map(|(_star, rest)| rest),
            TextForm::Suffix => text.split_first().map(|(_star, rest)| rest),
            TextForm::NotEmpty | TextForm::Present => None,
        };
        (self.form, bare.unwrap_or_default())
    }

    fn matches(&self, value: &[u8]) -> bool {
        let (form, text) = self.parts();
        match form {
            TextForm::Exact => text == value,
            TextForm::Prefix => value.starts_with(text),
            TextForm::Suffix => value.ends_with(text),
            TextForm::NotEmpty => !value.is_empty(),
            TextForm::Present => true,
        }
    }
}

/// The values of one field.
#[derive(Clone, Debug)]
pub(super) struct TextSet {
    patterns: Box<[Pattern]>,
    /// The same, to be looked up, where they are many.
    many: Option<Box<Many>>,
}

#[derive(Clone, Debug)]
struct Many {
    exact: FxHashSet<Arc<str>>,
    prefixes: Radix,
    suffixes: Radix,
    star: Option<TextForm>,
}

impl TextSet {
    /// Of values that are read.
    pub(super) fn new(patterns: Vec<Pattern>) -> Self {
        let many = (patterns.len() > LINEAR).then(|| Box::new(Many::new(&patterns)));
        Self {
            patterns: patterns.into(),
            many,
        }
    }

    /// Whether any value matches.
    pub(super) fn matches(&self, value: &[u8]) -> bool {
        match &self.many {
            None => self.patterns.iter().any(|p| p.matches(value)),
            Some(many) => many.matches(value),
        }
    }

    /// The values.
    pub(super) fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }
}

impl Many {
    fn new(patterns: &[Pattern]) -> Self {
        let mut exact = FxHashSet::default();
        let (mut prefixes, mut suffixes, mut star) = (Vec::new(), Vec::new(), None);
        for pattern in patterns {
            let (form, text) = pattern.parts();
            match form {
                TextForm::Exact => {
                    exact.insert(Arc::clone(&pattern.written));
                }
                TextForm::Prefix => prefixes.push((text.to_vec(), 0)),
                TextForm::Suffix => suffixes.push((text.iter().rev().copied().collect(), 0)),
                TextForm::NotEmpty | TextForm::Present => star = Some(form),
            }
        }
        Self {
            exact,
            prefixes: Radix::new(prefixes),
            suffixes: Radix::new(suffixes),
            star,
        }
    }

    fn matches(&self, value: &[u8]) -> bool {
        let star = match self.star {
            Some(TextForm::Present) => true,
            Some(TextForm::NotEmpty) => !value.is_empty(),
            Some(TextForm::Exact | TextForm::Prefix | TextForm::Suffix) | None => false,
        };
        star || std::str::from_utf8(value).is_ok_and(|text| self.exact.contains(text))
            || self.prefixes.any(value.iter().copied(), |_| true)
            || self.suffixes.any(value.iter().rev().copied(), |_| true)
    }
}

/// Whether `value` matches one value of a policy field (exact, prefix, suffix or presence).
#[must_use]
pub fn text_matches(pattern: &str, value: &str) -> bool {
    Pattern::new(pattern.into(), Star::NotEmpty).matches(value.as_bytes())
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

    /// What every match begins with.
    pub(super) fn prefix(&self) -> &[u8] {
        match self.head.first() {
            Some(Piece::Literal(literal)) => literal,
            Some(Piece::Segment) | None => &[],
        }
    }

    /// What every match ends with.
    pub(super) fn suffix(&self) -> &[u8] {
        match (&self.tail, self.head.last()) {
            (Some(tail), _) => tail,
            (None, Some(Piece::Literal(literal))) => literal,
            (None, Some(Piece::Segment) | None) => &[],
        }
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

    /// How the subject is compared.
    pub(super) fn subject(&self) -> (TextForm, &[u8]) {
        match &self.subject {
            Half::Any => (TextForm::Present, &[]),
            Half::Exact(text) => (TextForm::Exact, text.as_bytes()),
            Half::Prefix(text) => (TextForm::Prefix, text.as_bytes()),
            Half::Suffix(text) => (TextForm::Suffix, text.as_bytes()),
        }
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
        let many = ["a", "b", "c", "d", "e", "f*", "*g", "fi*", "*ag"];
        let many = many.map(|p| Pattern::new(p.into(), Star::Present));
        let many = TextSet::new(many.to_vec());
        assert!(many.many.is_some());
        assert!(many.matches(b"e") && many.matches(b"fx") && many.matches(b"xg"));
        assert!(!many.matches(b"h") && !many.matches(b"\xff") && !many.matches(b""));
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
