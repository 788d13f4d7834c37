//! Which endpoints a process checks, and as which of its gateways: those that it dials itself.

use std::net::IpAddr;

use crate::config::checked::route::RouteParent;
use crate::config::checked::{GatewayClass, Location, Mesh};
use crate::role::endpoints::{Chosen, Endpoints, Place};
use crate::vocab::resource::ResourceName;

/// One port of an endpoint, in whatever snapshot it is found: its service, its address, and the port that is dialled.
pub type Subject = (ResourceName, IpAddr, u16);

/// An endpoint that is to be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it is.
    pub subject: Subject,
    /// Where it stands in its mesh.
    pub at: Chosen,
    /// Who asks, as an index into `Mesh::gateways`: a gateway of this process.
    pub gateway: usize,
}

/// All endpoints with a `healthCheck` that one of the gateways `own` dials. Where several do, the first one asks: what is
/// known of an endpoint is the whole process's.
#[must_use]
pub fn wanted(mesh: &Mesh, endpoints: &Endpoints, own: &[usize]) -> Vec<Wanted> {
    let mut all = Vec::new();
    for (service, declared) in mesh.services.iter().enumerate() {
        let Some(check) = &declared.balance.check else {
            continue;
        };
        let Some(gateway) = asker(mesh, service, own) else {
            continue;
        };
        let ports = || declared.ports.iter().enumerate();
        for (endpoint, known) in endpoints.of(service).iter().enumerate() {
            let Some(address) = address(mesh, known.place) else {
                continue;
            };
            for (port, spoken) in ports().filter(|(_, p)| p.protocol.takes(check)) {
                all.push(Wanted {
                    subject: (declared.name.clone(), address, spoken.target_port),
                    at: Chosen {
                        service,
                        endpoint,
                        port,
                    },
                    gateway,
                });
            }
        }
    }
    all
}

fn address(mesh: &Mesh, place: Place) -> Option<IpAddr> {
    match place {
        Place::Workload(at) => mesh.workloads.get(at).map(|w| w.address),
        Place::Outside(ip) => Some(ip),
    }
}

/// The gateway of `own` that dials the endpoints of a service: the one that stands before it, and before one without such a
/// gateway those that a route leads there from.
fn asker(mesh: &Mesh, service: usize, own: &[usize]) -> Option<usize> {
    let declared = mesh.services.get(service)?;
    if let Some(gateway) = declared.waypoint {
        return own.contains(&gateway).then_some(gateway);
    }
    let leads = |gateway: &usize| {
        let outside = declared.location == Location::External;
        let class = mesh.gateways.get(*gateway).map(|g| g.class);
        // What no egress gateway stands before is reached from an edge alone.
        if outside && class != Some(GatewayClass::Ingress) {
            return false;
        }
        let here = |parent: &RouteParent| match parent {
            RouteParent::Gateway(at) => at == gateway,
            RouteParent::Service(at, _) => {
                mesh.services.get(*at).and_then(|s| s.waypoint) == Some(*gateway)
            }
        };
        let routes = mesh.routes.iter().filter(|r| r.parents.iter().any(here));
        routes.flat_map(|route| &route.rules).any(|rule| {
            let backends = rule.backends.iter().map(|b| b.backend);
            let copies = rule.mirrors.iter().map(|m| m.backend);
            backends.chain(copies).any(|b| b.service == service)
        })
    };
    own.iter().copied().find(leads)
}
