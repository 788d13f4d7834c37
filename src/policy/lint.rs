//! What is valid and probably not meant: rules that change nothing, cannot match, or say more than their author thinks.
//!
//! Nothing is guessed: what is said of a rule holds of every request. A lint that would have to guess says nothing.

mod build;
mod clause;
mod code;
mod form;
mod identity;
mod index;
mod mesh;
mod never;
mod overlap;
mod pairs;
mod shadow;
mod traps;
mod witness;

#[cfg(test)]
mod tests;

pub use code::{Code, Severity};

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::policy::attach::Point;
use crate::policy::compile::L4Deny;
use crate::policy::lint::build::Reading;
use crate::policy::lint::clause::RuleForm;
use crate::policy::model::{AuthorizationPolicy, PeerAuthentication};
use crate::vocab::path::PathNormalization;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Annotation of a policy: codes, separated by commas, that are not reported for it.
pub const IGNORE_ANNOTATION: &str = "ringgate.dev/lint-ignore";

/// Pairs of rules that are compared at most.
pub const PAIRS: usize = 4_000_000;

/// What is known of the mesh.
#[derive(Debug)]
pub struct Known<'a> {
    /// Every AuthorizationPolicy.
    pub policies: &'a [AuthorizationPolicy],
    /// Every PeerAuthentication.
    pub peers: &'a [PeerAuthentication],
    /// Our own trust domain first, then its aliases.
    pub trust_domains: &'a [TrustDomain],
    /// `mesh.rootNamespace`.
    pub root_namespace: &'a str,
    /// `mesh.pathNormalization`.
    pub paths: PathNormalization,
    /// `mesh.compat.l4Deny`.
    pub l4_deny: L4Deny,
    /// Identities of all workloads and gateways; empty if the mesh is not known.
    pub identities: &'a [SpiffeId],
    /// Enforcement points.
    pub sites: Vec<Site>,
    /// `, did you mean ..` for a word and those that exist; empty if none is near.
    pub nearest: fn(&str, &[&str]) -> String,
}

/// An enforcement point, and what is known of the traffic that is judged there.
#[derive(Clone, Debug)]
pub struct Site {
    /// How a message calls it, such as `workload default/reviews`.
    pub name: String,
    /// The point.
    pub point: Point,
    /// Policies that apply, as indices into `Known::policies`, ascending.
    pub policies: Vec<usize>,
    /// Ports that traffic comes to; `None` if they are not known.
    pub ports: Option<Vec<u16>>,
    /// Addresses that traffic is for, as `destination.ip` of a rule; `None` if they are not known.
    pub addresses: Option<Vec<IpAddr>>,
    /// HTTP is never read here: no port carries it.
    pub bare: bool,
    /// Issuers of the RequestAuthentications that apply; an empty one is any issuer.
    pub issuers: Vec<String>,
    /// Principals that ALLOW policies need not name: the workload's own waypoints.
    pub exempt: Vec<SpiffeId>,
    /// Index of the workload, if it is one.
    pub workload: Option<usize>,
    /// Sites whose policies hold for all HTTP to this one too, as indices into `Known::sites`.
    pub waypoints: Vec<usize>,
}

/// The resource that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Index into `Known::policies`.
    Policy(usize),
    /// Index into `Known::peers`.
    Peer(usize),
    /// Index of a workload, as in `Site::workload`.
    Workload(usize),
    /// No resource in particular.
    Mesh,
}

/// A place in a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// The resource.
    pub subject: Subject,
    /// The field, such as `rules[0].to[0].operation.paths[1]`; empty for the resource as a whole.
    pub field: String,
}

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub spot: Spot,
    /// The other resource that it is about, if there is one.
    pub other: Option<Spot>,
    /// What it is and what to do: lower case, no full stop.
    pub message: String,
}

impl Finding {
    fn new(code: Code, spot: Spot, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            spot,
            other: None,
            message: message.into(),
        }
    }
}

/// A rule by its policy and its index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RuleId {
    policy: usize,
    rule: usize,
}

impl RuleId {
    fn spot(self) -> Spot {
        Spot {
            subject: Subject::Policy(self.policy),
            field: format!("rules[{}]", self.rule),
        }
    }
}

