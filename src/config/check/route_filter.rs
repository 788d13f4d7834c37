//! Filters of a route's rules: header fields, redirects, rewrites, mirrors.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::check::route::Checking;
use crate::config::checked::Mesh;
use crate::config::checked::route::{
    HeaderChange, Mirror, PathChange, PathMatch, Redirect, Rewrite, RouteMatch,
};
use crate::config::place::{At, Place};
use crate::config::raw::route as raw;
use crate::config::raw::route::{FilterType, PathModifierType, Scheme};
use crate::config::read::{AnyText, Table as _};
use crate::vocab::field;
use crate::vocab::host::Host;

/// All filters of one rule.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    pub(crate) redirect: Option<Redirect>,
    pub(crate) rewrite: Rewrite,
    pub(crate) request_headers: HeaderChange,
    pub(crate) response_headers: HeaderChange,
    pub(crate) mirrors: Vec<Mirror>,
}

/// Fields that tell of the hops before; they are written from what was verified.
fn is_of_hops(name: &str) -> bool {
    let own = ["forwarded", "x-real-ip", "x-request-id"];
    let named = own.iter().any(|other| field::alike(other, name));
    named || field::alike("x-forwarded-", name.get(..12).unwrap_or_default())
}

/// Whether a header field holds what a token says, which is written when that has been verified.
pub(crate) fn holds_claims(name: &str, mesh: &Mesh) -> bool {
    let mut rules = mesh.request_authentications.iter().flat_map(|a| &a.rules);
    rules.any(|rule| {
        let payload = rule.output_payload_to_header.iter();
        let claims = rule.output_claim_to_headers.iter();
        payload
            .chain(claims.map(|(header, _)| header))
            .any(|header| field::alike(header.as_str(), name))
    })
}

/// The filters of a rule with these matches.
pub(crate) fn filters(
    raw: Option<&[raw::Filter]>,
    matches: &[RouteMatch],
    checking: &mut Checking<'_, '_>,
) -> Filters {
    let mut all = Filters::default();
    let mut seen = Vec::new();
    for filter in raw.into_iter().flatten() {
        let kind = filter.kind.value;
        if seen.contains(&kind) && kind != FilterType::RequestMirror {
            let place = &filter.kind.place;
            checking.cx.out.error(place, "a second filter of this type");
        }
        seen.push(kind);
        one(filter, matches, &mut all, checking);
    }
    if all.redirect.is_some() && all.rewrite != Rewrite::default() {
        let first = raw.into_iter().flatten().next();
        if let Some(first) = first {
            let why = "a rule redirects or rewrites, not both";
            checking.cx.out.error(first.place(), why);
        }
    }
    all
}

fn one(
    filter: &raw::Filter,
    matches: &[RouteMatch],
    all: &mut Filters,
    checking: &mut Checking<'_, '_>,
) {
    let bodies: [(FilterType, &str, Option<&Place>); 5] = [
        (
            FilterType::RequestHeaderModifier,
            "requestHeaderModifier",
            filter.request_headers.as_ref().map(|at| &at.place),
        ),
        (
            FilterType::ResponseHeaderModifier,
            "responseHeaderModifier",
            filter.response_headers.as_ref().map(|at| &at.place),
        ),
        (
            FilterType::RequestRedirect,
            "requestRedirect",
            filter.redirect.as_ref().map(|at| &at.place),
        ),
        (
            FilterType::UrlRewrite,
            "urlRewrite",
            filter.rewrite.as_ref().map(|at| &at.place),
        ),
        (
            FilterType::RequestMirror,
            "requestMirror",
            filter.mirror.as_ref().map(|at| &at.place),
        ),
    ];
    for (kind, key, place) in bodies {
        match place {
            Some(place) if kind != filter.kind.value => {
                let why = "not the key of this filter's type";
                checking.cx.out.error(place, why);
            }
            None if kind == filter.kind.value && filter.whole() => {
                let why = format!("missing `{key}`");
                checking.cx.out.error(&filter.kind.place, why);
            }
            Some(_) | None => {}
        }
    }
    if let Some(at) = &filter.request_headers {
        all.request_headers = headers(at, true, checking);
    }
    if let Some(at) = &filter.response_headers {
        all.response_headers = headers(at, false, checking);
    }
    if let Some(at) = &filter.redirect {
        all.redirect = redirect(at, matches, checking);
    }
    if let Some(at) = &filter.rewrite {
        all.rewrite = rewrite(at, matches, checking);
    }
    if let Some(at) = &filter.mirror {
        let share = share(at, checking);
        let backend = checking.backend(&at.backend_ref);
        all.mirrors
            .extend(backend.map(|backend| Mirror { backend, share }));
    }
}

