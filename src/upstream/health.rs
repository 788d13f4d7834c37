//! What is known of an endpoint from the connections that were made to it and the answers that it gave: passive outlier
//! detection.
//!
//! An endpoint that could not be connected to, or answered with an error, so many times in a row is ejected: left out of
//! the choice for a time that grows with every ejection and is bounded. The counters are atomics, written by all cores
//! without a lock; two cores that count at the same moment may be off by one, and nothing worse.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::upstream::check::Checked;
use crate::vocab::limits;

/// When an endpoint is ejected (`outlierDetection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row after which it is (`consecutiveLocalOriginFailures`); 0 means never.
    pub consecutive_failures: u32,
    /// Answers with a status from 500 on, in a row, after which it is (`consecutive5xxErrors`); 0 means never.
    pub consecutive_5xx: u32,
    /// Answers with 502, 503 or 504, in a row, after which it is (`consecutiveGatewayErrors`); 0 means never.
    pub consecutive_gateway: u32,
    /// After each of which, in milliseconds without an ejection, the next one is shorter by `base_ejection_ms`
    /// (`interval`); 0: an endpoint is as new once it has held out as long as it was left out.
    pub interval_ms: u64,
    /// How long the first time, in milliseconds (`baseEjectionTime`); the nth time n times as long.
    pub base_ejection_ms: u64,
    /// Share of a service's endpoints in percent that may be left out (`maxEjectionPercent`).
    pub max_ejection_percent: u32,
    /// Share in percent below which health is not looked at any more (`minHealthPercent`, Envoy's panic threshold).
    pub min_health_percent: u32,
}

impl Default for OutlierDetection {
    /// What holds without `outlierDetection`: fewer failures and shorter times than Envoy's, because what is counted are
    /// failed connects alone, and a connect that failed was tried at another endpoint at once.
    fn default() -> Self {
        Self {
            consecutive_failures: 3,
            consecutive_5xx: 0,
            consecutive_gateway: 0,
            interval_ms: 0,
            base_ejection_ms: 5000,
            max_ejection_percent: 100,
            min_health_percent: 0,
        }
    }
}

/// The health of one endpoint of one service port. Times are milliseconds of one monotonic clock.
#[derive(Debug, Default)]
pub struct Health {
    /// Failures in a row.
    failures: AtomicU32,
    /// Answers from 500 on in a row.
    errors: AtomicU32,
    /// Answers of 502, 503 and 504 in a row.
    gateway_errors: AtomicU32,
    /// Requests and connections that it has now, where they are counted.
    active: AtomicU32,
    /// Ejections in a row.
    ejections: AtomicU32,
    /// End of the last ejection.
    until_ms: AtomicU64,
    /// What active checks have shown.
    pub checked: Checked,
}

impl Health {
    /// Whether it is left out of the choice at this time: ejected, or found ill by its checks.
    #[must_use]
    pub fn is_out(&self, now_ms: u64) -> bool {
        self.checked.is_ill() || self.is_ejected(now_ms)
    }

    /// Whether it is ejected at this time.
    #[must_use]
    pub fn is_ejected(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms.load(Ordering::Relaxed)
    }

    /// Milliseconds until it is chosen again; 0 if it is.
    #[must_use]
    pub fn ejected_for_ms(&self, now_ms: u64) -> u64 {
        self.until_ms.load(Ordering::Relaxed).saturating_sub(now_ms)
    }

