//! One field or condition of a rule: an attribute and how it is compared.

use std::fmt;
use std::sync::Arc;

use crate::policy::attribute::{Attribute, Facts};
use crate::policy::matcher::Matcher;

/// One field or condition. Equal ones of a mesh are one, shared by all rules that have it.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) attribute: Attribute,
    pub(super) check: Check,
    /// The values as written that it asks for.
    pub(super) written: Box<[Arc<str>]>,
    /// It asks for none of them.
    pub(super) not: bool,
    /// The Istio-to-ztunnel conversion counts it as HTTP.
    pub(super) l7_for_ztunnel: bool,
}

/// How a test compares.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Some value matches, or with `true` none does.
    Values(Matcher, bool),
    /// A query parameter: each occurrence on its own.
    Occurrences(Box<Occurrences>),
}

/// How each occurrence of a query parameter is compared.
#[derive(Clone, Debug)]
pub(super) struct Occurrences {
    /// All must hold for an occurrence; with `true` the values must not match.
    pub(super) parts: Vec<(Matcher, bool)>,
    /// Every occurrence must hold (ALLOW), not just one.
    pub(super) every: bool,
}

/// Values of a field that a reason lists.
const LISTED: usize = 3;

impl Test {
    /// Whether it holds.
    pub(super) fn holds(&self, facts: Facts<'_>) -> bool {
        match &self.check {
            Check::Values(matcher, not) => self.attribute.any(facts, matcher) != *not,
            Check::Occurrences(occurrences) => self.occurrences_hold(facts, occurrences),
        }
    }

    fn occurrences_hold(&self, facts: Facts<'_>, occurrences: &Occurrences) -> bool {
        let parts = &occurrences.parts;
        let (mut seen, mut held) = (0_usize, 0_usize);
        self.attribute.any_text(facts, |value| {
            seen += 1;
            held += usize::from(parts.iter().all(|(m, not)| m.text(value) != *not));
            false
        });
        match (seen, occurrences.every) {
            (0, _) => parts.iter().all(|(_m, not)| *not),
            (_, true) => held == seen,
            (_, false) => held > 0,
        }
    }

    /// What must match for the test to hold, one of these if they are several; `None` if it can hold without a match.
    pub(super) fn wanted(&self) -> Option<&Matcher> {
        match &self.check {
            Check::Values(matcher, false) => Some(matcher),
            Check::Values(_, true) => None,
            Check::Occurrences(occurrences) => {
                let mut wanted = occurrences.parts.iter().filter(|(_m, not)| !not);
                wanted.next().map(|(matcher, _)| matcher)
            }
        }
    }
}

impl Test {
    /// Writes what it asks for, such as `principal x` or `path other than /a or /b`.
    #[inline(always)]
    pub(super) fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        self.attribute.write(f)?;
        f.write_str(if self.not { " other than " } else { " " })?;
        for (nth, value) in self.written.iter().take(LISTED).enumerate() {
            f.write_str(if nth > 0 { " or " } else { "" })?;
            f.write_str(value)?;
        }
        match self.written.len().checked_sub(LISTED).filter(|m| *m > 0) {
            Some(more) => write!(f, " or {more} more"),
            None => Ok(()),
        }
    }
}
