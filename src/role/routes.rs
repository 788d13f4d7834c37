//! Which rule of the routes a request takes, by Gateway API's precedence: the longest host, an exact path, a regular
//! expression, the longest prefix, then method, most header fields, most query parameters, and the order of the names.
//!
//! Hosts and exact paths are found by hash, prefixes by their segments, regular expressions and rules of one path by what
//! they ask for, so that a route costs nothing to those who do not take it. Looking up allocates nothing.

mod index;
mod list;
mod tree;

use std::collections::BTreeMap;

use crate::config::checked::Mesh;
use crate::config::checked::route::{Backend, RouteParent, RouteRule};
use crate::policy::{Regexes, Request};
use crate::role::routes::index::{Table, Unsorted};
use crate::upstream::balance;

/// The routes of a mesh, by what they are attached to.
#[derive(Debug, Default)]
pub struct Routes {
    /// By gateway.
    gateways: BTreeMap<usize, Table>,
    /// By service and port.
    services: BTreeMap<(usize, u16), Table>,
}

/// What the routes say about a request.
#[derive(Clone, Copy, Debug)]
pub enum Found<'m> {
    /// This rule.
    Rule(&'m RouteRule),
    /// Routes hold for its host, and none of their rules matches.
    NoMatch,
    /// No route is about it.
    NoRoute,
}

impl Routes {
    /// Those of a mesh that was checked.
    #[must_use]
    pub fn new(mesh: &Mesh) -> Self {
        let mut regexes = Regexes::default();
        let mut gateways: BTreeMap<usize, Unsorted> = BTreeMap::new();
        let mut services: BTreeMap<(usize, u16), Unsorted> = BTreeMap::new();
        let mut routes: Vec<_> = mesh.routes.iter().enumerate().collect();
        routes.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        for (at, route) in routes {
            for parent in &route.parents {
                match parent {
                    RouteParent::Gateway(gateway) => {
                        let table = gateways.entry(*gateway).or_default();
                        table.insert(at, route, &route.hostnames, &mut regexes);
                    }
                    RouteParent::Service(service, only) => {
                        let declared = mesh.services.get(*service);
                        let ports = declared.iter().flat_map(|s| &s.ports).map(|p| p.number);
                        for port in ports.filter(|n| only.is_none_or(|only| only == *n)) {
                            let table = services.entry((*service, port)).or_default();
                            table.insert(at, route, &[], &mut regexes);
                        }
                    }
                }
            }
        }
        Self {
            gateways: gateways.into_iter().map(sorted).collect(),
            services: services.into_iter().map(sorted).collect(),
        }
    }

    /// The rule for a request at a gateway, by the routes that are attached to that.
    #[must_use]
    pub fn at_gateway<'m>(&self, mesh: &'m Mesh, gateway: usize, request: &Request) -> Found<'m> {
        found(mesh, self.gateways.get(&gateway), request)
    }

    /// The rule for a request to a port of a service at its gateway: by the service's own routes if it has any, else by
    /// those of the gateway, if its host `is_named` by the request: those are found by that host.
    #[must_use]
    pub fn at_service<'m>(
        &self,
        mesh: &'m Mesh,
        gateway: usize,
        (service, port): (usize, u16),
        request: &Request,
        is_named: impl FnOnce() -> bool,
    ) -> Found<'m> {
        match self.services.get(&(service, port)) {
            Some(table) => found(mesh, Some(table), request),
            None if self.gateways.contains_key(&gateway) && is_named() => {
                self.at_gateway(mesh, gateway, request)
            }
            None => Found::NoRoute,
        }
    }
}

fn sorted<P>((parent, table): (P, Unsorted)) -> (P, Table) {
    (parent, table.sorted())
}

fn found<'m>(mesh: &'m Mesh, table: Option<&Table>, request: &Request) -> Found<'m> {
    let Some(table) = table else {
        return Found::NoRoute;
    };
    match table.find(request) {
        Ok((route, rule)) => {
            let rule = mesh.routes.get(route).and_then(|r| r.rules.get(rule));
            rule.map_or(Found::NoMatch, Found::Rule)
        }
        Err(index::Missed { host: true }) => Found::NoMatch,
        Err(index::Missed { host: false }) => Found::NoRoute,
    }
}

/// One of a rule's backends, by weight; `turn` counts the choices of a core. `None` if it has none.
#[must_use]
pub fn backend(rule: &RouteRule, turn: usize) -> Option<Backend> {
    let weights = rule.backends.iter().map(|b| b.weight);
    let nth = balance::by_weight(weights, turn)?;
    rule.backends.get(nth).map(|b| b.backend)
}

#[cfg(test)]
mod tests;
