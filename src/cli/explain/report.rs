//! What is told about a call, as data.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use serde::Serialize;

use super::compare::{Compared, recorded_as};
use super::question::Asked;
use super::record::Recorded;
use crate::cli::named;
use crate::config::Config;
use crate::config::checked::GatewayClass;
use crate::exchange::close::CloseReason;
use crate::policy::explain::Explained;
use crate::policy::model::Action;
use crate::policy::{Decision, Judged};
use crate::role::enforcement::{Enforcements, Of};
use crate::role::remedy::{self, Breadth, Change, Edit, written};
use crate::role::walk::{By, Hop, Place, Said, Stop};
use crate::vocab::resource::ResourceName;

/// What a report is made of.
pub(super) struct Subject<'a> {
    pub(super) config: &'a Config,
    pub(super) rules: &'a Enforcements,
    pub(super) asked: &'a Asked,
    pub(super) hops: &'a [Hop],
    pub(super) ways: &'a [(Breadth, Vec<Edit>)],
    pub(super) recorded: Option<&'a Recorded>,
    /// The status and the reason with which the token of a record was refused, where that decides.
    pub(super) refused: Option<(u64, &'a str)>,
    /// Claims were given.
    pub(super) with_claims: bool,
    pub(super) running: Option<u64>,
    pub(super) notes: Vec<String>,
}

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was asked.
    pub(super) question: String,
    /// `allow` or `deny`.
    pub(super) verdict: &'static str,
    /// The mesh is in dry run, and this would be denied.
    pub(super) would_deny: bool,
    /// What the caller sees.
    pub(super) answer: String,
    /// The enforcement point that decides.
    pub(super) decided_at: Option<String>,
    /// The five steps of the decision.
    pub(super) steps: Vec<String>,
    /// Every enforcement point on the way.
    pub(super) way: Vec<Point>,
    /// The rule that decided, or the one that came nearest.
    pub(super) rule: Option<RuleText>,
    /// What the call misses of the nearest rule.
    pub(super) misses: Vec<Miss>,
    /// The rule that would let it pass with a token, where the call has none.
    pub(super) with_token: Option<RuleText>,
    /// Edits that would let it pass, the narrowest first; each list as a whole.
    pub(super) edits: Vec<Vec<EditText>>,
    /// What the answer depends on.
    pub(super) notes: Vec<String>,
    /// How it compares with the record.
    pub(super) record: Option<Compared>,
}

/// One verdict at an enforcement point.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Point {
    /// Where.
    pub(super) at: String,
    /// What judged there.
    pub(super) by: String,
    /// As whom the caller is seen.
    pub(super) principal: Option<String>,
    /// `allow` or `deny`.
    pub(super) verdict: &'static str,
    pub(super) would_deny: bool,
    pub(super) reason: String,
    pub(super) policy: Option<String>,
    pub(super) rule: Option<usize>,
    /// An AUDIT policy matched.
    pub(super) audit: bool,
    /// What policies in dry run would have said.
    pub(super) dry_run: Vec<String>,
    /// Providers of CUSTOM policies that are asked.
    pub(super) asked: Vec<String>,
    /// Only reached if what stands before were allowed.
    pub(super) hypothetical: bool,
}

/// A rule and its place.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RuleText {
    pub(super) policy: String,
    pub(super) action: String,
    pub(super) rule: Option<usize>,
    /// `FILE:LINE`.
    pub(super) place: Option<String>,
    pub(super) toml: String,
    /// It did not match: it is the one that came nearest.
    pub(super) nearest: bool,
}

/// What the nearest rule asks for and the call has not.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Miss {
    pub(super) key: String,
    pub(super) needs: String,
    pub(super) got: Vec<String>,
}

/// One edit.
#[derive(Clone, Debug, Serialize)]
pub(super) struct EditText {
    /// What to do, and where.
    pub(super) edit: String,
    pub(super) toml: String,
    pub(super) allows: String,
    /// It allows more than the call.
    pub(super) broader: bool,
}

