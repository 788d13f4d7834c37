//! The way of one call through the mesh: every enforcement point that it meets, and what each of them says. A call that is
//! denied on the way is followed on as if it had been allowed, so that one walk shows everything in its way.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::StatusCode;

use crate::config::checked::capture::OriginalSource;
use crate::config::checked::route::RouteRule;
use crate::config::checked::{GatewayClass, Location, Mesh};
use crate::exchange::close::CloseReason;
use crate::http::forward;
use crate::jwt::{TokenOutcome, TokenRules};
use crate::policy::{Connection, CustomMatch, Decision, Judged, Request};
use crate::role::authenticate::{self, InvalidToken, TokenRefused};
use crate::role::directory::service_port;
use crate::role::endpoints::Caller;
use crate::role::enforcement::{Enforcements, Of};
use crate::role::outbound::{self, Route, Wanted};
use crate::role::plan::{self, Next, NoPlan, Plan, SitePoint};
use crate::role::rewrite;
use crate::vocab::host::Host;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// More enforcement points than any call meets.
const HOPS: usize = 8;
/// Port of an edge listener, where none is asked for.
const HTTPS_PORT: u16 = 443;

/// A call that somebody might make.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls, verified; `None` for a caller without a certificate of the mesh.
    pub from: Option<SpiffeId>,
    /// Address of the caller.
    pub source: IpAddr,
    /// Whom it calls.
    pub to: To,
    /// Port it calls.
    pub port: u16,
    /// The request, canonical and without claims; `None` for bytes that are not HTTP.
    pub request: Option<Request>,
    /// Server name of a TLS client hello, lower case.
    pub sni: Option<Arc<str>>,
    /// When, in seconds since the Unix epoch.
    pub time: i64,
}

/// Whom a call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// A host name in lower case.
    Name(String),
    /// An address.
    Address(IpAddr),
    /// A workload by its own address; index into `Mesh::workloads`.
    Workload(usize),
    /// A gateway's own listener; index into `Mesh::gateways`.
    Gateway(usize),
}

/// What the mesh's policies do not hold.
#[expect(
    missing_debug_implementations,
    reason = "a closure has nothing to show"
)]
pub struct Assumed<'a> {
    /// Verifies the tokens of a request.
    pub verify: &'a mut dyn FnMut(&TokenRules, &Request) -> TokenOutcome,
    /// The providers of CUSTOM policies that say no; all others say yes.
    pub refusing: &'a [String],
}

/// One enforcement point on the way.
#[derive(Clone, Debug)]
pub struct Hop {
    /// Where.
    pub place: Place,
    /// The connection as it is seen there.
    pub connection: Connection,
    /// The request as it is judged there; `None` where bytes are.
    pub request: Option<Request>,
    /// The way from here, at the caller's own node.
    pub route: Option<Route>,
    /// The rule of a route that it takes here, as records name it.
    pub rule: Option<Arc<str>>,
    /// A route answers it here, with this status.
    pub redirect: Option<StatusCode>,
    /// What passes is an HTTP request, whether or not it is read here.
    pub http: bool,
    /// Index into `Mesh::services`.
    pub service: Option<usize>,
    /// Index into `Mesh::workloads`.
    pub workload: Option<usize>,
    /// Providers of CUSTOM policies that are asked, by name.
    pub asked: Vec<Asked>,
    /// What is said, in the order in which it is.
    pub said: Vec<Said>,
    /// What ends it before all is said.
    pub stop: Option<Stop>,
    /// A provider's no or a token that is not accepted, in a mesh in dry run: not refused for it.
    pub would: Option<Stop>,
    /// The rate limits that count it, as indices into `Enforcements::limits`.
    pub limits: Vec<usize>,
}

/// A provider that is asked, and the policy that has it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Name of the provider.
    pub provider: String,
    /// The CUSTOM policy.
    pub policy: ResourceName,
    /// Index of its rule that matches.
    pub rule: usize,
    /// Why it cannot be asked as it is configured, and the status of the answer.
    pub never: Option<(&'static str, StatusCode)>,
}

/// Where a hop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The caller's own node: is the destination in the registry.
    Registry,
    /// The node of a workload.
    Node(usize),
    /// A gateway.
    Gateway(usize),
}

/// One verdict at a hop.
#[derive(Clone, Debug)]
pub struct Said {
    /// By what.
    pub by: By,
    /// Verdict.
    pub judged: Judged,
}

