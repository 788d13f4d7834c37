//! `[[httpRoute]]`: routes of an ingress.

use crate::config::check::Context;
use crate::config::checked::{GatewayClass, HttpRoute, Mesh, PathMatch, RouteRule};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::mesh::{self as raw, BackendRef, ParentRef, RoutePathType};
use crate::config::read::AnyText;
use crate::vocab::resource::ResourceName;

/// Every `[[httpRoute]]`.
pub(crate) fn routes(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files.iter().flat_map(|f| f.http_route.iter().flatten()) {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let parents = raw
            .parent_refs
            .iter()
            .filter_map(|p| parent(p, &name, mesh, cx))
            .collect();
        let hostnames = raw
            .hostnames
            .iter()
            .flatten()
            .filter_map(|at| cx.host(at, true))
            .collect();
        let rules = raw
            .rules
            .iter()
            .filter_map(|r| rule(r, &name, mesh, cx))
            .collect();
        mesh.routes.push(HttpRoute {
            name,
            parents,
            hostnames,
            rules,
        });
    }
}

/// A group and kind other than the ones that make sense here.
fn only(
    group: Option<&At<AnyText>>,
    kind: Option<&At<String>>,
    want: (&str, &str),
    cx: &mut Context<'_>,
) {
    if let Some(at) = group.filter(|at| at.0 != want.0) {
        cx.out.error(
            &at.place,
            format!(
                "`{}` is not supported here, expected `{}`",
                at.0.escape_debug(),
                want.0
            ),
        );
    }
    if let Some(at) = kind.filter(|at| at.value != want.1) {
        cx.out.error(
            &at.place,
            format!(
                "`{}` is not supported here, expected `{}`",
                at.escape_debug(),
                want.1
            ),
        );
    }
}

fn parent(
    raw: &ParentRef,
    route: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<String> {
    only(
        raw.group.as_ref(),
        raw.kind.as_ref(),
        ("gateway.networking.k8s.io", "Gateway"),
        cx,
    );
    if let Some(at) = raw
        .namespace
        .as_ref()
        .filter(|at| at.value != route.namespace)
    {
        cx.out.error(
            &at.place,
            format!(
                "a route attaches to a gateway of its own namespace `{}`",
                route.namespace
            ),
        );
    }
    let gateway = ResourceName::new(&route.namespace, &raw.name);
    if !cx.exists("gateway", &gateway, &raw.name.place) {
        return None;
    }
    // Only an ingress looks at routes; elsewhere the route would silently do nothing.
    if mesh
        .gateways
        .iter()
        .any(|g| g.name == gateway && g.class != GatewayClass::Ingress)
    {
        cx.out.error(
            &raw.name.place,
            format!("gateway `{gateway}` is not of class `ringgate-ingress`"),
        );
    }
    Some(raw.name.value.clone())
}

fn rule(
    raw: &raw::RouteRule,
    route: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<RouteRule> {
    let mut matches = Vec::new();
    for m in raw.matches.iter().flatten() {
        let value = &m.path.value;
        let plain = value
            .bytes()
            .all(|b| (0x21..0x7f).contains(&b) && !matches!(b, b'?' | b'#'));
        if !value.starts_with('/') || !plain {
            let text = value.escape_debug();
            cx.out.error(
                &value.place,
                format!("`{text}` is not a path, expected `/..` without query and fragment"),
            );
        }
        matches.push(match m.path.kind.unwrap_or(RoutePathType::PathPrefix) {
            RoutePathType::Exact => PathMatch::Exact(value.value.clone()),
            RoutePathType::PathPrefix => PathMatch::Prefix(value.value.clone()),
        });
    }
    if matches.is_empty() {
        matches.push(PathMatch::Prefix("/".to_owned()));
    }
    if raw.backend_refs.len() > 1 {
        cx.out.error(
            &raw.backend_refs.place,
            "more than one backend is not supported yet",
        );
    }
    let (service, port) = backend(raw.backend_refs.first()?, route, mesh, cx)?;
    Some(RouteRule {
        matches,
        service,
        port,
    })
}

fn backend(
    raw: &BackendRef,
    route: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<(usize, u16)> {
    let core = raw.group.as_ref().is_none_or(|at| at.0.is_empty());
    let service_kind = raw.kind.as_ref().is_none_or(|at| at.value == "Service");
    if !(core && service_kind) {
        only(
            raw.group.as_ref(),
            raw.kind.as_ref(),
            ("networking.istio.io", "ServiceEntry"),
            cx,
        );
    }
    let namespace = raw
        .namespace
        .as_ref()
        .map_or(route.namespace.as_str(), |at| &at.value);
    let name = ResourceName::new(namespace, &raw.name);
    if !cx.exists("serviceEntry", &name, &raw.name.place) {
        return None;
    }
    let index = mesh.services.iter().position(|s| s.name == name)?;
    let port = raw.port.0;
    let ports = mesh
        .services
        .get(index)
        .map(|s| s.ports.as_slice())
        .unwrap_or_default();
    if !ports.iter().any(|p| p.number == port) {
        cx.out.error(
            &raw.port.place,
            format!("serviceEntry `{name}` has no port `{port}`"),
        );
    }
    Some((index, port))
}
