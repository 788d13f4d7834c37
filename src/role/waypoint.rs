//! Which service a waypoint or egress gateway is asked for.

use crate::config::checked::Mesh;
use crate::role::directory::{Directory, service_port};
use crate::vocab::host::Host;

/// A service that traffic through a gateway is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct For {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// Service port.
    pub port: u16,
}

/// The service that a CONNECT authority names; only services bound to `gateway` and
/// their own ports are found.
#[must_use]
pub fn by_authority(
    mesh: &Mesh,
    directory: &Directory,
    gateway: usize,
    authority: &Host,
) -> Option<For> {
    let port = authority.port()?;
    let service = match authority.ip() {
        Some(ip) => directory.service_by_address(ip),
        None => directory.service_by_host(authority.name()),
    }?;
    // Policy judges the port that the authority names, so no other one stands in for it.
    let declared = |at: usize| {
        let service = mesh.services.get(at)?;
        service_port(service, port)
    };
    (bound(mesh, service, gateway) && declared(service).is_some()).then_some(For { service, port })
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
    let service = directory.service_by_host(host.name())?;
    bound(mesh, service, gateway).then_some(For {
        service,
        port: host.port().unwrap_or(default_port),
    })
}

fn bound(mesh: &Mesh, service: usize, gateway: usize) -> bool {
    mesh.services
        .get(service)
        .is_some_and(|s| s.waypoint == Some(gateway))
}
