//! Which gateway of a process checks the endpoints of a service.

use crate::config::checked::route::RouteParent;
use crate::config::checked::{GatewayClass, Location, Mesh};

impl Mesh {
    /// The gateway of `own` (indices into `Mesh::gateways`) that dials the endpoints of a service: the one that stands before
    /// it, and before one without such a gateway those that a route leads there from.
    #[must_use]
    pub fn asker(&self, service: usize, own: &[usize]) -> Option<usize> {
        let declared = self.services.get(service)?;
        if let Some(gateway) = declared.waypoint {
            return own.contains(&gateway).then_some(gateway);
        }
        let leads = |gateway: &usize| {
            let outside = declared.location == Location::External;
            let class = self.gateways.get(*gateway).map(|g| g.class);
            // What no egress gateway stands before is reached from an edge alone.
            if outside && class != Some(GatewayClass::Ingress) {
                return false;
            }
            let here = |parent: &RouteParent| match parent {
                RouteParent::Gateway(at) => at == gateway,
                RouteParent::Service(at, _) => {
                    self.services.get(*at).and_then(|s| s.waypoint) == Some(*gateway)
                }
            };
            let routes = self.routes.iter().filter(|r| r.parents.iter().any(here));
            routes.flat_map(|route| &route.rules).any(|rule| {
                let backends = rule.backends.iter().map(|b| b.backend);
                let copies = rule.mirrors.iter().map(|m| m.backend);
                backends.chain(copies).any(|b| b.service == service)
            })
        };
        own.iter().copied().find(leads)
    }

    /// How many ports of a service's endpoints its `healthCheck` is for; of names that DNS answers for, one address each.
    #[must_use]
    pub fn checked_ports(&self, service: usize) -> usize {
        let Some(declared) = self.services.get(service) else {
            return 0;
        };
        let Some(check) = &declared.balance.check else {
            return 0;
        };
        let ports = declared.ports.iter();
        let ports = ports.filter(|port| port.protocol.takes(check)).count();
        let endpoints = match declared.location {
            Location::Internal => declared.workloads.len(),
            Location::External => declared.endpoints.len(),
        };
        ports.saturating_mul(endpoints)
    }
}
