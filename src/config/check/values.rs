//! Values of policies that are accepted and probably not meant (policy semantics 2.2 and 2.7). What is refused is the
//! policy engine's to say: `policy::validate`.

use crate::config::check::Context;
use crate::config::check::locate::Locator;
use crate::config::place::At;
use crate::config::raw::policy::Values;

/// How the values of a field are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Exact, prefix, suffix or `*`.
    Pattern,
    /// `iss/sub`, cut at the last slash.
    RequestPrincipal,
    /// HTTP method.
    Method,
    /// Path or path template.
    Path,
    /// Address, port, service account, regular expression: no `*` with a meaning of its own.
    Other,
}

/// What is needed to read the values of one policy.
#[derive(Debug)]
pub(crate) struct Reader<'c, 'o> {
    pub(crate) cx: &'c mut Context<'o>,
    pub(crate) locator: Locator,
}

impl Reader<'_, '_> {
    /// The values of a field; empty if it is absent. `field` is its name for the policy engine.
    pub(crate) fn values(&mut self, raw: &Values, field: &str, form: Form) -> Vec<String> {
        let Some(raw) = raw else { return Vec::new() };
        self.locator.add(field, &raw.place, true);
        for (i, at) in raw.iter().enumerate() {
            self.locator.add(&format!("{field}[{i}]"), &at.place, true);
            if let Some(trap) = never(at, form) {
                self.cx.out.warn(
                    &at.place,
                    format!("`{}` never matches: {trap}", at.escape_debug()),
                );
            } else if mid_star(at, form) {
                let text = at.escape_debug();
                self.cx.out.warn(
                    &at.place,
                    format!("`{text}`: a `*` in the middle is an ordinary character"),
                );
            }
        }
        raw.iter().map(|at| at.value.clone()).collect()
    }
}

/// Why a value that is accepted can never match.
fn never(value: &At<String>, form: Form) -> Option<&'static str> {
    let text = value.value.as_str();
    match form {
        Form::RequestPrincipal => request_principal(text),
        Form::Method if text.bytes().any(|b| b.is_ascii_lowercase()) => {
            Some("methods are upper case, and others are answered 400")
        }
        Form::Path if text.contains(['?', '#']) => Some("a path holds neither query nor fragment"),
        Form::Path if !text.starts_with(['/', '*']) => Some("a path begins with `/`"),
        Form::Pattern | Form::Method | Form::Path | Form::Other => None,
    }
}

/// Issuer and subject are cut at the last slash and matched apart (policy semantics 2.7).
fn request_principal(text: &str) -> Option<&'static str> {
    let Some((issuer, subject)) = text.rsplit_once('/') else {
        let wildcard = text.starts_with('*') || text.ends_with('*');
        return (!wildcard).then_some("expected `issuer/subject`");
    };
    if (issuer, subject) == ("*", "*") {
        return Some("write `*` for any token");
    }
    if issuer.ends_with(['/', ':']) {
        return Some("it is cut at its last `/`, inside the issuer's URL; write `issuer/*`");
    }
    if issuer.len() > 1 && issuer.ends_with('*') {
        return Some("the issuer may be a suffix (`*x`), not a prefix, before a `/`");
    }
    subject
        .is_empty()
        .then_some("the subject after the last `/` is empty")
}

/// A `*` that is neither the first nor the last character of a value where it could be meant as a wildcard.
fn mid_star(value: &At<String>, form: Form) -> bool {
    let text = value.value.as_str();
    let wildcards = match form {
        Form::Pattern => true,
        Form::Path => !text.contains('{'),
        // Request principals have forms of their own.
        Form::RequestPrincipal | Form::Method | Form::Other => false,
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

    fn check(form: Form, text: &str, warned: bool) {
        let value = At {
            value: text.to_owned(),
            place: Place::top(0),
        };
        assert_eq!(
            never(&value, form).is_some() || mid_star(&value, form),
            warned,
            "{form:?} {text}"
        );
    }

    #[test]
    fn traps() {
        check(Form::Pattern, "cluster.local/ns/a/sa/b", false);
        check(Form::Pattern, "cluster.local/ns/*/sa/b", true);
        check(Form::Pattern, "*a*", true);
        check(Form::Pattern, "a*", false);
        check(Form::Pattern, "*", false);
        check(Form::Path, "/a*", false);
        check(Form::Path, "/a*/b", true);
        check(Form::Path, "/a/{*}/b", false);
        check(Form::Path, "/a?b=c", true);
        check(Form::Path, "a", true);
        check(Form::Method, "GET", false);
        check(Form::Method, "get", true);
        check(Form::Other, "a.*b", false);
    }

    #[test]
    fn request_principals() {
        for text in [
            "*",
            "https://a.example/*",
            "https://a.example/joe",
            "*/joe",
            "*example/joe",
            "*joe",
            "https*",
        ] {
            check(Form::RequestPrincipal, text, false);
        }
        for text in [
            "*/*",
            "https://acc*",
            "iss*/sub",
            "https://a.example/",
            "iss",
        ] {
            check(Form::RequestPrincipal, text, true);
        }
    }
}
