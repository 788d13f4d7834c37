//! Where each resource of a mesh holds, for those who read it: `ringgate check` prints it.

use crate::config::checked::{GatewayClass, Mesh, Workload};
use crate::policy::attaches;
use crate::policy::model::{Action, PeerAuthentication, Target};
use crate::role::enforcement::{gateway_point, gateway_workload_point, workload_point};
use crate::vocab::resource::ResourceName;

/// A resource and the places where it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Kind, name and, of a policy, its action: `authorizationPolicy default/a (DENY, dry run)`.
    pub resource: String,
    /// `workload default/a`, `waypoint default/w`, `service egress/partner`, ..; empty if it holds nowhere.
    pub places: Vec<String>,
}

/// Every authorizationPolicy, requestAuthentication and peerAuthentication, in this order.
#[must_use]
pub fn attached(mesh: &Mesh) -> Vec<Attached> {
    let policies = mesh.authorization_policies.iter().map(|policy| {
        let action = match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        };
        let dry = if policy.dry_run { ", dry run" } else { "" };
        Attached {
            resource: format!("authorizationPolicy {} ({action}{dry})", policy.name),
            places: places(mesh, &policy.target, &policy.name),
        }
    });
    let tokens = mesh.request_authentications.iter().map(|r| Attached {
        resource: format!("requestAuthentication {}", r.name),
        places: places(mesh, &r.target, &r.name),
    });
    let peers = mesh.peer_authentications.iter().map(|p| Attached {
        resource: format!("peerAuthentication {}", p.name),
        places: peer_places(mesh, p),
    });
    policies.chain(tokens).chain(peers).collect()
}

/// Whether a file of resources says nothing of what they could hold for.
#[must_use]
pub fn nothing_to_attach_to(mesh: &Mesh) -> bool {
    mesh.gateways.is_empty() && mesh.workloads.is_empty() && mesh.services.is_empty()
}

fn places(mesh: &Mesh, target: &Target, name: &ResourceName) -> Vec<String> {
    let holds = |point| attaches(target, &name.namespace, &point, mesh.scope());
    let mut places = Vec::new();
    for workload in mesh.workloads.iter().filter(|w| holds(workload_point(w))) {
        places.push(format!("workload {}", workload.name));
    }
    for gateway in &mesh.gateways {
        if holds(gateway_point(mesh, gateway, None)) {
            places.push(format!("{} {}", class(gateway.class), gateway.name));
        }
    }
    for service in &mesh.services {
        let Some(gateway) = service.waypoint.and_then(|at| mesh.gateways.get(at)) else {
            continue;
        };
        // What holds for the whole gateway is said once.
        let whole = holds(gateway_point(mesh, gateway, None));
        if !whole && holds(gateway_point(mesh, gateway, Some(service))) {
            places.push(format!(
                "service {} at {} {}",
                service.name,
                class(gateway.class),
                gateway.name
            ));
        }
    }
    for workload in &mesh.workloads {
        let Some(gateway) = workload.waypoint.and_then(|at| mesh.gateways.get(at)) else {
            continue;
        };
        let whole = holds(gateway_point(mesh, gateway, None));
        if !whole && holds(gateway_workload_point(mesh, gateway, workload)) {
            places.push(format!(
                "workload {} at waypoint {}",
                workload.name, gateway.name
            ));
        }
    }
    places
}

fn class(class: GatewayClass) -> &'static str {
    match class {
        GatewayClass::Waypoint => "waypoint",
        GatewayClass::Ingress => "ingress",
        GatewayClass::Egress => "egress",
    }
}

fn peer_places(mesh: &Mesh, peer: &PeerAuthentication) -> Vec<String> {
    let root = peer.name.namespace == mesh.root_namespace;
    let holds = |w: &&Workload| match &peer.selector {
        None => root || w.name.namespace == peer.name.namespace,
        Some(labels) => {
            !root
                && w.name.namespace == peer.name.namespace
                && labels.iter().all(|(k, v)| w.labels.get(k) == Some(v))
        }
    };
    let found = mesh.workloads.iter().filter(holds);
    found.map(|w| format!("workload {}", w.name)).collect()
}
