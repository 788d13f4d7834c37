//! What is known of an endpoint from the connections that were made to it: passive outlier detection.
//!
//! An endpoint that could not be connected to so many times in a row is ejected: left out of the choice for a time that
//! grows with every ejection and is bounded. The counters are atomics, written by all cores without a lock; two cores
//! that count at the same moment may be off by one, and nothing worse.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::vocab::limits;

/// When an endpoint is ejected (`outlierDetection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierDetection {
    /// Failures in a row after which it is (`consecutiveLocalOriginFailures`); 0 means never.
    pub consecutive_failures: u32,
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
    /// Ejections in a row.
    ejections: AtomicU32,
    /// End of the last ejection.
    until_ms: AtomicU64,
}

impl Health {
    /// Whether it is left out at this time.
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
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let times = self.ejections.load(Ordering::Relaxed);
        if times == 0 {
            return;
        }
        let until = self.until_ms.load(Ordering::Relaxed);
        if now_ms >= until.saturating_add(ejection_ms(times, rule)) {
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// It could not be connected to. `true`: it is ejected from now on.
    ///
    /// After an ejection one failure suffices for the next: the first connection is the test.
    pub fn failed(&self, now_ms: u64, rule: &OutlierDetection) -> bool {
        if rule.consecutive_failures == 0 || self.is_ejected(now_ms) {
            return false;
        }
        let failures = self
            .failures
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1);
        let times = self.ejections.load(Ordering::Relaxed);
        let enough = if times == 0 {
            rule.consecutive_failures
        } else {
            1
        };
        if failures < enough {
            return false;
        }
        let times = times.saturating_add(1);
        self.failures.store(0, Ordering::Relaxed);
        self.ejections.store(times, Ordering::Relaxed);
        let until = now_ms.saturating_add(ejection_ms(times, rule));
        self.until_ms.store(until, Ordering::Relaxed);
        true
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
        base_ejection_ms: 1000,
        max_ejection_percent: 100,
        min_health_percent: 0,
    };

    #[test]
    fn ejected_after_failures_in_a_row_for_a_growing_time() {
        let health = Health::default();
        assert!(!health.failed(0, &RULE));
        assert!(!health.failed(0, &RULE));
        health.succeeded(0, &RULE);
        assert!(!health.failed(0, &RULE));
        assert!(!health.failed(0, &RULE));
        assert!(health.failed(0, &RULE));
        assert!(health.is_ejected(999));
        assert!(!health.is_ejected(1000));
        // What fails while it is left out (all others are, too) does not prolong it.
        assert!(!health.failed(500, &RULE));
        assert_eq!(health.ejected_for_ms(500), 500);
        // The first failure after it is the second ejection, twice as long.
        assert!(health.failed(1000, &RULE));
        assert!(health.is_ejected(2999));
        assert!(!health.is_ejected(3000));
        // A success just after it does not make it trustworthy.
        health.succeeded(3000, &RULE);
        assert!(health.failed(3001, &RULE));
        assert!(health.is_ejected(6000));
        // One that holds out as long as it was left out is as new.
        health.succeeded(6001 + 3000, &RULE);
        assert!(!health.failed(9002, &RULE));
    }

    #[test]
    fn never_where_the_rule_says_so() {
        let health = Health::default();
        let never = OutlierDetection {
            consecutive_failures: 0,
            ..RULE
        };
        assert!((0..100).all(|now| !health.failed(now, &never)));
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
                    health.failed(now, &rule);
                }
                prop_assert!(health.ejected_for_ms(now) <= limits::EJECTION_MS.max(base));
            }
        }
    }
}