/// What gives a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `outboundTrafficPolicy`.
    Registry,
    /// PeerAuthentication.
    PeerAuthentication,
    /// Authorization policies.
    Rules(Of),
}

/// Why a hop has no more to say.
#[derive(Clone, Debug)]
pub enum Stop {
    /// Closed or answered for a reason that no policy gives.
    Close(CloseReason, String),
    /// A token does not verify.
    Token(InvalidToken),
    /// A provider says no, or cannot be asked.
    Provider(Asked),
}

impl Hop {
    /// The verdict that decides here: the first denial, also one that a dry run does not enforce, else the last allowance
    /// by a rule, else the last verdict.
    #[must_use]
    pub fn deciding(&self) -> Option<&Said> {
        let is_denial = |s: &&Said| s.judged.decision == Decision::Deny || s.judged.would_deny;
        let denial = self.said.iter().find(is_denial);
        let by_rule = || {
            let mut said = self.said.iter().rev();
            said.find(|s| s.judged.policy.is_some())
        };
        denial.or_else(by_rule).or_else(|| self.said.last())
    }

    /// Whether the call gets past it.
    #[must_use]
    pub fn allows(&self) -> bool {
        let denied = |s: &Said| s.judged.decision == Decision::Deny;
        self.stop.is_none() && !self.said.is_empty() && !self.said.iter().any(denied)
    }

    /// Whether a mesh in dry run lets it pass what would be denied.
    #[must_use]
    pub fn would_deny(&self) -> bool {
        self.would.is_some() || self.said.iter().any(|s| s.judged.would_deny)
    }

    /// The service or workload as records name it.
    #[must_use]
    pub fn destination(&self, mesh: &Mesh) -> String {
        let service = self.service.and_then(|at| mesh.services.get(at));
        let workload = self.workload.and_then(|at| mesh.workloads.get(at));
        service
            .map(|s| &s.name)
            .or_else(|| workload.map(|w| &w.name))
            .map_or_else(|| "unknown".to_owned(), ToString::to_string)
    }
}

/// The hops of a call, in order. Empty: nothing of the mesh is on its way.
pub fn walk(rules: &Enforcements, call: &Call, assumed: &mut Assumed<'_>) -> Vec<Hop> {
    let mut walker = Walker {
        rules,
        assumed,
        principal: call.from.clone(),
        peer: call.source,
        request: call.request.clone(),
        sni: call.sni.clone(),
        time: call.time,
        hops: Vec::new(),
    };
    let mut next = walker.depart(call);
    while let Some(stretch) = next.take().filter(|_| walker.hops.len() < HOPS) {
        next = walker.arrive(stretch);
    }
    walker.hops
}

/// What one enforcement point alone says: to a request, or to bytes if there is none.
pub fn judge_at(
    rules: &Enforcements,
    (place, point): (Place, &SitePoint),
    connection: Connection,
    request: Option<Request>,
    assumed: &mut Assumed<'_>,
) -> Option<Hop> {
    let mut walker = Walker {
        rules,
        assumed,
        principal: connection.principal.clone(),
        peer: connection.peer,
        sni: connection.sni.clone(),
        time: connection.time,
        request,
        hops: Vec::new(),
    };
    let mut hop = Hop::at(place, connection);
    if let Place::Node(at) = place {
        hop.workload = Some(at);
        walker.peer_authentication(at, &mut hop);
    }
    let http = walker.request.is_some();
    walker.judged(hop, point, http);
    walker.hops.into_iter().next()
}

/// The next enforcement point.
enum Stretch {
    /// A tunnel through a gateway, to an authority.
    Tunnel(usize, Host),
    /// A gateway's own listener, at a port.
    Listener(usize, u16),
    /// A workload's node, at a port of the workload.
    Node(usize, u16),
}

struct Walker<'w, 'a> {
    rules: &'w Enforcements,
    assumed: &'w mut Assumed<'a>,
    principal: Option<SpiffeId>,
    peer: IpAddr,
    request: Option<Request>,
    sni: Option<Arc<str>>,
    time: i64,
    hops: Vec<Hop>,
}

impl Walker<'_, '_> {
    fn connection(&self, destination: IpAddr, port: u16) -> Connection {
        Connection {
            principal: self.principal.clone(),
            peer: self.peer,
            remote: self.peer,
            destination,
            port,
            sni: self.sni.clone(),
            time: self.time,
        }
    }

