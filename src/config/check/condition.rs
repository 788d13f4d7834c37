//! `when[]`: which keys there are, and what their values look like (policy semantics 2.6).

use crate::config::check::Context;
use crate::config::check::values::{Form, values};
use crate::config::nearest::hint;
use crate::config::raw::policy as raw;
use crate::config::read::Table;
use crate::policy::model::Condition;

/// Keys without a name in brackets.
const PLAIN: [(&str, Form); 11] = [
    ("source.ip", Form::Block),
    ("remote.ip", Form::Block),
    ("source.namespace", Form::Pattern),
    ("source.principal", Form::Principal),
    ("source.serviceAccount", Form::ServiceAccount),
    ("source.trustDomain", Form::TrustDomain),
    ("request.auth.principal", Form::RequestPrincipal),
    ("request.auth.audiences", Form::Pattern),
    ("request.auth.presenter", Form::Pattern),
    ("destination.ip", Form::Block),
    ("destination.port", Form::Port),
];
/// Not in `PLAIN`, so that the list reads as policy semantics 2.6 does.
const SNI: &str = "connection.sni";
/// Keys with a name in brackets.
const MAPS: [&str; 3] = ["request.headers", "request.query", "request.auth.claims"];

/// One condition.
pub(crate) fn condition(raw: &raw::Condition, custom: bool, cx: &mut Context<'_>) -> Condition {
    let form = match form(&raw.key) {
        Ok(form) => Some(form),
        Err(problem) => {
            cx.out.error(&raw.key.place, problem);
            None
        }
    };
    let fields = [&raw.values, &raw.not_values, &raw.regexes, &raw.not_regexes];
    if raw.whole() && fields.iter().all(|f| f.is_none()) {
        cx.out.error(raw.place(), "a condition needs `values` or `notValues`");
    }
    if custom && identity_or_token(&raw.key) {
        cx.out.error(&raw.key.place, super::policy::CUSTOM_IDENTITY);
    }
    let textual = form.is_none_or(|f| !matches!(f, Form::Block | Form::Port));
    for field in [&raw.regexes, &raw.not_regexes].into_iter().flatten().filter(|_| !textual) {
        cx.out.error(&field.place, "addresses and ports have no regular expressions");
    }
    let form = form.unwrap_or(Form::Pattern);
    Condition {
        key: raw.key.value.clone(),
        values: values(&raw.values, form, cx),
        not_values: values(&raw.not_values, form, cx),
        regexes: values(&raw.regexes, Form::Regex, cx),
        not_regexes: values(&raw.not_regexes, Form::Regex, cx),
    }
}

/// Whether a key reads the verified peer or the token, which are not known when a CUSTOM provider is asked.
fn identity_or_token(key: &str) -> bool {
    key.starts_with("request.auth.")
        || ["source.namespace", "source.serviceAccount", "source.trustDomain", "source.principal"].contains(&key)
}

/// The form of a key's values, or why there is no such key.
fn form(key: &str) -> Result<Form, String> {
    if key == SNI {
        return Ok(Form::Pattern);
    }
    if let Some((_, form)) = PLAIN.iter().find(|(k, _)| *k == key) {
        return Ok(*form);
    }
    if let Some((map, names)) = key.split_once('[') {
        return map_form(key, map, names);
    }
    let text = key.escape_debug();
    if MAPS.contains(&key) {
        return Err(format!("`{text}` needs a name, such as `{text}[name]`"));
    }
    if ["destination.namespace", "destination.labels", "destination.name", "destination.user"].contains(&key) {
        return Err(format!("`{text}` is not a key any more; attach the policy to the destination"));
    }
    if key.starts_with("experimental.envoy.filters.") {
        return Err(format!("`{text}`: there are no Envoy filters here to evaluate it on"));
    }
    let keys = PLAIN.iter().map(|(k, _)| *k).chain([SNI]).chain(MAPS);
    Err(format!("`{text}` is not a key of a condition{}", hint(key, keys)))
}

/// A key such as `request.headers[name]`; `names` is what follows the first bracket.
fn map_form(key: &str, map: &str, names: &str) -> Result<Form, String> {
    let text = key.escape_debug();
    let bad = || format!("`{text}` is not of the form `{map}[name]`");
    if map == "experimental.envoy.filters" || map.starts_with("experimental.envoy.filters.") {
        return Err(format!("`{text}`: there are no Envoy filters here to evaluate it on"));
    }
    if !MAPS.contains(&map) {
        return Err(format!("`{text}` is not a key of a condition{}", hint(map, MAPS)));
    }
    let inner = names.strip_suffix(']').ok_or_else(bad)?;
    let mut parts = inner.split("][");
    let valid = |name: &str| !name.is_empty() && !name.contains(['[', ']']);
    match map {
        "request.auth.claims" if parts.all(valid) => Ok(Form::Pattern),
        "request.query" if valid(inner) => Ok(Form::Pattern),
        "request.headers" => {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            let named = !inner.is_empty() && inner.bytes().all(token);
            if named || [":method", ":authority", ":path"].contains(&inner) {
                return Ok(Form::Pattern);
            }
            Err(format!("`{text}` does not name a header field"))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for key in [
            "source.ip", "remote.ip", "connection.sni", "destination.port", "request.headers[x-a]",
            "request.headers[:path]", "request.auth.claims[a]", "request.auth.claims[a][b][c]",
            "request.auth.claims[a.b]", "request.query[state]", "request.query[a b]",
        ] {
            assert!(form(key).is_ok(), "{key}");
        }
        for (key, part) in [
            ("source.ips", "did you mean `source.ip`?"),
            ("request.header[x]", "did you mean `request.headers`?"),
            ("request.headers", "needs a name"),
            ("request.headers[]", "header field"),
            ("request.headers[a b]", "header field"),
            ("request.headers[:status]", "header field"),
            ("request.headers[x", "is not of the form"),
            ("request.headers[x]y", "is not of the form"),
            ("request.auth.claims[]", "is not of the form"),
            ("request.auth.claims[a][]", "is not of the form"),
            ("request.query[a][b]", "is not of the form"),
            ("destination.labels", "attach the policy"),
            ("experimental.envoy.filters.a.b[c]", "no Envoy filters"),
            ("", "is not a key"),
        ] {
            let error = form(key).expect_err(key);
            assert!(error.contains(part), "{key}: {error}");
        }
    }
}