impl Report {
    pub(super) fn new(subject: &Subject<'_>) -> Self {
        let decided = decided(subject.hops);
        let mut report = Self {
            question: shown(&subject.asked.title()),
            verdict: "deny",
            would_deny: subject.hops.iter().any(Hop::would_deny),
            answer: String::new(),
            decided_at: decided.map(|hop| subject.place(hop.place)),
            steps: Vec::new(),
            way: subject.way(),
            rule: None,
            misses: Vec::new(),
            with_token: None,
            edits: subject.edits(),
            notes: subject.notes.clone(),
            record: None,
        };
        match (decided, subject.asked) {
            (_, Asked::Bad { error, .. }) => {
                report.answer = format!("400 bad request: {error}");
            }
            (_, Asked::Redirected { .. }) => {
                "redirected to https, nothing is forwarded".clone_into(&mut report.answer);
            }
            (Some(hop), _) => report.decide(subject, hop),
            (None, _) => "nothing of the mesh is on its way".clone_into(&mut report.answer),
        }
        // By this configuration something else may end it before its token is looked at.
        let by_token = |hop| matches!(stop_of(hop), Some(Stop::Close(CloseReason::Token, _)));
        if let Some((status, _why)) = subject.refused.filter(|_| decided.is_some_and(by_token)) {
            report.refused(status);
        }
        let lacks_token = report.lacks_token() || report.with_token.is_some();
        if let Some(hop) = decided.filter(|_| lacks_token) {
            let anonymous = hop.request.as_ref().is_some_and(|r| r.claims.is_none());
            if anonymous {
                let text = "the call has no token that verified here: with one (--token, --claims) the answer may be another";
                report.notes.push(text.to_owned());
            }
        }
        let hosts = decided.and_then(|hop| subject.other_host(hop).or_else(|| subject.ports(hop)));
        report.notes.extend(hosts);
        report.notes.extend(subject.siblings());
        report
            .notes
            .extend(subject.hops.iter().find_map(|hop| subject.chosen_way(hop)));
        let routed = subject.hops.iter().filter_map(|hop| subject.routed(hop));
        report.notes.extend(routed);
        let limited = subject.hops.iter().flat_map(|hop| subject.limited(hop));
        report.notes.extend(limited);
        report.record = subject
            .recorded
            .map(|r| subject.compared(r, recorded_as(subject.hops)));
        if let Some(recorded) = subject.recorded {
            report
                .notes
                .extend(subject.limits_of(recorded, &report.misses));
        }
        report
    }

    /// Whether the call gets through.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.verdict == "allow"
    }

    /// One JSON object.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them serialize always.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether the nearest rule asks for something of a token.
    fn lacks_token(&self) -> bool {
        let of_token =
            |m: &Miss| m.key.ends_with("equestPrincipals") || m.needs.starts_with("request.auth.");
        self.misses.iter().any(of_token)
    }

    /// The answer had this status.
    fn refused(&mut self, status: u64) {
        let Some((_usual, why)) = self.answer.split_once(' ') else {
            return;
        };
        self.answer = format!("{status} {why}");
        if let Some(last) = self.steps.last_mut() {
            *last = format!("decision: DENY, {}", self.answer);
        }
    }

    fn decide(&mut self, subject: &Subject<'_>, hop: &Hop) {
        let allowed = subject.hops.iter().all(Hop::allows);
        if allowed {
            self.verdict = "allow";
        }
        let redirect = subject.hops.iter().find_map(|hop| hop.redirect);
        self.answer = match redirect.filter(|_| allowed) {
            Some(status) => format!("redirected, {status}"),
            None if allowed => "forwarded".to_owned(),
            None => answer(hop, stop_of(hop)),
        };
        let stop = stop_of(hop).or(hop.would.as_ref());
        let said = hop.deciding();
        let destination = match (hop.redirect, &hop.rule) {
            (Some(_), Some(rule)) => format!("route {rule}, which redirects"),
            _ => hop.destination(&subject.rules.mesh),
        };
        let destination = if hop.place == Place::Registry {
            subject.asked_destination().unwrap_or(destination)
        } else {
            destination
        };
        if let (None, Some(said)) = (stop, said) {
            // Plaintext that is refused is not read.
            let request = hop.request.as_ref();
            let request = request.filter(|_| said.by != By::PeerAuthentication);
            let told = Explained::new(&said.judged, &hop.connection, request, &destination);
            self.steps = told.steps().to_vec();
            if let Some(status) = hop.redirect.filter(|_| allowed) {
                redirected(&mut self.steps, status);
            }
            self.rule = subject.rule(&said.judged);
            let misses = remedy::misses(&subject.rules.mesh, hop, &said.judged);
            self.misses = misses
                .into_iter()
                .map(|m| Miss {
                    key: m.key,
                    needs: m.needs,
                    got: m.got.iter().map(|value| shown(value)).collect(),
                })
                .collect();
            let rule = remedy::by_token(&subject.rules.mesh, hop, &said.judged);
            self.with_token = rule.and_then(|(name, at)| subject.rule_of(name, Some(at), false));
        } else if let Some(stop) = stop {
            self.steps = stopped(hop, stop, &destination);
            if let Stop::Provider(no) = stop {
                self.rule = subject.rule_of(&no.policy, Some(no.rule), true);
            }
        }
    }
}

