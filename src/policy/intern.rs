//! What the policies of a mesh share: equal texts, regular expressions and tests are kept once.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::policy::compile::PolicyProblem;
use crate::policy::field::Test;
use crate::policy::regex::Regexes;

/// Texts, regular expressions and policy-wide names seen so far.
#[derive(Debug, Default)]
pub(super) struct Interner {
    texts: FxHashSet<Arc<str>>,
    pub(super) regexes: Regexes,
}

impl Interner {
    /// The one copy of a text.
    pub(super) fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }
}

/// All that a test is made of, as it stands in the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TestKey<'m> {
    /// Field, such as `principals`, or key of a condition, such as `source.principal`.
    pub(super) name: &'m str,
    /// Values, not-values, regexes, not-regexes.
    pub(super) lists: [&'m [String]; 4],
    /// Namespace of the policy, where values are read by it.
    pub(super) namespace: &'m str,
    /// Every occurrence of a query parameter must hold.
    pub(super) every: bool,
}

/// What the compilation of all policies has in common.
#[derive(Debug, Default)]
pub(super) struct Shared<'m> {
    pub(super) interner: Interner,
    pub(super) tests: FxHashMap<TestKey<'m>, Arc<Test>>,
    /// What is wrong with the policies.
    pub(super) problems: Vec<PolicyProblem>,
}
