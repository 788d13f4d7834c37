//! The only place that reads a clock for the data cores.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds of one monotonic clock for all threads, as of the last tick of the kernel (some milliseconds).
#[must_use]
pub fn millis() -> u64 {
    static START: LazyLock<u64> = LazyLock::new(coarse_ms);
    coarse_ms().saturating_sub(*START)
}

/// Time since the Unix epoch; zero before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// As `unix`, as of the last tick of the kernel.
#[must_use]
pub fn unix_coarse() -> Duration {
    let time = coarse(libc::CLOCK_REALTIME_COARSE);
    let of = |time: libc::timespec| {
        let seconds = u64::try_from(time.tv_sec).ok()?;
        Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?))
    };
    time.and_then(of).unwrap_or_else(unix)
}

/// Seconds since the Unix epoch, as of the last tick of the kernel.
#[must_use]
pub fn unix_s() -> i64 {
    // The kernel's own count of seconds: to read its counter of cycles for them would take several times as long.
    match coarse(libc::CLOCK_REALTIME_COARSE) {
        Some(time) => time.tv_sec,
        None => i64::try_from(unix().as_secs()).unwrap_or(i64::MAX),
    }
}

/// Milliseconds of a monotonic clock, as of the last tick of the kernel (some milliseconds). For limits of seconds.
#[must_use]
pub(super) fn coarse_ms() -> u64 {
    let time = coarse(libc::CLOCK_MONOTONIC_COARSE);
    let of = |time: libc::timespec| {
        let (s, ns) = (
            u64::try_from(time.tv_sec).ok()?,
            u64::try_from(time.tv_nsec).ok()?,
        );
        s.checked_mul(1000)?.checked_add(ns / 1_000_000)
    };
    time.and_then(of).unwrap_or_else(|| {
        static START: LazyLock<Instant> = LazyLock::new(now);
        let since = now().saturating_duration_since(*START);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

fn coarse(clock: libc::clockid_t) -> Option<libc::timespec> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    #[expect(unsafe_code, reason = "std has no coarse clocks")]
    let told = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (told == 0).then_some(time)
}

/// What the calling thread has worked so far; zero if the kernel does not tell.
#[must_use]
pub fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the answer.
    #[expect(unsafe_code, reason = "std has no clock of a thread")]
    let told = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    if told != 0 {
        return Duration::ZERO;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
