//! `[[httpRoute]]` (Gateway API's HTTPRoute): parents, matches, backends, times.

use http::{HeaderName, Method, StatusCode};

use crate::config::check::route_filter::{self, Filters};
use crate::config::check::{Context, route_bound};
use crate::config::checked::Mesh;
use crate::config::checked::route::{
    Backend, FieldMatch, HttpRoute, PathMatch, Retry, RouteMatch, RouteParent, RouteRule, Timeouts,
    ValueMatch, WeightedBackend,
};
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::route as raw;
use crate::config::read::{AnyText, Millis, Table as _};
use crate::policy::Regexes;
use crate::vocab::limits;
use crate::vocab::path::CanonicalPath;
use crate::vocab::resource::ResourceName;

/// What the rules of one route are checked against.
pub(crate) struct Checking<'c, 'o> {
    pub(crate) mesh: &'c Mesh,
    pub(crate) route: &'c ResourceName,
    pub(crate) cx: &'c mut Context<'o>,
    regexes: &'c mut Regexes,
}

/// Every `[[httpRoute]]`.
pub(crate) fn routes(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    let mut regexes = Regexes::default();
    let mut all = Vec::new();
    for raw in files.iter().flat_map(|f| f.http_route.iter().flatten()) {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let mut checking = Checking {
            mesh,
            route: &name,
            cx,
            regexes: &mut regexes,
        };
        let parents: Vec<RouteParent> = raw
            .parent_refs
            .iter()
            .filter_map(|p| checking.parent(p))
            .collect();
        if let Some(first) = raw.hostnames.iter().flatten().next()
            && !parents.is_empty()
            && !parents.iter().any(|p| matches!(p, RouteParent::Gateway(_)))
        {
            let why = "a service has its own hosts: `hostnames` count at gateways alone";
            checking.cx.out.warn(&first.place, why);
        }
        let hostnames = raw.hostnames.iter().flatten();
        let hostnames = hostnames.filter_map(|at| {
            let host = checking.cx.host(at, true)?;
            checking.cx.out.name_host(&at.place, &name, &host);
            Some(host)
        });
        let hostnames = hostnames.collect();
        let mut rules: Vec<RouteRule> = Vec::new();
        for (nth, raw) in raw.rules.iter().enumerate() {
            let Some(rule) = checking.rule(nth, raw) else {
                continue;
            };
            if rules.iter().any(|other| other.label == rule.label) {
                let place = raw
                    .name
                    .as_ref()
                    .map_or_else(|| raw.place(), |name| &name.place);
                let label = rule.label.escape_debug();
                let why = format!("a second rule `{label}`, which records would not tell apart");
                checking.cx.out.error(place, why);
            }
            rules.push(rule);
        }
        all.push(HttpRoute {
            name,
            parents,
            hostnames,
            rules,
        });
    }
    mesh.routes = all;
    route_bound::bounded(files, mesh, &mut regexes, cx);
}

/// A group and kind other than the ones that make sense here.
fn only(
    group: Option<&At<AnyText>>,
    kind: Option<&At<String>>,
    want: (&str, &str),
    cx: &mut Context<'_>,
) {
    let mut differs = |place: &Place, found: &str, want: &str| {
        if found != want {
            let found = found.escape_debug();
            let message = format!("`{found}` is not supported here, expected `{want}`");
            cx.out.error(place, message);
        }
    };
    if let Some(at) = group {
        differs(&at.place, &at.0, want.0);
    }
    if let Some(at) = kind {
        differs(&at.place, at, want.1);
    }
}

/// Whether group and kind mean a service: Kubernetes' Service is a serviceEntry inside the mesh here.
fn is_service(group: Option<&At<AnyText>>, kind: Option<&At<String>>) -> bool {
    let group = group.map_or("", |at| at.0.as_str());
    match kind.map(|at| at.value.as_str()) {
        Some("ServiceEntry") => group == "networking.istio.io",
        Some("Service") | None => group.is_empty(),
        Some(_) => false,
    }
}