    /// It was connected to. Trouble is forgotten once it has held out as long as it was left out.
    pub fn succeeded(&self, now_ms: u64, rule: &OutlierDetection) {
        forget(&self.failures);
        let times = self.ejections.load(Ordering::Relaxed);
        if times == 0 || rule.interval_ms != 0 {
            return;
        }
        let until = self.until_ms.load(Ordering::Relaxed);
        if now_ms >= until.saturating_add(ejection_ms(times, rule)) {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// It could not be connected to. `true`: it is ejected from now on, which `may` is asked before.
    ///
    /// After an ejection one failure suffices for the next: the first connection is the test.
    pub fn failed(&self, now_ms: u64, rule: &OutlierDetection, may: impl FnOnce() -> bool) -> bool {
        if rule.consecutive_failures == 0 || self.is_ejected(now_ms) {
            return false;
        }
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let enough = if self.times(now_ms, rule) == 0 {
            rule.consecutive_failures
        } else {
            1
        };
        if failures < enough || !may() {
            return false;
        }
        self.eject(now_ms, rule);
        true
    }

    /// It answered a request with this status, or broke off (502) or was silent (504). `true`: it is ejected from now on,
    /// which `may` is asked before.
    pub fn answered(
        &self,
        status: u16,
        now_ms: u64,
        rule: &OutlierDetection,
        may: impl FnOnce() -> bool,
    ) -> bool {
        let enough = |count: &AtomicU32, most: u32, bad: bool| {
            if most == 0 {
                return false;
            }
            if !bad {
                forget(count);
                return false;
            }
            count.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= most
        };
        let errors = enough(&self.errors, rule.consecutive_5xx, status >= 500);
        let gateway = matches!(status, 502..=504);
        let gateway = enough(&self.gateway_errors, rule.consecutive_gateway, gateway);
        if !(errors || gateway) || self.is_ejected(now_ms) || !may() {
            return false;
        }
        self.eject(now_ms, rule);
        true
    }

    /// Requests and connections that it has now, on all cores.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// How often it was ejected in a row.
    #[must_use]
    pub fn ejections(&self, now_ms: u64, rule: &OutlierDetection) -> u32 {
        self.times(now_ms, rule)
    }

    /// It gets a request or connection.
    pub fn begins(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A request or connection that it got is over.
    pub fn ends(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ejections in a row that still count.
    fn times(&self, now_ms: u64, rule: &OutlierDetection) -> u32 {
        let times = self.ejections.load(Ordering::Relaxed);
        let quiet = now_ms.saturating_sub(self.until_ms.load(Ordering::Relaxed));
        let forgotten = quiet.checked_div(rule.interval_ms).unwrap_or(0);
        times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    fn eject(&self, now_ms: u64, rule: &OutlierDetection) {
        let times = self.times(now_ms, rule).saturating_add(1);
        for count in [&self.failures, &self.errors, &self.gateway_errors] {
            count.store(0, Ordering::Relaxed);
        }
        self.ejections.store(times, Ordering::Relaxed);
        let until = now_ms.saturating_add(ejection_ms(times, rule));
        self.until_ms.store(until, Ordering::Relaxed);
    }
}

/// Written only where it changes something: all cores share it.
fn forget(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// How long the `times`th ejection in a row takes.
fn ejection_ms(times: u32, rule: &OutlierDetection) -> u64 {
    let longest = limits::EJECTION_MS.max(rule.base_ejection_ms);
    rule.base_ejection_ms
        .saturating_mul(u64::from(times))
        .min(longest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: OutlierDetection = OutlierDetection {
        consecutive_failures: 3,
        consecutive_5xx: 4,
        consecutive_gateway: 2,
        interval_ms: 0,
        base_ejection_ms: 1000,
        max_ejection_percent: 100,
        min_health_percent: 0,
    };

    #[test]
    fn ejected_after_failures_in_a_row_for_a_growing_time() {
        let health = Health::default();
        assert!(!health.failed(0, &RULE, || true));
        assert!(!health.failed(0, &RULE, || true));
        health.succeeded(0, &RULE);
        assert!(!health.failed(0, &RULE, || true));
        assert!(!health.failed(0, &RULE, || true));
        assert!(health.failed(0, &RULE, || true));
        assert!(health.is_ejected(999));
        assert!(!health.is_ejected(1000));
        // What fails while it is left out (all others are, too) does not prolong it.
        assert!(!health.failed(500, &RULE, || true));
        assert_eq!(health.ejected_for_ms(500), 500);
        // The first failure after it is the second ejection, twice as long.
        assert!(health.failed(1000, &RULE, || true));
        assert!(health.is_ejected(2999));
        assert!(!health.is_ejected(3000));
        // A success just after it does not make it trustworthy.
        health.succeeded(3000, &RULE);
        assert!(health.failed(3001, &RULE, || true));
        assert!(health.is_ejected(6000));
        // One that holds out as long as it was left out is as new.
        health.succeeded(6001 + 3000, &RULE);
        assert!(!health.failed(9002, &RULE, || true));
    }

    fn answers(health: &Health, status: u16, now_ms: u64) -> bool {
        health.answered(status, now_ms, &RULE, || true)
    }

    #[test]
    fn ejected_after_answers_in_a_row() {
        let health = Health::default();
        for status in [500, 500, 404, 500, 500, 500] {
            assert!(!answers(&health, status, 0), "{status}");
        }
        assert!(answers(&health, 501, 0));
        assert!(health.is_ejected(999) && !health.is_ejected(1000));
        // While it is out, what still comes from it does not prolong that.
        assert!((0..9).all(|_| !answers(&health, 500, 500)));
        let health = Health::default();
        assert!(!answers(&health, 503, 0));
        assert!(!answers(&health, 500, 0), "no gateway's error");
        assert!(!answers(&health, 502, 0));
        assert!(answers(&health, 504, 0));
        let never = OutlierDetection::default();
        let health = Health::default();
        assert!((0..99).all(|now| !health.answered(503, now, &never, || true)));
    }

    #[test]
    fn not_where_too_many_are_out_already() {
        let health = Health::default();
        assert!((0..9).all(|_| !health.failed(0, &RULE, || false)));
        assert!((0..9).all(|_| !health.answered(503, 0, &RULE, || false)));
        assert!(!health.is_ejected(0));
        // As soon as there is room for it.
        assert!(health.answered(503, 0, &RULE, || true));
        assert!(health.is_ejected(0));
    }

    #[test]
    fn every_interval_forgives_one_ejection() {
        let rule = OutlierDetection {
            consecutive_failures: 1,
            interval_ms: 100,
            ..RULE
        };
        let health = Health::default();
        for (now, until) in [(0, 1000), (1000, 3000), (3000, 6000), (6250, 8250)] {
            assert!(health.failed(now, &rule, || true));
            assert_eq!(health.ejected_for_ms(now), until - now, "{now}");
        }
        assert_eq!(health.ejections(8250, &rule), 2);
        assert_eq!(health.ejections(8350, &rule), 1);
        assert_eq!(health.ejections(8450, &rule), 0);
        // Without it time alone forgives nothing.
        assert_eq!(health.ejections(9999, &RULE), 2);
    }

    #[test]
    fn what_is_under_way_is_counted() {
        let health = Health::default();
        health.begins();
        health.begins();
        health.ends();
        assert_eq!(health.active(), 1);
    }

    #[test]
    fn never_where_the_rule_says_so() {
        let health = Health::default();
        let never = OutlierDetection {
            consecutive_failures: 0,
            ..RULE
        };
        assert!((0..100).all(|now| !health.failed(now, &never, || true)));
        assert!(!health.is_ejected(0));
    }

    proptest! {
        /// Whatever happens to it, an ejection ends within the bound, and so the endpoint is tried again.
        #[test]
        fn every_ejection_is_bounded(
            steps in proptest::collection::vec((any::<bool>(), 0u64..400_000), 1..300),
            base in 0u64..1_000_000, consecutive in 0u32..5,
        ) {
            let rule = OutlierDetection { base_ejection_ms: base, consecutive_failures: consecutive, ..RULE };
            let health = Health::default();
            let mut now = 0u64;
            for (good, wait) in steps {
                now += wait;
                if good {
                    health.succeeded(now, &rule);
                } else {
                    health.failed(now, &rule, || true);
                }
                prop_assert!(health.ejected_for_ms(now) <= limits::EJECTION_MS.max(base));
            }
        }
    }
}
