//! Which policies hold at a place, and what they say: the same for live traffic, for what is open after a reload, and for
//! an explanation.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Method;

use crate::config::checked::capture::OriginalSource;
use crate::config::checked::route::RouteRule;
use crate::config::checked::{Mesh, Protocol, Workload};
use crate::exchange::close::CloseReason;
use crate::extauthz::{Authorizer, Kind};
use crate::policy::{
    Connection, CustomMatch, Denied, LOOKED_AT, OutboundTarget, Permit, Request, Verdict,
    custom_matches, decide_connect, decide_looking_at, decide_outbound, decide_plaintext,
    decide_via_waypoint, mtls_mode,
};
use crate::role::endpoints::{Leg, Pick};
use crate::role::enforcement::{Enforcement, Enforcements};
use crate::role::waypoint::{self, For};
use crate::vocab::host::Host;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

mod gateway;
mod judges;
pub use judges::Judges;

/// Port of a request to an egress gateway or waypoint that names none.
pub const HTTP_PORT: u16 = 80;
/// The same for `https`.
pub const HTTPS_PORT: u16 = 443;

/// Which enforcement point.
#[derive(Clone, Debug)]
pub enum SitePoint {
    /// The workload's own node.
    Workload {
        /// Workload entry.
        workload: ResourceName,
        /// Where its app listens.
        app: SocketAddr,
        /// `SO_MARK` towards the app.
        mark: Option<u32>,
        /// Whether the app sees the client's address.
        source: OriginalSource,
    },
    /// A waypoint.
    Waypoint {
        /// Gateway.
        gateway: ResourceName,
        /// Authority of the tunnel; `None` on a direct connection, where the request's host decides.
        authority: Option<Host>,
    },
    /// An egress gateway.
    Egress {
        /// Gateway.
        gateway: ResourceName,
        /// Authority of the tunnel; `None` for the explicit proxy, where the request's target decides.
        authority: Option<Host>,
    },
    /// An ingress.
    Ingress {
        /// Gateway.
        gateway: ResourceName,
    },
}

impl SitePoint {
    /// The destination that is judged of a request for `host`: `destination.ip` and `destination.port`. Where the connection
    /// itself does not say what it is for, at an explicit proxy and on direct mTLS to a waypoint, it is the port that the request
    /// asks for, or that of its scheme at the proxy; the address is what it asks for, if that is no name.
    #[must_use]
    pub fn destination(
        &self,
        connection: &Connection,
        host: &Host,
        scheme_port: u16,
    ) -> (IpAddr, u16) {
        let usual = match self {
            Self::Egress {
                authority: None, ..
            } => scheme_port,
            Self::Waypoint {
                authority: None, ..
            } => connection.port,
            Self::Egress { .. }
            | Self::Waypoint { .. }
            | Self::Workload { .. }
            | Self::Ingress { .. } => return (connection.destination, connection.port),
        };
        (
            host.ip().unwrap_or(connection.destination),
            host.port().unwrap_or(usual),
        )
    }
}

/// The policies that hold, and where it goes if they allow it.
#[derive(Debug)]
pub struct Plan<'s> {
    /// All of them must allow.
    pub enforcements: Judges<'s>,
    /// So many of them, from the first, judge what was asked for; the others what is sent after a route has changed it.
    pub asked: usize,
    /// The rule of a route that it takes.
    pub rule: Option<&'s RouteRule>,
    /// The backend that a route has chosen.
    pub leg: Option<Leg>,
    /// The workload's own waypoint is the peer: its L7 policies were judged there.
    pub via: Option<&'s SpiffeId>,
    /// Who we are towards the upstream; `None` towards the workload's own app.
    pub own: Option<&'s SpiffeId>,
    /// Index into `Mesh::services`.
    pub service: Option<usize>,
    /// Index into `Mesh::workloads`.
    pub workload: Option<usize>,
    /// Protocol of the port.
    pub protocol: Protocol,
    /// Where to.
    pub next: Next,
}

/// Where permitted traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The workload's app: address, mark of the connection, whether it comes from the client's address.
    App(SocketAddr, Option<u32>, OriginalSource),
    /// A workload's node: index, port.
    Workload(usize, u16),
    /// A waypoint or egress gateway: index, authority.
    Gateway(usize, String),
    /// An outside service: index, port; the address that was asked for, where that is what is dialled.
    Outside(usize, u16, Option<IpAddr>),
    /// Nowhere: the rule redirects.
    Redirect,
}