impl Checking<'_, '_> {
    fn parent(&mut self, raw: &raw::ParentRef) -> Option<RouteParent> {
        let (route, cx) = (self.route, &mut *self.cx);
        let service = raw.kind.is_some() && is_service(raw.group.as_ref(), raw.kind.as_ref());
        if let Some(at) = raw
            .namespace
            .as_ref()
            .filter(|at| at.value != route.namespace)
        {
            let what = if service { "service" } else { "gateway" };
            let own = &route.namespace;
            let message = format!("a route attaches to a {what} of its own namespace `{own}`");
            cx.out.error(&at.place, message);
        }
        let name = ResourceName::new(&route.namespace, &raw.name);
        if service {
            return self.service_parent(raw, &name);
        }
        let gateway = ("gateway.networking.k8s.io", "Gateway");
        only(raw.group.as_ref(), raw.kind.as_ref(), gateway, cx);
        if let Some(at) = &raw.port {
            let why = "counts at services alone; a gateway's routes hold at all of its listeners";
            cx.out.error(&at.place, why);
        }
        if !cx.exists("gateway", &name, &raw.name.place) {
            return None;
        }
        let at = self.mesh.gateways.iter().position(|g| g.name == name)?;
        Some(RouteParent::Gateway(at))
    }

    fn service_parent(&mut self, raw: &raw::ParentRef, name: &ResourceName) -> Option<RouteParent> {
        let cx = &mut *self.cx;
        if !cx.exists("serviceEntry", name, &raw.name.place) {
            return None;
        }
        let at = self.mesh.services.iter().position(|s| s.name == *name)?;
        let service = self.mesh.services.get(at)?;
        // Only who reads HTTP looks at routes; without a waypoint the route would silently do nothing.
        if service.waypoint.is_none() {
            let message = format!(
                "serviceEntry `{name}` has no waypoint or egress gateway, where its routes would hold"
            );
            cx.out.error(&raw.name.place, message);
        }
        let port = raw.port.as_ref().map(|at| (at.0, &at.place));
        if let Some((port, place)) = port
            && !service.ports.iter().any(|p| p.number == port)
        {
            let message = format!("serviceEntry `{name}` has no port `{port}`");
            cx.out.error(place, message);
        }
        Some(RouteParent::Service(at, port.map(|(port, _)| port)))
    }

    fn rule(&mut self, nth: usize, raw: &raw::RouteRule) -> Option<RouteRule> {
        let mut matches = Vec::new();
        for m in raw.matches.iter().flatten() {
            matches.extend(self.one_match(m));
        }
        if raw.matches.is_none() {
            matches.push(RouteMatch {
                path: PathMatch::Prefix(String::new()),
                method: None,
                headers: Vec::new(),
                query: Vec::new(),
            });
        }
        let Filters {
            redirect,
            rewrite,
            request_headers,
            response_headers,
            mirrors,
        } = route_filter::filters(raw.filters.as_deref(), &matches, self);
        if redirect.is_some() && !mirrors.is_empty() {
            let mut filters = raw.filters.iter().flatten();
            let mirror = filters.find_map(|filter| filter.mirror.as_ref());
            let place = mirror.map_or_else(|| raw.place(), |at| &at.place);
            let why = "a rule that redirects sends nothing that could be mirrored";
            self.cx.out.error(place, why);
        }
        let backends = self.backends(raw, redirect.is_some())?;
        let label = match &raw.name {
            Some(name) => format!("{}/{}", self.route, name.value),
            None => format!("{}/{nth}", self.route),
        };
        Some(RouteRule {
            label: label.into(),
            matches,
            redirect,
            rewrite,
            request_headers,
            response_headers,
            mirrors,
            backends,
            timeouts: self.timeouts(raw.timeouts.as_ref()),
            retry: raw.retry.as_ref().map(|retry| self.retry(retry)),
        })
    }

    fn backends(&mut self, raw: &raw::RouteRule, redirects: bool) -> Option<Vec<WeightedBackend>> {
        let Some(refs) = &raw.backend_refs else {
            let mut filters = raw.filters.iter().flatten();
            let wants = filters.any(|f| f.kind.value == raw::FilterType::RequestRedirect);
            if !wants {
                let why = "missing, expected a backend or a filter `RequestRedirect`";
                let place = raw.place().key("backendRefs", raw.place().offset);
                self.cx.out.error(&place, why);
            }
            return redirects.then(Vec::new);
        };
        if redirects {
            let why = "a rule that redirects has no backend";
            self.cx.out.error(&refs.place, why);
        }
        let mut backends = Vec::new();
        for raw in &refs.value {
            let weight = raw.weight.as_ref().map_or(1, |at| at.value);
            if let Some(at) = raw.weight.as_ref().filter(|at| at.value > 1_000_000) {
                self.cx
                    .out
                    .error(&at.place, "out of range, expected 0 to 1000000");
            }
            let backend = self.backend(raw);
            backends.extend(backend.map(|backend| WeightedBackend { backend, weight }));
        }
        if !backends.is_empty() && backends.iter().all(|b| b.weight == 0) {
            let why = "all weights are 0: it would lead nowhere";
            self.cx.out.error(&refs.place, why);
        }
        (!backends.is_empty()).then_some(backends)
    }

