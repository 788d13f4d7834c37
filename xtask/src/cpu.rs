//! CPU time of a process, from `/proc`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;

use anyhow::{Context as _, Result};

/// Nanoseconds on a CPU that the live threads of `pid` have had.
/// Threads that have ended are not in it: the servers measured here keep theirs.
pub(crate) fn nanoseconds(pid: u32) -> Result<u64> {
    Ok(threads(pid)?.into_values().sum())
}

/// The same of each live thread (`/proc/PID/task/TID/schedstat`, first field).
pub(crate) fn threads(pid: u32) -> Result<BTreeMap<OsString, u64>> {
    let mut all = BTreeMap::new();
    let tasks = format!("/proc/{pid}/task");
    for task in fs::read_dir(&tasks).with_context(|| format!("process {pid} is gone"))? {
        let task = task?;
        // A thread may end between the listing and the read.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next().context("empty schedstat")?;
        let used = first.parse().context("schedstat is not a number")?;
        all.insert(task.file_name(), used);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::nanoseconds;

    #[test]
    fn work_is_counted() {
        let pid = std::process::id();
        let before = nanoseconds(pid).expect("own process");
        let start = std::time::Instant::now();
        let mut sum = 0_u64;
        while start.elapsed().as_millis() < 50 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let used = nanoseconds(pid).expect("own process") - before;
        assert!(used > 5_000_000, "50 ms of work counted as {used} ns");
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        child.wait().expect("true");
        assert!(nanoseconds(child.id()).is_err());
    }
}
