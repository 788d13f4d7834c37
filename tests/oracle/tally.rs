//! What the random cases hit: a generator whose rules never match proves nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Field, or its `not` twin: how often it failed and held.
    fields: RefCell<BTreeMap<(&'static str, bool), [u64; 2]>>,
    /// Outcome: how often.
    outcomes: RefCell<BTreeMap<&'static str, u64>>,
}

impl Tally {
    pub(crate) fn field(&self, name: &'static str, not: bool, holds: bool) {
        let mut fields = self.fields.borrow_mut();
        fields.entry((name, not)).or_default()[usize::from(holds)] += 1;
    }

    pub(crate) fn outcome(&self, name: &'static str) {
        *self.outcomes.borrow_mut().entry(name).or_default() += 1;
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.outcomes
            .borrow()
            .get(name)
            .copied()
            .unwrap_or_default()
    }

    /// Share of the cases with this outcome, in percent.
    pub(crate) fn share(&self, name: &str) -> f64 {
        percent(self.count(name), self.count("cases"))
    }

    /// Every field with the share of its evaluations that held, in percent, and how often it was evaluated.
    pub(crate) fn fields(&self) -> Vec<(String, f64, u64)> {
        let fields = self.fields.borrow();
        let rows = fields.iter().map(|((name, not), [failed, held])| {
            let name = if *not {
                format!("{name} (not)")
            } else {
                (*name).to_owned()
            };
            (name, percent(*held, failed + held), failed + held)
        });
        rows.collect()
    }

    /// A table for people.
    pub(crate) fn report(&self) -> String {
        let mut out = String::new();
        for name in self.outcomes.borrow().keys() {
            writeln!(out, "  {:<44} {:>6.2} %", name, self.share(name)).unwrap();
        }
        for (name, held, evaluated) in self.fields() {
            writeln!(out, "  {name:<44} {held:>6.2} % held of {evaluated}").unwrap();
        }
        out
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}