    /// The caller as its node knows it: the first workload with its identity, else no more than the namespace in that.
    fn caller(&self) -> Caller<'_> {
        let id = self.principal.as_ref();
        let workloads = &self.rules.mesh.workloads;
        let namespace = || id.and_then(SpiffeId::k8s).map(|(namespace, _)| namespace);
        match workloads.iter().find(|w| Some(&w.id) == id) {
            Some(workload) => Caller::workload(workload),
            None => Caller {
                namespace: namespace(),
                ..Caller::default()
            },
        }
    }

    /// From the caller to the first enforcement point.
    fn depart(&mut self, call: &Call) -> Option<Stretch> {
        let wanted = match &call.to {
            To::Gateway(at) => return Some(Stretch::Listener(*at, call.port)),
            To::Workload(at) => Wanted::Address(self.rules.mesh.workloads.get(*at)?.address),
            To::Name(name) => Wanted::Name(name.clone()),
            To::Address(ip) => Wanted::Address(*ip),
        };
        if self.principal.is_none() {
            return self.straight(&wanted, call.port);
        }
        let from = self.caller();
        let (route, verdict) = outbound::judge(self.rules, &from, (&wanted, call.port), 0);
        let destination = match wanted {
            Wanted::Address(ip) => ip,
            Wanted::Name(_) => Ipv4Addr::UNSPECIFIED.into(),
        };
        let mut hop = Hop::at(Place::Registry, self.connection(destination, call.port));
        hop.http = self.request.is_some();
        hop.say(By::Registry, verdict.judged().clone());
        hop.route = Some(route.clone());
        let next = match route {
            Route::Gateway {
                gateway,
                service,
                authority,
            } => {
                hop.service = service;
                Host::parse(&authority)
                    .ok()
                    .map(|authority| Stretch::Tunnel(gateway, authority))
            }
            Route::Workload {
                workload,
                port,
                service,
            } => {
                hop.service = service;
                hop.workload = Some(workload);
                Some(Stretch::Node(workload, port))
            }
            Route::Outside { service, .. } => {
                hop.service = Some(service);
                None
            }
            Route::Unknown(Some(_)) => None,
            Route::Unknown(None) => {
                if hop.allows() {
                    let why = "the name is not in the registry, and a node resolves none";
                    hop.close(CloseReason::NoRoute, why);
                }
                None
            }
            Route::Unreachable { service, port } => {
                hop.service = Some(service);
                let why = outbound::unreachable(&self.rules.mesh, service, port);
                hop.close(CloseReason::NoRoute, why);
                None
            }
        };
        self.hops.push(hop);
        next
    }

    /// A caller whom no node takes into the mesh goes to the address itself: of a service, to one of its workloads.
    fn straight(&self, wanted: &Wanted, port: u16) -> Option<Stretch> {
        let (mesh, directory) = (&self.rules.mesh, &self.rules.directory);
        let service = match wanted {
            Wanted::Name(name) => directory.service_by_host(name),
            Wanted::Address(ip) => match directory.workload_by_address(*ip) {
                Some(workload) => return Some(Stretch::Node(workload, port)),
                None => directory.service_by_address(*ip),
            },
        };
        let service = service
            .and_then(|at| mesh.services.get(at))
            .filter(|s| s.location == Location::Internal)?;
        let target = service_port(service, port).map_or(port, |p| p.target_port);
        service
            .workloads
            .first()
            .map(|workload| Stretch::Node(*workload, target))
    }

    fn arrive(&mut self, stretch: Stretch) -> Option<Stretch> {
        let mesh = &self.rules.mesh;
        match stretch {
            Stretch::Tunnel(at, authority) => {
                let gateway = mesh.gateways.get(at)?;
                let name = gateway.name.clone();
                let destination = authority.ip().unwrap_or_else(|| gateway.hbone.ip());
                let connection = self.connection(destination, authority.port().unwrap_or_default());
                let authority = Some(authority);
                let point = match gateway.class {
                    GatewayClass::Egress => SitePoint::Egress {
                        gateway: name,
                        authority,
                    },
                    GatewayClass::Waypoint | GatewayClass::Ingress => SitePoint::Waypoint {
                        gateway: name,
                        authority,
                    },
                };
                self.judged(Hop::at(Place::Gateway(at), connection), &point, false)
            }
            Stretch::Listener(at, port) => self.listener(at, port),
            Stretch::Node(at, port) => {
                let workload = mesh.workloads.get(at)?;
                let point = SitePoint::Workload {
                    workload: workload.name.clone(),
                    app: (workload.address, port).into(),
                    mark: None,
                    source: OriginalSource::Drop,
                };
                let mut hop = Hop::at(Place::Node(at), self.connection(workload.address, port));
                hop.workload = Some(at);
                self.peer_authentication(at, &mut hop);
                self.judged(hop, &point, false)
            }
        }
    }

    fn peer_authentication(&self, workload: usize, hop: &mut Hop) {
        let mesh = &self.rules.mesh;
        let workload = mesh.workloads.get(workload);
        let denied = workload.and_then(|w| plan::refused_plaintext(mesh, w, &hop.connection));
        if let Some(denied) = denied {
            let judged = denied.judged;
            let enforced = !mesh.dry_run;
            hop.say(
                By::PeerAuthentication,
                if enforced {
                    judged
                } else {
                    judged.unenforced()
                },
            );
        }
    }

    fn listener(&mut self, at: usize, port: u16) -> Option<Stretch> {
        let gateway = self.rules.mesh.gateways.get(at)?;
        let name = gateway.name.clone();
        let mut hop = Hop::at(
            Place::Gateway(at),
            self.connection(gateway.hbone.ip(), port),
        );
        let point = match gateway.class {
            GatewayClass::Ingress => {
                // The edge asks for no certificate.
                hop.connection.principal = None;
                SitePoint::Ingress { gateway: name }
            }
            GatewayClass::Egress => SitePoint::Egress {
                gateway: name,
                authority: None,
            },
            GatewayClass::Waypoint => {
                if self.principal.is_none() {
                    let why = "a waypoint's own listener takes mTLS alone";
                    hop.close(CloseReason::Handshake, why);
                    self.hops.push(hop);
                    return None;
                }
                SitePoint::Waypoint {
                    gateway: name,
                    authority: None,
                }
            }
        };
        if let Some(request) = &self.request {
            let asked = point.destination(&hop.connection, &request.host, plan::HTTP_PORT);
            (hop.connection.destination, hop.connection.port) = asked;
        }
        self.judged(hop, &point, true)
    }

    /// Judges at a point, and says where the call goes from there. `http`: the listener understands nothing else.
    fn judged(&mut self, mut hop: Hop, point: &SitePoint, http: bool) -> Option<Stretch> {
        let rules = self.rules;
        let at_gateway = matches!(hop.place, Place::Gateway(_));
        hop.http = self.request.is_some();
        let bare = plan::plan_past_peer_authentication(rules, point, &hop.connection, None, 0);
        let read = http || bare.as_ref().is_ok_and(|plan| plan.needs_http(at_gateway));
        if read && self.request.is_none() {
            if let Ok(plan) = &bare {
                hop.judge(plan, None);
            }
            let why = "HTTP is read here, and this is not HTTP";
            hop.close(CloseReason::BadRequest, why);
            self.hops.push(hop);
            return None;
        }
        let next = match &self.request {
            Some(request) if read => {
                let request = request.clone();
                self.request_at(&mut hop, point, request)
            }
            Some(_) | None => match bare {
                Ok(plan) => {
                    hop.asked = asked(&plan, &rules.mesh, &hop.connection, None);
                    hop.judge(&plan, None);
                    Some(plan.next.clone()).zip(Some(plan.own.cloned()))
                }
                Err(why) => {
                    hop.unplanned(why, None);
                    None
                }
            },
        };
        hop.refused_by(self.assumed.refusing, &self.rules.mesh);
        self.hops.push(hop);
        let (next, own) = next?;
        self.onward(&next, own)
    }

    /// One request at a point, as an exchange there goes: providers, tokens, policies.
    fn request_at(
        &mut self,
        hop: &mut Hop,
        point: &SitePoint,
        mut request: Request,
    ) -> Option<(Next, Option<SpiffeId>)> {
        let mesh = &self.rules.mesh;
        let outside = matches!(point, SitePoint::Ingress { .. });
        forward::strip(&mut request.headers, outside, mesh.num_trusted_proxies);
        hop.connection.remote = forward::client_address(
            &request.headers,
            hop.connection.peer,
            mesh.num_trusted_proxies,
        );
        let found = plan::plan_past_peer_authentication(
            self.rules,
            point,
            &hop.connection,
            Some(&request),
            0,
        );
        let plan = match found {
            Ok(plan) => plan,
            Err(why) => {
                hop.unplanned(why, Some(request));
                return None;
            }
        };
        hop.asked = asked(&plan, mesh, &hop.connection, Some(&request));
        request.claims = None;
        let mode = mesh.path_normalization;
        match authenticate::tokens(&plan, &mut request, mode, &mut *self.assumed.verify) {
            Ok(()) => {}
            Err(TokenRefused::Invalid(invalid)) if mesh.dry_run => {
                hop.would = Some(Stop::Token(invalid));
                request.claims = None;
                authenticate::without_tokens(&plan, &mut request);
            }
            Err(TokenRefused::Invalid(invalid)) => hop.stop = Some(Stop::Token(invalid)),
            Err(TokenRefused::Target) => {
                hop.close(CloseReason::BadRequest, "request target is malformed");
            }
        }
        let next = (plan.next.clone(), plan.own.cloned());
        let sent = match plan.rule.map(|rule| rewrite::sent(rule, &request, mode)) {
            Some(Ok(sent)) => sent,
            Some(Err(_)) => {
                hop.close(
                    CloseReason::BadRequest,
                    "what a route makes of it is no path",
                );
                None
            }
            None => None,
        };
        if let Some(provider) = sent.as_ref().and_then(|s| plan.unasked(&hop.connection, s)) {
            let why = format!("`{provider}` would have to be asked about what a route makes of it");
            hop.close(CloseReason::Denied, why);
        }
        hop.takes(plan.rule);
        let mut onward = sent.as_ref().unwrap_or(&request).clone();
        hop.judge_sent(&plan, Some(request), sent.as_ref());
        hop.counted(&plan, self.rules, sent.as_ref());
        let own = plan.own.map_or("", SpiffeId::as_str);
        tell_caller(&mut onward, &hop.connection, own, mesh.forward_client_cert);
        self.request = Some(onward);
        Some(next)
    }

    /// From a gateway on; an app is the end of the way.
    fn onward(&mut self, next: &Next, own: Option<SpiffeId>) -> Option<Stretch> {
        let mesh = &self.rules.mesh;
        let stretch = match next {
            Next::App(..) | Next::Outside(..) | Next::Redirect => return None,
            Next::Workload(at, port) => Stretch::Node(*at, *port),
            Next::Gateway(at, authority) => Stretch::Tunnel(*at, Host::parse(authority).ok()?),
        };
        let is_own = |g: &&crate::config::checked::Gateway| Some(&g.id) == own.as_ref();
        if let Some(gateway) = mesh.gateways.iter().find(is_own) {
            self.peer = gateway.hbone.ip();
        }
        self.principal = own;
        self.sni = None;
        Some(stretch)
    }
}

