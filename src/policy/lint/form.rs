//! One value of a field: what it takes in, and what that says of another value. Every answer but "for certain" is no.

use std::cell::OnceCell;
use std::net::IpAddr;

use crate::policy::attribute::Attribute;
use crate::policy::pattern::Template;
use crate::policy::regex::{Regexes, WholeRegex};
use crate::vocab::cidr::Cidr;

/// A value, by how it is compared.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// `*`.
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Template(Box<PathTemplate>),
    Regex(Box<Pattern>),
    Block(Cidr),
    Port(u16),
    /// Issuer and subject of a token, each `Any`, `Exact`, `Prefix` or `Suffix`.
    Token(Box<(Self, Self)>),
    /// Compared in a way that only the same text is known to agree with.
    Opaque(Box<str>),
    /// Nothing that a request can have matches; why.
    Never(&'static str),
}

/// A path template, by its segments.
#[derive(Clone, Debug)]
pub(super) struct PathTemplate {
    text: Box<str>,
    compiled: Template,
}

/// A regular expression that is compiled when a value is first compared with it.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: Box<str>,
    compiled: OnceCell<Option<WholeRegex>>,
}

const ONE: &str = "{*}";
const REST: &str = "{**}";

impl PathTemplate {
    fn segments(&self) -> Vec<&str> {
        self.text.split('/').collect()
    }

    /// The literal before the first operator.
    fn head(&self) -> &str {
        self.text.split_once('{').map_or(&*self.text, |(h, _)| h)
    }

    /// The literal after the last operator.
    fn tail(&self) -> &str {
        self.text.rsplit_once('}').map_or(&*self.text, |(_, t)| t)
    }

    /// Whether every path of this template is one of `other`.
    fn within(&self, other: &Self) -> bool {
        let (own, wide) = (self.segments(), other.segments());
        let fits = |(a, b): (&&str, &&str)| a == b || (*b == ONE && !a.is_empty() && *a != REST);
        let Some(rest) = wide.iter().position(|s| *s == REST) else {
            let same_length = own.len() == wide.len() && !own.contains(&REST);
            return same_length && own.iter().zip(&wide).all(fits);
        };
        let own_head = own.get(..rest).unwrap_or_default();
        let own_rest = own.get(rest..).unwrap_or_default().join("/");
        let wide_head = wide.get(..rest).unwrap_or_default();
        let literal = own_rest.rsplit_once('}').map_or(&*own_rest, |(_, t)| t);
        own.len() > rest
            && !own_head.contains(&REST)
            && own_head.iter().zip(wide_head).all(fits)
            && literal.ends_with(other.tail())
    }

    /// Whether no path can be one of both.
    fn apart(&self, other: &Self) -> bool {
        let (own, wide) = (self.segments(), other.segments());
        if own.contains(&REST) || wide.contains(&REST) {
            return apart(self.head(), other.head(), |a, b| a.starts_with(b))
                || apart(self.tail(), other.tail(), |a, b| a.ends_with(b));
        }
        let differ = |(a, b): (&&str, &&str)| {
            let (a_one, b_one) = (*a == ONE, *b == ONE);
            (!a_one && !b_one && a != b) || (a_one && b.is_empty()) || (b_one && a.is_empty())
        };
        own.len() != wide.len() || own.iter().zip(&wide).any(differ)
    }
}

impl Pattern {
    fn matches(&self, value: &str) -> Option<bool> {
        let compiled = self
            .compiled
            .get_or_init(|| Regexes::default().whole(&self.text).ok())
            .as_ref()?;
        Some(compiled.matches(value.as_bytes()))
    }
}

/// Neither begins (ends) with the other.
fn apart(a: &str, b: &str, within: impl Fn(&str, &str) -> bool) -> bool {
    !within(a, b) && !within(b, a)
}

