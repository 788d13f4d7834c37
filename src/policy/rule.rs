//! Compiled policies and their rules.

use std::sync::Arc;

use crate::policy::attribute::Facts;
use crate::policy::field::Test;
use crate::vocab::resource::ResourceName;

/// A policy, compiled once and shared by all enforcement points where it applies.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    pub(super) name: Arc<ResourceName>,
    /// `provider.name`; empty unless the action is CUSTOM.
    pub(super) provider: Arc<str>,
    pub(super) rules: Box<[Rule]>,
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
    Reduced(Box<Form>),
}

/// Tests that must all hold.
pub(super) type Clause = Box<[Arc<Test>]>;

/// How many tests of a rule fail at least, and the first of them.
pub(super) type Shortfall<'s> = (usize, &'s Arc<Test>);

/// Any clause of `from`, any clause of `to`, every test of `when`. An absent list has no clause and holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Form {
    pub(super) from: Box<[Clause]>,
    pub(super) to: Box<[Clause]>,
    pub(super) when: Clause,
}

impl Rule {
    /// The form to judge by; `None` if it never matches here.
    pub(super) fn form(&self, http: bool) -> Option<&Form> {
        match &self.at_l4 {
            _ if http => Some(&self.full),
            AtL4::Same => Some(&self.full),
            AtL4::Never => None,
            AtL4::Reduced(form) => Some(form),
        }
    }

    /// Whether it matches.
    pub(super) fn matches(&self, facts: Facts<'_>) -> bool {
        self.form(facts.request.is_some())
            .is_some_and(|form| form.matches(facts))
    }
}

impl Form {
    fn matches(&self, facts: Facts<'_>) -> bool {
        let any = |clauses: &[Clause]| {
            clauses.is_empty() || clauses.iter().any(|c| c.iter().all(|t| t.holds(facts)))
        };
        any(&self.from) && any(&self.to) && self.when.iter().all(|t| t.holds(facts))
    }

    /// All its tests.
    pub(super) fn tests(&self) -> impl Iterator<Item = &Arc<Test>> {
        self.from.iter().chain(&self.to).flatten().chain(&self.when)
    }

    /// How many tests fail at least, and the first of them; `None` if it matches.
    pub(super) fn shortfall(&self, facts: Facts<'_>) -> Option<Shortfall<'_>> {
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
fn failing<'t>(tests: &'t [Arc<Test>], facts: Facts<'_>) -> (usize, Option<&'t Arc<Test>>) {
    let mut failed = tests.iter().filter(|t| !t.holds(facts));
    let first = failed.next();
    (usize::from(first.is_some()) + failed.count(), first)
}

/// `failing` of the clause that fails least.
fn closest<'t>(clauses: &'t [Clause], facts: Facts<'_>) -> (usize, Option<&'t Arc<Test>>) {
    clauses
        .iter()
        .map(|c| failing(c, facts))
        .min_by_key(|(failed, _)| *failed)
        .unwrap_or((0, None))
}
