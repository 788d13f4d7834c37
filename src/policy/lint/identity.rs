//! Identities that nothing in the mesh has.

use crate::policy::attribute::Attribute;
use crate::policy::lint::build::{Written, written};
use crate::policy::lint::clause::{Part, Test, holds_of};
use crate::policy::lint::form::Form;
use crate::policy::lint::{Code, Finding, Known, Spot, Subject, Work};
use crate::vocab::spiffe::SpiffeId;

/// Every such value of one policy.
pub(super) fn policy(work: &Work<'_>, at: usize, out: &mut Vec<Finding>) {
    let Some(policy) = work.known.policies.get(at) else {
        return;
    };
    if work.known.identities.is_empty() {
        return;
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        for list in written(index, rule) {
            let Some(what) = noun(&list.attribute).filter(|_| !list.regex) else {
                continue;
            };
            for (i, value) in list.values.iter().enumerate() {
                if let Some(message) = unknown(work, &policy.name.namespace, &list, value, what) {
                    let spot = Spot {
                        subject: Subject::Policy(at),
                        field: list.value(i),
                    };
                    out.push(Finding::new(Code::UnknownPrincipal, spot, message));
                }
            }
        }
    }
}

fn noun(attribute: &Attribute) -> Option<&'static str> {
    match attribute {
        Attribute::Principal => Some("principal"),
        Attribute::Namespace => Some("namespace"),
        Attribute::ServiceAccount => Some("service account"),
        Attribute::TrustDomain => Some("trust domain"),
        _ => None,
    }
}

/// What is said of a value that no workload and no gateway fits.
fn unknown(
    work: &Work<'_>,
    namespace: &str,
    list: &Written<'_>,
    value: &str,
    what: &str,
) -> Option<String> {
    let forms = work
        .reading
        .forms(namespace, &list.attribute, &[value.to_owned()]);
    // Values that can never match are told as such.
    if forms.iter().any(Form::is_never) || value.trim_matches('*').contains('*') {
        return None;
    }
    let test = Test {
        attribute: list.attribute.clone(),
        parts: vec![Part { not: false, forms }],
        every: false,
        key: list.key,
        in_when: list.in_when,
    };
    let known = work.known;
    if known
        .identities
        .iter()
        .any(|id| holds_of(&test, id) != Some(false))
    {
        return None;
    }
    let names = names(known, &list.attribute);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let near = (known.nearest)(value, &names);
    let text = value.escape_debug();
    Some(format!(
        "no workload or gateway of the mesh has {what} `{text}`{near}"
    ))
}

/// Every name of that kind in the mesh.
fn names(known: &Known<'_>, attribute: &Attribute) -> Vec<String> {
    let of = |id: &SpiffeId| match attribute {
        Attribute::Principal => Some(id.principal().to_owned()),
        Attribute::TrustDomain => Some(id.trust_domain().to_owned()),
        Attribute::Namespace => id.k8s().map(|(namespace, _)| namespace.to_owned()),
        _ => id
            .k8s()
            .map(|(namespace, account)| format!("{namespace}/{account}")),
    };
    let mut names: Vec<String> = known.identities.iter().filter_map(of).collect();
    names.sort();
    names.dedup();
    names
}