impl Form {
    /// A value of one of the four forms.
    pub(super) fn text(value: &str) -> Self {
        if value == "*" {
            Self::Any
        } else if let Some(suffix) = value.strip_prefix('*') {
            Self::Suffix(suffix.into())
        } else if let Some(prefix) = value.strip_suffix('*') {
            Self::Prefix(prefix.into())
        } else {
            Self::Exact(value.into())
        }
    }

    /// A value of `paths`: a template or one of the four forms.
    pub(super) fn path(value: &str) -> Self {
        if !Template::is_one(value) {
            return Self::text(value);
        }
        match Template::parse(value) {
            Ok(compiled) => Self::Template(Box::new(PathTemplate {
                text: value.into(),
                compiled,
            })),
            Err(why) => Self::Never(why),
        }
    }

    /// A regular expression over the whole value.
    pub(super) fn regex(pattern: &str) -> Self {
        Self::Regex(Box::new(Pattern {
            text: pattern.into(),
            compiled: OnceCell::new(),
        }))
    }

    /// Whether it is a value that can never match.
    pub(super) fn is_never(&self) -> bool {
        matches!(self, Self::Never(_))
    }

    /// Why it can never match, if so.
    pub(super) fn never(&self) -> Option<&'static str> {
        if let Self::Never(why) = self {
            Some(why)
        } else {
            None
        }
    }

    /// The text, if it is compared exactly.
    pub(super) fn exact(&self) -> Option<&str> {
        if let Self::Exact(text) = self {
            Some(text)
        } else {
            None
        }
    }

    /// The first address of a block.
    pub(super) fn first_address(&self) -> Option<IpAddr> {
        if let Self::Block(block) = self {
            Some(block.first())
        } else {
            None
        }
    }

    /// The port.
    pub(super) fn port(&self) -> Option<u16> {
        if let Self::Port(port) = self {
            Some(*port)
        } else {
            None
        }
    }

    /// Whether it matches a value that is not empty; `None` if that is not known.
    pub(super) fn takes(&self, value: &str) -> Option<bool> {
        match self {
            Self::Any => Some(true),
            Self::Exact(exact) => Some(**exact == *value),
            Self::Prefix(prefix) => Some(value.starts_with(&**prefix)),
            Self::Suffix(suffix) => Some(value.ends_with(&**suffix)),
            Self::Template(template) => Some(template.compiled.matches(value.as_bytes())),
            Self::Regex(pattern) => pattern.matches(value),
            Self::Never(_) => Some(false),
            Self::Block(_) | Self::Port(_) | Self::Token(_) | Self::Opaque(_) => None,
        }
    }

    /// Whether every value that this matches is matched by `wide` too. `filled`: values of the attribute are never
    /// empty, or emptiness does not matter to `*`.
    pub(super) fn within(&self, wide: &Self, filled: bool) -> bool {
        match (self, wide) {
            (Self::Never(_), _) => true,
            (_, Self::Never(_)) => false,
            (Self::Exact(text), _) => wide.takes(text) == Some(true),
            (Self::Regex(_) | Self::Opaque(_), Self::Any) => filled,
            (_, Self::Any) => true,
            (Self::Prefix(own), Self::Prefix(prefix)) => own.starts_with(&**prefix),
            (Self::Suffix(own), Self::Suffix(suffix)) => own.ends_with(&**suffix),
            (Self::Template(own), Self::Prefix(prefix)) => own.head().starts_with(&**prefix),
            (Self::Template(own), Self::Suffix(suffix)) => own.tail().ends_with(&**suffix),
            (Self::Template(own), Self::Template(template)) => own.within(template),
            (Self::Regex(own), Self::Regex(pattern)) => own.text == pattern.text,
            (Self::Opaque(own), Self::Opaque(text)) => own == text,
            (Self::Block(own), Self::Block(block)) => block.covers(own),
            (Self::Port(own), Self::Port(port)) => own == port,
            (Self::Token(own), Self::Token(wide)) => {
                own.0.within(&wide.0, true) && own.1.within(&wide.1, true)
            }
            (_, _) => false,
        }
    }

    /// Whether no single value is matched by both.
    pub(super) fn apart(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Never(_), _) | (_, Self::Never(_)) => true,
            (Self::Exact(text), form) | (form, Self::Exact(text)) => {
                form.takes(text) == Some(false)
            }
            (Self::Prefix(a), Self::Prefix(b)) => apart(a, b, |a, b| a.starts_with(b)),
            (Self::Suffix(a), Self::Suffix(b)) => apart(a, b, |a, b| a.ends_with(b)),
            (Self::Template(t), Self::Prefix(p)) | (Self::Prefix(p), Self::Template(t)) => {
                apart(t.head(), p, |a, b| a.starts_with(b))
            }
            (Self::Template(t), Self::Suffix(s)) | (Self::Suffix(s), Self::Template(t)) => {
                apart(t.tail(), s, |a, b| a.ends_with(b))
            }
            (Self::Template(a), Self::Template(b)) => a.apart(b),
            (Self::Block(a), Self::Block(b)) => !a.covers(b) && !b.covers(a),
            (Self::Port(a), Self::Port(b)) => a != b,
            (Self::Token(a), Self::Token(b)) => a.0.apart(&b.0) || a.1.apart(&b.1),
            (_, _) => false,
        }
    }

    /// Values that it matches, or may match together with others: what an example is made of.
    pub(super) fn samples(&self, attribute: &Attribute, out: &mut Vec<String>) {
        match self {
            Self::Exact(text) => out.push(text.to_string()),
            Self::Prefix(prefix) => {
                out.push(prefix.to_string());
                out.push(format!("{prefix}x"));
                if *attribute == Attribute::Principal {
                    out.push(format!("{prefix}/sa/x"));
                    out.push(format!("{prefix}/ns/x/sa/x"));
                }
            }
            Self::Suffix(suffix) => {
                out.push(suffix.to_string());
                out.push(format!("x{suffix}"));
                out.push(format!("/x{suffix}"));
                out.push(format!("/{suffix}"));
            }
            Self::Template(template) => {
                out.push(template.text.replace(REST, "x").replace(ONE, "x"));
            }
            Self::Any
            | Self::Regex(_)
            | Self::Block(_)
            | Self::Port(_)
            | Self::Token(_)
            | Self::Opaque(_)
            | Self::Never(_) => {}
        }
    }
}

