//! Labels that decide which policies hold: one that is nearly written leaves traffic without them, and a waypoint that
//! nothing passes judges nothing.

use crate::config::check::Context;
use crate::config::checked::route::RouteParent;
use crate::config::checked::{GatewayClass, Mesh};
use crate::config::nearest::near_miss;
use crate::config::raw::File;
use crate::config::raw::mesh::Labels;
use crate::policy::model::{Target, TargetKind};

/// Labels of Istio's own domain (istio.io, "Resource Labels"), and those that are read here.
const KNOWN: [&str; 20] = [
    "istio.io/gateway-name",
    "istio.io/use-waypoint",
    "istio.io/use-waypoint-namespace",
    "istio.io/ingress-use-waypoint",
    "istio.io/waypoint-for",
    "istio.io/dataplane-mode",
    "istio.io/global",
    "istio.io/rev",
    "istio.io/tag",
    "networking.istio.io/enable-autoallocate-ip",
    "networking.istio.io/gatewayPort",
    "networking.istio.io/tunnel",
    "security.istio.io/tlsMode",
    "service.istio.io/canonical-name",
    "service.istio.io/canonical-revision",
    "service.istio.io/workload-name",
    "sidecar.istio.io/inject",
    "topology.istio.io/cluster",
    "topology.istio.io/network",
    "topology.istio.io/subzone",
];

/// Refuses labels that are nearly one of Istio's: what they were meant to bind would be left unbound.
pub(crate) fn misspelt(files: &[File], cx: &mut Context<'_>) {
    for file in files {
        let gateways = file.gateway.iter().flatten().map(|r| &r.labels);
        let workloads = file.workload_entry.iter().flatten().map(|r| &r.labels);
        let namespaces = file.namespace.iter().flatten().map(|r| &r.labels);
        let accounts = file.service_account.iter().flatten().map(|r| &r.labels);
        let services = file.service_entry.iter().flatten().map(|r| &r.labels);
        let all = gateways
            .chain(workloads)
            .chain(namespaces)
            .chain(accounts)
            .chain(services);
        for labels in all.flatten() {
            one(labels, cx);
        }
    }
}

fn one(labels: &Labels, cx: &mut Context<'_>) {
    for (key, value) in &labels.0 {
        if KNOWN.contains(&key.value.as_str()) {
            continue;
        }
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        if let Some(near) = near_miss(key, KNOWN) {
            let text = key.escape_debug();
            cx.out.error(
                &value.place,
                format!("there is no label `{text}`, did you mean `{near}`?"),
            );
        } else if domain == "istio.io" {
            let text = key.escape_debug();
            cx.out.warn(
                &value.place,
                format!("`{text}` is no label of Istio's that is known here; nothing reads it"),
            );
        }
    }
}

/// Warns of waypoints that something is attached to and that nothing passes.
pub(crate) fn unbound(files: &[File], mesh: &Mesh, cx: &mut Context<'_>) {
    // Without services and workloads this is the file of a gateway alone, and what passes it stands elsewhere.
    let alone = mesh.services.is_empty() && mesh.workloads.is_empty();
    if alone || cx.unsure() {
        return;
    }
    for raw in files.iter().flat_map(|f| f.gateway.iter().flatten()) {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let found = mesh.gateways.iter().position(|g| g.name == name);
        let Some(at) = found.filter(|_| raw.gateway_class_name == GatewayClass::Waypoint) else {
            continue;
        };
        let services = mesh.services.iter().map(|s| s.waypoint);
        let workloads = mesh.workloads.iter().map(|w| w.waypoint);
        if services
            .chain(workloads)
            .any(|waypoint| waypoint == Some(at))
        {
            continue;
        }
        let aims = |target: &Target, namespace: &str| match target {
            Target::Refs(refs) => refs.iter().any(|one| {
                one.kind == TargetKind::Gateway
                    && one.name == name.name
                    && namespace == name.namespace
            }),
            Target::Namespace | Target::Selector(_) => false,
        };
        let policies = mesh.authorization_policies.iter();
        let policies = policies
            .filter(|p| aims(&p.target, &p.name.namespace))
            .count();
        let routes = mesh.routes.iter();
        let routes = routes
            .filter(|r| r.parents.contains(&RouteParent::Gateway(at)))
            .count();
        if policies + routes > 0 {
            cx.out.warn(
                &raw.name.place,
                format!(
                    "nothing passes this waypoint, so that what is attached to it ({policies} policies, {routes} routes) \
                     judges nothing; a service, workload, service account or namespace is bound to it by the label \
                     `istio.io/use-waypoint`"
                ),
            );
        }
    }
}
