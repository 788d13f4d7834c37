//! A compiled policy set: what one enforcement point judges by. Immutable; share it in an `Arc`.

use std::sync::Arc;

use crate::policy::attribute::Facts;
use crate::policy::index::{Axes, Index};
use crate::policy::nearest::LOOKED_AT;
use crate::policy::rule::{AtL4, Form, Policy, Rule, Shortfall};
use crate::policy::verdict::Decision;

/// The policies of one enforcement point, by action.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub(super) default: Decision,
    /// Nothing is denied; the verdict says what would be.
    pub(super) dry_run: bool,
    pub(super) deny: List,
    pub(super) allow: List,
    pub(super) audit: List,
    /// By provider, in order of their names.
    pub(super) custom: Box<[(Arc<str>, List)]>,
    pub(super) dry_deny: List,
    pub(super) dry_allow: List,
}

/// Policies of one action in order of their names, and the indexes by which their rules are found.
#[derive(Clone, Debug)]
pub(super) struct List {
    pub(super) policies: Box<[Arc<Policy>]>,
    /// All rules, in order: positions of the policy and of the rule in it. An index names them by place in here.
    rules: Box<[(u32, u32)]>,
    by_all: Indexes,
    /// By everything but the identity, for the rule that comes nearest; only where there are many rules.
    by_others: Option<Box<Indexes>>,
    needs_http: bool,
    needs_time: bool,
    needs_token: bool,
}

/// The index of a list, for the two ways in which rules are read.
#[derive(Clone, Debug, Default)]
struct Indexes {
    /// Where HTTP is understood.
    full: Index,
    /// On a bare connection; `None` if the rules are the same there.
    bare: Option<Index>,
}

/// A rule of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hit<'s> {
    pub(super) policy: &'s Arc<Policy>,
    /// Its position in the policy.
    pub(super) at: usize,
    pub(super) rule: &'s Rule,
}

impl PolicySet {
    /// Whether no policy is attached at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lists().all(|list| list.policies.is_empty())
    }

    /// The providers of all CUSTOM policies, whether they match or not, by name and once each.
    #[must_use]
    pub fn providers(&self) -> Vec<&str> {
        self.custom.iter().map(|(name, _)| &**name).collect()
    }

    /// Whether there is an enforced CUSTOM policy.
    #[must_use]
    pub fn asks_providers(&self) -> bool {
        !self.custom.is_empty()
    }

    /// Whether an enforced policy has a time window: what is open has to be judged again as time goes on.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        // A provider that a window begins to ask about has not been asked about what is open.
        let custom = self.custom.iter().map(|(_, list)| list);
        let mut enforced = [&self.deny, &self.allow].into_iter().chain(custom);
        enforced.any(|list| list.needs_time)
    }

    /// Whether an enforced policy has an HTTP attribute, so that bare connections are not judged in full.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        let enforced = [&self.deny, &self.allow, &self.audit].into_iter();
        let custom = self.custom.iter().map(|(_, list)| list);
        enforced.chain(custom).any(|list| list.needs_http)
    }

    fn lists(&self) -> impl Iterator<Item = &List> {
        let lists = [
            &self.deny,
            &self.allow,
            &self.audit,
            &self.dry_deny,
            &self.dry_allow,
        ];
        lists
            .into_iter()
            .chain(self.custom.iter().map(|(_, list)| list))
    }
}

impl List {
    /// Makes the indexes. `explained`: denials will ask for the rule that comes nearest.
    pub(super) fn new(policies: Vec<Arc<Policy>>, explained: bool) -> Self {
        let mut rules = Vec::new();
        for (policy, at) in policies.iter().zip(0..) {
            rules.extend((0..).zip(&policy.rules).map(|(rule, _)| (at, rule)));
        }
        let mut list = Self {
            policies: policies.into(),
            rules: rules.into(),
            by_all: Indexes::default(),
            by_others: None,
            needs_http: false,
            needs_time: false,
            needs_token: false,
        };
        let many = explained && list.rules.len() > LOOKED_AT;
        list.by_others = many.then(|| Box::new(list.indexes(Axes::ButIdentity)));
        list.by_all = list.indexes(Axes::All);
        let needs_http = list.all().any(|hit| hit.rule.needs_http);
        let needs_time = list.all().any(|hit| hit.rule.needs_time);
        let needs_token = list.all().any(|hit| hit.rule.needs_token);
        (list.needs_http, list.needs_time) = (needs_http, needs_time);
        list.needs_token = needs_token;
        list
    }

