//! The mesh by name and by address.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::checked::{GatewayClass, Mesh, Service, ServicePort};
use crate::vocab::resource::ResourceName;

/// Finds services, workloads and gateways; values are indices into `Mesh`.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    service_by_name: BTreeMap<ResourceName, usize>,
    service_by_host: BTreeMap<String, usize>,
    /// Suffixes with their leading dot, of `*.suffix` hosts.
    service_by_suffix: BTreeMap<String, usize>,
    service_by_address: BTreeMap<IpAddr, usize>,
    workload_by_address: BTreeMap<IpAddr, usize>,
    workload_by_name: BTreeMap<ResourceName, usize>,
    gateway_by_name: BTreeMap<ResourceName, usize>,
}

impl Directory {
    /// Builds the tables.
    #[must_use]
    pub fn new(mesh: &Mesh) -> Self {
        let mut this = Self::default();
        for (at, service) in mesh.services.iter().enumerate() {
            this.service_by_name.insert(service.name.clone(), at);
            for host in &service.hosts {
                match host.strip_prefix('*') {
                    Some(suffix) => this.service_by_suffix.insert(suffix.to_owned(), at),
                    None => this.service_by_host.insert(host.clone(), at),
                };
            }
            for address in &service.addresses {
                this.service_by_address.insert(*address, at);
            }
        }
        for (at, workload) in mesh.workloads.iter().enumerate() {
            this.workload_by_address.insert(workload.address, at);
            this.workload_by_name.insert(workload.name.clone(), at);
        }
        for (at, gateway) in mesh.gateways.iter().enumerate() {
            this.gateway_by_name.insert(gateway.name.clone(), at);
        }
        this
    }

    /// Service of a host name in lower case: the exact name, else the longest wildcard.
    #[must_use]
    pub fn service_by_host(&self, host: &str) -> Option<usize> {
        if let Some(at) = self.service_by_host.get(host) {
            return Some(*at);
        }
        let dots = host.match_indices('.').map(|(at, _)| at);
        dots.filter_map(|at| host.get(at..))
            .find_map(|suffix| self.service_by_suffix.get(suffix))
            .copied()
    }

    /// Service by name.
    #[must_use]
    pub fn service(&self, name: &ResourceName) -> Option<usize> {
        self.service_by_name.get(name).copied()
    }

    /// Service of a virtual address.
    #[must_use]
    pub fn service_by_address(&self, ip: IpAddr) -> Option<usize> {
        self.service_by_address.get(&ip).copied()
    }

    /// Workload at an address.
    #[must_use]
    pub fn workload_by_address(&self, ip: IpAddr) -> Option<usize> {
        self.workload_by_address.get(&ip).copied()
    }

    /// Workload by name.
    #[must_use]
    pub fn workload(&self, name: &ResourceName) -> Option<usize> {
        self.workload_by_name.get(name).copied()
    }

    /// Gateway by name.
    #[must_use]
    pub fn gateway(&self, name: &ResourceName) -> Option<usize> {
        self.gateway_by_name.get(name).copied()
    }
}

/// The port of a service by its number.
#[must_use]
pub fn service_port(service: &Service, number: u16) -> Option<&ServicePort> {
    service.ports.iter().find(|p| p.number == number)
}

/// The services of `workload` that have a waypoint, with the waypoint, as indices: their L7 policies hold
/// for every way into the workload.
#[must_use]
pub fn waypointed_services(mesh: &Mesh, workload: usize) -> Vec<(usize, usize)> {
    let with_waypoint = |(at, service): (usize, &Service)| {
        let gateway = service.waypoint?;
        let class = mesh.gateways.get(gateway)?.class;
        (class == GatewayClass::Waypoint && service.workloads.contains(&workload))
            .then_some((at, gateway))
    };
    mesh.services
        .iter()
        .enumerate()
        .filter_map(with_waypoint)
        .collect()
}
