//! Which rules are compared with which.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::lint::index::Index;
use crate::policy::lint::overlap::{self, Void};
use crate::policy::lint::{Code, Finding, RuleId, Spot, Subject, Work, shadow};
use crate::policy::model::{Action, AuthorizationPolicy};

/// Pairs that may still be compared.
#[derive(Debug)]
pub(super) struct Budget {
    left: usize,
    /// Some pair was not compared.
    spent: bool,
}

impl Budget {
    /// Takes one comparison; false if there is none left.
    pub(super) fn take(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.spent = true,
        }
        !self.spent
    }
}

/// The rules of one action in a group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) allow: Index,
    pub(super) deny: Index,
    dry_allow: Index,
    dry_deny: Index,
    /// Some enforced ALLOW policy applies.
    pub(super) allows: bool,
}

impl Group {
    fn new(work: &Work<'_>, policies: &[usize]) -> Self {
        let of = |action: Action, dry_run: bool| {
            let wanted = |p: &AuthorizationPolicy| p.action == action && p.dry_run == dry_run;
            Index::new(work, &rules(work, policies, wanted))
        };
        let policy = |at: &usize| work.known.policies.get(*at);
        Self {
            allow: of(Action::Allow, false),
            deny: of(Action::Deny, false),
            dry_allow: of(Action::Allow, true),
            dry_deny: of(Action::Deny, true),
            allows: policies
                .iter()
                .filter_map(policy)
                .any(|p| p.action == Action::Allow && !p.dry_run),
        }
    }

    /// The rules of a policy's own kind.
    pub(super) fn like(&self, policy: &AuthorizationPolicy) -> Option<&Index> {
        match (policy.action, policy.dry_run) {
            (Action::Allow, false) => Some(&self.allow),
            (Action::Deny, false) => Some(&self.deny),
            (Action::Allow, true) => Some(&self.dry_allow),
            (Action::Deny, true) => Some(&self.dry_deny),
            (Action::Audit | Action::Custom, _) => None,
        }
    }
}

fn rules(
    work: &Work<'_>,
    policies: &[usize],
    wanted: impl Fn(&AuthorizationPolicy) -> bool,
) -> Vec<RuleId> {
    let known = |at: &usize| work.known.policies.get(*at).map(|p| (*at, p));
    let chosen = policies.iter().filter_map(known).filter(|(_, p)| wanted(p));
    let ids = |(policy, p): (usize, &AuthorizationPolicy)| {
        (0..p.rules.len()).map(move |rule| RuleId { policy, rule })
    };
    chosen.flat_map(ids).collect()
}

/// Compares the rules that can meet at some point.
pub(super) fn compare(work: &Work<'_>, pairs: usize, out: &mut Vec<Finding>) {
    let mut budget = Budget {
        left: pairs,
        spent: false,
    };
    // A rule is compared where it has the fewest others beside it; what holds for all its points is asked then.
    let mut home: BTreeMap<usize, usize> = BTreeMap::new();
    let groups: Vec<&Vec<usize>> = work.groups.keys().collect();
    for (at, policies) in groups.iter().enumerate() {
        for policy in *policies {
            let best = home.entry(*policy).or_insert(at);
            if groups.get(*best).is_some_and(|b| b.len() > policies.len()) {
                *best = at;
            }
        }
    }
    let mut void = Void::default();
    let mut dead: BTreeSet<RuleId> = BTreeSet::new();
    for (at, policies) in groups.iter().enumerate() {
        let group = Group::new(work, policies);
        for id in rules(work, policies, |_| true) {
            if home.get(&id.policy) == Some(&at) {
                shadow::rule(work, &group, id, &mut budget, out);
                if overlap::allow(work, &group, id, &mut budget, out) {
                    dead.insert(id);
                }
            }
        }
        for id in rules(work, policies, |p| p.action == Action::Deny && !p.dry_run) {
            if home.get(&id.policy) == Some(&at) {
                overlap::deny(work, &group, id, &dead, &mut budget, out);
            }
            void.look(work, &group, policies, id, &mut budget);
        }
    }
    if budget.spent {
        let spot = Spot {
            subject: Subject::Mesh,
            field: String::new(),
        };
        let message = format!(
            "not all pairs of rules were compared: there are more than {pairs} that may meet, so that shadowed and overlapping rules may have been missed"
        );
        out.push(Finding::new(Code::NotAllCompared, spot, message));
    } else {
        void.report(out);
    }
}