/// Everything that lints read, prepared once.
#[derive(Debug)]
struct Work<'a> {
    known: &'a Known<'a>,
    reading: Reading<'a>,
    /// Rules of each policy; `None` for one that is not valid.
    rules: Vec<Vec<Option<RuleForm>>>,
    /// Sites with the same policies, by those; the first of them stands for all.
    groups: Groups,
    /// By policy: where it applies, as indices of sites.
    sites: Vec<Vec<usize>>,
}

impl<'a> Work<'a> {
    fn new(known: &'a Known<'a>) -> Self {
        let reading = Reading {
            trust_domains: known.trust_domains,
            paths: known.paths,
        };
        let rules = known
            .policies
            .iter()
            .map(|p| p.rules.iter().map(|r| reading.rule(p, r)).collect())
            .collect();
        let (mut groups, mut sites) = alone(known);
        for (at, site) in known.sites.iter().enumerate() {
            groups.entry(site.policies.clone()).or_default().push(at);
            for policy in &site.policies {
                if let Some(list) = sites.get_mut(*policy) {
                    list.push(at);
                }
            }
        }
        Self {
            known,
            reading,
            rules,
            groups,
            sites,
        }
    }

    fn rule(&self, id: RuleId) -> Option<&RuleForm> {
        self.rules.get(id.policy)?.get(id.rule)?.as_ref()
    }

    fn policy(&self, id: RuleId) -> Option<&'a AuthorizationPolicy> {
        self.known.policies.get(id.policy)
    }

    /// Where a policy applies.
    fn sites_of(&self, policy: usize) -> impl Iterator<Item = &'a Site> {
        let sites = self.sites.get(policy).into_iter().flatten();
        sites.filter_map(|at| self.known.sites.get(*at))
    }

    /// Whether `wide` applies wherever `policy` does, and that is somewhere.
    fn applies_wherever(&self, wide: usize, policy: usize) -> bool {
        let (Some(wide), Some(own)) = (self.sites.get(wide), self.sites.get(policy)) else {
            return false;
        };
        !own.is_empty() && own.iter().all(|site| wide.binary_search(site).is_ok())
    }

    /// `rule 0 of default/lockdown`.
    fn called(&self, id: RuleId) -> String {
        let name = self.policy(id).map(|p| p.name.to_string());
        format!("rule {} of `{}`", id.rule, name.unwrap_or_default())
    }
}

/// By the policies of a group, its sites.
type Groups = BTreeMap<Vec<usize>, Vec<usize>>;

/// Where no point of the mesh is known, policies with one namespace and one target stand at one point, whatever it is.
fn alone(known: &Known<'_>) -> (Groups, Vec<Vec<usize>>) {
    let mut sites = vec![Vec::new(); known.policies.len()];
    let mut groups = Groups::new();
    if !known.sites.is_empty() {
        return (groups, sites);
    }
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, policy) in known.policies.iter().enumerate() {
        let key = format!("{} {:?}", policy.name.namespace, policy.target);
        found.entry(key).or_default().push(at);
    }
    for (site, policies) in found.into_values().enumerate() {
        for policy in &policies {
            if let Some(list) = sites.get_mut(*policy) {
                list.push(site);
            }
        }
        groups.insert(policies, vec![site]);
    }
    (groups, sites)
}

/// What each policy says by itself: cheap, in one pass over all values.
#[must_use]
pub fn single(known: &Known<'_>) -> Vec<Finding> {
    let work = Work::new(known);
    let names = identity::Names::new(known.identities);
    let mut out = Vec::new();
    for at in 0..known.policies.len() {
        traps::policy(&work, at, &mut out);
        never::policy(&work, at, &mut out);
        if !known.identities.is_empty() {
            identity::policy(&work, &names, at, &mut out);
        }
    }
    out
}

/// What policies say of each other and of the mesh. At most `pairs` pairs of rules are compared; if there are more, a
/// note says so.
#[must_use]
pub fn together(known: &Known<'_>, pairs: usize) -> Vec<Finding> {
    let work = Work::new(known);
    let mut out = Vec::new();
    mesh::coverage(&work, &mut out);
    mesh::plaintext(&work, &mut out);
    pairs::compare(&work, pairs, &mut out);
    out
}
