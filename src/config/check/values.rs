//! Values of policies: patterns, blocks, templates, regular expressions (policy semantics 2.2 to 2.5 and 14.1).

use regex::bytes::RegexBuilder;

use crate::config::check::Context;
use crate::config::place::At;
use crate::config::raw::policy::Values;
use crate::vocab::cidr::Cidr;
use crate::vocab::limits;

/// Most service accounts of one field, and the longest (Istio's validation).
const SERVICE_ACCOUNTS: usize = 16;
const SERVICE_ACCOUNT_BYTES: usize = 320;

/// What the values of a field must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Exact, prefix, suffix or `*`.
    Pattern,
    /// A principal: as `Pattern`, without `spiffe://`.
    Principal,
    /// `iss/sub`, cut at the last slash.
    RequestPrincipal,
    /// `sa` or `namespace/sa`, exact.
    ServiceAccount,
    /// As `Pattern`, without `/`.
    TrustDomain,
    /// IP address or block.
    Block,
    /// Decimal port.
    Port,
    /// HTTP method.
    Method,
    /// Host, with its port if it has one.
    Host,
    /// Path or path template.
    Path,
    /// Regular expression over the whole value.
    Regex,
}

/// The values of a field, each judged by its form; empty if the field is absent.
pub(crate) fn values(field: &Values, form: Form, cx: &mut Context<'_>) -> Vec<String> {
    let Some(field) = field else { return Vec::new() };
    if form == Form::ServiceAccount && field.len() > SERVICE_ACCOUNTS {
        cx.out.error(&field.place, format!("{} values, expected {SERVICE_ACCOUNTS} at most", field.len()));
    }
    for at in field.iter() {
        if let Some(problem) = problem(at, form) {
            cx.out.error(&at.place, format!("`{}`: {problem}", at.escape_debug()));
        } else if let Some(trap) = never(at, form) {
            cx.out.warn(&at.place, format!("`{}` never matches: {trap}", at.escape_debug()));
        } else if mid_star(at, form) {
            cx.out.warn(&at.place, format!("`{}`: a `*` in the middle is an ordinary character", at.escape_debug()));
        }
    }
    field.iter().map(|at| at.value.clone()).collect()
}

/// Why a value is refused.
fn problem(value: &At<String>, form: Form) -> Option<String> {
    let text = value.value.as_str();
    match form {
        Form::Pattern | Form::Principal | Form::RequestPrincipal | Form::Host => None,
        Form::ServiceAccount => service_account(text).map(str::to_owned),
        Form::TrustDomain => text.contains('/').then(|| "a trust domain holds no `/`".to_owned()),
        Form::Block => Cidr::parse(text).err().map(|e| e.to_string()),
        Form::Port => {
            let valid = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok();
            (!valid).then(|| "not a port, expected 0 to 65535".to_owned())
        }
        Form::Method => {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            (!text.bytes().all(token)).then(|| "not an HTTP method".to_owned())
        }
        Form::Path => template(text).map(str::to_owned),
        Form::Regex => regex(text),
    }
}

fn service_account(text: &str) -> Option<&'static str> {
    let part = |p: &str| !p.is_empty() && !p.contains('/');
    let valid = match text.split_once('/') {
        Some((namespace, account)) => part(namespace) && part(account),
        None => true,
    };
    if text.len() > SERVICE_ACCOUNT_BYTES {
        return Some("longer than 320 bytes");
    }
    if text.contains('*') {
        return Some("service accounts are compared exactly, expected no `*`");
    }
    (!valid).then_some("expected `serviceAccount` or `namespace/serviceAccount`")
}

/// Why a path is not a valid template; `None` for a valid one and for a path without operators.
fn template(text: &str) -> Option<&'static str> {
    if !text.contains(['{', '}']) {
        return None;
    }
    let trimmed = text.strip_prefix('/').unwrap_or(text);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    let literal = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@=".contains(&b);
    let mut rest = false;
    for segment in trimmed.split('/') {
        match segment {
            "{**}" if rest => return Some("a template has at most one `{**}`"),
            "{**}" => rest = true,
            "{*}" if rest => return Some("`{*}` cannot come after `{**}`"),
            "{*}" => {}
            "" => return Some("a template has no empty segment"),
            other if other.contains(['{', '}']) => {
                return Some("`{*}` and `{**}` stand for whole segments, and no other `{` or `}` is allowed");
            }
            other if !other.bytes().all(literal) => return Some("a segment of a template is `{*}`, `{**}` or literal"),
            _ => {}
        }
    }
    None
}

