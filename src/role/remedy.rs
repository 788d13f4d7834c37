//! What would let a denied call pass: the parts of the nearest rule that it misses, and changes to the mesh after which the
//! whole way allows it. Every change is tried by the engine before it is told.

mod fields;
mod probe;
mod resources;
mod rules;
pub mod written;

use std::sync::Arc;

use crate::config::checked::Mesh;
use crate::policy::model::{Action, AuthorizationPolicy};
use crate::policy::{Decision, Judged, Reason};
use crate::role::enforcement::Enforcements;
use crate::role::remedy::fields::{Fields, condition_lists};
use crate::role::remedy::probe::{Failing, Part, Probe};
use crate::role::walk::{By, Hop};
use crate::vocab::resource::ResourceName;

/// More changes than any call needs.
const EDITS: usize = 8;

/// One change of the mesh's resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Kind of the resource, as its table is called.
    pub kind: &'static str,
    /// Resource.
    pub name: ResourceName,
    /// What is done to it.
    pub change: Change,
    /// What to write.
    pub toml: String,
    /// What this allows; `true` if that is more than the call.
    pub allows: (String, bool),
}

/// What is done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    New,
    /// It gets one more rule.
    Add,
    /// This rule of it is replaced.
    Replace(usize),
    /// This rule of it is removed, or the whole of it if it is the only one.
    Remove(Option<usize>),
    /// A key of it is changed.
    Set,
}

/// How much an edit may allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// This call and no other.
    Narrow,
    /// What the nearest rule allows others.
    Wide,
}

/// A part of the nearest rule that the call misses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Key in the policy, such as `rules[0].from[0].source.principals`.
    pub key: String,
    /// What it asks for, as it is written.
    pub needs: String,
    /// What the call presents.
    pub got: Vec<String>,
}

/// The edits after which the call passes; `None` if none is found.
pub fn edits(
    mesh: &Mesh,
    breadth: Breadth,
    mut walk: impl FnMut(&Enforcements) -> Vec<Hop>,
) -> Option<Vec<Edit>> {
    let mut mesh = mesh.clone();
    // What a dry run would deny is denied when it ends.
    mesh.dry_run = false;
    let mut edits = Vec::new();
    while edits.len() < EDITS {
        let rules = Enforcements::build(Arc::new(mesh.clone())).ok()?;
        let hops = walk(&rules);
        let Some(hop) = hops.iter().find(|hop| !hop.allows()) else {
            return (!hops.is_empty()).then_some(edits);
        };
        if hop.stop.is_some() {
            return None;
        }
        edits.push(one(&mut mesh, hop, breadth)?);
    }
    None
}

fn one(mesh: &mut Mesh, hop: &Hop, breadth: Breadth) -> Option<Edit> {
    let said = hop.deciding()?;
    let judged = &said.judged;
    match (said.by, &judged.reason) {
        (By::Registry, Reason::UnknownDestination(_)) => resources::register(mesh, hop),
        (By::PeerAuthentication, _) => resources::accept_plaintext(mesh, hop),
        (By::Rules(of), Reason::NoPolicyDefaultDeny) => resources::first_policy(mesh, hop, of),
        (By::Rules(_), Reason::NoRuleMatched(_)) => rules::allow(mesh, hop, judged, breadth),
        (By::Rules(_), Reason::DenyRule) => rules::except(mesh, hop, judged, breadth),
        _ => None,
    }
}

/// What the call misses of the rule that came nearest.
#[must_use]
pub fn misses(mesh: &Mesh, hop: &Hop, judged: &Judged) -> Vec<Miss> {
    let denied = judged.decision == Decision::Deny || judged.would_deny;
    let near = matches!(judged.reason, Reason::NoRuleMatched(Some(_))) && denied;
    let (Some(policy), Some(index)) = (policy_of(mesh, judged).filter(|_| near), judged.rule)
    else {
        return Vec::new();
    };
    let Some(rule) = policy.rules.get(index) else {
        return Vec::new();
    };
    let probe = probe(mesh, hop);
    let miss = |failing: Failing| {
        let presented = probe.presented();
        let (key, needs, got) = match failing.part {
            Part::From(i) => (
                format!("rules[{index}].from[{i}].source.{}", failing.name),
                value_of(rule.from.get(i)?, &failing.name),
                presented.field(&failing.name).into_iter().collect(),
            ),
            Part::To(i) => (
                format!("rules[{index}].to[{i}].operation.{}", failing.name),
                value_of(rule.to.get(i)?, &failing.name),
                presented.field(&failing.name).into_iter().collect(),
            ),
            Part::When(i) => {
                let condition = rule.when.get(i)?;
                let lists = condition_lists(condition).into_iter();
                let lists = lists.filter(|(_, values)| !values.is_empty());
                let lists =
                    lists.map(|(name, values)| format!("{name} = {}", written::list(values)));
                (
                    format!("rules[{index}].when[{i}]"),
                    format!("{} {}", condition.key, lists.collect::<Vec<_>>().join(", ")),
                    presented.key(&condition.key),
                )
            }
        };
        Some(Miss { key, needs, got })
    };
    let failing = probe.failing(policy, rule);
    failing.into_iter().filter_map(miss).collect()
}

/// The first rule that a call without a token misses for its token alone: of the policy that was not met, or of another
/// one for the same target.
#[must_use]
pub fn by_token<'m>(
    mesh: &'m Mesh,
    hop: &Hop,
    judged: &Judged,
) -> Option<(&'m ResourceName, usize)> {
    let denied = judged.decision == Decision::Deny || judged.would_deny;
    let near = matches!(judged.reason, Reason::NoRuleMatched(_));
    let anonymous = hop.request.as_ref().is_some_and(|r| r.claims.is_none());
    let unmet = policy_of(mesh, judged).filter(|_| denied && near && anonymous)?;
    let probe = probe(mesh, hop);
    let others = mesh.authorization_policies.iter().filter(|other| {
        let holds = other.action == Action::Allow && !other.dry_run;
        holds && other.name.namespace == unmet.name.namespace && other.target == unmet.target
    });
    for policy in others {
        for (at, rule) in policy.rules.iter().enumerate() {
            let failing = probe.failing(policy, rule);
            if !failing.is_empty() && failing.iter().all(Failing::is_of_token) {
                return Some((&policy.name, at));
            }
        }
    }
    None
}

fn value_of<F: Fields>(clause: &F, name: &str) -> String {
    let fields = clause.fields();
    let values = fields.into_iter().find(|(n, _)| *n == name);
    values.map_or_else(String::new, |(_, values)| written::list(values))
}

fn policy_of<'m>(mesh: &'m Mesh, judged: &Judged) -> Option<&'m AuthorizationPolicy> {
    let name = judged.policy.as_deref()?;
    mesh.authorization_policies.iter().find(|p| p.name == *name)
}

fn probe<'a>(mesh: &'a Mesh, hop: &'a Hop) -> Probe<'a> {
    Probe {
        mesh,
        connection: &hop.connection,
        request: hop.request.as_ref(),
    }
}