impl Hop {
    fn at(place: Place, connection: Connection) -> Self {
        Self {
            place,
            connection,
            request: None,
            route: None,
            rule: None,
            redirect: None,
            http: false,
            service: None,
            workload: None,
            asked: Vec::new(),
            said: Vec::new(),
            stop: None,
            would: None,
            limits: Vec::new(),
        }
    }

    /// The rule of a route.
    fn takes(&mut self, rule: Option<&RouteRule>) {
        self.rule = rule.map(|rule| Arc::clone(&rule.label));
        let redirect = rule.and_then(|rule| rule.redirect.as_ref());
        self.redirect = redirect.map(|redirect| redirect.status);
    }

    fn say(&mut self, by: By, judged: Judged) {
        self.said.push(Said { by, judged });
    }

    /// Keeps what stopped it first.
    fn close(&mut self, close: CloseReason, why: impl Into<String>) {
        if self.stop.is_none() {
            self.stop = Some(Stop::Close(close, why.into()));
        }
    }

    fn judge(&mut self, plan: &Plan<'_>, request: Option<Request>) {
        self.judge_sent(plan, request, None);
    }

    fn judge_sent(&mut self, plan: &Plan<'_>, request: Option<Request>, sent: Option<&Request>) {
        self.service = plan.service.or(self.service);
        self.workload = plan.workload.or(self.workload);
        let moved = plan.connection_sent(&self.connection).into_owned();
        for (enforcement, as_sent) in plan.judges() {
            let (connection, judged) = if as_sent {
                (&moved, sent.or(request.as_ref()))
            } else {
                (&self.connection, request.as_ref())
            };
            let verdict = plan.verdict(enforcement, connection, judged, usize::MAX);
            self.say(By::Rules(enforcement.of), verdict.judged().clone());
        }
        self.request = request;
    }