/// Why a regular expression is refused.
fn regex(text: &str) -> Option<String> {
    if text.len() > limits::REGEX_BYTES {
        return Some(format!("longer than {} bytes", limits::REGEX_BYTES));
    }
    let built = RegexBuilder::new(text)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(limits::REGEX_COMPILED_BYTES)
        .build();
    match built {
        Ok(_) => None,
        Err(regex::Error::CompiledTooBig(_)) => Some("compiles to more than 1 MiB".to_owned()),
        // The crate draws the expression over several lines; its last line says what is wrong.
        Err(error) => {
            let text = error.to_string();
            Some(text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

/// Why a value that is accepted can never match.
fn never(value: &At<String>, form: Form) -> Option<&'static str> {
    let text = value.value.as_str();
    match form {
        Form::Principal if text.starts_with("spiffe://") => Some("a principal is written without `spiffe://`"),
        Form::RequestPrincipal => request_principal(text),
        Form::Method if text.bytes().any(|b| b.is_ascii_lowercase()) => {
            Some("methods are upper case, and others are answered 400")
        }
        Form::Path if text.contains(['?', '#']) => Some("a path holds neither query nor fragment"),
        Form::Path if !text.starts_with(['/', '*']) => Some("a path begins with `/`"),
        Form::Pattern | Form::Principal | Form::ServiceAccount | Form::TrustDomain | Form::Block | Form::Port
        | Form::Method | Form::Host | Form::Path | Form::Regex => None,
    }
}

/// Issuer and subject are cut at the last slash and matched apart (policy semantics 2.7).
fn request_principal(text: &str) -> Option<&'static str> {
    if text == "*" {
        return None;
    }
    match text.rsplit_once('/') {
        Some(("*", "*")) => Some("write `*` for any token"),
        Some((issuer, subject)) => {
            let cut = issuer.ends_with('/') || issuer.ends_with(':');
            let issuer_prefix = issuer.len() > 1 && issuer.ends_with('*');
            if cut {
                Some("it is cut at its last `/`, inside the issuer's URL; write `issuer/*`")
            } else if issuer_prefix {
                Some("the issuer may be a suffix (`*x`), not a prefix, before a `/`")
            } else if subject.is_empty() {
                Some("the subject after the last `/` is empty")
            } else {
                None
            }
        }
        None if text.starts_with('*') || text.ends_with('*') => None,
        None => Some("expected `issuer/subject`"),
    }
}

/// A `*` that is neither the first nor the last character of a value where it could be meant as a wildcard.
fn mid_star(value: &At<String>, form: Form) -> bool {
    let text = value.value.as_str();
    let wildcards = match form {
        Form::Pattern | Form::Principal | Form::TrustDomain | Form::Host => true,
        Form::Path => !text.contains('{'),
        // `iss/*` is a prefix of the subject, and so on: request principals have forms of their own.
        Form::RequestPrincipal | Form::ServiceAccount | Form::Block | Form::Port | Form::Method | Form::Regex => false,
    };
    let inner = match text.strip_prefix('*') {
        // A suffix: every further star is literal.
        Some(rest) => rest,
        None => text.strip_suffix('*').unwrap_or(text),
    };
    wildcards && inner.contains('*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::place::Place;

    fn at(text: &str) -> At<String> {
        At { value: text.to_owned(), place: Place::top(0) }
    }

    fn check(form: Form, text: &str, refused: bool, warned: bool) {
        let value = at(text);
        assert_eq!(problem(&value, form).is_some(), refused, "refused {form:?} {text}: {:?}", problem(&value, form));
        if !refused {
            assert_eq!(never(&value, form).is_some() || mid_star(&value, form), warned, "warned {form:?} {text}");
        }
    }

    #[test]
    fn templates() {
        for text in ["/foo/{*}", "/foo/{**}", "/foo/{**}/", "/foo/{*}/bar/{**}", "/{**}/x/y", "{*}", "/a/{*}/{*}"] {
            check(Form::Path, text, false, !text.starts_with('/'));
        }
        for text in [
            "/foo/{***}", "/foo/{*}.txt", "/{**}/{**}", "/{**}/{*}", "/a//{*}", "/a*/{*}", "/foo/{bar}", "/foo{", "/}", "/a b/{*}",
        ] {
            check(Form::Path, text, true, false);
        }
    }

    #[test]
    fn values_and_traps() {
        check(Form::Principal, "cluster.local/ns/a/sa/b", false, false);
        check(Form::Principal, "spiffe://cluster.local/ns/a/sa/b", false, true);
        check(Form::Principal, "cluster.local/ns/*/sa/b", false, true);
        check(Form::Pattern, "*a*", false, true);
        check(Form::Pattern, "a*", false, false);
        check(Form::Path, "/a*", false, false);
        check(Form::Path, "/a?b=c", false, true);
        check(Form::Path, "a", false, true);
        check(Form::Method, "get", false, true);
        check(Form::Method, "GET ", true, false);
        check(Form::Block, "10.0.0.0/8", false, false);
        check(Form::Block, "10.0.0.0/33", true, false);
        check(Form::Port, "65535", false, false);
        check(Form::Port, "65536", true, false);
        check(Form::Port, "+80", true, false);
        check(Form::ServiceAccount, "build/ci", false, false);
        check(Form::ServiceAccount, "a/b/c", true, false);
        check(Form::ServiceAccount, "build/*", true, false);
        check(Form::TrustDomain, "a/b", true, false);
    }

    #[test]
    fn request_principals() {
        for text in ["*", "https://a.example/*", "https://a.example/joe", "*/joe", "*example/joe", "*joe", "https*"] {
            check(Form::RequestPrincipal, text, false, false);
        }
        for text in ["*/*", "https://acc*", "iss*/sub", "https://a.example/", "iss"] {
            check(Form::RequestPrincipal, text, false, true);
        }
    }

    #[test]
    fn regexes() {
        check(Form::Regex, "/repos/[a-z]+", false, false);
        check(Form::Regex, "[", true, false);
        check(Form::Regex, r"(a)\1", true, false);
        check(Form::Regex, "(?=a)", true, false);
        check(Form::Regex, "a)|(b", true, false);
        check(Form::Regex, &"a".repeat(1025), true, false);
        check(Form::Regex, "((((a{100}){100}){100}){100})", true, false);
    }
}
