//! ALLOW and DENY rules that meet: DENY wins.

use std::collections::BTreeSet;

use crate::policy::lint::clause::RuleForm;
use crate::policy::lint::pairs::{Budget, Group};
use crate::policy::lint::witness::example;
use crate::policy::lint::{Code, Finding, RuleId, Work};
use crate::policy::model::{Action, AuthorizationPolicy};
use crate::policy::verdict::Decision;
use crate::vocab::spiffe::SpiffeId;

/// Reports an ALLOW rule that a DENY rule covers; whether it did.
pub(super) fn allow(
    work: &Work<'_>,
    group: &Group,
    id: RuleId,
    budget: &mut Budget,
    out: &mut Vec<Finding>,
) -> bool {
    let enforced = |p: &&AuthorizationPolicy| p.action == Action::Allow && !p.dry_run;
    let Some((_, form)) = work.policy(id).filter(enforced).zip(work.rule(id)) else {
        return false;
    };
    for other in group.deny.around(form) {
        if !work.applies_wherever(other.policy, id.policy) {
            continue;
        }
        if !budget.take() {
            return false;
        }
        if work.rule(other).is_some_and(|deny| deny.contains(form)) {
            let message = format!(
                "never takes effect: {} denies whatever this rule allows",
                work.called(other)
            );
            let mut finding = Finding::new(Code::AllowWithoutEffect, id.spot(), message);
            finding.other = Some(other.spot());
            out.push(finding);
            return true;
        }
    }
    false
}

/// Reports the ALLOW rules that a DENY rule takes something from; those of `dead` are told of already.
pub(super) fn deny(
    work: &Work<'_>,
    group: &Group,
    id: RuleId,
    dead: &BTreeSet<RuleId>,
    budget: &mut Budget,
    out: &mut Vec<Finding>,
) {
    let Some(deny) = work.rule(id) else { return };
    let mut inside: Vec<(RuleId, String)> = Vec::new();
    let mut across: Vec<(RuleId, String)> = Vec::new();
    for other in group.allow.meeting(deny, false) {
        let Some(allow) = work.rule(other).filter(|_| !dead.contains(&other)) else {
            continue;
        };
        if !budget.take() {
            return;
        }
        let Some(example) = meet(work, deny, allow) else {
            continue;
        };
        if cuts_a_part(deny, allow) {
            inside.push((other, example));
        } else {
            across.push((other, example));
        }
    }
    let mut tell = |code, met: &[(RuleId, String)], what: &str| {
        let Some((other, example)) = met.first() else {
            return;
        };
        let more = match met.len() - 1 {
            0 => String::new(),
            more => format!(" (and of {more} more)"),
        };
        let message = format!(
            "{what} {}{more} allows, such as {example}",
            work.called(*other)
        );
        let mut finding = Finding::new(code, id.spot(), message);
        finding.other = Some(other.spot());
        out.push(finding);
    };
    tell(Code::DenyInsideAllow, &inside, "denies a part of what");
    tell(
        Code::Overlap,
        &across,
        "cuts across an ALLOW rule, and wins: it denies some of what",
    );
}

/// A request that both match, told in words.
fn meet(work: &Work<'_>, deny: &RuleForm, allow: &RuleForm) -> Option<String> {
    let (denied, allowed) = (deny.clauses()?, allow.clauses()?);
    let pairs = denied
        .iter()
        .flat_map(|d| allowed.iter().map(move |a| (d, a)));
    let mut met = pairs.filter(|(d, a)| !d.apart(a, false)).take(8);
    met.find_map(|(d, a)| example(work, d, a))
        .map(|e| e.to_string())
}

/// Whether the DENY rule is, by who, by what and by when, each a part of the ALLOW rule or all of it: an exception, as
/// DENY rules are written.
fn cuts_a_part(deny: &RuleForm, allow: &RuleForm) -> bool {
    let only = |rule: &RuleForm, part: usize| {
        let mut out = RuleForm::default();
        match part {
            0 => out.from.clone_from(&rule.from),
            1 => out.to.clone_from(&rule.to),
            _ => out.when.clone_from(&rule.when),
        }
        out
    };
    (0..3).all(|part| {
        let (deny, allow) = (only(deny, part), only(allow, part));
        allow.contains(&deny) || deny.contains(&allow)
    })
}

/// DENY rules that deny only what is not allowed anyway.
#[derive(Debug, Default)]
pub(super) struct Void {
    rules: BTreeSet<RuleId>,
    refuted: BTreeSet<RuleId>,
}

impl Void {
    /// Looks at one DENY rule in one group of points.
    pub(super) fn look(
        &mut self,
        work: &Work<'_>,
        group: &Group,
        policies: &[usize],
        id: RuleId,
        budget: &mut Budget,
    ) {
        if self.refuted.contains(&id) {
            return;
        }
        if without_effect(work, group, policies, id, budget) {
            self.rules.insert(id);
        } else {
            self.rules.remove(&id);
            self.refuted.insert(id);
        }
    }

    /// Reports those that have no effect at any of their points.
    pub(super) fn report(&self, out: &mut Vec<Finding>) {
        for id in &self.rules {
            let message = "denies nothing: no ALLOW rule where it applies allows any of it";
            out.push(Finding::new(Code::DenyWithoutEffect, id.spot(), message));
        }
    }
}

fn without_effect(
    work: &Work<'_>,
    group: &Group,
    policies: &[usize],
    id: RuleId,
    budget: &mut Budget,
) -> bool {
    let Some(rule) = work.rule(id) else {
        return false;
    };
    let Some(denied) = rule.clauses() else {
        return false;
    };
    // A rule that matches nothing is told of as such.
    if denied.iter().all(|c| c.never().is_some()) {
        return false;
    }
    let sites = work.groups.get(policies).into_iter().flatten();
    let sites: Vec<_> = sites.filter_map(|at| work.known.sites.get(*at)).collect();
    let closed = |d: Decision| d == Decision::Deny;
    if sites.is_empty() || (!group.allows && !sites.iter().all(|s| closed(s.point.default))) {
        return false;
    }
    let mut exempt = sites.iter().flat_map(|s| &s.exempt);
    let may_be = |id: &SpiffeId| denied.iter().any(|c| c.may_be(id));
    if exempt.any(may_be) {
        return false;
    }
    group.allow.meeting(rule, true).into_iter().all(|other| {
        let Some(allowed) = work.rule(other).and_then(RuleForm::clauses) else {
            return false;
        };
        budget.take()
            && allowed.iter().all(|a| {
                let tunnels = !a.never_connects();
                denied
                    .iter()
                    .all(|d| d.apart(a, true) || (!tunnels && d.apart(a, false)))
            })
    })
}
