//! What a policy is attached to (policy semantics section 4).

use std::collections::BTreeMap;

use crate::config::check::Context;
use crate::config::check::mesh::labels;
use crate::config::checked::{Gateway, GatewayClass, Location, Mesh, Service, Workload};
use crate::config::nearest::hint;
use crate::config::place::{At, Place};
use crate::config::raw::policy as raw;
use crate::config::read::Table;
use crate::policy::attach::GATEWAY_NAME_LABEL;
use crate::policy::model::{Target, TargetKind, TargetRef};
use crate::policy::verdict::Decision;
use crate::policy::{Point, PointKind, attaches};
use crate::vocab::resource::ResourceName;

/// Classes that a policy of the root namespace may name.
const CLASSES: [&str; 3] = ["istio-waypoint", "ringgate-ingress", "ringgate-egress"];

/// Kinds that a policy may name; a Service of Kubernetes is a serviceEntry inside the mesh here.
const KINDS: [&str; 5] = [
    "Gateway",
    "GatewayClass",
    "Service",
    "ServiceEntry",
    "ServiceAccount",
];

/// The three keys of which one may be set.
#[derive(Debug)]
pub(crate) struct Attachment<'r> {
    pub(crate) selector: Option<&'r At<raw::Selector>>,
    pub(crate) target_ref: Option<&'r At<raw::TargetRef>>,
    pub(crate) target_refs: Option<&'r At<Vec<raw::TargetRef>>>,
    /// Place of the policy's name, for what concerns the policy as a whole.
    pub(crate) name: &'r Place,
}

/// `selector.matchLabels`; `None` for none or an empty one.
pub(crate) fn selector(
    raw: Option<&At<raw::Selector>>,
    cx: &mut Context<'_>,
) -> Option<BTreeMap<String, String>> {
    let raw = raw?;
    let written = raw.match_labels.as_ref();
    for (key, value) in written.iter().flat_map(|l| &l.value.0) {
        if key.contains('*') || value.0.contains('*') {
            cx.out
                .error(&value.place, "labels are compared exactly, expected no `*`");
        }
    }
    let wanted = labels(written.map(|l| &l.value));
    if wanted.is_empty() && raw.value.whole() {
        cx.out.warn(
            &raw.place,
            "an empty selector takes every workload of the namespace",
        );
    }
    (!wanted.is_empty()).then_some(wanted)
}

/// The target of a policy; a reference to nothing is a problem, a selector that takes nothing a warning.
pub(crate) fn target(
    raw: &Attachment<'_>,
    policy: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Target {
    let set = [
        raw.selector.map(|at| &at.place),
        raw.target_ref.map(|at| &at.place),
        raw.target_refs.map(|at| &at.place),
    ];
    let mut set = set.into_iter().flatten();
    if let (Some(_), Some(second)) = (set.next(), set.next()) {
        cx.out.error(
            second,
            "only one of `selector`, `targetRef` and `targetRefs` may be set",
        );
    }
    let single = raw.target_ref.map(|at| &at.value).into_iter();
    let refs: Vec<&raw::TargetRef> = single
        .chain(raw.target_refs.iter().flat_map(|at| &at.value))
        .collect();
    if !refs.is_empty() {
        return Target::Refs(
            refs.into_iter()
                .filter_map(|r| target_ref(r, policy, mesh, cx))
                .collect(),
        );
    }
    let target = selector(raw.selector, cx).map_or(Target::Namespace, Target::Selector);
    if let (Some(at), Some(gateway)) = (raw.selector, named_gateway(&target, mesh))
        && cx.out.is_istio(&at.place)
        && (cx.partial || has_gateway(mesh, policy, gateway))
    {
        cx.out.warn(
            &at.place,
            format!(
                "enforced here at gateway `{}/{gateway}`, but by Istio nowhere: `{GATEWAY_NAME_LABEL}` is no label of its gateways, and its waypoints ignore selectors; `targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {gateway}}}]` means the same to both",
                policy.namespace
            ),
        );
    }
    if !cx.partial && !takes_something(&target, policy, mesh) {
        let place = raw.selector.map_or(raw.name, |at| &at.place);
        cx.out.warn(
            place,
            "attaches to nothing: no workload or gateway is selected by it",
        );
    }
    target
}

fn has_gateway(mesh: &Mesh, policy: &ResourceName, gateway: &str) -> bool {
    let named = |g: &Gateway| g.name.name == gateway && g.name.namespace == policy.namespace;
    mesh.gateways.iter().any(named)
}

/// The gateway that a selector names by the label of the talk, if that is on.
fn named_gateway<'t>(target: &'t Target, mesh: &Mesh) -> Option<&'t str> {
    match target {
        Target::Selector(labels) if mesh.gateway_name_selector && labels.len() == 1 => {
            labels.get(GATEWAY_NAME_LABEL).map(String::as_str)
        }
        Target::Selector(_) | Target::Namespace | Target::Refs(_) => None,
    }
}

/// Whether a target takes any workload or gateway of the mesh, by the engine's own rule.
fn takes_something(target: &Target, policy: &ResourceName, mesh: &Mesh) -> bool {
    let gateway = |g: &Gateway| Point {
        kind: match g.class {
            GatewayClass::Waypoint => PointKind::Waypoint,
            GatewayClass::Ingress => PointKind::Gateway,
            GatewayClass::Egress => PointKind::Egress,
        },
        namespace: g.name.namespace.clone(),
        labels: g.labels.clone(),
        gateway: Some(g.name.name.clone()),
        services: Vec::new(),
        accounts: Vec::new(),
        default: Decision::Deny,
    };
    let workload = |w: &Workload| Point {
        kind: PointKind::Workload,
        namespace: w.name.namespace.clone(),
        labels: w.labels.clone(),
        gateway: None,
        services: Vec::new(),
        accounts: w.account().into_iter().collect(),
        default: Decision::Deny,
    };
    let points = mesh
        .workloads
        .iter()
        .map(workload)
        .chain(mesh.gateways.iter().map(gateway));
    points
        .into_iter()
        .any(|point| attaches(target, &policy.namespace, &point, mesh.scope()))
}