/// Why there is no plan: a reason to close, or a denial by the registry.
#[derive(Debug)]
pub enum NoPlan {
    /// Nothing there.
    Close(CloseReason),
    /// Not in the registry.
    Denied(Denied),
    /// A caller without identity where peer authentication says STRICT.
    Plaintext(Denied),
}

/// Finds what holds for a connection at `point`. `request` is `None` at L4; `pick` chooses among endpoints.
///
/// # Errors
/// `NoPlan`.
pub fn plan<'s, 'p>(
    rules: &'s Enforcements,
    point: &SitePoint,
    connection: &Connection,
    request: Option<&Request>,
    pick: impl Into<Pick<'p>>,
) -> Result<Plan<'s>, NoPlan> {
    let plan = plan_past_peer_authentication(rules, point, connection, request, pick)?;
    let is_plain = matches!(point, SitePoint::Workload { .. }) && connection.principal.is_none();
    let workload = plan.workload.filter(|_| is_plain);
    let workload = workload.and_then(|at| rules.mesh.workloads.get(at));
    match workload.and_then(|w| refused_plaintext(&rules.mesh, w, connection)) {
        Some(denied) if !rules.mesh.dry_run => Err(NoPlan::Plaintext(denied)),
        Some(_) | None => Ok(plan),
    }
}

/// As `plan`, for those who look at peer authentication by themselves.
///
/// # Errors
/// `NoPlan`.
pub fn plan_past_peer_authentication<'s, 'p>(
    rules: &'s Enforcements,
    point: &SitePoint,
    connection: &Connection,
    request: Option<&Request>,
    pick: impl Into<Pick<'p>>,
) -> Result<Plan<'s>, NoPlan> {
    let pick = &pick.into();
    let none = || NoPlan::Close(CloseReason::NoRoute);
    match point {
        SitePoint::Workload {
            workload,
            app,
            mark,
            source,
        } => at_workload(rules, workload, connection, (*app, *mark, *source)).ok_or_else(none),
        SitePoint::Waypoint { gateway, authority } => {
            let at = rules.directory.gateway(gateway).ok_or_else(none)?;
            let (mesh, directory) = (&rules.mesh, &rules.directory);
            let found = match (authority, request) {
                (Some(authority), _) => waypoint::by_authority(mesh, directory, at, authority),
                (None, Some(request)) => {
                    waypoint::by_host(mesh, directory, at, &request.host, connection.port)
                }
                (None, None) => None,
            };
            match found.ok_or_else(none)? {
                For::Service { service, port, .. } => {
                    gateway::through_waypoint(rules, at, (service, port), request, pick)
                }
                For::Workload { workload, port } => to_workload(rules, at, workload, port),
            }
            .ok_or_else(none)
        }
        SitePoint::Egress { gateway, authority } => {
            let at = rules.directory.gateway(gateway).ok_or_else(none)?;
            let (mesh, directory) = (&rules.mesh, &rules.directory);
            let found = match (authority, request) {
                (Some(authority), _) => waypoint::by_authority(mesh, directory, at, authority),
                (None, Some(request)) => {
                    waypoint::by_host(mesh, directory, at, &request.host, HTTP_PORT)
                }
                (None, None) => None,
            };
            let Some(found) = found else {
                return Err(unknown(
                    authority.as_ref().or_else(|| request.map(|r| &r.host)),
                ));
            };
            let For::Service {
                service,
                port,
                address,
            } = found
            else {
                return Err(none());
            };
            // A tunnel to one host that carries a request for another would be judged as the one and sent as the other.
            if let Some(request) = request
                && (waypoint::service(mesh, directory, at, &request.host) != Some(service)
                    || request.host.port().is_some_and(|asked| asked != port)
                    || (address.is_some()
                        && request.host.ip().is_some()
                        && request.host.ip() != address))
            {
                return Err(unknown(Some(&request.host)));
            }
            gateway::through_egress(rules, at, (service, port), address, request, pick)
                .ok_or_else(none)
        }
        SitePoint::Ingress { gateway } => {
            let at = rules.directory.gateway(gateway).ok_or_else(none)?;
            let request = request.ok_or_else(none)?;
            gateway::through_ingress(rules, at, request, pick).ok_or_else(none)
        }
    }
}

fn unknown(host: Option<&Host>) -> NoPlan {
    let name = host.map_or("", |h| h.as_str());
    match decide_outbound(OutboundTarget::Unknown(name), false).permit() {
        Err(denied) => NoPlan::Denied(denied),
        Ok(_permit) => NoPlan::Close(CloseReason::NoRoute),
    }
}