    /// A `backendRef`.
    pub(crate) fn backend(&mut self, raw: &raw::BackendRef) -> Option<Backend> {
        let cx = &mut *self.cx;
        if !is_service(raw.group.as_ref(), raw.kind.as_ref()) {
            let entry = ("networking.istio.io", "ServiceEntry");
            only(raw.group.as_ref(), raw.kind.as_ref(), entry, cx);
        }
        let namespace = raw.namespace.as_ref();
        let namespace = namespace.map_or(self.route.namespace.as_str(), |at| &at.value);
        let name = ResourceName::new(namespace, &raw.name);
        if !cx.exists("serviceEntry", &name, &raw.name.place) {
            return None;
        }
        let service = self.mesh.services.iter().position(|s| s.name == name)?;
        let port = raw.port.0;
        let declared = self.mesh.services.get(service)?;
        if !declared.is_visible_in(&self.route.namespace) {
            let (own, whose) = (&self.route.namespace, "which its `exportTo` leaves out");
            cx.out.error(
                &raw.name.place,
                format!("serviceEntry `{name}` is not for namespace `{own}`, {whose}"),
            );
        }
        if !declared.ports.iter().any(|p| p.number == port) {
            cx.out.error(
                &raw.port.place,
                format!("serviceEntry `{name}` has no port `{port}`"),
            );
        }
        Some(Backend { service, port })
    }

    fn one_match(&mut self, raw: &raw::RouteMatch) -> Option<RouteMatch> {
        let path = match &raw.path {
            Some(path) => self.path(path),
            None => Some(PathMatch::Prefix(String::new())),
        };
        let method = raw.method.as_ref().and_then(|at| self.method(at));
        let headers = self.fields(raw.headers.as_deref(), true);
        let query = self.fields(raw.query.as_deref(), false);
        // Without one of its conditions it would match more than is meant.
        if !raw.whole() || path.is_none() || (raw.method.is_some() && method.is_none()) {
            return None;
        }
        Some(RouteMatch {
            path: path?,
            method,
            headers: headers?,
            query: query?,
        })
    }

    fn method(&mut self, at: &At<String>) -> Option<Method> {
        let method = Method::from_bytes(at.as_bytes()).ok();
        let known =
            |m: &Method| *m != Method::CONNECT && at.bytes().all(|b| b.is_ascii_uppercase());
        let method = method.filter(known);
        if method.is_none() {
            let text = at.escape_debug();
            let message = format!("`{text}` is not a method that has a path, such as GET");
            self.cx.out.error(&at.place, message);
        }
        method
    }

    fn path(&mut self, raw: &raw::RoutePath) -> Option<PathMatch> {
        let kind = raw.kind.unwrap_or(raw::RoutePathType::PathPrefix);
        let Some(at) = &raw.value else {
            return Some(match kind {
                raw::RoutePathType::Exact => PathMatch::Exact("/".to_owned()),
                raw::RoutePathType::PathPrefix => PathMatch::Prefix(String::new()),
                raw::RoutePathType::RegularExpression => PathMatch::Regex("/".to_owned()),
            });
        };
        match kind {
            raw::RoutePathType::Exact => Some(PathMatch::Exact(self.plain_path(at)?)),
            raw::RoutePathType::PathPrefix => {
                let path = self.plain_path(at)?;
                let path = path.strip_suffix('/').unwrap_or(&path);
                Some(PathMatch::Prefix(path.to_owned()))
            }
            raw::RoutePathType::RegularExpression => {
                self.regex(&at.value, &at.place)?;
                Some(PathMatch::Regex(at.value.clone()))
            }
        }
    }

    /// A path as requests have it once they are canonical; another spelling would match nothing.
    pub(crate) fn plain_path(&mut self, at: &At<String>) -> Option<String> {
        let text = at.escape_debug();
        let mode = self.mesh.path_normalization;
        let path = at.value.as_str();
        let canonical = CanonicalPath::parse(mode, path).ok();
        let canonical = canonical.filter(|_| !path.contains(['?', '#']));
        match canonical {
            None => {
                let why =
                    format!("`{text}` is not a path, expected `/..` without query and fragment");
                self.cx.out.error(&at.place, why);
                None
            }
            Some(canonical) if canonical.as_str() != path => {
                let like = canonical.as_str();
                let why = format!("no request has the path `{text}`: it is normalized to `{like}`");
                self.cx.out.error(&at.place, why);
                None
            }
            Some(_) => Some(path.to_owned()),
        }
    }