    fn indexes(&self, axes: Axes) -> Indexes {
        let forms =
            |http| -> Vec<Option<&Form>> { self.all().map(|hit| hit.rule.form(http)).collect() };
        let same = self.all().all(|hit| matches!(hit.rule.at_l4, AtL4::Same));
        Indexes {
            full: Index::new(&forms(true), axes),
            bare: (!same).then(|| Index::new(&forms(false), axes)),
        }
    }

    /// The rule at a place of the list.
    pub(super) fn rule(&self, place: u32) -> Option<Hit<'_>> {
        let (policy, rule) = *self.rules.get(usize::try_from(place).ok()?)?;
        let policy = self.policies.get(usize::try_from(policy).ok()?)?;
        let at = usize::try_from(rule).ok()?;
        let rule = policy.rules.get(at)?;
        Some(Hit { policy, at, rule })
    }

    /// All rules in order.
    pub(super) fn all(&self) -> impl Iterator<Item = Hit<'_>> {
        (0..).map_while(|place| self.rule(place))
    }

    /// The index of all axes.
    pub(super) fn index(&self, facts: Facts<'_>) -> &Index {
        self.by_all.of(facts)
    }

    /// The index that does not look at the identity; `None` where there are few rules.
    pub(super) fn others(&self, facts: Facts<'_>) -> Option<&Index> {
        Some(self.by_others.as_ref()?.of(facts))
    }

    /// The first rule that matches: policies in order of their names, rules as written.
    pub(super) fn first(&self, facts: Facts<'_>) -> Option<Hit<'_>> {
        self.first_of(facts, |_place, rule| rule.matches(facts))
    }

    /// As `first`, and of the first candidate, if it fails, its place and by what: whoever looks for what comes nearest has
    /// its tests evaluated then.
    pub(super) fn first_noting(
        &self,
        facts: Facts<'_>,
    ) -> (Option<Hit<'_>>, Option<(u32, Shortfall<'_>)>) {
        let mut noted = None;
        let first = self.first_of(facts, |place, rule| {
            if noted.is_some() {
                return rule.matches(facts);
            }
            let Some(form) = rule.form(facts.request.is_some()) else {
                return false;
            };
            noted = form.shortfall(facts).map(|short| (place, short));
            noted.is_none()
        });
        (first, noted)
    }

    fn first_of<'s>(
        &'s self,
        facts: Facts<'_>,
        mut matches: impl FnMut(u32, &'s Rule) -> bool,
    ) -> Option<Hit<'s>> {
        let mut best: Option<u32> = None;
        self.index(facts).candidates(facts, &mut |places| {
            let open = places
                .iter()
                .take_while(|place| best.is_none_or(|best| **place < best));
            let matching = |place: &u32| self.rule(*place).is_some_and(|h| matches(*place, h.rule));
            best = open.copied().find(matching).or(best);
        });
        self.rule(best?)
    }

    /// Whether a rule has an attribute of the token.
    pub(super) fn needs_token(&self) -> bool {
        self.needs_token
    }

    /// How many rules there are.
    pub(super) fn len(&self) -> usize {
        self.rules.len()
    }

    /// `first` without an index, which it must agree with.
    #[cfg(test)]
    pub(super) fn scan(&self, facts: Facts<'_>) -> Option<Hit<'_>> {
        self.all().find(|hit| hit.rule.matches(facts))
    }
}

impl Indexes {
    fn of(&self, facts: Facts<'_>) -> &Index {
        match &self.bare {
            Some(bare) if facts.request.is_none() => bare,
            _ => &self.full,
        }
    }
}
