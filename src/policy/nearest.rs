//! The ALLOW rule that a denied request comes nearest to.

use crate::policy::attribute::Facts;
use crate::policy::rule::{FAILED, Form, NO_TOKEN, Shortfall};
use crate::policy::set::{Hit, List};
use crate::policy::verdict::Nearest;

/// Rules that a decision looks at for the one that comes nearest: enough for a set of a few policies as a whole, and a
/// bound on what a denied request can cost.
pub const LOOKED_AT: usize = 16;

/// The rule that falls short by least, and the first test that it fails; of several the first. A rule that cannot match on
/// a bare connection counts as the farthest. Where there are more rules than `bound`, half as many are looked at:
/// those of the caller's identity, then those of what was asked for, then the first ones. `noted`: the place of a rule that
/// was evaluated before, and by what it fails.
pub(super) fn nearest<'s>(
    list: &'s List,
    facts: Facts<'_>,
    bound: usize,
    noted: Option<(u32, Shortfall<'s>)>,
) -> Option<(Hit<'s>, Nearest)> {
    let mut search = Search {
        list,
        facts,
        noted,
        left: bound,
        least: if list.needs_token() && facts.request.is_some_and(|r| r.claims.is_none()) {
            NO_TOKEN
        } else {
            FAILED
        },
        best: None,
    };
    if let Some(others) = list.others(facts).filter(|_| bound < list.len()) {
        // What is near was found by then, or nothing is: the first ones are as good as others.
        search.left = bound.div_ceil(2);
        let share = search.left.div_ceil(3);
        search.some(share, |each| {
            list.index(facts).nearby(facts, &mut |p| each(p));
        });
        search.some(share, |each| others.candidates(facts, &mut |p| each(p)));
    }
    for place in 0.. {
        if search.is_over() || !search.look(place) {
            break;
        }
    }
    search.best.map(|(_, hit, nearest)| (hit, nearest))
}

struct Search<'s, 'f> {
    list: &'s List,
    facts: Facts<'f>,
    noted: Option<(u32, Shortfall<'s>)>,
    left: usize,
    /// What no rule of this list falls short by less than.
    least: usize,
    /// By how much it falls short, the rule and what fails first.
    best: Option<(usize, Hit<'s>, Nearest)>,
}

impl<'s> Search<'s, '_> {
    /// Looks at no more than `share` of the places that `from` names.
    fn some(&mut self, share: usize, from: impl FnOnce(&mut dyn FnMut(&[u32]))) {
        let mut left = share;
        from(&mut |places| {
            for place in places {
                if left == 0 || self.is_over() {
                    return;
                }
                left -= 1;
                self.look(*place);
            }
        });
    }

    /// Whether enough was seen: nothing is nearer.
    fn is_over(&self) -> bool {
        let short = self.best.as_ref().map(|(short, ..)| *short);
        self.left == 0 || short.is_some_and(|short| short <= self.least)
    }

    /// `false` if there is no such rule.
    fn look(&mut self, place: u32) -> bool {
        let Some(hit) = self.list.rule(place) else {
            return false;
        };
        self.left -= 1;
        let seen = match hit.rule.form(self.facts.request.is_some()) {
            None => Some((usize::MAX, Nearest::http())),
            Some(form) => self
                .shortfall(place, form)
                .map(|(short, test)| (short, Nearest::test(test))),
        };
        if let Some((short, nearest)) = seen
            && self.best.as_ref().is_none_or(|(best, ..)| short < *best)
        {
            self.best = Some((short, hit, nearest));
        }
        true
    }

    fn shortfall(&self, place: u32, form: &'s Form) -> Option<Shortfall<'s>> {
        match self.noted {
            Some((noted, short)) if noted == place => Some(short),
            _ => form.shortfall(self.facts),
        }
    }
}
