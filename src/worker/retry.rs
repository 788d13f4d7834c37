//! When a request is sent once more, and what was learnt of the endpoint that did not answer it.

use std::cell::{Cell, RefCell};

use http::{Method, StatusCode};

use crate::config::checked::route::Retry;
use crate::io::random;
use crate::upstream::load::{MaxRetries, Retried};
use crate::upstream::retry::{Active, Budget, backoff_ms};

/// Why a request would be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No endpoint could be connected to.
    Connect,
    /// The connection broke before an answer.
    Broken,
    /// There was no answer in the time of one attempt.
    Slow,
    /// It was answered with this.
    Answer(StatusCode),
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Retries<'a> {
    rule: Option<&'a Retry>,
    /// Its method says that to do it twice is to do it once (RFC 9110 section 9.2.2), or its route does.
    may: bool,
    /// To do it once more is surely nothing that anybody notices (RFC 9110 section 9.2.1).
    safe: bool,
    /// How often it may be sent once more.
    times: u32,
    sent: Cell<u32>,
    active: Active<'a>,
    /// Of its service.
    most: Option<MaxRetries>,
    retried: RefCell<Option<Retried>>,
}

impl<'a> Retries<'a> {
    /// Of a request that is about to be sent.
    #[must_use]
    pub fn new(
        rule: Option<&'a Retry>,
        method: &Method,
        (budget, most): (&'a Budget, Option<MaxRetries>),
    ) -> Self {
        Self {
            rule: rule.filter(|rule| rule.attempts > 0),
            safe: method.is_safe(),
            times: rule.map_or(1, |rule| rule.attempts),
            may: method.is_idempotent() || rule.is_some_and(|rule| rule.any_method),
            sent: Cell::new(1),
            active: budget.enter(),
            most,
            retried: RefCell::default(),
        }
    }

    /// Whether its body is worth keeping.
    #[must_use]
    pub fn keeps_body(&self) -> bool {
        self.may && self.rule.is_some()
    }

    /// Whether it is sent once more; if so, room for that is taken. `whole`: all of it can be sent again.
    #[must_use]
    pub fn again(&self, cause: Cause, whole: bool) -> bool {
        let Some(rule) = self.rule else {
            return false;
        };
        let wanted = match cause {
            // Nothing of it has been seen by anybody.
            Cause::Connect => true,
            Cause::Broken | Cause::Slow => self.may && whole,
            Cause::Answer(status) => self.may && whole && rule.codes.contains(&status),
        };
        if !wanted || self.sent.get() > rule.attempts || !self.has_room() {
            return false;
        }
        self.sent.set(self.sent.get().saturating_add(1));
        true
    }

    /// Takes room for one more attempt, within what its service and this core have.
    fn has_room(&self) -> bool {
        let mut retried = self.retried.borrow_mut();
        if retried.is_none()
            && let Some(most) = &self.most
        {
            let Some(room) = most.take() else {
                return false;
            };
            *retried = Some(room);
        }
        self.active.repeats()
    }

    /// There is no endpoint that it may be sent to once more: what was to be repeated stays as it is.
    pub fn stays(&self) {
        self.sent.set(self.sent.get().saturating_sub(1).max(1));
    }

    /// The head of its answer has come and is sent on. However long the rest takes, nothing is repeated any more, and others
    /// have the room that it took for that.
    pub fn is_answered(&self) {
        *self.retried.borrow_mut() = None;
        self.active.is_answered();
    }

    /// Whether it is sent once more at once, on a new connection, because a kept one ended before it answered (RFC 9112
    /// section 9.3.1): where nobody has looked at it (`unprocessed`), or nothing of it is lost and the method is safe.
    #[must_use]
    pub fn afresh(&self, unprocessed: bool, whole: bool) -> bool {
        let may = unprocessed || (self.safe && whole);
        // What nobody has looked at is not a repetition, also where a rule wants none.
        let most = self.times.max(u32::from(unprocessed));
        if !may || self.sent.get() > most {
            return false;
        }
        self.sent.set(self.sent.get().saturating_add(1));
        true
    }

    /// How long to wait before, in milliseconds.
    #[must_use]
    pub fn wait_ms(&self) -> u64 {
        let chance = random::bytes().map_or(0, u64::from_le_bytes);
        let nth = self.sent.get().saturating_sub(1);
        self.rule
            .map_or(0, |rule| backoff_ms(rule.backoff_ms, nth, chance))
    }

    /// How often it was sent, if more than once.
    #[must_use]
    pub fn attempts(&self) -> Option<u32> {
        Some(self.sent.get()).filter(|sent| *sent > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(any_method: bool) -> Retry {
        Retry {
            codes: vec![StatusCode::SERVICE_UNAVAILABLE],
            attempts: 2,
            backoff_ms: 1,
            any_method,
        }
    }

    #[test]
    fn what_may_be_done_twice_is_sent_so_many_times() {
        let (budget, rule, any) = (Budget::default(), rule(false), rule(true));
        let unavailable = Cause::Answer(StatusCode::SERVICE_UNAVAILABLE);
        let get = Retries::new(Some(&rule), &Method::GET, (&budget, None));
        assert_eq!(get.attempts(), None);
        assert!(!get.again(Cause::Answer(StatusCode::NOT_FOUND), true));
        assert!(!get.again(unavailable, false), "a part of its body is gone");
        assert!(get.again(unavailable, true) && get.again(Cause::Slow, true));
        assert!(!get.again(Cause::Broken, true), "twice is all");
        assert_eq!(get.attempts(), Some(3));
        get.stays();
        assert_eq!(get.attempts(), Some(2));
        let post = Retries::new(Some(&rule), &Method::POST, (&budget, None));
        assert!(!post.again(unavailable, true) && !post.again(Cause::Slow, true));
        assert!(post.again(Cause::Connect, false), "nobody has seen it");
        let post = Retries::new(Some(&any), &Method::POST, (&budget, None));
        assert!(post.again(unavailable, true));
        let none = Retries::new(None, &Method::GET, (&budget, None));
        assert!(!none.again(Cause::Broken, true) && !none.keeps_body());
    }

    #[test]
    fn a_kept_connection_that_ended_is_replaced_and_counted() {
        let budget = Budget::default();
        for (method, safe) in [
            (Method::GET, true),
            (Method::HEAD, true),
            (Method::OPTIONS, true),
            (Method::DELETE, false),
            (Method::PUT, false),
            (Method::POST, false),
        ] {
            let one = Retries::new(None, &method, (&budget, None));
            assert!(!one.afresh(false, false), "{method}: a part of it is gone");
            assert_eq!(one.afresh(false, true), safe, "{method}");
            assert_eq!(one.attempts(), safe.then_some(2), "{method}");
            assert!(!safe || !one.afresh(false, true), "{method}: once");
            let unseen = Retries::new(None, &method, (&budget, None));
            assert!(unseen.afresh(true, false), "{method}: nobody has seen it");
            assert_eq!(unseen.attempts(), Some(2), "{method}");
        }
        // With a rule all of it together is as often as the rule says.
        let rule = rule(false);
        let get = Retries::new(Some(&rule), &Method::GET, (&budget, None));
        assert!(get.afresh(false, true) && get.again(Cause::Broken, true));
        assert!(!get.afresh(false, true) && !get.again(Cause::Broken, true));
        assert_eq!(get.attempts(), Some(3));
        let never = Retry {
            attempts: 0,
            ..self::rule(false)
        };
        let get = Retries::new(Some(&never), &Method::GET, (&budget, None));
        assert!(!get.afresh(false, true) && !get.again(Cause::Broken, true));
        assert_eq!(get.attempts(), None);
        assert!(get.afresh(true, true) && !get.afresh(true, true));
    }

    #[test]
    fn what_is_answered_leaves_its_room_to_others() {
        let (budget, rule) = (Budget::default(), rule(false));
        let load = std::sync::Arc::default();
        let most = MaxRetries { load, most: 1 };
        let get = || Retries::new(Some(&rule), &Method::GET, (&budget, Some(most.clone())));
        let (one, two) = (get(), get());
        assert!(one.again(Cause::Broken, true) && !two.again(Cause::Broken, true));
        // Its answer may take as long as it likes.
        one.is_answered();
        assert!(two.again(Cause::Broken, true));
        // One that has no other endpoint has its answer, too.
        two.stays();
        two.is_answered();
        assert!(get().again(Cause::Broken, true));
    }

    #[test]
    fn under_trouble_the_budget_holds() {
        let (budget, rule) = (Budget::default(), rule(false));
        let all: Vec<_> = (0..10)
            .map(|_| Retries::new(Some(&rule), &Method::GET, (&budget, None)))
            .collect();
        let again = all.iter().filter(|one| one.again(Cause::Broken, true));
        assert_eq!(again.count(), 3);
    }
}
