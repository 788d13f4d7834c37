//! The mesh by name and by address.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::config::checked::{GatewayClass, Location, Mesh, Service, ServicePort};
use crate::vocab::cidr::Cidr;
use crate::vocab::resource::ResourceName;

/// Finds services, workloads and gateways; values are indices into `Mesh`. Those tables that a request is looked up in
/// are of hashes, so that it takes no longer among many; no peer chooses what they hold.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    service_by_name: BTreeMap<ResourceName, usize>,
    /// More than one where namespaces have services of the same host.
    services_by_host: FxHashMap<String, Vec<usize>>,
    /// Suffixes with their leading dot, of `*.suffix` hosts.
    services_by_suffix: FxHashMap<String, Vec<usize>>,
    service_by_address: FxHashMap<IpAddr, usize>,
    /// Blocks by prefix length, the longest first, and by their first address.
    service_by_block: BTreeMap<Reverse<u8>, BTreeMap<IpAddr, usize>>,
    workload_by_address: FxHashMap<IpAddr, usize>,
    workload_by_name: BTreeMap<ResourceName, usize>,
    gateway_by_name: BTreeMap<ResourceName, usize>,
    /// By workload: the services within the mesh that it serves.
    services_by_workload: Vec<Vec<usize>>,
}

impl Directory {
    /// Builds the tables.
    #[must_use]
    pub fn new(mesh: &Mesh) -> Self {
        let mut this = Self::of(&mesh.services);
        for (at, workload) in mesh.workloads.iter().enumerate() {
            this.workload_by_address.insert(workload.address, at);
            this.workload_by_name.insert(workload.name.clone(), at);
        }
        for (at, gateway) in mesh.gateways.iter().enumerate() {
            this.gateway_by_name.insert(gateway.name.clone(), at);
        }
        this.services_by_workload
            .resize(mesh.workloads.len(), Vec::new());
        let services = mesh.services.iter().enumerate();
        for (at, service) in services.filter(|(_, s)| s.location == Location::Internal) {
            for workload in &service.workloads {
                let list = this.services_by_workload.get_mut(*workload);
                if let Some(list) = list.filter(|list| list.last() != Some(&at)) {
                    list.push(at);
                }
            }
        }
        this
    }

    /// The tables of services alone.
    #[must_use]
    pub fn of(services: &[Service]) -> Self {
        let mut this = Self::default();
        for (at, service) in services.iter().enumerate() {
            this.service_by_name.insert(service.name.clone(), at);
            for host in &service.hosts {
                let list = match host.strip_prefix('*') {
                    Some(suffix) => this.services_by_suffix.entry(suffix.to_owned()),
                    None => this.services_by_host.entry(host.clone()),
                };
                list.or_default().push(at);
            }
            for address in service.virtual_addresses() {
                this.service_by_address.insert(*address, at);
            }
            for block in &service.blocks {
                let (first, prefix) = block.parts();
                let same = this.service_by_block.entry(Reverse(prefix)).or_default();
                same.insert(first, at);
            }
        }
        this
    }