fn at_workload<'s>(
    rules: &'s Enforcements,
    name: &ResourceName,
    connection: &Connection,
    (app, mark, source): (SocketAddr, Option<u32>, OriginalSource),
) -> Option<Plan<'s>> {
    let at = rules.directory.workload(name)?;
    let waypointed = rules.waypointed.get(at)?;
    let own_waypoint = rules.own_waypoints.get(at)?.as_ref();
    let is_peer = |gateway: &usize| {
        let gateway = rules.mesh.gateways.get(*gateway)?;
        (connection.principal.as_ref() == Some(&gateway.id)).then_some(&gateway.id)
    };
    // A gateway's word is about the ports that it leads to.
    let here = waypointed
        .iter()
        .filter(|(service, _)| leads_to(&rules.mesh, *service, connection.port));
    let gateways = here.map(|(_, gateway)| gateway);
    let mut gateways = gateways.chain(own_waypoint.map(|(gateway, _)| gateway));
    let via = gateways.find_map(is_peer);
    let mut enforcements = Judges::one(rules.workloads.get(at)?);
    if via.is_none() {
        for (service, _) in waypointed {
            // A service whose policies are not there is not a service without policies.
            enforcements.push(rules.services.get(*service)?.as_ref()?);
        }
        enforcements.extend(own_waypoint.map(|(_, enforcement)| enforcement));
    }
    let (service, protocol) = port_of(rules, at, connection.port);
    Some(Plan {
        asked: enforcements.len(),
        enforcements,
        rule: None,
        leg: None,
        via,
        own: None,
        service,
        workload: Some(at),
        protocol,
        next: Next::App(app, mark, source),
    })
}

/// Whether a service leads to this port of its workloads.
fn leads_to(mesh: &Mesh, service: usize, port: u16) -> bool {
    let service = mesh.services.get(service);
    service.is_some_and(|s| s.ports.iter().any(|p| p.target_port == port))
}

/// The service and protocol of a workload's port; HTTP is assumed where a waypointed service does not list it.
fn port_of(rules: &Enforcements, workload: usize, port: u16) -> (Option<usize>, Protocol) {
    let services = rules.directory.services_of(workload);
    let declared = services.iter().find_map(|at| {
        let mut ports = rules.mesh.services.get(*at)?.ports.iter();
        let declared = ports.find(|p| p.target_port == port)?;
        Some((Some(*at), declared.protocol))
    });
    declared.unwrap_or_else(|| (services.first().copied(), Protocol::Http))
}

/// A workload by its own address, through its waypoint: that enforces also what its services' waypoints would, so that
/// neither way in is a way around the other's policies.
fn to_workload(
    rules: &Enforcements,
    gateway: usize,
    workload: usize,
    port: u16,
) -> Option<Plan<'_>> {
    let (own, enforcement) = rules.own_waypoints.get(workload)?.as_ref()?;
    if *own != gateway {
        return None;
    }
    let mut enforcements = Judges::one(enforcement);
    for (service, _) in rules.waypointed.get(workload)? {
        enforcements.push(rules.services.get(*service)?.as_ref()?);
    }
    let (service, protocol) = port_of(rules, workload, port);
    Some(Plan {
        asked: enforcements.len(),
        enforcements,
        rule: None,
        leg: None,
        via: None,
        own: Some(&rules.mesh.gateways.get(gateway)?.id),
        service,
        workload: Some(workload),
        protocol,
        next: Next::Workload(workload, port),
    })
}

/// Peer authentication at a workload: the denial of a connection without identity where its port is STRICT.
#[must_use]
pub fn refused_plaintext(
    mesh: &Mesh,
    workload: &Workload,
    connection: &Connection,
) -> Option<Denied> {
    let mode = mtls_mode(
        &mesh.peer_authentications,
        &mesh.root_namespace,
        &workload.name.namespace,
        &workload.labels,
        connection.port,
    );
    decide_plaintext(mode, connection)
}

/// The plan of an open exchange by newer rules or at a later time (`connection.time` is now); `None` if there is none any
/// more. `towards`: the workload that a gateway chose for it, whose policies are the ones that count. `leg`: the backend that a
/// route chose, by its name: routes that have changed since are for what comes after.
#[must_use]
pub fn again<'s>(
    rules: &'s Enforcements,
    point: &SitePoint,
    connection: &Connection,
    request: Option<&Request>,
    (towards, leg): (Option<&ResourceName>, Option<(&ResourceName, Leg)>),
) -> Option<Plan<'s>> {
    let only = match towards {
        Some(name) => Some(rules.directory.workload(name)?),
        None => None,
    };
    let leg = match leg {
        Some((name, leg)) => Some(Leg {
            service: rules.directory.service(name)?,
            ..leg
        }),
        None => None,
    };
    let pick = Pick {
        only,
        leg,
        settled: true,
        ..Pick::default()
    };
    let plan = plan(rules, point, connection, request, pick).ok()?;
    let same = only.is_none() || plan.workload.is_none_or(|at| Some(at) == only);
    same.then_some(plan)
}

