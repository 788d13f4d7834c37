//! A compiled policy set: what one enforcement point judges by. Immutable; share it in an `Arc`.

use std::borrow::Cow;
use std::sync::Arc;

use crate::policy::attribute::{Attribute, Facts, Matcher};
use crate::policy::verdict::Decision;
use crate::vocab::resource::ResourceName;

/// The policies of one enforcement point, by action and in order of their names.
#[derive(Clone, Debug)]
pub struct PolicySet {
    pub(super) default: Decision,
    /// Nothing is denied; the verdict says what would be.
    pub(super) dry_run: bool,
    pub(super) deny: Vec<Policy>,
    pub(super) allow: Vec<Policy>,
    pub(super) audit: Vec<Policy>,
    pub(super) custom: Vec<Policy>,
    pub(super) dry_deny: Vec<Policy>,
    pub(super) dry_allow: Vec<Policy>,
}

/// A policy.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) name: Arc<ResourceName>,
    /// `provider.name`; empty unless the action is CUSTOM.
    pub(super) provider: Box<str>,
    pub(super) rules: Vec<Rule>,
}

/// A rule, as it is judged where HTTP is understood and where it is not.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) full: Form,
    pub(super) at_l4: AtL4,
    pub(super) needs_http: bool,
    pub(super) needs_time: bool,
}

/// A rule on a bare connection (policy semantics section 5).
#[derive(Clone, Debug)]
pub(super) enum AtL4 {
    /// It has no HTTP attribute.
    Same,
    /// It never matches.
    Never,
    /// What is left of it.
    Reduced(Form),
}

/// Any clause of `from`, any clause of `to`, every test of `when`. An absent list has no clause and holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    pub(super) from: Vec<Vec<Test>>,
    pub(super) to: Vec<Vec<Test>>,
    pub(super) when: Vec<Test>,
}

/// One field or condition.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) attribute: Attribute,
    pub(super) check: Check,
    /// What it asks for, such as `principal x` or `path other than /y`.
    pub(super) needs: Box<str>,
    /// The Istio-to-ztunnel conversion counts it as HTTP.
    pub(super) l7_for_ztunnel: bool,
}

/// How a test compares.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Some value matches, or with `true` none does.
    Values(Matcher, bool),
    /// A query parameter: each occurrence on its own.
    Occurrences {
        parts: Vec<(Matcher, bool)>,
        /// Every occurrence must hold (ALLOW), not just one.
        every: bool,
    },
}

impl PolicySet {
    /// Whether no policy is attached at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.deny.is_empty()
            && self.allow.is_empty()
            && self.audit.is_empty()
            && self.custom.is_empty()
            && self.dry_deny.is_empty()
            && self.dry_allow.is_empty()
    }

    /// The providers of all CUSTOM policies, whether they match or not, by name and once each.
    #[must_use]
    pub fn providers(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.custom.iter().map(|p| &*p.provider).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Whether an enforced policy has a time window: what is open has to be judged again as time goes on.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        let mut enforced = [&self.deny, &self.allow].into_iter().flatten();
        enforced.any(|p| p.rules.iter().any(|r| r.needs_time))
    }

    /// Whether an enforced policy has an HTTP attribute, so that bare connections are not judged in full.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        let mut enforced = [&self.deny, &self.allow, &self.audit, &self.custom]
            .into_iter()
            .flatten();
        enforced.any(|p| p.rules.iter().any(|r| r.needs_http))
    }
}

impl Policy {
    /// Index of the first rule that matches.
    pub(super) fn matching(&self, facts: Facts<'_>) -> Option<usize> {
        self.rules.iter().position(|r| r.matches(facts))
    }
}

impl Rule {
    /// The form to judge by; `None` if it never matches here.
    pub(super) fn form(&self, facts: Facts<'_>) -> Option<&Form> {
        match &self.at_l4 {
            _ if facts.request.is_some() => Some(&self.full),
            AtL4::Same => Some(&self.full),
            AtL4::Never => None,
            AtL4::Reduced(form) => Some(form),
        }
    }

    fn matches(&self, facts: Facts<'_>) -> bool {
        self.form(facts).is_some_and(|form| form.matches(facts))
    }
}

impl Form {
    fn matches(&self, facts: Facts<'_>) -> bool {
        let any = |clauses: &[Vec<Test>]| {
            clauses.is_empty() || clauses.iter().any(|c| c.iter().all(|t| t.holds(facts)))
        };
        any(&self.from) && any(&self.to) && self.when.iter().all(|t| t.holds(facts))
    }

    /// How many tests fail at least, and the first of them; `None` if it matches.
    pub(super) fn shortfall(&self, facts: Facts<'_>) -> Option<(usize, &Test)> {
        let lists = [
            closest(&self.from, facts),
            closest(&self.to, facts),
            failing(&self.when, facts),
        ];
        let mut count = 0;
        let mut first = None;
        for (failed, test) in lists {
            count += failed;
            first = first.or(test);
        }
        first.map(|test| (count, test))
    }
}

/// How many tests fail, and the first of them.
fn failing<'t>(tests: &'t [Test], facts: Facts<'_>) -> (usize, Option<&'t Test>) {
    let mut failed = tests.iter().filter(|t| !t.holds(facts));
    let first = failed.next();
    (usize::from(first.is_some()) + failed.count(), first)
}

/// `failing` of the clause that fails least.
fn closest<'t>(clauses: &'t [Vec<Test>], facts: Facts<'_>) -> (usize, Option<&'t Test>) {
    clauses
        .iter()
        .map(|c| failing(c, facts))
        .min_by_key(|(failed, _)| *failed)
        .unwrap_or((0, None))
}

impl Test {
    /// Whether it holds.
    pub(super) fn holds(&self, facts: Facts<'_>) -> bool {
        match &self.check {
            Check::Values(matcher, not) => self.attribute.any(facts, matcher) != *not,
            Check::Occurrences { parts, every } => self.occurrences_hold(facts, parts, *every),
        }
    }

    fn occurrences_hold(&self, facts: Facts<'_>, parts: &[(Matcher, bool)], every: bool) -> bool {
        let Attribute::Query(name) = &self.attribute else {
            return false;
        };
        let mut held = 0_usize;
        let mut seen = 0_usize;
        let path = facts.request.and_then(|r| r.path.as_ref());
        let pairs = path.into_iter().flat_map(|p| p.query_pairs());
        let values = pairs
            .filter(|(n, _v)| **n == *name.as_bytes())
            .map(|(_n, v): (_, Cow<'_, [u8]>)| v);
        for value in values {
            seen += 1;
            held += usize::from(parts.iter().all(|(m, not)| m.text(&value) != *not));
        }
        match (seen, every) {
            (0, _) => parts.iter().all(|(_m, not)| *not),
            (_, true) => held == seen,
            (_, false) => held > 0,
        }
    }
}
