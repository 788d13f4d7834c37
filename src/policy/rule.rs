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
    pub(super) needs_token: bool,
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

/// By how much a rule fails at least, and the first test that does: two for each test, one for a token that is missing,
/// however many tests ask for it. So of two rules that lack one thing each, the one that a token opens is nearer.
pub(super) type Shortfall<'s> = (usize, &'s Arc<Test>);

/// What a missing token counts, once for a rule.
pub(super) const NO_TOKEN: usize = 1;
/// What every other test counts that fails.
pub(super) const FAILED: usize = 2;

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

    /// By how much it fails at least; `None` if it matches.
    pub(super) fn shortfall(&self, facts: Facts<'_>) -> Option<Shortfall<'_>> {
        // Conditions first: a clause of `from` costs nothing more by a token that they lack anyway.
        let when = Failing::of(&self.when, facts);
        let from = closest(&self.from, facts, when.token);
        let to = closest(&self.to, facts, when.token);
        let first = from.first.or(to.first).or(when.first)?;
        let lists = [&from, &to, &when];
        let others: usize = lists.iter().map(|list| list.others).sum();
        let token = lists.iter().any(|list| list.token);
        Some((FAILED * others + NO_TOKEN * usize::from(token), first))
    }
}

/// What fails of tests that must all hold.
#[derive(Clone, Copy, Debug, Default)]
struct Failing<'t> {
    /// Tests that a token has no part in, or that the token that is there does not meet.
    others: usize,
    /// Some test asks for a token, and there is none.
    token: bool,
    first: Option<&'t Arc<Test>>,
}

impl<'t> Failing<'t> {
    fn of(tests: &'t [Arc<Test>], facts: Facts<'_>) -> Self {
        let mut failing = Self::default();
        for test in tests.iter().filter(|t| !t.holds(facts)) {
            failing.first = failing.first.or(Some(test));
            if test.attribute.is_of_token() && facts.claims().is_none() {
                failing.token = true;
            } else {
                failing.others += 1;
            }
        }
        failing
    }

    /// What it adds to a rule, of which something else lacks a token or not.
    fn adds(&self, lacks_token: bool) -> usize {
        FAILED * self.others + NO_TOKEN * usize::from(self.token && !lacks_token)
    }
}

/// The clause that adds least.
fn closest<'t>(clauses: &'t [Clause], facts: Facts<'_>, lacks_token: bool) -> Failing<'t> {
    let mut least: Option<(usize, Failing<'t>)> = None;
    for clause in clauses {
        let failing = Failing::of(clause, facts);
        let adds = failing.adds(lacks_token);
        if least.as_ref().is_none_or(|(least, _)| adds < *least) {
            least = Some((adds, failing));
        }
        if adds == 0 {
            break;
        }
    }
    least.map(|(_, failing)| failing).unwrap_or_default()
}