    /// The rate limits that would take a token for it.
    fn counted(&mut self, plan: &Plan<'_>, rules: &Enforcements, sent: Option<&Request>) {
        let Some(asked) = self.request.as_ref().filter(|_| !rules.mesh.dry_run) else {
            return;
        };
        let moved = plan.connection_sent(&self.connection);
        let counts = |(at, as_sent): &(usize, bool)| {
            let (connection, request) = match as_sent {
                true => (&*moved, sent.unwrap_or(asked)),
                false => (&self.connection, asked),
            };
            let limit = rules.limits.get(*at);
            limit.is_some_and(|limit| limit.counts(connection, request))
        };
        let all: Vec<usize> = plan.limits().filter(counts).map(|(at, _)| at).collect();
        drop(moved);
        self.limits = all;
    }

    fn unplanned(&mut self, why: NoPlan, request: Option<Request>) {
        self.request = request;
        match why {
            NoPlan::Denied(denied) => self.say(By::Registry, denied.judged),
            NoPlan::Plaintext(denied) => self.say(By::PeerAuthentication, denied.judged),
            NoPlan::Close(close) => {
                self.close(close, "nothing here by that name, port or path");
            }
        }
    }

    fn refused_by(&mut self, refusing: &[String], mesh: &Mesh) {
        let mut asked = self.asked.iter();
        let no = asked.find(|a| a.never.is_some() || refusing.contains(&a.provider));
        let Some(no) = no.cloned() else {
            return;
        };
        let login = mesh.oidc_providers.iter().any(|p| p.name == no.provider);
        // Asked before tokens are looked at.
        let no = Some(Stop::Provider(no));
        // A login stays in force.
        if mesh.dry_run && !login {
            self.would = no;
        } else {
            self.stop = no;
        }
    }
}