fn target_ref(
    raw: &raw::TargetRef,
    policy: &ResourceName,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<TargetRef> {
    if let Some(at) = raw.namespace.as_ref().filter(|at| !at.0.is_empty()) {
        cx.out.error(
            &at.place,
            "a target is in the policy's own namespace; leave the key out",
        );
    }
    let (group, kind) = match raw.kind.as_str() {
        "Gateway" => ("gateway.networking.k8s.io", TargetKind::Gateway),
        "GatewayClass" => ("gateway.networking.k8s.io", TargetKind::GatewayClass),
        "Service" => ("", TargetKind::Service),
        "ServiceEntry" => ("networking.istio.io", TargetKind::ServiceEntry),
        "ServiceAccount" => ("", TargetKind::ServiceAccount),
        other => {
            let near = hint(other, KINDS);
            let text = other.escape_debug();
            cx.out.error(
                &raw.kind.place,
                format!("`{text}` is not one of {}{near}", KINDS.join(", ")),
            );
            return None;
        }
    };
    let written = raw.group.as_ref().map_or("", |at| &at.0);
    if written != group && !(written == "core" && group.is_empty()) {
        let place = raw
            .group
            .as_ref()
            .map_or_else(|| raw.place(), |at| &at.place);
        let kind = &raw.kind.value;
        let message = if written.is_empty() {
            format!("kind `{kind}` needs `group`, expected `{group}`")
        } else {
            let written = written.escape_debug();
            format!("`{written}` has no kind `{kind}`, expected group `{group}`")
        };
        cx.out.error(place, message);
        return None;
    }
    let name = ResourceName::new(&policy.namespace, &raw.name);
    match kind {
        TargetKind::Gateway => {
            cx.exists("gateway", &name, &raw.name.place);
        }
        TargetKind::GatewayClass => gateway_class(raw, policy, mesh, cx),
        TargetKind::ServiceEntry => service_entry(raw, &name, mesh, cx),
        TargetKind::ServiceAccount => service_account(raw, &name, mesh, cx),
        TargetKind::Service if cx.partial => {}
        TargetKind::Service => {
            service(raw, &name, mesh, cx);
            return Some(TargetRef {
                kind: TargetKind::ServiceEntry,
                name: raw.name.value.clone(),
            });
        }
    }
    Some(TargetRef {
        kind,
        name: raw.name.value.clone(),
    })
}

fn gateway_class(raw: &raw::TargetRef, policy: &ResourceName, mesh: &Mesh, cx: &mut Context<'_>) {
    if cx.partial {
        // The root namespace and the classes are those of a mesh that is not here.
        return;
    }
    if !CLASSES.contains(&raw.name.as_str()) {
        let (text, near) = (raw.name.escape_debug(), hint(&raw.name, CLASSES));
        cx.out.error(
            &raw.name.place,
            format!("`{text}` is not one of {}{near}", CLASSES.join(", ")),
        );
    }
    if policy.namespace != mesh.root_namespace {
        let root = &mesh.root_namespace;
        cx.out.error(
            &raw.kind.place,
            format!("only a policy of the root namespace `{root}` may name a GatewayClass"),
        );
    }
    let class = |class| match class {
        GatewayClass::Waypoint => "istio-waypoint",
        GatewayClass::Ingress => "ringgate-ingress",
        GatewayClass::Egress => "ringgate-egress",
    };
    if !cx.unsure()
        && !mesh
            .gateways
            .iter()
            .any(|g| class(g.class) == raw.name.value)
    {
        cx.out.warn(
            &raw.name.place,
            "attaches to nothing: no gateway is of this class",
        );
    }
}

fn service_account(raw: &raw::TargetRef, name: &ResourceName, mesh: &Mesh, cx: &mut Context<'_>) {
    let accounts: Vec<ResourceName> = mesh
        .workloads
        .iter()
        .filter_map(Workload::account)
        .collect();
    if !accounts.contains(name) && !cx.unsure() {
        let near = hint(&raw.name, accounts.iter().map(|a| a.name.as_str()));
        cx.out.error(
            &raw.name.place,
            format!("no workload runs as service account `{name}`{near}"),
        );
    }
}

/// A Service of Kubernetes is a serviceEntry inside the mesh here, as it is for the backends of a route.
fn service(raw: &raw::TargetRef, name: &ResourceName, mesh: &Mesh, cx: &mut Context<'_>) {
    let external = |s: &Service| s.name == *name && s.location == Location::External;
    if mesh.services.iter().any(external) {
        cx.out.error(
            &raw.kind.place,
            format!("serviceEntry `{name}` is outside the mesh, expected kind `ServiceEntry`, group `networking.istio.io`"),
        );
    }
    service_entry(raw, name, mesh, cx);
}

/// A policy for a service is enforced at the service's waypoint or egress gateway, and nowhere else.
fn service_entry(raw: &raw::TargetRef, name: &ResourceName, mesh: &Mesh, cx: &mut Context<'_>) {
    if !cx.exists("serviceEntry", name, &raw.name.place) {
        return;
    }
    if mesh
        .services
        .iter()
        .any(|s| s.name == *name && s.waypoint.is_none())
        && cx.out.count() == 0
    {
        cx.out.error(
            &raw.name.place,
            format!("nothing would enforce this: serviceEntry `{name}` has no label `istio.io/use-waypoint`"),
        );
    }
}
