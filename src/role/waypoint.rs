//! Which service a waypoint or egress gateway is asked for.

use std::net::IpAddr;

use crate::config::checked::Mesh;
use crate::role::directory::{Directory, service_port};
use crate::vocab::host::Host;

/// What traffic through a gateway is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A service.
    Service {
        /// Index into `Mesh::services`.
        service: usize,
        /// Service port.
        port: u16,
        /// The address that was asked for, if one was.
        address: Option<IpAddr>,
    },
    /// A workload by its own address.
    Workload {
        /// Index into `Mesh::workloads`.
        workload: usize,
        /// Its port.
        port: u16,
    },
}

/// What a CONNECT authority names; only services and workloads bound to `gateway`, and of services their own ports, are
/// found.
#[must_use]
pub fn by_authority(
    mesh: &Mesh,
    directory: &Directory,
    gateway: usize,
    authority: &Host,
) -> Option<For> {
    let port = authority.port()?;
    let Some(service) = service(mesh, directory, gateway, authority) else {
        let workload = directory.workload_by_address(authority.ip()?)?;
        let bound = mesh.workloads.get(workload)?.waypoint == Some(gateway);
        return bound.then_some(For::Workload { workload, port });
    };
    // Policy judges the port that the authority names, so no other one stands in for it.
    service_port(mesh.services.get(service)?, port)?;
    Some(For::Service {
        service,
        port,
        address: authority.ip(),
    })
}

/// The service that a request's host names on a connection that names none itself (direct mTLS, a proxy's client).
#[must_use]
pub fn by_host(
    mesh: &Mesh,
    directory: &Directory,
    gateway: usize,
    host: &Host,
    default_port: u16,
) -> Option<For> {
    Some(For::Service {
        service: service(mesh, directory, gateway, host)?,
        port: host.port().unwrap_or(default_port),
        address: host.ip(),
    })
}

/// The service bound to `gateway` that a host names. Of services with one host in several namespaces at most one is.
#[must_use]
pub fn service(mesh: &Mesh, directory: &Directory, gateway: usize, host: &Host) -> Option<usize> {
    let bound = |at: &usize| {
        let service = mesh.services.get(*at);
        service.is_some_and(|s| s.waypoint == Some(gateway))
    };
    match host.ip() {
        Some(ip) => directory.service_by_address(ip).filter(bound),
        None => {
            let mut all = directory.services_by_host(host.name()).iter();
            all.find(|at| bound(at)).copied()
        }
    }
}
