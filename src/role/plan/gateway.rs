//! The plan at a gateway: where the routes lead, and what judges on the way there.

use std::net::IpAddr;

use crate::config::checked::route::RouteRule;
use crate::config::checked::{Gateway, GatewayClass, Location, Protocol, Service};
use crate::policy::Request;
use crate::role::directory::service_port;
use crate::role::endpoints::{Caller, Leg, Pick};
use crate::role::enforcement::{Enforcement, Enforcements};
use crate::role::outbound::{self, Route};
use crate::role::plan::{HTTP_PORT, Judges, Next, Plan, leads_to};
use crate::role::routes::{self, Found};
use crate::role::waypoint;
use crate::vocab::host::Host;

/// What routes make of a request.
enum Way<'s> {
    /// Nothing: it goes to the service that it names.
    Plain,
    /// It is told to go elsewhere.
    Redirect(&'s RouteRule),
    /// It goes to this backend, by this rule unless that was chosen before.
    To(Leg, Option<&'s RouteRule>),
}

/// `None` if routes hold and none matches.
fn way<'s>(found: impl FnOnce() -> Found<'s>, pick: &Pick<'_>) -> Option<Way<'s>> {
    if let Some(leg) = pick.leg {
        return Some(Way::To(leg, None));
    }
    if pick.settled {
        return Some(Way::Plain);
    }
    match found() {
        Found::NoRoute => Some(Way::Plain),
        Found::NoMatch => None,
        Found::Rule(rule) if rule.redirect.is_some() => Some(Way::Redirect(rule)),
        Found::Rule(rule) => {
            let chosen = routes::backend(rule, pick.turn)?;
            let leg = Leg {
                service: chosen.service,
                port: chosen.port,
                edited: rule.edits_request(),
            };
            Some(Way::To(leg, Some(rule)))
        }
    }
}

/// What is answered here.
fn redirects<'s>(
    entry: &'s Enforcement,
    own: &'s Gateway,
    service: Option<usize>,
    rule: &'s RouteRule,
) -> Plan<'s> {
    Plan {
        enforcements: Judges::one(entry),
        asked: 1,
        rule: Some(rule),
        leg: None,
        via: None,
        own: Some(&own.id),
        service,
        workload: None,
        protocol: Protocol::Http,
        next: Next::Redirect,
    }
}

/// Where a request goes that a route sends to a backend: `entry` has judged what was asked for, and of that port of a
/// service if it is one.
struct Onward<'s, 'r> {
    rules: &'s Enforcements,
    gateway: usize,
    own: &'s Gateway,
    entry: &'s Enforcement,
    service: Option<(usize, u16)>,
    host: &'r Host,
}

