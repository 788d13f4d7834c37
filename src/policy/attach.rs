//! Which policies apply at an enforcement point (policy semantics section 4).

use std::collections::BTreeMap;

use crate::policy::model::{Target, TargetKind, TargetRef};
use crate::policy::verdict::Decision;
use crate::vocab::resource::ResourceName;

/// The label of the talk's policies: a selector of this alone names a gateway.
pub const GATEWAY_NAME_LABEL: &str = "istio.io/gateway-name";

/// What stands at an enforcement point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// A workload, judged by its node: selectors and namespaces count, `targetRefs` do not.
    Workload,
    /// An ingress: selectors, namespaces and `targetRefs` to the Gateway count.
    Gateway,
    /// A waypoint: only `targetRefs` count, to Gateway, GatewayClass, Service or ServiceEntry.
    Waypoint,
    /// An egress gateway: what counts at a gateway or, for the destination, at a waypoint.
    Egress,
}

impl PointKind {
    /// `gatewayClassName` that a `targetRefs` entry of kind GatewayClass names it by.
    fn class(self) -> Option<&'static str> {
        match self {
            Self::Workload => None,
            Self::Gateway => Some("ringgate-ingress"),
            Self::Waypoint => Some("istio-waypoint"),
            Self::Egress => Some("ringgate-egress"),
        }
    }

    /// Whether policies without a target, of its namespace and of the root namespace, count here.
    fn takes_namespaces(self) -> bool {
        match self {
            Self::Workload | Self::Gateway | Self::Egress => true,
            Self::Waypoint => false,
        }
    }

    fn takes_services(self) -> bool {
        match self {
            Self::Workload | Self::Gateway => false,
            Self::Waypoint | Self::Egress => true,
        }
    }
}

/// Kind of a service that a policy may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// Core `Service`.
    Service,
    /// `networking.istio.io/ServiceEntry`.
    ServiceEntry,
}

/// An enforcement point: where a policy set is judged.
#[derive(Clone, Debug)]
pub struct Point {
    /// What stands there.
    pub kind: PointKind,
    /// Namespace of the workload or gateway.
    pub namespace: String,
    /// Labels of the workload or gateway.
    pub labels: BTreeMap<String, String>,
    /// Name of the gateway, unless it is a workload.
    pub gateway: Option<String>,
    /// The services that the traffic judged here is for (resolved, not by its Host).
    pub services: Vec<(ServiceKind, ResourceName)>,
    /// The service accounts, `namespace/name`, that it is for: the workload's own, or those of the workloads behind the
    /// services.
    pub accounts: Vec<ResourceName>,
    /// What holds when no ALLOW policy applies: `Allow` is Istio's rule, `Deny` is egress.
    pub default: Decision,
}

/// The mesh's own rules for what a policy applies to.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// `mesh.rootNamespace`.
    pub root_namespace: &'a str,
    /// `mesh.compat.gatewayNameSelector`: a selector of `istio.io/gateway-name` alone names a gateway.
    pub gateway_name_selector: bool,
    /// `mesh.compat.gatewaySelectors`: selectors count at gateways (Istio's
    /// `ENABLE_SELECTOR_BASED_K8S_GATEWAY_POLICY`).
    pub gateway_selectors: bool,
}

impl Scope<'_> {
    /// Whether selectors with labels count at such a point.
    fn selects(&self, kind: PointKind) -> bool {
        match kind {
            PointKind::Workload => true,
            PointKind::Gateway | PointKind::Egress => self.gateway_selectors,
            PointKind::Waypoint => false,
        }
    }
}

/// Whether a resource of `namespace` with this target applies at `point`.
#[must_use]
pub fn attaches(target: &Target, namespace: &str, point: &Point, scope: Scope<'_>) -> bool {
    let in_scope = namespace == point.namespace || namespace == scope.root_namespace;
    match target {
        Target::Namespace => point.kind.takes_namespaces() && in_scope,
        Target::Refs(refs) => refs
            .iter()
            .any(|r| refers(r, namespace, point, scope.root_namespace)),
        Target::Selector(labels) => match gateway_of(labels) {
            Some(gateway) if scope.gateway_name_selector && point.gateway.is_some() => {
                namespace == point.namespace && point.gateway.as_deref() == Some(gateway)
            }
            _ => {
                let carried = |(k, v): (&String, &String)| point.labels.get(k) == Some(v);
                scope.selects(point.kind) && in_scope && labels.iter().all(carried)
            }
        },
    }
}

/// The gateway that a selector of exactly `istio.io/gateway-name` names.
fn gateway_of(labels: &BTreeMap<String, String>) -> Option<&str> {
    if labels.len() == 1 {
        labels.get(GATEWAY_NAME_LABEL).map(String::as_str)
    } else {
        None
    }
}

fn refers(target: &TargetRef, namespace: &str, point: &Point, root_namespace: &str) -> bool {
    let service = |kind| {
        let named = |(k, s): &(ServiceKind, ResourceName)| {
            *k == kind && s.name == target.name && s.namespace == namespace
        };
        point.kind.takes_services() && point.services.iter().any(named)
    };
    match target.kind {
        TargetKind::Gateway => {
            namespace == point.namespace && point.gateway.as_deref() == Some(target.name.as_str())
        }
        TargetKind::GatewayClass => {
            namespace == root_namespace && point.kind.class() == Some(target.name.as_str())
        }
        TargetKind::ServiceAccount => {
            let named = |a: &ResourceName| a.name == target.name && a.namespace == namespace;
            point.accounts.iter().any(named)
        }
        TargetKind::Service => service(ServiceKind::Service),
        TargetKind::ServiceEntry => service(ServiceKind::ServiceEntry),
    }
}
