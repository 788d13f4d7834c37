//! When a credential is replaced, and how long to wait after a failed attempt.

use std::time::Duration;

use rustls::pki_types::UnixTime;

/// First wait after a failed attempt (ztunnel's value).
pub const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait between failed attempts (ztunnel's value).
pub const BACKOFF_MAX: Duration = Duration::from_secs(150);

/// The time at which a credential that is valid from `not_before` to `not_after` is to be replaced:
/// its half life, moved by up to 5 % of the lifetime either way.
///
/// `jitter` in 0..=1 spreads a fleet that started together; a value outside counts as the nearest bound, NaN as 0.5.
#[must_use]
pub fn next_rotation(not_before: UnixTime, not_after: UnixTime, jitter: f64) -> UnixTime {
    let start = Duration::from_secs(not_before.as_secs());
    let life = Duration::from_secs(not_after.as_secs()).saturating_sub(start);
    let share = 0.45 + 0.1 * unit(jitter);
    UnixTime::since_unix_epoch(start.saturating_add(life.mul_f64(share)))
}

/// The wait before attempt `failures + 1`: 0.5 s doubled for every earlier failure, at most 150 s, then moved by
/// up to 20 % either way (`jitter` as in [`next_rotation`]).
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(
        1_u32
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u32::MAX),
    );
    doubled.min(BACKOFF_MAX).mul_f64(0.8 + 0.4 * unit(jitter))
}

fn unit(jitter: f64) -> f64 {
    if jitter.is_nan() {
        0.5
    } else {
        jitter.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(secs))
    }

    #[test]
    fn half_life() {
        assert_eq!(next_rotation(at(1000), at(2000), 0.5).as_secs(), 1500);
        assert_eq!(next_rotation(at(1000), at(2000), 0.0).as_secs(), 1450);
        assert_eq!(next_rotation(at(1000), at(2000), 1.0).as_secs(), 1550);
        assert_eq!(next_rotation(at(1000), at(2000), 9.0).as_secs(), 1550);
        assert_eq!(next_rotation(at(1000), at(2000), f64::NAN).as_secs(), 1500);
        assert_eq!(next_rotation(at(2000), at(1000), 0.5).as_secs(), 2000);
    }

    #[test]
    fn doubles_up_to_the_bound() {
        assert_eq!(backoff(1, 0.5), Duration::from_millis(500));
        assert_eq!(backoff(2, 0.5), Duration::from_secs(1));
        assert_eq!(backoff(4, 0.5), Duration::from_secs(4));
        assert_eq!(backoff(9, 0.5), Duration::from_secs(128));
        assert_eq!(backoff(10, 0.5), BACKOFF_MAX);
        assert_eq!(backoff(4_000_000, 0.5), BACKOFF_MAX);
        assert_eq!(backoff(10, 1.0), Duration::from_secs(180));
    }
}