impl<'s> Onward<'s, '_> {
    fn plan(&self, leg: Leg, rule: Option<&'s RouteRule>, pick: &Pick<'_>) -> Option<Plan<'s>> {
        let (rules, mesh) = (self.rules, &self.rules.mesh);
        let service = mesh.services.get(leg.service)?;
        let mut ports = service.ports.iter().enumerate();
        let (nth, port) = ports.find(|(_, p)| p.number == leg.port)?;
        let mut enforcements = Judges::one(self.entry);
        let judged = |at: usize| self.service == Some((at, leg.port)) && !leg.edited;
        let here = service.waypoint == Some(self.gateway);
        if here && !judged(leg.service) {
            // What a route sends to a service is judged as if it had been asked for there.
            enforcements.push(rules.services.get(leg.service)?.as_ref()?);
        }
        let spread = pick.spread(rule.is_some_and(|rule| rule.backends.len() > 1));
        let (workload, next) = if here {
            self.inside(leg, (service, nth), &spread)?
        } else {
            self.elsewhere(leg, service, &spread)?
        };
        // The node takes a waypoint's word for its workload, so what else would be enforced on another way to the same port
        // is judged here: by the waypoints of its other services, and by its own.
        if let (Some(workload), Next::Workload(_, target)) = (workload, &next)
            && self.own.class == GatewayClass::Waypoint
        {
            for (other, _) in rules.waypointed.get(workload)? {
                let new = *other != leg.service && !judged(*other);
                if new && leads_to(mesh, *other, *target) {
                    enforcements.push(rules.services.get(*other)?.as_ref()?);
                }
            }
            let others = rules.own_waypoints.get(workload)?.as_ref();
            // What this gateway enforces for the backend holds its own policies, but only if it stands before that.
            let others = others.filter(|(at, _)| !here || *at != self.gateway);
            enforcements.extend(others.map(|(_, e)| e));
        }
        Some(Plan {
            enforcements,
            asked: 1,
            rule,
            leg: Some(leg),
            via: None,
            own: Some(&self.own.id),
            service: Some(leg.service),
            workload,
            protocol: port.protocol,
            next,
        })
    }

    /// To a service that is behind this gateway itself.
    fn inside(
        &self,
        leg: Leg,
        (service, nth): (&Service, usize),
        pick: &Pick<'_>,
    ) -> Option<(Option<usize>, Next)> {
        let port = service.ports.get(nth)?;
        match service.location {
            Location::Internal => {
                let from = Caller::gateway(self.own);
                let mesh = &self.rules.mesh;
                let workload = pick.workload(mesh, leg.service, nth, &from)?;
                Some((Some(workload), Next::Workload(workload, port.target_port)))
            }
            // Nobody asked for an address of it.
            Location::External if service.passthrough => None,
            Location::External => {
                let next = Next::Outside(leg.service, port.target_port, None);
                Some((None, next))
            }
        }
    }

    /// To a service that another gateway, or nobody, stands before.
    fn elsewhere(
        &self,
        leg: Leg,
        service: &Service,
        pick: &Pick<'_>,
    ) -> Option<(Option<usize>, Next)> {
        let (mesh, directory) = (&self.rules.mesh, &self.rules.directory);
        let from = Caller {
            namespace: Some(&service.name.namespace),
            ..Caller::gateway(self.own)
        };
        // A gateway of many hosts is asked for the one that is sent.
        let named = directory.services_by_host(self.host.name());
        let host = if named.contains(&leg.service) {
            self.host.name()
        } else {
            service.hosts.first()?
        };
        match outbound::to(mesh, (leg.service, leg.port), host, &from, pick) {
            Route::Gateway {
                gateway, authority, ..
            } => Some((None, Next::Gateway(gateway, authority))),
            Route::Workload { workload, port, .. } => {
                Some((Some(workload), Next::Workload(workload, port)))
            }
            // Only what no egress gateway stands before comes here, and so has no policies of its own.
            Route::Outside {
                service,
                port,
                address,
            } if self.own.class == GatewayClass::Ingress => {
                Some((None, Next::Outside(service, port, address)))
            }
            // What a waypoint or egress gateway sends is judged on its way.
            Route::Outside { .. } | Route::Unknown(_) | Route::Unreachable { .. } => None,
        }
    }
}

/// A port of a service that is asked for at its own gateway, where `entry` judges it.
struct Called<'s> {
    rules: &'s Enforcements,
    gateway: usize,
    own: &'s Gateway,
    entry: &'s Enforcement,
    service: (usize, u16),
}

