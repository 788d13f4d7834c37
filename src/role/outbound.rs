//! Where a connection that leaves a workload goes.

use std::net::{IpAddr, SocketAddr};

use crate::config::checked::{Location, Mesh};
use crate::role::directory::{Directory, service_port};
use crate::upstream::by_turns;
use crate::vocab::addr::UpstreamAddr;

/// What the client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A host name in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through the service's waypoint or egress gateway; `authority` is the original destination.
    Gateway {
        /// Index into `Mesh::gateways`.
        gateway: usize,
        /// Index into `Mesh::services`.
        service: usize,
        /// `:authority` of the tunnel.
        authority: String,
    },
    /// Straight to a workload's node.
    Workload {
        /// Index into `Mesh::workloads`.
        workload: usize,
        /// Port of the workload.
        port: u16,
        /// Index into `Mesh::services`, if it was asked for by service.
        service: Option<usize>,
    },
    /// To a registered outside service that has no egress gateway.
    Outside {
        /// Index into `Mesh::services`.
        service: usize,
        /// Port of its endpoints.
        port: u16,
    },
    /// Not in the registry; the address is known if the client named one.
    Unknown(Option<UpstreamAddr>),
    /// In the registry, but nothing of it can be reached there.
    Unreachable {
        /// Index into `Mesh::services`.
        service: usize,
    },
}

/// Finds the route. `turn` chooses among endpoints.
#[must_use]
pub fn route(mesh: &Mesh, directory: &Directory, wanted: &Wanted, port: u16, turn: usize) -> Route {
    let (service, asked) = match wanted {
        Wanted::Name(name) => (directory.service_by_host(name), format!("{name}:{port}")),
        Wanted::Address(ip) => (
            directory.service_by_address(*ip),
            SocketAddr::new(*ip, port).to_string(),
        ),
    };
    if let Some(at) = service {
        return to_service(mesh, at, port, asked, turn);
    }
    match wanted {
        Wanted::Address(ip) => match directory.workload_by_address(*ip) {
            Some(workload) => Route::Workload {
                workload,
                port,
                service: None,
            },
            None => Route::Unknown(Some(UpstreamAddr(SocketAddr::new(*ip, port)))),
        },
        Wanted::Name(_) => Route::Unknown(None),
    }
}

fn to_service(mesh: &Mesh, at: usize, port: u16, authority: String, turn: usize) -> Route {
    let unreachable = Route::Unreachable { service: at };
    let Some(service) = mesh.services.get(at) else {
        return unreachable;
    };
    let Some(declared) = service_port(service, port) else {
        return unreachable;
    };
    if let Some(gateway) = service.waypoint {
        return Route::Gateway {
            gateway,
            service: at,
            authority,
        };
    }
    if service.location == Location::Internal {
        return match by_turns(&service.workloads, turn) {
            Some(workload) => Route::Workload {
                workload: *workload,
                port: declared.target_port,
                service: Some(at),
            },
            None => unreachable,
        };
    }
    Route::Outside {
        service: at,
        port: declared.target_port,
    }
}
