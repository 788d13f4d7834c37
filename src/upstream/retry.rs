//! How often requests may be sent once more: a share of what is under way, and a wait that grows.

use std::cell::Cell;

use crate::vocab::limits;

/// Requests of a core that are under way, and those among them that were sent more than once.
#[derive(Debug, Default)]
pub struct Budget {
    active: Cell<u32>,
    repeated: Cell<u32>,
}

/// One request that is under way.
#[derive(Debug)]
pub struct Active<'a> {
    budget: &'a Budget,
    repeated: Cell<bool>,
}

impl Budget {
    /// Counts a request until what comes back is dropped.
    #[must_use]
    pub fn enter(&self) -> Active<'_> {
        self.active.set(self.active.get().saturating_add(1));
        Active {
            budget: self,
            repeated: Cell::new(false),
        }
    }

    /// How many requests may be under way that were sent more than once.
    fn most(&self) -> u32 {
        let active = u64::from(self.active.get());
        let share = active.saturating_mul(u64::from(limits::RETRY_BUDGET_PERCENT)) / 100;
        u32::try_from(share)
            .unwrap_or(u32::MAX)
            .max(limits::RETRY_BUDGET_LEAST)
    }
}

impl Active<'_> {
    /// Takes room for a request that is sent once more. `false`: there is none.
    #[must_use]
    pub fn repeats(&self) -> bool {
        if self.repeated.get() {
            return true;
        }
        let now = self.budget.repeated.get();
        if now >= self.budget.most() {
            return false;
        }
        self.budget.repeated.set(now.saturating_add(1));
        self.repeated.set(true);
        true
    }

    /// It is not sent once more after this, however long its answer takes: what room it took for that is free again.
    pub fn is_answered(&self) {
        if self.repeated.replace(false) {
            down(&self.budget.repeated);
        }
    }
}

fn down(count: &Cell<u32>) {
    count.set(count.get().saturating_sub(1));
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        down(&self.budget.active);
        self.is_answered();
    }
}

/// How long to wait before the `nth` repetition, from 1, in milliseconds: twice as long each time, and up to half as much
/// more by chance, so that those who failed together do not come back together.
#[must_use]
pub fn backoff_ms(least_ms: u64, nth: u32, chance: u64) -> u64 {
    let doubled = 1_u64.checked_shl(nth.saturating_sub(1)).unwrap_or(u64::MAX);
    let wait = least_ms
        .saturating_mul(doubled)
        .min(limits::RETRY_BACKOFF_MS);
    let more = (wait / 2).saturating_add(1);
    wait.saturating_add(chance.checked_rem(more).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_share_of_what_is_under_way_is_repeated() {
        let budget = Budget::default();
        let few: Vec<_> = (0..5).map(|_| budget.enter()).collect();
        let got = few.iter().filter(|one| one.repeats()).count();
        assert_eq!(got, 3, "the least");
        // One that has room keeps it for all of its attempts.
        assert!(few[0].repeats());
        drop(few);
        let many: Vec<_> = (0..100).map(|_| budget.enter()).collect();
        assert_eq!(many.iter().filter(|one| one.repeats()).count(), 20);
        // One that is answered is still under way, and leaves its room to another one.
        many[0].is_answered();
        assert_eq!(many.iter().skip(50).filter(|one| one.repeats()).count(), 1);
        drop(many);
        assert_eq!((budget.active.get(), budget.repeated.get()), (0, 0));
    }

    proptest! {
        #[test]
        fn waits_grow_and_are_bounded(least in 1u64..20_000, nth in 1u32..100, chance in any::<u64>()) {
            let wait = backoff_ms(least, nth, chance);
            prop_assert!(wait >= least.min(limits::RETRY_BACKOFF_MS));
            prop_assert!(wait <= limits::RETRY_BACKOFF_MS * 3 / 2);
            prop_assert!(backoff_ms(least, nth + 1, 0) >= backoff_ms(least, nth, 0));
        }
    }
}
