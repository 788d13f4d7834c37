//! Rules that another rule of the same action covers: without them, every verdict would be the same.

use crate::policy::compile::L4Deny;
use crate::policy::lint::clause::{RuleForm, Test};
use crate::policy::lint::pairs::{Budget, Group};
use crate::policy::lint::{Code, Finding, RuleId, Work};
use crate::policy::model::{Action, Rule};

/// Reports the rule if another covers it.
pub(super) fn rule(
    work: &Work<'_>,
    group: &Group,
    id: RuleId,
    budget: &mut Budget,
    out: &mut Vec<Finding>,
) {
    let Some((policy, form)) = work.policy(id).zip(work.rule(id)) else {
        return;
    };
    let Some(index) = group.like(policy) else {
        return;
    };
    for other in index.around(form) {
        if other == id || !work.applies_wherever(other.policy, id.policy) {
            continue;
        }
        if !budget.take() {
            return;
        }
        if !covers(work, other, id) {
            continue;
        }
        // Of two that say the same, the later one is told of.
        let same = work.applies_wherever(id.policy, other.policy) && covers(work, id, other);
        if same && id < other {
            continue;
        }
        let called = work.called(other);
        let message = if same {
            format!("says the same as {called}; take one of them out")
        } else {
            format!("changes nothing: {called} matches whatever this rule matches")
        };
        let mut finding = Finding::new(Code::ShadowedRule, id.spot(), message);
        finding.other = Some(other.spot());
        out.push(finding);
        return;
    }
}

/// Whether `wide` decides whatever `own`, of the same action, does.
fn covers(work: &Work<'_>, wide: RuleId, own: RuleId) -> bool {
    let (Some(w), Some(o)) = (work.rule(wide), work.rule(own)) else {
        return false;
    };
    w.contains(o) && at_l4(work, (wide, w), (own, o))
}

/// Whether that holds on bare connections too (policy semantics section 5).
fn at_l4(work: &Work<'_>, (wide, w): (RuleId, &RuleForm), (own, o): (RuleId, &RuleForm)) -> bool {
    let Some(policy) = work.policy(own) else {
        return false;
    };
    let http = |rule: &RuleForm| rule.tests().any(|t: &Test| t.attribute.needs_http());
    match (policy.action, work.known.l4_deny) {
        // An ALLOW rule with any HTTP attribute never matches there.
        (Action::Allow, _) => (http(o) || !http(w)) && (o.is_http() || !w.is_http()),
        // Both lose the same attributes.
        (Action::Deny | Action::Audit | Action::Custom, L4Deny::Api) => true,
        (Action::Deny | Action::Audit | Action::Custom, L4Deny::Ztunnel) => {
            (!o.is_http() && !w.is_http()) || written(work, wide) == written(work, own)
        }
    }
}

fn written<'a>(work: &Work<'a>, id: RuleId) -> Option<&'a Rule> {
    work.policy(id)?.rules.get(id.rule)
}