fn asked(
    plan: &Plan<'_>,
    mesh: &Mesh,
    connection: &Connection,
    request: Option<&Request>,
) -> Vec<Asked> {
    let all = plan.custom(connection, request);
    let never = |name: &str| {
        let authorizer = mesh.authorizers.iter().find(|a| a.name == name)?;
        let why = plan.unaskable(mesh, authorizer, connection, request)?;
        Some((why, authorizer.status_on_error))
    };
    let asked = |found: &CustomMatch<'_>| Asked {
        never: never(found.provider),
        provider: found.provider.to_owned(),
        policy: found.policy.as_ref().clone(),
        rule: found.rule,
    };
    all.iter().map(asked).collect()
}

/// The port that a call without one is for: the first HTTP port of the service or, of a workload, of its first service.
#[must_use]
pub fn default_port(rules: &Enforcements, to: &To, tls: bool) -> u16 {
    let mesh = &rules.mesh;
    let usual = if tls { HTTPS_PORT } else { 80 };
    let of_service = |at: usize| mesh.services.get(at)?.ports.first().map(|p| p.number);
    let found = match to {
        To::Name(name) => rules.directory.service_by_host(name).and_then(of_service),
        To::Address(ip) => match rules.directory.service_by_address(*ip) {
            Some(at) => of_service(at),
            None => rules
                .directory
                .workload_by_address(*ip)
                .and_then(|at| of_workload(mesh, at)),
        },
        To::Workload(at) => of_workload(mesh, *at),
        To::Gateway(at) => {
            let class = mesh.gateways.get(*at).map(|g| g.class);
            (class != Some(GatewayClass::Egress)).then_some(HTTPS_PORT)
        }
    };
    found.unwrap_or(usual)
}

fn of_workload(mesh: &Mesh, workload: usize) -> Option<u16> {
    let of = |s: &&crate::config::checked::Service| {
        s.location == Location::Internal && s.workloads.contains(&workload)
    };
    let port = mesh.services.iter().find(of)?.ports.first()?;
    Some(port.target_port)
}

/// Writes into `request` who called, as an exchange tells it to the next one. `own`: who forwards it.
fn tell_caller(
    request: &mut Request,
    from: &Connection,
    own: &str,
    certificates: forward::ForwardClientCert,
) {
    let principal = from.principal.as_ref().map(SpiffeId::as_str);
    let mut fields = forward::Own::after(&request.headers);
    let said = (&forward::Said::default(), certificates, &[][..]);
    forward::set(&mut fields, (from.peer, principal), own, "http", said);
    fields.put_into(&mut request.headers);
}
