//! Which identities a process asks for.

use std::collections::BTreeMap;

use crate::config::checked::{Config, GatewayClass, Mesh, Service};
use crate::identity::svid::WantedSvid;

/// The identities of this process and the DNS names that stand beside them for direct TLS.
pub(super) fn wanted(config: &Config) -> Vec<WantedSvid> {
    let mesh = &config.mesh;
    let mut by_id: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for hosted in config.process.nodes.iter().flat_map(|n| &n.workloads) {
        if let Some(wanted) = wanted_of_workload(mesh, &hosted.workload.to_string()) {
            by_id.entry(wanted.id).or_default().extend(wanted.dns_names);
        }
    }
    // Processes of this machine may be workloads that no node of this process serves.
    for entry in config.process.workload_api.iter().flat_map(|w| &w.entries) {
        for workload in mesh.workloads.iter().filter(|w| w.name == entry.workload) {
            by_id.entry(workload.id.clone()).or_default();
        }
    }
    // The authority may write files for workloads that no node of this process serves.
    for files in &config.process.identity_files {
        for workload in mesh.workloads.iter().filter(|w| w.name == files.workload) {
            by_id.entry(workload.id.clone()).or_default();
        }
    }
    let waypoints = config.process.waypoints.iter().map(|w| &w.gateway);
    let ingresses = config.process.ingresses.iter().map(|i| &i.gateway);
    let egresses = config.process.egresses.iter().map(|e| &e.gateway);
    for name in waypoints.chain(ingresses).chain(egresses) {
        if let Some(wanted) = wanted_of_gateway(mesh, &name.to_string()) {
            by_id.entry(wanted.id).or_default().extend(wanted.dns_names);
        }
    }
    let one = |(id, mut dns_names): (_, Vec<String>)| {
        dns_names.sort_unstable();
        dns_names.dedup();
        WantedSvid { id, dns_names }
    };
    by_id.into_iter().map(one).collect()
}

/// Hosts of a service that can stand in a certificate.
fn hosts(service: &Service) -> impl Iterator<Item = String> {
    let plain = service.hosts.iter().filter(|h| !h.contains('*'));
    plain.cloned()
}

/// What the node of workload `namespace/name` asks for.
#[must_use]
pub fn wanted_of_workload(mesh: &Mesh, name: &str) -> Option<WantedSvid> {
    let at = mesh
        .workloads
        .iter()
        .position(|w| w.name.to_string() == name)?;
    let services = mesh.services.iter().filter(|s| s.workloads.contains(&at));
    Some(WantedSvid {
        id: mesh.workloads.get(at)?.id.clone(),
        dns_names: services.flat_map(hosts).collect(),
    })
}

/// What the process of gateway `namespace/name` asks for.
#[must_use]
pub fn wanted_of_gateway(mesh: &Mesh, name: &str) -> Option<WantedSvid> {
    let at = mesh
        .gateways
        .iter()
        .position(|g| g.name.to_string() == name)?;
    let gateway = mesh.gateways.get(at)?;
    let mut dns_names = vec![gateway.name.name.clone()];
    if gateway.class == GatewayClass::Waypoint {
        let services = mesh.services.iter().filter(|s| s.waypoint == Some(at));
        dns_names.extend(services.flat_map(hosts));
    }
    Some(WantedSvid {
        id: gateway.id.clone(),
        dns_names,
    })
}
