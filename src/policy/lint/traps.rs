//! What a policy says and its author probably does not mean (policy semantics 2.8).

use crate::policy::attribute::Attribute;
use crate::policy::lint::build::{Written, written};
use crate::policy::lint::{Code, Finding, RuleId, Spot, Subject, Work};
use crate::policy::model::{Action, Rule};
use crate::vocab::path::PathNormalization;

/// Every trap of one policy.
pub(super) fn policy(work: &Work<'_>, at: usize, out: &mut Vec<Finding>) {
    let Some(policy) = work.known.policies.get(at) else {
        return;
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        let id = RuleId {
            policy: at,
            rule: index,
        };
        let lists = written(index, rule);
        if policy.action == Action::Allow {
            open(id, rule, &lists, out);
        }
        for list in &lists {
            match policy.action {
                Action::Deny => denied(work, id, list, out),
                Action::Allow => {
                    if let Attribute::Header(_) = list.attribute {
                        allowed_header(id, list, &lists, out);
                    }
                }
                Action::Audit | Action::Custom => {}
            }
            hosts(id, list, out);
        }
    }
}

fn spot(id: RuleId, field: String) -> Spot {
    Spot {
        subject: Subject::Policy(id.policy),
        field,
    }
}

/// Who an ALLOW rule lets in without naming anyone.
fn open(id: RuleId, rule: &Rule, lists: &[Written<'_>], out: &mut Vec<Finding>) {
    let narrowed = !rule.to.is_empty() || !rule.when.is_empty();
    if rule.from.is_empty() && !narrowed {
        let message = "an empty rule allows everyone everything, callers without any identity too";
        out.push(Finding::new(Code::WideOpen, id.spot(), message));
    }
    for i in 0..rule.from.len() {
        let at = format!("rules[{}].from[{i}].source", id.rule);
        let own: Vec<&Written<'_>> = lists.iter().filter(|l| l.at == at).collect();
        if own.iter().all(|l| l.not) {
            let message = "only `not..` fields: callers without any identity are allowed too";
            out.push(Finding::new(Code::NegativeOnly, spot(id, at), message));
        } else if !narrowed && own.iter().all(|l| !l.not && anyone(l)) {
            let message = "every identity is allowed everything; name the principals or namespaces, or what they may do";
            out.push(Finding::new(Code::WideOpen, spot(id, at), message));
        }
    }
}

/// Whether a list takes every identity of the mesh.
fn anyone(list: &Written<'_>) -> bool {
    let of_peer = matches!(
        list.attribute,
        Attribute::Principal | Attribute::Namespace | Attribute::TrustDomain
    );
    of_peer && list.values.iter().any(|v| v == "*")
}

fn denied(work: &Work<'_>, id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    let of_token = matches!(
        list.attribute,
        Attribute::RequestPrincipal | Attribute::Claim(_)
    );
    let merged = match work.known.paths {
        PathNormalization::None | PathNormalization::Base => false,
        PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes => true,
    };
    let is_header = matches!(list.attribute, Attribute::Header(_));
    if of_token && !list.not {
        let field = if list.in_when {
            format!("{}.key", list.at)
        } else {
            list.field()
        };
        let message = "a request without a token is not denied by this; deny `notRequestPrincipals = [\"*\"]` too";
        out.push(Finding::new(Code::DenyAnonymous, spot(id, field), message));
    } else if list.attribute == Attribute::Path && !list.not && !merged {
        let message = "under this `mesh.pathNormalization` a doubled slash is another path, and is not denied; with `MERGE_SLASHES` it is the same";
        let at = spot(id, list.field());
        out.push(Finding::new(Code::DenyPathSpelling, at, message));
    } else if is_header && list.not {
        let message = "a second field of that name with a good value lifts this denial; write an ALLOW policy instead";
        let at = spot(id, list.field());
        out.push(Finding::new(Code::HeaderRepeats, at, message));
    }
}

/// Header fields may come more than once.
fn allowed_header(id: RuleId, list: &Written<'_>, lists: &[Written<'_>], out: &mut Vec<Finding>) {
    let refused = lists.iter().any(|l| l.not && l.at == list.at);
    let any = list.values.iter().any(|v| v == "*") && !list.regex;
    if !list.not && !refused && !any {
        let message = "one good value is enough, whatever a second field of that name holds";
        out.push(Finding::new(
            Code::HeaderRepeats,
            spot(id, list.field()),
            message,
        ));
    }
}

fn hosts(id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    if list.attribute != Attribute::Host || list.regex {
        return;
    }
    for (i, host) in list.values.iter().enumerate() {
        let twin = format!("{host}:*");
        let open = host.contains(':') || host.ends_with('*');
        if !open && !list.values.contains(&twin) {
            let text = host.escape_debug();
            let message = format!(
                "`{text}` does not match a host that is written with its port; add `{text}:*`"
            );
            out.push(Finding::new(
                Code::HostWithoutPort,
                spot(id, list.value(i)),
                message,
            ));
        }
    }
}