    fn regex(&mut self, pattern: &str, place: &Place) -> Option<()> {
        match self.regexes.whole(pattern) {
            Ok(_) => Some(()),
            Err(why) => {
                self.cx.out.error(place, why);
                None
            }
        }
    }

    fn fields(&mut self, raw: Option<&[raw::FieldMatch]>, header: bool) -> Option<Vec<FieldMatch>> {
        let mut fields: Vec<FieldMatch> = Vec::new();
        let mut whole = true;
        for field in raw.into_iter().flatten() {
            let name = if header {
                match HeaderName::try_from(field.name.as_str()) {
                    Ok(name) => name.as_str().to_owned(),
                    Err(_) => {
                        let text = field.name.escape_debug();
                        let message = format!("`{text}` is not the name of a header field");
                        self.cx.out.error(&field.name.place, message);
                        whole = false;
                        continue;
                    }
                }
            } else {
                field.name.value.clone()
            };
            if header && route_filter::holds_claims(&name, self.mesh) {
                let text = name.escape_debug();
                let why =
                    "holds what a token says, which is not verified yet when a route is chosen";
                self.cx
                    .out
                    .error(&field.name.place, format!("`{text}` {why}"));
            }
            if fields.iter().any(|f| f.name == name) {
                let message = format!("a second match of `{}`", name.escape_debug());
                self.cx.out.error(&field.name.place, message);
            }
            let text = &field.value.0;
            let value = match field.kind.unwrap_or(raw::FieldType::Exact) {
                raw::FieldType::Exact => ValueMatch::Exact(text.clone()),
                raw::FieldType::RegularExpression => {
                    whole &= self.regex(text, &field.value.place).is_some();
                    ValueMatch::Regex(text.clone())
                }
            };
            fields.push(FieldMatch { name, value });
        }
        whole.then_some(fields)
    }

    fn timeouts(&mut self, raw: Option<&raw::Timeouts>) -> Timeouts {
        let Some(raw) = raw else {
            return Timeouts::default();
        };
        let mut ms = |at: Option<&At<Millis>>| {
            let at = at?;
            if at.value.0 > limits::ROUTE_TIMEOUT_MS {
                self.cx.out.error(&at.place, "at most 24h");
            }
            // Gateway API: zero turns it off.
            (at.value.0 > 0).then_some(at.value.0)
        };
        let times = Timeouts {
            request_ms: ms(raw.request.as_ref()),
            backend_request_ms: ms(raw.backend_request.as_ref()),
            idle_ms: ms(raw.idle.as_ref()),
            stream_ms: ms(raw.stream.as_ref()),
        };
        if let (Some(request), Some(one), Some(at)) = (
            times.request_ms,
            times.backend_request_ms,
            &raw.backend_request,
        ) && one > request
        {
            let why = "longer than `request`, which takes in all attempts";
            self.cx.out.error(&at.place, why);
        }
        times
    }

    fn retry(&mut self, raw: &raw::Retry) -> Retry {
        let mut codes = Vec::new();
        for at in raw.codes.iter().flatten() {
            let code = u16::try_from(at.value)
                .ok()
                .filter(|c| (400..600).contains(c));
            match code.and_then(|c| StatusCode::from_u16(c).ok()) {
                Some(code) => codes.push(code),
                None => self
                    .cx
                    .out
                    .error(&at.place, "out of range, expected 400 to 599"),
            }
        }
        let attempts = raw.attempts.as_ref();
        if let Some(at) = attempts.filter(|at| at.value.0 > limits::ROUTE_RETRIES) {
            let most = limits::ROUTE_RETRIES;
            let message = format!("out of range, expected 0 to {most}");
            self.cx.out.error(&at.place, message);
        }
        let backoff = raw.backoff.as_ref();
        if let Some(at) = backoff.filter(|at| at.value.0 > limits::RETRY_BACKOFF_MS) {
            self.cx.out.error(&at.place, "at most 10s");
        }
        let any_method = raw.any_method.as_ref().is_some_and(|at| at.value);
        if let Some(at) = raw.any_method.as_ref().filter(|_| any_method) {
            let why = "what may not be done twice may be done twice";
            self.cx.out.warn(&at.place, why);
        }
        Retry {
            codes,
            attempts: attempts.map_or(1, |at| u32::try_from(at.value.0).unwrap_or(1)),
            backoff_ms: backoff.map_or(limits::RETRY_BACKOFF_LEAST_MS, |at| at.value.0),
            any_method,
        }
    }
}
