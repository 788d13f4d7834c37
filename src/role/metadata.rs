//! What the ends of a tunnel tell each other about themselves, for telemetry alone: `baggage`, and the service's host
//! name in `forwarded`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;

use crate::config::checked::{Gateway, Mesh, Service, Workload};
use crate::http::baggage::{Baggage, WorkloadKind};
use crate::role::directory::Directory;
use crate::role::plan::SitePoint;

/// Labels that name the canonical service, in Istio's order.
const SERVICE: [&str; 3] = [
    "service.istio.io/canonical-name",
    "app.kubernetes.io/name",
    "app",
];
/// Labels that name its revision, in Istio's order.
const REVISION: [&str; 3] = [
    "service.istio.io/canonical-revision",
    "app.kubernetes.io/version",
    "version",
];
/// Revision of what has no such label, as istiod names it.
const NO_REVISION: &str = "latest";

/// By index into `Mesh`.
#[derive(Debug, Default)]
pub struct Metadata {
    workloads: Vec<Option<HeaderValue>>,
    gateways: Vec<Option<HeaderValue>>,
    services: Vec<Option<Arc<str>>>,
}

impl Metadata {
    /// Of every workload, gateway and service.
    #[must_use]
    pub fn new(mesh: &Mesh) -> Self {
        let workload = |w: &Workload| {
            let who = (w.name.namespace.as_str(), w.name.name.as_str());
            baggage(who, WorkloadKind::Pod, &w.labels).to_value()
        };
        let gateway = |g: &Gateway| {
            let who = (g.name.namespace.as_str(), g.name.name.as_str());
            baggage(who, WorkloadKind::Deployment, &g.labels).to_value()
        };
        Self {
            workloads: mesh.workloads.iter().map(workload).collect(),
            gateways: mesh.gateways.iter().map(gateway).collect(),
            services: mesh.services.iter().map(hostname).collect(),
        }
    }

    /// `baggage` of a workload.
    #[must_use]
    pub fn workload(&self, at: usize) -> Option<&HeaderValue> {
        self.workloads.get(at)?.as_ref()
    }

    /// `baggage` of a gateway.
    #[must_use]
    pub fn gateway(&self, at: usize) -> Option<&HeaderValue> {
        self.gateways.get(at)?.as_ref()
    }

    /// `baggage` of who serves at a point.
    #[must_use]
    pub fn at(&self, directory: &Directory, point: &SitePoint) -> Option<&HeaderValue> {
        match point {
            SitePoint::Workload { workload, .. } => self.workload(directory.workload(workload)?),
            SitePoint::Waypoint { gateway, .. }
            | SitePoint::Egress { gateway, .. }
            | SitePoint::Ingress { gateway } => self.gateway(directory.gateway(gateway)?),
        }
    }

    /// The host name that a service is told by.
    #[must_use]
    pub fn service(&self, at: usize) -> Option<&Arc<str>> {
        self.services.get(at)?.as_ref()
    }
}

fn baggage(
    (namespace, name): (&str, &str),
    kind: WorkloadKind,
    labels: &BTreeMap<String, String>,
) -> Baggage {
    let label = |keys: &[&str]| {
        let mut found = keys.iter().filter_map(|key| labels.get(*key));
        found.next().map(|value| Box::from(value.as_str()))
    };
    Baggage {
        cluster: label(&["topology.istio.io/cluster"]),
        namespace: Some(namespace.into()),
        workload: Some((kind, name.into())),
        service: label(&SERVICE).or_else(|| Some(name.into())),
        version: label(&REVISION).or_else(|| Some(NO_REVISION.into())),
        region: label(&["topology.kubernetes.io/region"]),
        zone: label(&["topology.kubernetes.io/zone"]),
    }
}

/// The first whole name of the service that has a domain, else the first whole name.
fn hostname(service: &Service) -> Option<Arc<str>> {
    let whole = || service.hosts.iter().filter(|host| !host.starts_with('*'));
    let with_domain = whole().find(|host| host.contains('.'));
    with_domain
        .or_else(|| whole().next())
        .map(|host| Arc::from(host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_the_canonical_service() {
        let labels = |all: &[(&str, &str)]| {
            let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            all.iter().map(owned).collect::<BTreeMap<_, _>>()
        };
        for (given, want) in [
            (
                labels(&[]),
                "k8s.namespace.name=n,k8s.pod.name=w,service.name=w,service.version=latest",
            ),
            (
                labels(&[
                    ("app", "a"),
                    ("version", "v2"),
                    ("topology.istio.io/cluster", "c"),
                ]),
                "k8s.cluster.name=c,k8s.namespace.name=n,k8s.pod.name=w,service.name=a,service.version=v2",
            ),
            (
                labels(&[
                    ("app", "a"),
                    ("app.kubernetes.io/name", "b"),
                    ("service.istio.io/canonical-name", "c"),
                    ("service.istio.io/canonical-revision", "3"),
                    ("topology.kubernetes.io/region", "eu"),
                    ("topology.kubernetes.io/zone", "eu-1"),
                ]),
                "k8s.namespace.name=n,k8s.pod.name=w,service.name=c,service.version=3,cloud.region=eu,\
                 cloud.availability_zone=eu-1",
            ),
        ] {
            let made = baggage(("n", "w"), WorkloadKind::Pod, &given).to_value();
            assert_eq!(made.unwrap(), want);
        }
    }
}