impl<'s> Plan<'s> {
    /// Whether what is open at `point` may stay so.
    #[must_use]
    pub fn still_allows(
        &self,
        point: &SitePoint,
        connection: &Connection,
        request: Option<&Request>,
    ) -> bool {
        self.still_allows_sent(point, connection, request, None)
    }

    /// As [`Self::still_allows`], of a request that was `sent` otherwise than it was asked for.
    #[must_use]
    pub fn still_allows_sent(
        &self,
        point: &SitePoint,
        connection: &Connection,
        request: Option<&Request>,
        sent: Option<&Request>,
    ) -> bool {
        let at_gateway = !matches!(point, SitePoint::Workload { .. });
        // Bytes that nobody reads cannot be judged by a request rule or token rule that has come since.
        let is_judged = request.is_some() || !self.needs_http(at_gateway);
        is_judged && self.judge_sent(connection, request, sent).is_ok()
    }

    /// Whether providers that were asked and tokens that were verified for `first` are those of this plan, too.
    #[must_use]
    pub fn is_judged_as(&self, first: &[&Enforcement]) -> bool {
        let same = |(a, b): (&&Enforcement, &&Enforcement)| {
            std::ptr::eq(*a, *b)
                || (Arc::ptr_eq(&a.set, &b.set)
                    && a.tokens.is_empty()
                    && b.tokens.is_empty()
                    && a.limits == b.limits)
        };
        self.enforcements.len() == first.len() && self.enforcements.iter().zip(first).all(same)
    }