/// `iss/sub` as the engine cuts it (policy semantics section 2.7).
pub(super) fn token(value: &str) -> Form {
    let halves = |issuer: Form, subject: Form| Form::Token(Box::new((issuer, subject)));
    let exact = |text: &str| {
        if text.is_empty() {
            Form::Never("an issuer or subject is never empty")
        } else {
            Form::Exact(text.into())
        }
    };
    let open = |text: &str, form: fn(Box<str>) -> Form| {
        if text.is_empty() {
            Form::Any
        } else {
            form(text.into())
        }
    };
    let (issuer, subject) = if value == "*" {
        (Form::Any, Form::Any)
    } else if let Some(suffix) = value.strip_prefix('*') {
        match suffix.rsplit_once('/') {
            Some((issuer, subject)) => (open(issuer, Form::Suffix), exact(subject)),
            None => (Form::Any, open(suffix, Form::Suffix)),
        }
    } else if let Some(prefix) = value.strip_suffix('*') {
        match prefix.rsplit_once('/') {
            Some((issuer, subject)) => (exact(issuer), open(subject, Form::Prefix)),
            None => (open(prefix, Form::Prefix), Form::Any),
        }
    } else {
        let (issuer, subject) = value.rsplit_once('/').unwrap_or((value, ""));
        (exact(issuer), exact(subject))
    };
    match (&issuer, &subject) {
        (Form::Never(why), _) | (_, Form::Never(why)) => Form::Never(why),
        (_, _) => halves(issuer, subject),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(value: &str) -> Form {
        value
            .strip_prefix('~')
            .map_or_else(|| Form::path(value), Form::regex)
    }

    #[test]
    fn within() {
        for (own, wide, want) in [
            ("/a", "/a", true),
            ("/a", "/a*", true),
            ("/a*", "/a", false),
            ("/ab*", "/a*", true),
            ("/a*", "/ab*", false),
            ("*/b", "*b", true),
            ("*b", "*/b", false),
            ("/a*", "*a", false),
            ("/a", "*", true),
            ("*", "*", true),
            ("*", "/*", false),
            ("/a/{*}", "/a/*", true),
            ("/a/{*}", "/ab*", false),
            ("/a/*", "/a/{*}", false),
            ("/a/*", "/a/{**}", false),
            ("/a/{*}/c", "*/c", true),
            ("/a/b", "/a/{*}", true),
            ("/a/b/c", "/a/{*}", false),
            ("/a/{*}", "/a/{**}", true),
            ("/a/{**}", "/a/{*}", false),
            ("/a/{**}", "/{**}", true),
            ("/a/b/{*}", "/a/{*}/{*}", true),
            ("/a/{*}/{*}", "/a/b/{*}", false),
            ("/a/b/c/{*}", "/a/{**}", true),
            ("/a/{*}/x", "/a/{**}/x", true),
            ("/a/x", "/a/{**}/x", false),
            ("/a/{**}/x", "/a/{**}", true),
            ("/a/{**}", "/a/{**}/x", false),
            ("/a/{*}/", "/a/{*}/{*}", false),
            ("~/a.*", "~/a.*", true),
            ("~/a.*", "~/a.+", false),
            ("/ab", "~/a.*", true),
            ("/b", "~/a.*", false),
            ("~/a.*", "/a*", false),
            ("~/a.*", "*", true),
        ] {
            assert_eq!(path(own).within(&path(wide), true), want, "{own} in {wide}");
        }
        assert!(!path("~.*").within(&Form::Any, false));
        let block = |b: &str| Form::Block(Cidr::parse(b).unwrap());
        assert!(block("10.1.0.0/16").within(&block("10.0.0.0/8"), true));
        assert!(!block("10.0.0.0/8").within(&block("10.1.0.0/16"), true));
        assert!(!block("::/0").within(&block("0.0.0.0/0"), true));
        for (own, wide, want) in [
            ("https://a/x", "https://a/*", true),
            ("https://a/*", "*", true),
            ("https://a/xy*", "https://a/x*", true),
            ("https://a/*", "https://b/*", false),
            ("*/x", "https://a/x", false),
            ("https://a/x", "*/x", true),
        ] {
            assert_eq!(token(own).within(&token(wide), true), want, "{own} {wide}");
        }
    }

    #[test]
    fn apart() {
        for (a, b, want) in [
            ("/a", "/b", true),
            ("/a", "/a*", false),
            ("/b", "/a*", true),
            ("/a*", "/b*", true),
            ("/a*", "/ab*", false),
            ("/a*", "*b", false),
            ("*a", "*b", true),
            ("/a/{*}", "/b*", true),
            ("/a/{*}", "/*", false),
            ("/a/{*}/c", "*/d", true),
            ("/a/{*}", "/a/{*}/c", true),
            ("/a/{*}", "/a/{**}", false),
            ("/a/{*}", "/b/{**}", true),
            ("/a/{*}/c", "/a/b/{*}", false),
            ("/a/{*}/c", "/a/b/d", true),
            ("~/a.*", "/b", true),
            ("~/a.*", "/b*", false),
            ("*", "/a", false),
        ] {
            assert_eq!(path(a).apart(&path(b)), want, "{a} {b}");
            assert_eq!(path(b).apart(&path(a)), want, "{b} {a}");
        }
        let block = |b: &str| Form::Block(Cidr::parse(b).unwrap());
        assert!(block("10.0.0.0/8").apart(&block("11.0.0.0/8")));
        assert!(!block("10.0.0.0/8").apart(&block("10.1.2.3")));
        assert!(token("https://a/*").apart(&token("https://b/*")));
        assert!(!token("*/x").apart(&token("https://b/*")));
        assert!(token("https").is_never() && token("https://a/").is_never());
    }
}