/// How many requests of how many are mirrored.
fn share(raw: &At<raw::Mirror>, checking: &mut Checking<'_, '_>) -> (u32, u32) {
    let out = &mut checking.cx.out;
    if let (Some(percent), Some(_)) = (&raw.percent, &raw.fraction) {
        let why = "`fraction` says the same; expected one of them";
        out.error(&percent.place, why);
    }
    if let Some(fraction) = &raw.fraction {
        let denominator = fraction.denominator.as_ref();
        if let Some(at) = denominator.filter(|at| at.value == 0) {
            out.error(&at.place, "at least 1");
        }
        let of = denominator.map_or(100, |at| at.value);
        if fraction.numerator.value > of {
            let why = format!("more than the denominator, {of}");
            out.error(&fraction.numerator.place, why);
        }
        return (fraction.numerator.value, of);
    }
    let percent = raw.percent.as_ref();
    if let Some(at) = percent.filter(|at| at.value.0 > 100) {
        out.error(&at.place, "out of range, expected 0 to 100");
    }
    let percent = percent.map_or(100, |at| u32::try_from(at.value.0).unwrap_or(100));
    (percent, 100)
}

fn headers(
    raw: &At<raw::HeaderFilter>,
    of_request: bool,
    checking: &mut Checking<'_, '_>,
) -> HeaderChange {
    let mut seen: Vec<HeaderName> = Vec::new();
    let mut change = HeaderChange::default();
    if raw.set.is_none() && raw.add.is_none() && raw.remove.is_none() && raw.whole() {
        let why = "says nothing, expected `set`, `add` or `remove`";
        checking.cx.out.error(&raw.place, why);
    }
    let mut edits = |list: Option<&[raw::HeaderEdit]>, into: &mut Vec<_>| {
        for edit in list.into_iter().flatten() {
            let name = name(&edit.name, of_request, &mut seen, checking);
            let value = value(&edit.value, checking);
            into.extend(name.zip(value));
        }
    };
    edits(raw.set.as_deref(), &mut change.set);
    edits(raw.add.as_deref(), &mut change.add);
    for at in raw.remove.iter().flatten() {
        change
            .remove
            .extend(name(at, of_request, &mut seen, checking));
    }
    change
}

/// The name of a field that a route may change: not what frames the message, tells who calls or holds verified claims.
fn name(
    at: &At<String>,
    of_request: bool,
    seen: &mut Vec<HeaderName>,
    checking: &mut Checking<'_, '_>,
) -> Option<HeaderName> {
    let text = at.escape_debug().to_string();
    let out = &mut checking.cx.out;
    let Ok(name) = HeaderName::try_from(at.as_str()) else {
        let message = format!("`{text}` is not the name of a header field");
        out.error(&at.place, message);
        return None;
    };
    if field::is_reserved(name.as_str()) || (of_request && is_of_hops(name.as_str())) {
        let message = format!("`{text}` is not a route's to change");
        out.error(&at.place, message);
        return None;
    }
    if of_request && holds_claims(name.as_str(), checking.mesh) {
        let message = format!("`{text}` holds what a token says; a route may not say it");
        out.error(&at.place, message);
        return None;
    }
    if seen.contains(&name) {
        let message = format!("a second change of `{text}`");
        out.error(&at.place, message);
    }
    seen.push(name.clone());
    Some(name)
}

fn value(at: &At<AnyText>, checking: &mut Checking<'_, '_>) -> Option<HeaderValue> {
    let value = HeaderValue::try_from(at.0.trim()).ok();
    if value.is_none() {
        let why = "not the value of a header field: visible characters and spaces alone";
        checking.cx.out.error(&at.place, why);
    }
    value
}

