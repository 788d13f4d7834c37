//! Identities that nothing in the mesh has.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::attribute::Attribute;
use crate::policy::lint::build::{Written, written};
use crate::policy::lint::clause::{Part, Test, holds_of};
use crate::policy::lint::form::Form;
use crate::policy::lint::{Code, Finding, Known, Spot, Subject, Work};
use crate::vocab::spiffe::SpiffeId;

/// Names that a misspelt one is compared with at most.
const NEAR: usize = 200;

/// Every such value of one policy.
pub(super) fn policy(work: &Work<'_>, names: &Names<'_>, at: usize, out: &mut Vec<Finding>) {
    let Some(policy) = work.known.policies.get(at) else {
        return;
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        for list in written(index, rule) {
            let Some(what) = noun(&list.attribute).filter(|_| !list.regex) else {
                continue;
            };
            for (i, value) in list.values.iter().enumerate() {
                if let Some(message) =
                    unknown(work, names, &policy.name.namespace, &list, value, what)
                {
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
    let nouns = [
        (Attribute::Principal, "principal"),
        (Attribute::Namespace, "namespace"),
        (Attribute::ServiceAccount, "service account"),
        (Attribute::TrustDomain, "trust domain"),
    ];
    let found = nouns.into_iter().find(|(of, _)| of == attribute);
    found.map(|(_, noun)| noun)
}

/// What is said of a value that no workload and no gateway fits.
fn unknown(
    work: &Work<'_>,
    names: &Names<'_>,
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
    let fits = |id: &SpiffeId| holds_of(&test, id) != Some(false);
    let exact = test
        .exact()
        .filter(|_| list.attribute == Attribute::Principal);
    let exists = match exact {
        Some(listed) => listed.iter().any(|p| names.principals.contains(p)),
        None => work.known.identities.iter().any(fits),
    };
    if exists {
        return None;
    }
    let near = names.near(work.known, &list.attribute, value);
    let text = value.escape_debug();
    Some(format!(
        "no workload or gateway of the mesh has {what} `{text}`{near}"
    ))
}

/// Names of the mesh's identities.
#[derive(Debug)]
pub(super) struct Names<'a> {
    principals: BTreeSet<&'a str>,
    /// Namespaces and their service accounts.
    accounts: BTreeMap<&'a str, BTreeSet<&'a str>>,
    domains: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    /// All names that are known.
    pub(super) fn new(identities: &'a [SpiffeId]) -> Self {
        let mut accounts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (namespace, account) in identities.iter().filter_map(SpiffeId::k8s) {
            accounts.entry(namespace).or_default().insert(account);
        }
        Self {
            principals: identities.iter().map(SpiffeId::principal).collect(),
            accounts,
            domains: identities.iter().map(SpiffeId::trust_domain).collect(),
        }
    }

    /// `, did you mean ..`: the part of an identity that is probably misspelt.
    fn near(&self, known: &Known<'_>, attribute: &Attribute, value: &str) -> String {
        let among = |written: &str, names: &mut dyn Iterator<Item = &str>| {
            let names: Vec<&str> = names.take(NEAR).collect();
            (known.nearest)(written, &names)
        };
        let id = SpiffeId::parse(&format!("spiffe://{value}")).ok();
        if *attribute == Attribute::TrustDomain {
            return among(value, &mut self.domains.iter().copied());
        }
        if *attribute == Attribute::Namespace {
            return among(value, &mut self.accounts.keys().copied());
        }
        let parts = if *attribute == Attribute::Principal {
            id.as_ref().and_then(SpiffeId::k8s)
        } else {
            value.split_once('/')
        };
        let Some((namespace, account)) = parts else {
            return among(value, &mut self.principals.iter().copied());
        };
        match self.accounts.get(namespace) {
            Some(accounts) if accounts.contains(account) => {
                let domain = id.as_ref().map(SpiffeId::trust_domain);
                among(
                    domain.unwrap_or_default(),
                    &mut self.domains.iter().copied(),
                )
            }
            Some(accounts) => among(account, &mut accounts.iter().copied()),
            None => among(namespace, &mut self.accounts.keys().copied()),
        }
    }
}
