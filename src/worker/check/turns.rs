//! Whose turn it is to be checked, where more is due than there are places.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use crate::role::checks::Subject;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;

/// The checks that are under way, by service.
#[derive(Debug, Default)]
pub(super) struct UnderWay(RefCell<BTreeMap<ResourceName, BTreeSet<(IpAddr, u16)>>>);

/// A check that is under way until this is dropped, however it ends.
#[derive(Debug)]
pub(super) struct Running {
    under_way: Rc<UnderWay>,
    subject: Subject,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (service, address, port) = &self.subject;
        let mut all = self.under_way.0.borrow_mut();
        if let Some(of_service) = all.get_mut(service) {
            of_service.remove(&(*address, *port));
            if of_service.is_empty() {
                all.remove(service);
            }
        }
    }
}

impl UnderWay {
    pub(super) fn begin(self: &Rc<Self>, subject: Subject) -> Running {
        let (service, address, port) = subject.clone();
        let mut all = self.0.borrow_mut();
        all.entry(service).or_default().insert((address, port));
        Running {
            under_way: Rc::clone(self),
            subject,
        }
    }

    pub(super) fn has(&self, (service, address, port): &Subject) -> bool {
        let all = self.0.borrow();
        all.get(service)
            .is_some_and(|of_service| of_service.contains(&(*address, *port)))
    }

    /// Which of these begin now, of each the time from which it is due: as many as there are places. A service that has few
    /// under way goes before one that has many, then who has waited longest; and no service has more than its share, so
    /// that endpoints that take long to fail leave places to those of others.
    pub(super) fn next(&self, mut waiting: Vec<(u64, &Subject)>) -> Vec<Subject> {
        let all = self.0.borrow();
        let taken = all.values().map(BTreeSet::len).sum();
        let free = limits::CHECKS.saturating_sub(taken);
        waiting.sort_unstable();
        // How many its service has when it begins.
        let mut counts: BTreeMap<&ResourceName, usize> = BTreeMap::new();
        let mut ranked = Vec::new();
        for (since_ms, subject) in waiting {
            let service = &subject.0;
            let under_way = || all.get(service).map_or(0, BTreeSet::len);
            let count = counts.entry(service).or_insert_with(under_way);
            if *count < limits::CHECKS_OF_SERVICE {
                ranked.push((*count, since_ms, subject));
                *count = count.saturating_add(1);
            }
        }
        ranked.sort_unstable();
        let first = ranked.into_iter().take(free);
        first.map(|(_, _, subject)| subject.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn subject(service: &str, n: u16) -> Subject {
        let address = IpAddr::from([10, 0, 0, 1]);
        (ResourceName::new("shop", service), address, n)
    }

    /// Each with the time from which it waits.
    fn all(service: &str, n: u16, since_ms: u64) -> Vec<(u64, Subject)> {
        let each = |n| (since_ms + u64::from(n), subject(service, n));
        (0..n).map(each).collect()
    }

    fn next(under_way: &UnderWay, waiting: &[(u64, Subject)]) -> Vec<Subject> {
        under_way.next(waiting.iter().map(|(ms, s)| (*ms, s)).collect())
    }

    fn of(chosen: &[Subject], service: &str) -> usize {
        chosen.iter().filter(|s| s.0.name == service).count()
    }

    #[test]
    fn a_service_that_is_silent_leaves_places_to_others() {
        let under_way = Rc::new(UnderWay::default());
        let silent = all("aaa", 200, 0);
        let first = next(&under_way, &silent);
        assert_eq!(first.len(), limits::CHECKS_OF_SERVICE);
        let running: Vec<_> = first.into_iter().map(|s| under_way.begin(s)).collect();
        // Its others have waited longer than the one that is well, and have no place.
        let mut waiting: Vec<_> = all("aaa", 200, 0)
            .into_iter()
            .filter(|(_, s)| !under_way.has(s))
            .collect();
        waiting.extend(all("zzz", 1, 1000));
        assert_eq!(next(&under_way, &waiting), [subject("zzz", 0)]);
        drop(running);
        // Two such services take all places at once; the next that is free is for who has none.
        waiting.retain(|(_, s)| s.0.name == "zzz");
        waiting.extend(all("bbb", 200, 0));
        waiting.extend(all("aaa", 200, 0));
        let chosen = next(&under_way, &waiting);
        assert_eq!(chosen.len(), limits::CHECKS);
        assert_eq!(of(&chosen, "zzz"), 1);
        waiting.retain(|(_, s)| s.0.name != "zzz");
        let chosen = next(&under_way, &waiting);
        assert_eq!(of(&chosen, "aaa"), limits::CHECKS_OF_SERVICE);
        assert_eq!(of(&chosen, "bbb"), limits::CHECKS_OF_SERVICE);
        let mut running: Vec<_> = chosen.into_iter().map(|s| under_way.begin(s)).collect();
        waiting.retain(|(_, s)| !under_way.has(s));
        waiting.extend(all("zzz", 1, 1000));
        assert!(next(&under_way, &waiting).is_empty());
        running.pop();
        assert_eq!(next(&under_way, &waiting), [subject("zzz", 0)]);
    }

    #[test]
    fn who_has_waited_longest_is_first() {
        let under_way = Rc::new(UnderWay::default());
        let mut waiting = all("one", 100, 0);
        // The table has them by port; the last has waited longest.
        for (n, (since_ms, _)) in (1..).zip(&mut waiting) {
            *since_ms = 1000 - n;
        }
        let want: Vec<_> = (68..100).rev().map(|n| subject("one", n)).collect();
        assert_eq!(next(&under_way, &waiting), want);
        // Where there are more services than places, the same holds among them.
        let many = (0..100).map(|n| (1000 - n, subject(&format!("s{n:02}"), 1)));
        let many: Vec<_> = many.collect();
        let chosen = next(&under_way, &many);
        let want: Vec<_> = (36..100)
            .rev()
            .map(|n| subject(&format!("s{n}"), 1))
            .collect();
        assert_eq!(chosen, want);
    }

    #[test]
    fn a_check_that_panics_is_over() {
        let under_way = Rc::new(UnderWay::default());
        let running = under_way.begin(subject("one", 1));
        let _other = under_way.begin(subject("one", 2));
        assert!(under_way.has(&subject("one", 1)));
        let broken = catch_unwind(AssertUnwindSafe(move || {
            let _running = running;
            panic!("in a check");
        }));
        assert!(broken.is_err());
        assert!(!under_way.has(&subject("one", 1)));
        assert!(under_way.has(&subject("one", 2)));
    }
}