    /// The CUSTOM policies that match, by name of their providers and one for each. All of those must say yes before the
    /// rest is judged.
    #[must_use]
    pub fn custom(
        &self,
        connection: &Connection,
        request: Option<&Request>,
    ) -> Vec<CustomMatch<'s>> {
        let moved = self.connection_sent(connection);
        let of = |as_sent| if as_sent { moved.as_ref() } else { connection };
        let mut all: Vec<CustomMatch<'s>> = self
            .judges()
            .flat_map(|(e, as_sent)| custom_matches(&e.set, of(as_sent), request))
            .collect();
        all.sort_by(|a, b| a.provider.cmp(b.provider));
        all.dedup_by(|a, b| a.provider == b.provider);
        all
    }

    /// Why an authorizer whose policy matches cannot be asked, whatever it would say: the call is denied, also with
    /// `failOpen`.
    #[must_use]
    pub fn unaskable(
        &self,
        mesh: &Mesh,
        authorizer: &Authorizer,
        connection: &Connection,
        request: Option<&Request>,
    ) -> Option<&'static str> {
        let declared = mesh.services.get(authorizer.service);
        let ports = declared.into_iter().flat_map(|s| &s.ports);
        let own = self.service == Some(authorizer.service)
            && ports
                .filter(|p| p.number == authorizer.port)
                .any(|p| [p.number, p.target_port].contains(&connection.port));
        if own {
            return Some("would be asked about a call to itself");
        }
        match (&authorizer.kind, request) {
            (Kind::Grpc, _) => None,
            (Kind::Http(_), None) => {
                Some("an HTTP authorizer cannot be asked about a bare connection")
            }
            (Kind::Http(_), Some(request)) => request
                .path
                .is_none()
                .then_some("an HTTP authorizer cannot be asked about a CONNECT"),
        }
    }

    /// Judges; every enforcement point must allow, and the last permit is the one to dial with.
    ///
    /// # Errors
    /// The first denial; `None` if nothing judges here, which is a denial as well.
    pub fn judge(
        &self,
        connection: &Connection,
        request: Option<&Request>,
    ) -> Result<Permit, Option<Denied>> {
        self.judge_sent(connection, request, None)
    }

    /// As [`Self::judge`], of a request that is `sent` otherwise than it was asked for.
    ///
    /// # Errors
    /// As [`Self::judge`].
    pub fn judge_sent(
        &self,
        connection: &Connection,
        request: Option<&Request>,
        sent: Option<&Request>,
    ) -> Result<Permit, Option<Denied>> {
        let mut permit: Result<Permit, Option<Denied>> = Err(None);
        let moved = self.connection_sent(connection);
        for (enforcement, as_sent) in self.judges() {
            let (connection, request) = if as_sent {
                (moved.as_ref(), sent.or(request))
            } else {
                (connection, request)
            };
            let verdict = self.verdict(enforcement, connection, request, LOOKED_AT);
            let next = verdict.permit().map_err(Some)?;
            // In dry run the first that would have denied is the one to tell of.
            permit = match permit {
                Ok(kept) if kept.verdict().would_deny => Ok(kept),
                Ok(_) | Err(_) => Ok(next),
            };
        }
        permit
    }

    /// The connection as those see it who judge what is sent: it asks for the port that a route leads to.
    #[must_use]
    pub fn connection_sent<'c>(&self, connection: &'c Connection) -> Cow<'c, Connection> {
        match self.leg {
            Some(leg) if leg.port != connection.port && self.judges_sent() => {
                Cow::Owned(Connection {
                    port: leg.port,
                    ..connection.clone()
                })
            }
            Some(_) | None => Cow::Borrowed(connection),
        }
    }

    fn judges_sent(&self) -> bool {
        self.asked < self.enforcements.len()
    }

    /// Whether a route chose this backend among several.
    #[must_use]
    pub fn is_spread(&self) -> bool {
        self.rule.is_some_and(|rule| rule.backends.len() > 1)
    }

    /// The enforcement points in their order, and whether each judges what is sent.
    pub fn judges(&self) -> impl Iterator<Item = (&'s Enforcement, bool)> + '_ {
        let all = self.enforcements.iter().enumerate();
        all.map(|(nth, enforcement)| (*enforcement, nth >= self.asked))
    }

    /// A provider of a CUSTOM policy that has a say in what is sent. It was asked about something else, and is not asked
    /// again.
    #[must_use]
    pub fn unasked(&self, connection: &Connection, sent: &Request) -> Option<&'s str> {
        let moved = self.connection_sent(connection);
        let mut sets = self.judges().filter(|(_, as_sent)| *as_sent);
        sets.find_map(|(enforcement, _)| {
            let matches = custom_matches(&enforcement.set, &moved, Some(sent));
            matches.first().map(|m| m.provider)
        })
    }

    /// What one of the plan's enforcement points says by itself; a denial because no rule matched looks at so many
    /// `rules` for the nearest one. Where there are several points, each believes only claims that its own token rules take.
    pub fn verdict(
        &self,
        enforcement: &Enforcement,
        connection: &Connection,
        request: Option<&Request>,
        rules: usize,
    ) -> Verdict {
        let set = &enforcement.set;
        let anonymous: Request;
        let request = match request {
            Some(of_another) if self.is_of_another(enforcement, of_another) => {
                anonymous = Request {
                    claims: None,
                    ..of_another.clone()
                };
                Some(&anonymous)
            }
            request => request,
        };
        match (self.via, request) {
            (Some(waypoint), _) => decide_via_waypoint(set, connection, request, waypoint),
            (None, Some(request)) if request.method == Method::CONNECT => {
                decide_connect(set, connection, request)
            }
            (None, _) => decide_looking_at(set, connection, request, rules),
        }
    }

    /// Whether a request's claims were taken by the token rules of another enforcement point than this one.
    fn is_of_another(&self, enforcement: &Enforcement, request: &Request) -> bool {
        let claims = request.claims.as_ref();
        self.enforcements.len() > 1 && claims.is_some_and(|c| !enforcement.tokens.takes(c))
    }

    /// The rate limits that hold, each once, and whether each counts what is sent.
    pub fn limits(&self) -> impl Iterator<Item = (usize, bool)> {
        let all = self.enforcements.iter().enumerate();
        all.flat_map(|(nth, e)| {
            let before = self.enforcements.get(..nth).unwrap_or_default();
            let is_new = move |at: &&usize| !before.iter().any(|b| b.limits.contains(at));
            let as_sent = nth >= self.asked;
            e.limits.iter().filter(is_new).map(move |at| (*at, as_sent))
        })
    }

    /// Whether HTTP has to be understood here: a policy, token rule or rate limit asks for it, and the port carries HTTP.
    #[must_use]
    pub fn needs_http(&self, at_gateway: bool) -> bool {
        let http = match self.protocol {
            Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Https => true,
            Protocol::Tls | Protocol::Tcp => false,
        };
        // An authorizer judges requests wherever there are any, whatever the rules of its policy look at.
        let asks = |e: &&Enforcement| {
            e.set.needs_http()
                || !e.tokens.is_empty()
                || !e.set.providers().is_empty()
                || !e.limits.is_empty()
        };
        http && (at_gateway || self.enforcements.len() > 1 || self.enforcements.iter().any(asks))
    }
}

#[cfg(test)]
mod tests;