fn host(at: Option<&At<String>>, checking: &mut Checking<'_, '_>) -> Option<Host> {
    let text = checking.cx.host(at?, false)?;
    Host::parse(&text).ok()
}

fn redirect(
    raw: &At<raw::Redirect>,
    matches: &[RouteMatch],
    checking: &mut Checking<'_, '_>,
) -> Option<Redirect> {
    let written = raw.status_code.as_ref();
    let status = written.map_or(302, |at| at.value);
    let status = match status {
        301 => StatusCode::MOVED_PERMANENTLY,
        302 => StatusCode::FOUND,
        303 => StatusCode::SEE_OTHER,
        307 => StatusCode::TEMPORARY_REDIRECT,
        308 => StatusCode::PERMANENT_REDIRECT,
        _ => {
            if let Some(at) = written {
                let why = "expected 301, 302, 303, 307 or 308";
                checking.cx.out.error(&at.place, why);
            }
            return None;
        }
    };
    let nothing = raw.scheme.is_none()
        && raw.hostname.is_none()
        && raw.port.is_none()
        && raw.path.is_none()
        && raw.whole();
    if nothing {
        let why =
            "would lead to where it comes from, expected `scheme`, `hostname`, `port` or `path`";
        checking.cx.out.error(&raw.place, why);
    }
    Some(Redirect {
        scheme: raw.scheme.map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }),
        host: host(raw.hostname.as_ref(), checking),
        port: raw.port.map(|port| port.0),
        path: raw.path.as_ref().and_then(|p| path(p, matches, checking)),
        status,
    })
}

fn rewrite(
    raw: &At<raw::UrlRewrite>,
    matches: &[RouteMatch],
    checking: &mut Checking<'_, '_>,
) -> Rewrite {
    if raw.hostname.is_none() && raw.path.is_none() && raw.whole() {
        let why = "says nothing, expected `hostname` or `path`";
        checking.cx.out.error(&raw.place, why);
    }
    Rewrite {
        host: host(raw.hostname.as_ref(), checking),
        path: raw.path.as_ref().and_then(|p| path(p, matches, checking)),
    }
}

fn path(
    raw: &raw::PathModifier,
    matches: &[RouteMatch],
    checking: &mut Checking<'_, '_>,
) -> Option<PathChange> {
    let (wanted, other, key) = match raw.kind.value {
        PathModifierType::Full => (&raw.full, &raw.prefix, "replaceFullPath"),
        PathModifierType::Prefix => (&raw.prefix, &raw.full, "replacePrefixMatch"),
    };
    if let Some(at) = other {
        let why = "not the key of this path's type";
        checking.cx.out.error(&at.place, why);
    }
    let Some(at) = wanted else {
        let why = format!("missing `{key}`");
        checking.cx.out.error(&raw.kind.place, why);
        return None;
    };
    let text = At {
        value: at.0.clone(),
        place: at.place.clone(),
    };
    match raw.kind.value {
        PathModifierType::Full if text.is_empty() => Some(PathChange::Full("/".to_owned())),
        PathModifierType::Full => checking.plain_path(&text).map(PathChange::Full),
        PathModifierType::Prefix => {
            let Some(prefix) = only_prefix(matches) else {
                let why = "needs exactly one match, of type PathPrefix, whose prefix it replaces";
                checking.cx.out.error(&raw.kind.place, why);
                return None;
            };
            let text = match text.is_empty() {
                true => String::new(),
                false => checking.plain_path(&text)?,
            };
            let kept = text.strip_suffix('/').unwrap_or(&text).to_owned();
            Some(PathChange::Prefix(prefix.len(), kept))
        }
    }
}

/// The prefix of a rule that has no other match.
fn only_prefix(matches: &[RouteMatch]) -> Option<&str> {
    match matches {
        [only] => match &only.path {
            PathMatch::Prefix(prefix) => Some(prefix),
            PathMatch::Exact(_) | PathMatch::Regex(_) => None,
        },
        _ => None,
    }
}
