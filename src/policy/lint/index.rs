//! The rules of a group of policies by what they ask for, so that few pairs have to be compared.

use std::collections::BTreeMap;

use crate::policy::attribute::Attribute;
use crate::policy::lint::clause::{RuleForm, Test};
use crate::policy::lint::{RuleId, Work};

/// Attributes that rules are kept by; each has one value at most.
const KEYS: [Attribute; 4] = [
    Attribute::Principal,
    Attribute::Path,
    Attribute::Namespace,
    Attribute::Host,
];
/// A rule with more values than this is compared with all.
const VALUES: usize = 64;

/// A value of one of `KEYS`.
type Key = (usize, String);

/// Rules by the exact values that all their clauses ask for.
#[derive(Debug, Default)]
pub(super) struct Index {
    keyed: BTreeMap<Key, Vec<RuleId>>,
    /// By attribute: all rules that are kept by it.
    by_attribute: [Vec<RuleId>; 4],
    /// Rules that can be kept by none.
    open: Vec<RuleId>,
}

/// The values of each attribute of which every clause of the rule asks for one.
fn keys(rule: &RuleForm) -> [Option<Vec<String>>; 4] {
    KEYS.map(|attribute| {
        if let Some(values) = exact(&rule.when, &attribute) {
            return Some(sorted(values));
        }
        [&rule.from, &rule.to].into_iter().find_map(|lists| {
            let values: Option<Vec<Vec<String>>> =
                lists.iter().map(|l| exact(l, &attribute)).collect();
            values.filter(|v| !v.is_empty()).map(|v| sorted(v.concat()))
        })
    })
}

fn exact(tests: &[Test], attribute: &Attribute) -> Option<Vec<String>> {
    let listed = |attribute: &Attribute| {
        let mut of_it = tests.iter().filter(|t| t.attribute == *attribute);
        of_it.find_map(Test::exact)
    };
    if let Some(values) = listed(attribute) {
        return Some(values.into_iter().map(str::to_owned).collect());
    }
    if *attribute != Attribute::Namespace {
        return None;
    }
    // Who is listed by principal or service account is of a known namespace.
    let names = listed(&Attribute::Principal).or_else(|| listed(&Attribute::ServiceAccount))?;
    let namespace = |name: &&str| {
        let parts: Vec<&str> = name.split('/').collect();
        match parts.as_slice() {
            [_, "ns", namespace, "sa", _] => Some((*namespace).to_owned()),
            _ => None,
        }
    };
    names.iter().map(namespace).collect()
}

fn sorted(mut out: Vec<String>) -> Vec<String> {
    out.sort();
    out.dedup();
    out
}

impl Index {
    /// Keeps each rule by the attribute whose values the fewest rules share.
    pub(super) fn new(work: &Work<'_>, rules: &[RuleId]) -> Self {
        let all: Vec<(RuleId, [Option<Vec<String>>; 4])> = rules
            .iter()
            .filter_map(|id| Some((*id, keys(work.rule(*id)?))))
            .collect();
        let mut shared: BTreeMap<Key, usize> = BTreeMap::new();
        for (_, keys) in &all {
            for (at, values) in keys.iter().enumerate() {
                for value in values.iter().flatten() {
                    *shared.entry((at, value.clone())).or_default() += 1;
                }
            }
        }
        let mut index = Self::default();
        for (id, keys) in all {
            let count = |at: usize, value: &String| shared.get(&(at, value.clone())).copied();
            let usable = keys.iter().enumerate().filter_map(|(at, values)| {
                let values = values.as_ref().filter(|v| v.len() <= VALUES)?;
                let most = values.iter().filter_map(|v| count(at, v)).max();
                Some((most.unwrap_or(0), at, values))
            });
            match usable.min_by_key(|(most, at, _)| (*most, *at)) {
                Some((_, at, values)) => {
                    for value in values {
                        let key = (at, value.clone());
                        index.keyed.entry(key).or_default().push(id);
                    }
                    if let Some(list) = index.by_attribute.get_mut(at) {
                        list.push(id);
                    }
                }
                None => index.open.push(id),
            }
        }
        index
    }

    /// The rules that may contain `rule`; all others certainly do not.
    pub(super) fn around(&self, rule: &RuleForm) -> Vec<RuleId> {
        let mut out = self.open.clone();
        for (at, values) in keys(rule).into_iter().enumerate() {
            // One value of the rule that another does not list is enough.
            if let Some(first) = values.and_then(|v| v.into_iter().next()) {
                out.extend(self.keyed.get(&(at, first)).into_iter().flatten());
            }
        }
        out
    }

    /// The rules that may match what `rule` matches; no request matches it and any other. With `tunnels`, nor does a
    /// CONNECT or a bare connection.
    pub(super) fn meeting(&self, rule: &RuleForm, tunnels: bool) -> Vec<RuleId> {
        let mut out = self.open.clone();
        let keys = keys(rule).into_iter().zip(&KEYS).zip(&self.by_attribute);
        for (at, ((values, attribute), all)) in keys.enumerate() {
            // A CONNECT has a host, and what is left of a DENY rule does not ask for it.
            match values.filter(|_| !tunnels || *attribute != Attribute::Host) {
                Some(values) => {
                    for value in values {
                        out.extend(self.keyed.get(&(at, value)).into_iter().flatten());
                    }
                }
                None => out.extend(all),
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }
}
