//! `[[extensionProvider]]` of the kinds `envoyExtAuthzHttp` and `envoyExtAuthzGrpc`.

use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::check::Context;
use crate::config::checked::{Location, Mesh, Service};
use crate::config::nearest::hint;
use crate::config::place::At;
use crate::config::raw::authorizer as raw;
use crate::config::raw::mesh::{ExtensionProvider, Labels};
use crate::config::read::{MaybeEmpty, Millis, Port, Status};
use crate::extauthz::{Authorizer, BodyCheck, HttpSettings, Kind, Names, is_protected};
use crate::vocab::limits;

/// `timeout` where it is not written, in milliseconds, as in Istio: whoever asks a slow authorizer says so.
const TIMEOUT_MS: u64 = 600_000;

/// The authorizer of a provider, if it is of these kinds and its service is known.
pub(crate) fn authorizer(
    raw: &ExtensionProvider,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<Authorizer> {
    let (common, kind) = match (&raw.http, &raw.grpc) {
        (Some(http), _) => (Common::of_http(http), Kind::Http(http_settings(http, cx))),
        (None, Some(grpc)) => (Common::of_grpc(grpc), Kind::Grpc),
        (None, None) => return None,
    };
    common.warn(cx);
    let timeout_ms = common.timeout_ms(cx);
    let body = common.body.map(|body| body_check(body, cx));
    let (service, host) = service(&common, &kind, mesh, cx)?;
    Some(Authorizer {
        name: raw.name.value.clone(),
        service,
        host,
        port: common.port.value.0,
        timeout_ms,
        fail_open: common.fail_open.is_some_and(|at| at.value),
        status_on_error: common
            .status
            .and_then(|at| StatusCode::from_u16(at.value.0).ok())
            .unwrap_or(StatusCode::FORBIDDEN),
        body,
        kind,
    })
}

/// What both kinds have.
struct Common<'r> {
    service: &'r At<String>,
    port: &'r At<Port>,
    timeout: Option<&'r At<Millis>>,
    fail_open: Option<&'r At<bool>>,
    status: Option<&'r At<Status>>,
    body: Option<&'r raw::BodyCheck>,
    clear_route_cache: Option<&'r At<bool>>,
}

impl<'r> Common<'r> {
    fn of_http(raw: &'r raw::EnvoyExtAuthzHttp) -> Self {
        Self {
            service: &raw.service,
            port: &raw.port,
            timeout: raw.timeout.as_ref(),
            fail_open: raw.fail_open.as_ref(),
            status: raw.status_on_error.as_ref(),
            body: raw.body.as_ref(),
            clear_route_cache: raw.clear_route_cache.as_ref(),
        }
    }

    fn of_grpc(raw: &'r raw::EnvoyExtAuthzGrpc) -> Self {
        Self {
            service: &raw.service,
            port: &raw.port,
            timeout: raw.timeout.as_ref(),
            fail_open: raw.fail_open.as_ref(),
            status: raw.status_on_error.as_ref(),
            body: raw.body.as_ref(),
            clear_route_cache: raw.clear_route_cache.as_ref(),
        }
    }

    fn warn(&self, cx: &mut Context<'_>) {
        if let Some(at) = self.fail_open.filter(|at| at.value) {
            cx.out.warn(
                &at.place,
                "whenever the authorizer cannot be asked, what its policies match goes on without it",
            );
        }
        if let Some(at) = self.clear_route_cache.filter(|at| at.value) {
            cx.out.warn(
                &at.place,
                "has no effect: a route is chosen by host and path, which no authorizer changes",
            );
        }
    }

    fn timeout_ms(&self, cx: &mut Context<'_>) -> u64 {
        let Some(at) = self.timeout else {
            return TIMEOUT_MS;
        };
        if !(1..=TIMEOUT_MS).contains(&at.value.0) {
            cx.out
                .error(&at.place, "out of range, expected \"1ms\" to \"10m\"");
        }
        at.value.0
    }
}

fn body_check(raw: &raw::BodyCheck, cx: &mut Context<'_>) -> BodyCheck {
    let max = &raw.max_request_bytes;
    let max_bytes = usize::try_from(max.value).unwrap_or(usize::MAX);
    if !(1..=limits::HELD_BODY_BYTES).contains(&max_bytes) {
        cx.out.error(
            &max.place,
            format!("out of range, expected 1 to {}", limits::HELD_BODY_BYTES),
        );
    }
    BodyCheck {
        max_bytes,
        allow_partial: raw.allow_partial_message.unwrap_or(false),
        pack_as_bytes: raw.pack_as_bytes.unwrap_or(false),
    }
}