    /// The services within the mesh that a workload serves, as indices in order.
    #[must_use]
    pub fn services_of(&self, workload: usize) -> &[usize] {
        let list = self.services_by_workload.get(workload);
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// The service that is registered for a host name in lower case and a port, as a namespace sees it. The most specific
    /// name owns the host, so that a port which its service does not have is not found in a wider one's.
    #[must_use]
    pub fn registered(
        &self,
        services: &[Service],
        (host, port): (&str, u16),
        namespace: Option<&str>,
    ) -> Option<usize> {
        let at = self.seen(services, host, namespace)?;
        service_port(services.get(at)?, port)?;
        Some(at)
    }

    /// Services of a host name in lower case: those of the exact name, else of the longest wildcard. More than one only
    /// where namespaces have services of the same host.
    #[must_use]
    pub fn services_by_host(&self, host: &str) -> &[usize] {
        if let Some(exact) = self.services_by_host.get(host) {
            return exact;
        }
        let dots = host.match_indices('.').map(|(at, _)| at);
        dots.filter_map(|at| host.get(at..))
            .find_map(|suffix| self.services_by_suffix.get(suffix))
            .map_or(&[], Vec::as_slice)
    }

    /// The service that a namespace means by a host name in lower case: its own, else one that it sees. Without a
    /// namespace the one that all see, else the first.
    #[must_use]
    pub fn seen(&self, services: &[Service], host: &str, namespace: Option<&str>) -> Option<usize> {
        seen(services, self.services_by_host(host), namespace)
    }

    /// As `seen`, of services that have this very name.
    #[must_use]
    pub fn seen_exact(
        &self,
        services: &[Service],
        host: &str,
        namespace: Option<&str>,
    ) -> Option<usize> {
        seen(services, self.services_by_host.get(host)?, namespace)
    }

    /// The first service of a host name in lower case.
    #[must_use]
    pub fn service_by_host(&self, host: &str) -> Option<usize> {
        self.services_by_host(host).first().copied()
    }

    /// Service by name.
    #[must_use]
    pub fn service(&self, name: &ResourceName) -> Option<usize> {
        self.service_by_name.get(name).copied()
    }

    /// Service of a virtual address, or of the smallest block that holds it. A workload in a block is no part of it: it is
    /// called as a workload, and not in plaintext.
    #[must_use]
    pub fn service_by_address(&self, ip: IpAddr) -> Option<usize> {
        if let Some(at) = self.service_by_address.get(&ip) {
            return Some(*at);
        }
        if self.workload_by_address.contains_key(&ip) {
            return None;
        }
        let mut blocks = self.service_by_block.iter();
        blocks.find_map(|(Reverse(prefix), same)| same.get(&Cidr::of(ip, *prefix).first()).copied())
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

/// Of services with one host the one that a namespace means.
fn seen(services: &[Service], all: &[usize], namespace: Option<&str>) -> Option<usize> {
    let find = |is: &dyn Fn(&Service) -> bool| {
        let found = all.iter().find(|at| services.get(**at).is_some_and(is));
        found.copied()
    };
    match namespace {
        Some(namespace) => {
            let own = |s: &Service| s.name.namespace == namespace && s.is_visible_in(namespace);
            find(&own).or_else(|| find(&|s| s.is_visible_in(namespace)))
        }
        None => find(&|s| s.export_to.is_none()).or_else(|| all.first().copied()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::checked::{Location, Protocol};

    fn service(name: &str, hosts: &[&str], ports: &[u16]) -> Service {
        let port = |number: &u16| ServicePort {
            number: *number,
            name: number.to_string(),
            protocol: Protocol::Tls,
            target_port: *number,
        };
        Service {
            name: ResourceName::new("default", name),
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            addresses: Vec::new(),
            blocks: Vec::new(),
            allocated: Vec::new(),
            passthrough: false,
            export_to: None,
            balance: crate::config::checked::Balance::default(),
            ports: ports.iter().map(port).collect(),
            location: Location::External,
            workloads: Vec::new(),
            endpoints: Vec::new(),
            subject_alt_names: Vec::new(),
            spiffe_names: None,
            allow_private: false,
            forward_client: false,
            waypoint: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn the_most_specific_name_owns_the_host_whatever_the_order() {
        let mut services = vec![
            service("wide", &["*.a.com", "*.com"], &[80, 443]),
            service("deep", &["*.b.a.com"], &[443]),
            service("exact", &["x.a.com", "a.com"], &[443]),
        ];
        for _ in 0..services.len() {
            services.rotate_left(1);
            let directory = Directory::of(&services);
            let found = |host: &str, port: u16| {
                let at = directory.registered(&services, (host, port), None)?;
                Some(services[at].name.name.as_str())
            };
            for (host, port, want) in [
                ("x.a.com", 443, Some("exact")),
                ("x.a.com", 80, None),
                ("a.com", 443, Some("exact")),
                ("y.a.com", 80, Some("wide")),
                ("z.b.a.com", 443, Some("deep")),
                ("z.b.a.com", 80, None),
                ("p.q.b.a.com", 443, Some("deep")),
                ("b.a.com", 443, Some("wide")),
                ("nota.com", 443, Some("wide")),
                ("com", 443, None),
                ("a.com.evil", 443, None),
                ("xa.com.", 443, None),
                ("", 443, None),
                ("x.a.com", 8443, None),
            ] {
                assert_eq!(found(host, port), want, "{host}:{port}");
            }
        }
    }
}