/// What is allowed and goes nowhere, in the words of the steps.
fn redirected(steps: &mut [String], status: StatusCode) {
    for step in steps {
        if let Some(before) = step.strip_suffix("ALLOW, forwarded") {
            *step = format!("{before}ALLOW, redirected with {status}");
        }
    }
}

/// The hop to tell of: the first that stops it, else the last at which a policy allowed it, else the last.
fn decided(hops: &[Hop]) -> Option<&Hop> {
    let stops = |hop: &&Hop| !hop.allows() || hop.would_deny();
    let by_policy = |hop: &&Hop| hop.said.iter().any(|s| s.judged.policy.is_some());
    hops.iter()
        .find(stops)
        .or_else(|| hops.iter().rev().find(by_policy))
        .or_else(|| hops.last())
}

/// What ended it, unless plaintext was refused before anything was read.
fn stop_of(hop: &Hop) -> Option<&Stop> {
    let refused = hop
        .said
        .iter()
        .any(|said| said.by == By::PeerAuthentication && said.judged.decision == Decision::Deny);
    hop.stop.as_ref().filter(|_| !refused)
}

fn answer(hop: &Hop, stop: Option<&Stop>) -> String {
    match stop {
        Some(Stop::Token(token)) => format!("{} {}", token.status.as_u16(), token.text),
        Some(Stop::Provider(no)) => {
            let name = &no.provider;
            match (no.never, &hop.request) {
                (None, _) => format!("what provider `{name}` answers, 403 if it says nothing"),
                (Some((why, status)), Some(_)) => {
                    format!("{}: provider `{name}`: {why}", status.as_u16())
                }
                (Some((why, _)), None) => {
                    format!("the connection is closed: provider `{name}`: {why}")
                }
            }
        }
        Some(Stop::Close(CloseReason::Handshake, why)) => {
            format!("the TLS handshake fails: {why}")
        }
        Some(Stop::Close(CloseReason::Token, why)) => {
            format!("{} {why}", CloseReason::Token.status().as_u16())
        }
        Some(Stop::Close(close, why)) => match &hop.request {
            Some(_) => format!("{}: {why}", close.status().as_u16()),
            None => format!("the connection is closed: {why}"),
        },
        None if hop
            .deciding()
            .is_some_and(|s| s.by == By::PeerAuthentication) =>
        {
            "connection reset".to_owned()
        }
        None => match (hop.place, &hop.request) {
            (Place::Registry, _) => "the connection is refused by the caller's own node".to_owned(),
            (_, Some(_)) => "403 RBAC: access denied".to_owned(),
            (_, None) => "the connection is closed; a tunnel is answered 401".to_owned(),
        },
    }
}

/// The five steps where something else than a policy ended it.
fn stopped(hop: &Hop, stop: &Stop, destination: &str) -> Vec<String> {
    let identity = match &hop.connection.principal {
        Some(id) => format!("identity from the client certificate: {id}"),
        None => "no client certificate, no identity".to_owned(),
    };
    let target = match &hop.request {
        Some(request) => {
            let path = request.path.as_ref().map_or("", |p| p.path());
            format!(
                "destination: {destination}, request {} {path}",
                request.method
            )
        }
        None => format!("destination: {destination}, a connection"),
    };
    let by_token = |error: &str| {
        (
            "policy checked: request authentication".to_owned(),
            format!("required: a token that verifies, presented: one that does not: {error}"),
        )
    };
    let (policy, comparison) = match stop {
        Stop::Token(token) => by_token(&token.error.to_string()),
        Stop::Close(CloseReason::Token, why) => by_token(why),
        Stop::Provider(no) => (
            format!("policy checked: {} (CUSTOM), rule {}", no.policy, no.rule),
            match no.never {
                None => format!(
                    "required: a yes of provider `{}`, presented: a no",
                    no.provider
                ),
                Some((why, _)) => format!(
                    "required: a yes of provider `{}`, it was not asked: {why}",
                    no.provider
                ),
            },
        ),
        Stop::Close(close, why) => (
            format!("policy checked: none ({})", close.label()),
            why.clone(),
        ),
    };
    let end = match (stop, &hop.request) {
        (Stop::Close(..), None) => "decision: DENY, connection closed".to_owned(),
        _ => format!("decision: DENY, {}", answer(hop, Some(stop))),
    };
    let end = if hop.stop.is_none() {
        end.replacen(
            "decision: ",
            "decision: ALLOW, the mesh is in dry run; it would be ",
            1,
        )
    } else {
        end
    };
    vec![identity, target, policy, comparison, end]
}