/// The service that is asked, and its host.
fn service(
    common: &Common<'_>,
    kind: &Kind,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<(usize, String)> {
    let (written, place) = (&common.service.value, &common.service.place);
    let (namespace, host) = match written.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host.to_ascii_lowercase()),
        None => (None, written.to_ascii_lowercase()),
    };
    let has =
        |s: &Service| namespace.is_none_or(|ns| ns == s.name.namespace) && s.hosts.contains(&host);
    let found = mesh.services.iter().position(has);
    let Some(at) = found.filter(|_| !host.starts_with('*')) else {
        if !cx.known.unsure() {
            let all = mesh.services.iter().flat_map(|s| &s.hosts);
            let near = hint(&host, all.map(String::as_str));
            let text = written.escape_debug();
            cx.out.error(
                place,
                format!("there is no serviceEntry with the host `{text}`{near}"),
            );
        }
        return None;
    };
    let service = mesh.services.get(at)?;
    if !service
        .ports
        .iter()
        .any(|p| p.number == common.port.value.0)
    {
        cx.out.error(
            &common.port.place,
            format!(
                "serviceEntry `{}` has no port {}",
                service.name, common.port.value.0
            ),
        );
        return None;
    }
    let by_egress = service.location == Location::External && service.waypoint.is_some();
    if by_egress && matches!(kind, Kind::Http(_)) {
        // Envoy's HTTP contract asks with the host of the request that is judged.
        cx.out.error(
            place,
            "an egress gateway lets only a service's own hosts through, and an HTTP authorizer is asked with the host of \
             the request: expected envoyExtAuthzGrpc, or a service without `istio.io/use-waypoint`",
        );
        return None;
    }
    Some((at, host))
}

fn http_settings(raw: &raw::EnvoyExtAuthzHttp, cx: &mut Context<'_>) -> HttpSettings {
    HttpSettings {
        path_prefix: raw
            .path_prefix
            .as_ref()
            .map(|at| path_prefix(at, cx))
            .unwrap_or_default(),
        request_headers: names(raw.request_headers.as_ref().map(list), false, cx),
        additional: raw
            .additional_headers
            .as_ref()
            .map(|l| additional(l, cx))
            .unwrap_or_default(),
        to_upstream: names(raw.to_upstream.as_ref().map(list), true, cx),
        to_downstream_on_allow: names(raw.to_downstream_on_allow.as_ref().map(list), false, cx),
        to_downstream_on_deny: raw
            .to_downstream_on_deny
            .as_ref()
            .map(|list| names(Some(list), false, cx)),
    }
}

fn list(written: &MaybeEmpty<At<String>>) -> &Vec<At<String>> {
    &written.0
}

/// The prefix as it is put before a path.
fn path_prefix(at: &At<String>, cx: &mut Context<'_>) -> String {
    let segments = || at.split('/').skip(1);
    let valid = at.starts_with('/')
        && at
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !b"?#\\".contains(&b))
        && !segments().any(|s| s == "." || s == "..");
    if !valid {
        let text = at.escape_debug();
        cx.out.error(
            &at.place,
            format!("`{text}` is not a path such as `/check`"),
        );
    }
    at.strip_suffix('/').unwrap_or(at).to_owned()
}

/// Header names; with `sets`, none that an authorizer may not set.
fn names(written: Option<&Vec<At<String>>>, sets: bool, cx: &mut Context<'_>) -> Names {
    let mut names = Names::default();
    for at in written.into_iter().flatten() {
        let text = at.escape_debug();
        if !names.push(at) {
            cx.out.error(
                &at.place,
                format!("`{text}` is not a header name, expected `x-a`, `x-*` or `*-a`"),
            );
        } else if sets && is_protected(&at.to_ascii_lowercase()) {
            cx.out
                .error(&at.place, format!("`{text}` is not an authorizer's to set"));
        }
    }
    names
}

fn additional(written: &Labels, cx: &mut Context<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let mut out = Vec::new();
    for (name, value) in &written.0 {
        let text = name.escape_debug();
        let parsed = HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes());
        match (parsed, HeaderValue::try_from(&value.0)) {
            (Ok(parsed), _) if is_protected(parsed.as_str()) => {
                cx.out.error(
                    &name.place,
                    format!("`{text}` says how the question itself is read"),
                );
            }
            (Ok(parsed), Ok(value)) => out.push((parsed, value)),
            (Err(_), _) => cx
                .out
                .error(&name.place, format!("`{text}` is not a header name")),
            (Ok(_), Err(_)) => cx.out.error(&value.place, "is no value of a header field"),
        }
    }
    out
}
