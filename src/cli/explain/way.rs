//! Which way a call takes where there is more than one, in words.

use crate::config::checked::route::HttpRoute;
use crate::config::checked::{Preference, Service};
use crate::role::outbound::Route;
use crate::role::walk::{Hop, Place};

use crate::cli::explain::report::Subject;

/// Endpoints that are named; of more only their number is told.
const NAMED: usize = 8;

impl Subject<'_> {
    /// The rule of a route that it takes at a gateway.
    pub(super) fn routed(&self, hop: &Hop) -> Option<String> {
        let Place::Gateway(at) = hop.place else {
            return None;
        };
        let mesh = &self.rules.mesh;
        let (label, gateway) = (hop.rule.as_ref()?, mesh.gateways.get(at)?);
        let mut routes = mesh.routes.iter();
        let of = |route: &HttpRoute| route.rules.iter().position(|r| r.label == *label);
        let (route, rule) = routes.find_map(|route| Some((route, route.rules.get(of(route)?)?)))?;
        let first = if rule.backends.len() > 1 {
            "; the first of its backends is walked here"
        } else {
            ""
        };
        let chosen = route.rules.len() > 1 || !first.is_empty() || rule.edits_request();
        let name = &gateway.name;
        chosen.then(|| format!("way: route `{label}` at `{name}`{first}"))
    }

    /// The way that the caller's node chooses; `None` where there is no choice to tell of.
    pub(super) fn chosen_way(&self, hop: &Hop) -> Option<String> {
        let mesh = &self.rules.mesh;
        match hop.route.as_ref()? {
            Route::Gateway {
                gateway,
                service: None,
                authority,
            } => {
                let name = &mesh.gateways.get(*gateway)?.name;
                Some(format!(
                    "way: waypoint `{name}`, because `{authority}` is a workload's own address and its waypoint is for those"
                ))
            }
            Route::Workload {
                service: Some(at), ..
            } => {
                let service = mesh.services.get(*at)?;
                let named = |at: &usize| {
                    let workload = mesh.workloads.get(*at)?;
                    Some(format!("{} (weight {})", workload.name, workload.weight))
                };
                let endpoints: Vec<String> = service.workloads.iter().filter_map(named).collect();
                choice(service, &endpoints)
            }
            Route::Outside {
                service,
                address: None,
                ..
            } => {
                let service = mesh.services.get(*service)?;
                let endpoints = service.endpoints.iter();
                let endpoints: Vec<String> = endpoints
                    .map(|e| format!("{} (weight {})", e.address, e.weight))
                    .collect();
                choice(service, &endpoints)
            }
            Route::Outside {
                service,
                address: Some(address),
                ..
            } => {
                let name = &mesh.services.get(*service)?.name;
                Some(format!(
                    "way: `{address}` itself, which is an address of `{name}`"
                ))
            }
            Route::Gateway { .. }
            | Route::Workload { service: None, .. }
            | Route::Unknown(_)
            | Route::Unreachable { .. } => None,
        }
    }
}

fn choice(service: &Service, endpoints: &[String]) -> Option<String> {
    if endpoints.len() < 2 {
        return None;
    }
    let preferred = match service.balance.preference {
        Preference::Any => "",
        Preference::Locality => ", those of the caller's subzone, zone and region first",
        Preference::Zone => ", those of the caller's zone and region first",
        Preference::Node => ", those of the caller's node, zone and region first",
    };
    let more = endpoints.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    let named: Vec<&str> = endpoints.iter().take(NAMED).map(String::as_str).collect();
    Some(format!(
        "way: one of {} endpoints of `{}`{preferred}; the first is walked here: {}{more}",
        endpoints.len(),
        service.name,
        named.join(", ")
    ))
}
