//! Where a connection that leaves a workload goes.

use std::net::{IpAddr, SocketAddr};

use crate::config::checked::{Location, Mesh};
use crate::policy::{OutboundTarget, Verdict, decide_outbound};
use crate::role::directory::{Directory, service_port};
use crate::role::enforcement::Enforcements;
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

impl Wanted {
    /// As a record names it.
    #[must_use]
    pub fn with_port(&self, port: u16) -> String {
        match self {
            Self::Name(name) => format!("{name}:{port}"),
            Self::Address(ip) => SocketAddr::new(*ip, port).to_string(),
        }
    }
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
    /// Not in the registry, or not with this port; the address is known if the client named one.
    Unknown(Option<UpstreamAddr>),
    /// In the registry, but nothing of it can be reached there.
    Unreachable {
        /// Index into `Mesh::services`.
        service: usize,
    },
}

/// What the registry says about a connection that leaves for `wanted`, and which way it would take.
pub fn judge(rules: &Enforcements, wanted: &Wanted, port: u16, turn: usize) -> (Route, Verdict) {
    let route = route(&rules.mesh, &rules.directory, wanted, port, turn);
    let asked = wanted.with_port(port);
    let verdict = decide_outbound(in_registry(&route, &asked), rules.mesh.outbound_allow_any);
    (route, verdict)
}

fn in_registry<'a>(route: &Route, asked: &'a str) -> OutboundTarget<'a> {
    match route {
        Route::Unknown(_) => OutboundTarget::Unknown(asked),
        Route::Gateway { .. }
        | Route::Workload { .. }
        | Route::Outside { .. }
        | Route::Unreachable { .. } => OutboundTarget::Known,
    }
}

/// Finds the route. `turn` chooses among endpoints.
#[must_use]
pub fn route(mesh: &Mesh, directory: &Directory, wanted: &Wanted, port: u16, turn: usize) -> Route {
    let service = match wanted {
        Wanted::Name(name) => directory.registered(&mesh.services, name, port),
        Wanted::Address(ip) => directory.service_by_address(*ip),
    };
    if let Some(at) = service {
        return to_service(mesh, at, port, wanted.with_port(port), turn);
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