impl Subject<'_> {
    /// A request for another host than its tunnel is refused, whatever is registered.
    fn other_host(&self, hop: &Hop) -> Option<String> {
        use crate::role::walk::To;
        let Asked::Call { call, .. } = self.asked else {
            return None;
        };
        let (To::Name(name), Some(request)) = (&call.to, &hop.request) else {
            return None;
        };
        let unknown = hop.deciding().is_some_and(|said| said.by == By::Registry);
        let host = request.host.name();
        (unknown && host != name).then(|| {
            format!("the connection is for {name} and the request for {host}: a gateway takes no request for another host")
        })
    }

    /// A service whose workloads are not all judged by the same policies: the way told of is that to one of them.
    fn siblings(&self) -> Option<String> {
        use crate::role::walk::To;
        let Asked::Call { call, .. } = self.asked else {
            return None;
        };
        let own = |ip: &IpAddr| self.rules.directory.workload_by_address(*ip).is_some();
        if matches!(&call.to, To::Workload(_)) || matches!(&call.to, To::Address(ip) if own(ip)) {
            return None;
        }
        let set = |at: usize| self.rules.workloads.get(at).map(|e| &e.set);
        self.hops.iter().find_map(|hop| {
            let Place::Node(at) = hop.place else {
                return None;
            };
            let service = self.rules.mesh.services.get(hop.service?)?;
            let same = |other: &usize| match (set(at), set(*other)) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let name = |at: usize| Some(self.rules.mesh.workloads.get(at)?.name.to_string());
            let other = service.workloads.iter().find(|other| !same(other))?;
            Some(format!(
                "the workloads of {} have not all the same policies, and a call goes to any of them: this is the way to {}; \
                 ask with --to workload:{} too",
                service.name,
                name(at)?,
                name(*other)?
            ))
        })
    }

    /// A host that is there, but not at the port.
    fn ports(&self, hop: &Hop) -> Option<String> {
        use crate::role::walk::To;
        let (Asked::Call { call, .. } | Asked::Departure { call }) = self.asked else {
            return None;
        };
        let To::Name(name) = &call.to else {
            return None;
        };
        let denied =
            |said: &Said| said.by == By::Registry && said.judged.decision == Decision::Deny;
        let services = &self.rules.mesh.services;
        let meant = named::service(self.rules, name, call.from.as_ref());
        let meant = meant.and_then(|at| services.get(at));
        let of_host = services
            .iter()
            .filter(|s| s.hosts.contains(name))
            .chain(meant.filter(|s| !s.hosts.contains(name)));
        let ports: Vec<String> = of_host
            .flat_map(|s| &s.ports)
            .map(|p| p.number.to_string())
            .collect();
        let known = hop.deciding().is_some_and(denied) && !ports.is_empty();
        known.then(|| {
            format!(
                "{name} is in the registry at port {} alone",
                ports.join(", ")
            )
        })
    }

    /// What the caller asked for, where that is not in the mesh.
    fn asked_destination(&self) -> Option<String> {
        use crate::role::walk::To;
        let (Asked::Call { call, .. } | Asked::Departure { call }) = self.asked else {
            return None;
        };
        match &call.to {
            To::Name(name) => Some(format!("{name}:{}", call.port)),
            To::Address(ip) => Some(std::net::SocketAddr::new(*ip, call.port).to_string()),
            To::Workload(_) | To::Gateway(_) => None,
        }
    }

    fn place(&self, place: Place) -> String {
        let mesh = &self.rules.mesh;
        match place {
            Place::Registry => "registry (the caller's node)".to_owned(),
            Place::Node(at) => {
                let name = mesh.workloads.get(at).map(|w| w.name.to_string());
                format!("node of {}", name.unwrap_or_default())
            }
            Place::Gateway(at) => {
                let gateway = mesh.gateways.get(at);
                let role = match gateway.map(|g| g.class) {
                    Some(GatewayClass::Waypoint) => "waypoint",
                    Some(GatewayClass::Ingress) => "ingress",
                    Some(GatewayClass::Egress) => "egress",
                    None => "gateway",
                };
                let name = gateway.map(|g| g.name.to_string()).unwrap_or_default();
                format!("{role} {name}")
            }
        }
    }

    fn by(&self, by: By) -> String {
        let mesh = &self.rules.mesh;
        let named = |kind: &str, name: Option<&ResourceName>| {
            format!(
                "policies of {kind} {}",
                name.map(ToString::to_string).unwrap_or_default()
            )
        };
        match by {
            By::Registry => "registry".to_owned(),
            By::PeerAuthentication => "peer authentication".to_owned(),
            By::Rules(Of::Workload(at)) => {
                named("workload", mesh.workloads.get(at).map(|w| &w.name))
            }
            By::Rules(Of::Service(at)) => named("service", mesh.services.get(at).map(|s| &s.name)),
            By::Rules(Of::Gateway(at)) => named("gateway", mesh.gateways.get(at).map(|g| &g.name)),
        }
    }

    fn way(&self) -> Vec<Point> {
        let mut hypothetical = false;
        let mut way = Vec::new();
        for hop in self.hops {
            let at = self.place(hop.place);
            let mut beyond = hypothetical;
            let early = matches!(
                hop.stop,
                Some(Stop::Token(_) | Stop::Provider(_) | Stop::Close(CloseReason::Token, _))
            );
            let mut stop = hop.stop.as_ref();
            for said in &hop.said {
                let peer = said.by == By::PeerAuthentication;
                // Providers and tokens come after the connection, and before authorization.
                if let Some(stop) = stop.take_if(|_| early && !peer) {
                    way.push(self.stop(&at, hop, stop, beyond));
                    beyond = true;
                }
                way.push(self.point(&at, hop, said, beyond));
                beyond |= peer && said.judged.decision == Decision::Deny;
            }
            if let Some(stop) = stop {
                way.push(self.stop(&at, hop, stop, beyond));
            }
            if let Some(stop) = &hop.would {
                let mut point = self.stop(&at, hop, stop, hypothetical);
                (point.verdict, point.would_deny) = ("allow", true);
                way.push(point);
            }
            hypothetical |= !hop.allows();
        }
        // Each provider is asked once at a place.
        let mut before: Option<String> = None;
        for point in &mut way {
            if before.as_ref() == Some(&point.at) {
                point.asked.clear();
            }
            if !point.asked.is_empty() {
                before = Some(point.at.clone());
            }
        }
        way
    }

    fn point(&self, at: &str, hop: &Hop, said: &Said, hypothetical: bool) -> Point {
        let judged = &said.judged;
        let denied = judged.shadow.deny.map(|decision| match decision {
            Decision::Deny => "a DENY policy in dry run would deny it",
            Decision::Allow => "no DENY policy in dry run matches",
        });
        let allowed = judged.shadow.allow.map(|decision| match decision {
            Decision::Allow => "an ALLOW policy in dry run would allow it",
            Decision::Deny => "no ALLOW policy in dry run matches",
        });
        let shadow = denied.into_iter().chain(allowed);
        // A no that is not enforced is told by itself.
        let refused = matches!(hop.would, Some(Stop::Provider(_)));
        let names = hop.asked.iter().filter(|_| !refused);
        Point {
            at: at.to_owned(),
            by: self.by(said.by),
            principal: principal(hop),
            verdict: word(judged),
            would_deny: judged.would_deny,
            reason: judged.reason.text(&hop.connection, hop.request.as_ref()),
            policy: judged.policy.as_ref().map(ToString::to_string),
            rule: judged.rule,
            audit: judged.audit,
            dry_run: shadow.map(str::to_owned).collect(),
            asked: names.map(|a| a.provider.clone()).collect(),
            hypothetical,
        }
    }

    fn stop(&self, at: &str, hop: &Hop, stop: &Stop, hypothetical: bool) -> Point {
        let (by, reason) = match stop {
            Stop::Token(token) => ("request authentication", token.error.to_string()),
            Stop::Provider(no) => {
                let says = no.never.map_or_else(
                    || format!("provider `{}` says no", no.provider),
                    |(why, _)| format!("provider `{}`: {why}", no.provider),
                );
                ("CUSTOM", says)
            }
            Stop::Close(CloseReason::Token, why) => ("request authentication", why.clone()),
            Stop::Close(_, why) => ("connection", why.clone()),
        };
        let custom = match stop {
            Stop::Provider(no) => Some(no),
            Stop::Close(..) | Stop::Token(_) => None,
        };
        Point {
            at: at.to_owned(),
            by: by.to_owned(),
            principal: principal(hop),
            verdict: "deny",
            would_deny: false,
            reason,
            policy: custom.map(|no| no.policy.to_string()),
            rule: custom.map(|no| no.rule),
            audit: false,
            dry_run: Vec::new(),
            asked: hop.asked.iter().map(|a| a.provider.clone()).collect(),
            hypothetical,
        }
    }

    /// The rate limits that take a token for the call at a hop: whether there is one left only a process knows.
    fn limited(&self, hop: &Hop) -> Vec<String> {
        let at = self.place(hop.place);
        let limits = hop
            .limits
            .iter()
            .filter_map(|at| self.rules.limits.get(*at));
        let told = limits.map(|limit| {
            let (rule, bucket) = (limit.rule(), &limit.rule().bucket);
            let whose = match rule.by.is_empty() {
                true => "for all together",
                false => "for each caller that `by` tells apart",
            };
            format!(
                "{at} counts it by rate limit {}: {} tokens {whose}, {} every {} ms; 429 without one",
                rule.name, bucket.max_tokens, bucket.tokens_per_fill, bucket.fill_interval_ms
            )
        });
        told.collect()
    }

    /// The rule of a verdict as it is written.
    fn rule(&self, judged: &Judged) -> Option<RuleText> {
        let denied = judged.decision == Decision::Deny || judged.would_deny;
        self.rule_of(judged.policy.as_deref()?, judged.rule, denied)
    }

    fn rule_of(&self, name: &ResourceName, at: Option<usize>, denied: bool) -> Option<RuleText> {
        let policies = &self.rules.mesh.authorization_policies;
        let policy = policies.iter().find(|p| p.name == *name)?;
        let rule = at.and_then(|at| policy.rules.get(at));
        let action = match policy.action {
            Action::Allow => "ALLOW",
            Action::Deny => "DENY",
            Action::Audit => "AUDIT",
            Action::Custom => "CUSTOM",
        };
        Some(RuleText {
            policy: name.to_string(),
            action: action.to_owned(),
            rule: at,
            place: self.written_at(name, at),
            toml: rule.map(written::rule).unwrap_or_default(),
            nearest: denied && policy.action == Action::Allow,
        })
    }

    /// `FILE:LINE` of a policy, or of one of its rules.
    fn written_at(&self, name: &ResourceName, rule: Option<usize>) -> Option<String> {
        let place = self.config.places.iter().find(|p| p.name == *name)?;
        let line = match rule {
            Some(at) => place.rules.get(at).copied().unwrap_or(place.line),
            None => place.line,
        };
        Some(format!("{}:{line}", place.file.display()))
    }

    fn edits(&self) -> Vec<Vec<EditText>> {
        let text = |edit: &Edit| {
            let mut what = String::new();
            let (kind, name) = (edit.kind, &edit.name);
            // Writing to a string does not fail.
            super::os::ignore(match edit.change {
                Change::New => write!(what, "add {kind} {name}"),
                Change::Add => write!(what, "add a rule to {kind} {name}"),
                Change::Replace(at) => write!(what, "in {kind} {name}, write instead of rule {at}"),
                Change::Remove(None) => write!(what, "remove {kind} {name}"),
                Change::Remove(Some(at)) => write!(what, "remove rule {at} of {kind} {name}"),
                Change::Set => write!(what, "in {kind} {name}, write"),
            });
            let rule = match edit.change {
                Change::Replace(at) => Some(at),
                Change::Remove(rule) => rule,
                Change::New | Change::Add | Change::Set => None,
            };
            if let Some(place) = self.written_at(name, rule) {
                what.push_str(&format!(" ({place})"));
            }
            EditText {
                edit: what,
                toml: edit.toml.clone(),
                allows: edit.allows.0.clone(),
                broader: edit.allows.1,
            }
        };
        let way = |(_, edits): &(Breadth, Vec<Edit>)| edits.iter().map(text).collect();
        self.ways.iter().map(way).collect()
    }
}

/// A text that a peer may have chosen, on one line.
pub(super) fn shown(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() {
            c.escape_debug().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escaped).collect()
}

fn principal(hop: &Hop) -> Option<String> {
    let id = hop.connection.principal.as_ref()?;
    Some(id.principal().to_owned())
}

fn word(judged: &Judged) -> &'static str {
    match judged.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}