impl<'s> Called<'s> {
    /// What routes make of a request for it: `Some(None)` if nothing, `None` if they lead nowhere.
    fn routed(&self, request: &Request, pick: &Pick<'_>) -> Option<Option<Plan<'s>>> {
        let Self {
            rules,
            gateway,
            own,
            entry,
            service,
        } = *self;
        let mesh = &rules.mesh;
        // Another host inside a tunnel is judged as what the tunnel is for, so that its routes are not for it.
        let is_named =
            || waypoint::service(mesh, &rules.directory, gateway, &request.host) == Some(service.0);
        let routes = &rules.routes;
        let found = || routes.at_service(mesh, gateway, service, request, is_named);
        match way(found, pick)? {
            Way::Plain => Some(None),
            Way::Redirect(rule) => Some(Some(redirects(entry, own, Some(service.0), rule))),
            Way::To(leg, rule) => {
                let onward = Onward {
                    rules,
                    gateway,
                    own,
                    entry,
                    service: Some(service),
                    host: sent_host(rule, request, pick),
                };
                onward.plan(leg, rule, pick).map(Some)
            }
        }
    }
}

pub(super) fn through_waypoint<'s>(
    rules: &'s Enforcements,
    gateway: usize,
    (at, asked): (usize, u16),
    request: Option<&Request>,
    pick: &Pick<'_>,
) -> Option<Plan<'s>> {
    let service = rules.mesh.services.get(at)?;
    let ports = || service.ports.iter().enumerate();
    let (nth, port) = ports()
        .find(|(_, p)| p.number == asked)
        .or_else(|| ports().find(|(_, p)| p.target_port == asked))
        .or_else(|| ports().find(|(_, p)| p.number == HTTP_PORT))?;
    let own = rules.mesh.gateways.get(gateway)?;
    let entry = rules.services.get(at)?.as_ref()?;
    if let Some(request) = request {
        let called = Called {
            rules,
            gateway,
            own,
            entry,
            service: (at, port.number),
        };
        if let Some(plan) = called.routed(request, pick)? {
            return Some(plan);
        }
    }
    let workload = pick.workload(&rules.mesh, at, nth, &Caller::gateway(own))?;
    let mut enforcements = Judges::one(entry);
    // The node takes this waypoint's word for its workload, so what else would be enforced on another way to the same port
    // is judged here: by the waypoints of its other services, and by its own.
    for (other, _) in rules.waypointed.get(workload)? {
        if *other != at && leads_to(&rules.mesh, *other, port.target_port) {
            enforcements.push(rules.services.get(*other)?.as_ref()?);
        }
    }
    let others = rules.own_waypoints.get(workload)?.as_ref();
    enforcements.extend(others.filter(|(at, _)| *at != gateway).map(|(_, e)| e));
    Some(Plan {
        asked: enforcements.len(),
        enforcements,
        rule: None,
        leg: None,
        via: None,
        own: Some(&own.id),
        service: Some(at),
        workload: Some(workload),
        protocol: port.protocol,
        next: Next::Workload(workload, port.target_port),
    })
}

pub(super) fn through_egress<'s>(
    rules: &'s Enforcements,
    gateway: usize,
    (at, asked): (usize, u16),
    address: Option<IpAddr>,
    request: Option<&Request>,
    pick: &Pick<'_>,
) -> Option<Plan<'s>> {
    let service = rules.mesh.services.get(at)?;
    let port = service_port(service, asked)?;
    let own = rules.mesh.gateways.get(gateway)?;
    let entry = rules.services.get(at)?.as_ref()?;
    if let Some(request) = request {
        let called = Called {
            rules,
            gateway,
            own,
            entry,
            service: (at, port.number),
        };
        if let Some(plan) = called.routed(request, pick)? {
            return Some(plan);
        }
    }
    let address = address.filter(|_| service.passthrough);
    if service.passthrough && address.is_none() {
        // There is no address but the one that is asked for.
        return None;
    }
    Some(Plan {
        enforcements: Judges::one(entry),
        asked: 1,
        rule: None,
        leg: None,
        via: None,
        own: Some(&own.id),
        service: Some(at),
        workload: None,
        protocol: port.protocol,
        next: Next::Outside(at, port.target_port, address),
    })
}

pub(super) fn through_ingress<'s>(
    rules: &'s Enforcements,
    gateway: usize,
    request: &Request,
    pick: &Pick<'_>,
) -> Option<Plan<'s>> {
    let own = rules.mesh.gateways.get(gateway)?;
    let entry = rules.gateways.get(gateway)?;
    let found = || rules.routes.at_gateway(&rules.mesh, gateway, request);
    match way(found, pick)? {
        // An edge leads nowhere by itself.
        Way::Plain => None,
        Way::Redirect(rule) => Some(redirects(entry, own, None, rule)),
        Way::To(leg, rule) => Onward {
            rules,
            gateway,
            own,
            entry,
            service: None,
            host: sent_host(rule, request, pick),
        }
        .plan(leg, rule, pick),
    }
}

/// The host of what is sent.
fn sent_host<'a>(rule: Option<&'a RouteRule>, request: &'a Request, pick: &Pick<'a>) -> &'a Host {
    let written = rule.and_then(|rule| rule.rewrite.host.as_ref());
    written.or(pick.host).unwrap_or(&request.host)
}
