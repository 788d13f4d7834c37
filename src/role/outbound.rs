//! Where a connection that leaves a workload goes.

use std::net::{IpAddr, SocketAddr};

use crate::config::checked::{Location, Mesh};
use crate::policy::{OutboundTarget, Verdict, decide_outbound};
use crate::role::directory::{Directory, service_port};
use crate::role::endpoints::{Caller, Pick};
use crate::role::enforcement::Enforcements;
use crate::role::names;
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
    /// Through the waypoint or egress gateway of the service, or of the workload if that was asked for; `authority` is
    /// the original destination.
    Gateway {
        /// Index into `Mesh::gateways`.
        gateway: usize,
        /// Index into `Mesh::services`; `None` if a workload was asked for.
        service: Option<usize>,
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
        /// The address that was asked for, where that is what is dialled (`resolution = "NONE"`).
        address: Option<IpAddr>,
    },
    /// Not in the registry; the address is known if the client named one.
    Unknown(Option<UpstreamAddr>),
    /// In the registry, but not with this port, or nothing of it can be reached there.
    Unreachable {
        /// Index into `Mesh::services`.
        service: usize,
        /// The port that was asked for.
        port: u16,
    },
}

/// What the registry says about a connection that leaves for `wanted`, and which way it would take.
pub fn judge<'p>(
    rules: &Enforcements,
    from: &Caller<'_>,
    (wanted, port): (&Wanted, u16),
    pick: impl Into<Pick<'p>>,
) -> (Route, Verdict) {
    let route = route(&rules.mesh, &rules.directory, from, (wanted, port), pick);
    let asked = wanted.with_port(port);
    let allow_any = from.allow_any.unwrap_or(rules.mesh.outbound_allow_any);
    let verdict = decide_outbound(in_registry(&route, &asked), allow_any);
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

/// Finds the route; `pick` chooses among endpoints.
#[must_use]
pub fn route<'p>(
    mesh: &Mesh,
    directory: &Directory,
    from: &Caller<'_>,
    (wanted, port): (&Wanted, u16),
    pick: impl Into<Pick<'p>>,
) -> Route {
    let pick = pick.into();
    match wanted {
        Wanted::Name(name) => {
            let named = names::find(mesh, directory, name, from.namespace, from.search);
            let Some(named) = named else {
                return Route::Unknown(None);
            };
            let asked = Asked {
                port,
                address: None,
                authority: &|| format!("{}:{port}", named.host),
            };
            to_service(mesh, named.service, from, &asked, &pick)
        }
        Wanted::Address(ip) => {
            let asked = Asked {
                port,
                address: Some(*ip),
                authority: &|| wanted.with_port(port),
            };
            match directory.service_by_address(*ip) {
                Some(at) => to_service(mesh, at, from, &asked, &pick),
                None => to_address(mesh, directory, *ip, port),
            }
        }
    }
}

/// What a service is asked for.
struct Asked<'a> {
    port: u16,
    address: Option<IpAddr>,
    /// As a gateway is told it.
    authority: &'a dyn Fn() -> String,
}

/// The way to a service that is meant by itself, not by what a client says; `host` is what its gateway is asked for.
#[must_use]
pub fn to(
    mesh: &Mesh,
    (service, port): (usize, u16),
    host: &str,
    from: &Caller<'_>,
    pick: &Pick<'_>,
) -> Route {
    let asked = Asked {
        port,
        address: None,
        authority: &|| format!("{host}:{port}"),
    };
    to_service(mesh, service, from, &asked, pick)
}

/// Why a service of the registry cannot be reached at a port, for records.
#[must_use]
pub fn unreachable(mesh: &Mesh, service: usize, port: u16) -> String {
    let Some(service) = mesh.services.get(service) else {
        return "nothing there".to_owned();
    };
    if service_port(service, port).is_some() {
        return format!("`{}` has no workload or endpoint", service.name);
    }
    let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
    format!(
        "`{}` has no port {port}, only {}",
        service.name,
        ports.join(", ")
    )
}

/// A workload by its own address, or nothing of the mesh.
fn to_address(mesh: &Mesh, directory: &Directory, ip: IpAddr, port: u16) -> Route {
    let address = SocketAddr::new(ip, port);
    let Some(workload) = directory.workload_by_address(ip) else {
        return Route::Unknown(Some(UpstreamAddr(address)));
    };
    match mesh.workloads.get(workload).and_then(|w| w.waypoint) {
        Some(gateway) => Route::Gateway {
            gateway,
            service: None,
            authority: address.to_string(),
        },
        None => Route::Workload {
            workload,
            port,
            service: None,
        },
    }
}

fn to_service(
    mesh: &Mesh,
    at: usize,
    from: &Caller<'_>,
    asked: &Asked<'_>,
    pick: &Pick<'_>,
) -> Route {
    let unreachable = Route::Unreachable {
        service: at,
        port: asked.port,
    };
    let Some(service) = mesh.services.get(at) else {
        return unreachable;
    };
    let mut ports = service.ports.iter().enumerate();
    let Some((nth, declared)) = ports.find(|(_, p)| p.number == asked.port) else {
        return unreachable;
    };
    if let Some(gateway) = service.waypoint {
        return Route::Gateway {
            gateway,
            service: Some(at),
            authority: (asked.authority)(),
        };
    }
    if service.location == Location::Internal {
        return match pick.workload(mesh, at, nth, from) {
            Some(workload) => Route::Workload {
                workload,
                port: declared.target_port,
                service: Some(at),
            },
            None => unreachable,
        };
    }
    let address = asked.address.filter(|_| service.passthrough);
    if service.passthrough && address.is_none() {
        return unreachable;
    }
    Route::Outside {
        service: at,
        port: declared.target_port,
        address,
    }
}
