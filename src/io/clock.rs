//! The only place that reads a clock for the data cores.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds of one monotonic clock for all threads.
#[must_use]
pub fn millis() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(now);
    let since = now().saturating_duration_since(*START);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Time since the Unix epoch; zero before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Seconds since the Unix epoch.
#[must_use]
pub fn unix_s() -> i64 {
    i64::try_from(unix().as_secs()).unwrap_or(i64::MAX)
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
