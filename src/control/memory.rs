//! The memory ceiling: above it new work is refused, so that what is open goes on and the kernel ends nothing.
//!
//! The ceiling is what `limits.maxMemoryMib` says, else a share of what the control group of the process, or the machine,
//! has. What the process holds is read from `/proc` here, for the cores never wait for a file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::tally::Tally;
use crate::vocab::limits;

/// Between two looks while there is room.
const LOOK: Duration = Duration::from_millis(200);
/// And while there is little.
const NEAR: Duration = Duration::from_millis(50);

/// The part of `whole` that is `percent`.
fn share(whole: u64, percent: u64) -> u64 {
    whole.saturating_mul(percent).checked_div(100).unwrap_or(0)
}

/// Bytes that the process may hold.
#[must_use]
pub fn ceiling(configured: Option<u64>) -> Option<u64> {
    configured.or_else(|| {
        let all = [of_groups(Path::new("/sys/fs/cgroup")), of_machine()];
        let least = all.into_iter().flatten().min()?;
        Some(share(least, limits::MEMORY_PERCENT))
    })
}

/// The least `memory.max` from the process's control group to the root (cgroup v2).
fn of_groups(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(group);
    let groups = own.ancestors().take_while(|at| at.starts_with(root));
    groups
        .filter_map(|at| std::fs::read_to_string(at.join("memory.max")).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

fn of_machine() -> Option<u64> {
    total(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Resident bytes that are the process's own, of `/proc/self/status`; what it shares with files is not its to free.
fn held(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Says to the cores, as long as the process runs, whether new work is to be refused.
pub async fn watch(tally: Arc<Tally>, ceiling: u64) {
    let enough = share(ceiling, limits::MEMORY_ENOUGH_PERCENT);
    loop {
        let text = std::fs::read_to_string("/proc/self/status");
        let Some(held) = text.ok().and_then(|text| held(&text)) else {
            tracing::error!("what memory the process holds cannot be read: no ceiling holds");
            tally.shed(false);
            return;
        };
        let before = tally.sheds();
        let now = if before {
            held > enough
        } else {
            held >= ceiling
        };
        if now != before {
            if now {
                tracing::warn!(held, ceiling, "memory ceiling: new work is refused");
            } else {
                tracing::info!(held, ceiling, "below the memory ceiling again");
            }
            tally.shed(now);
        }
        let pause = if held > share(ceiling, 50) {
            NEAR
        } else {
            LOOK
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let text =
            "Name:\tringgate\nVmRSS:\t   20480 kB\nRssAnon:\t   10240 kB\nRssFile:\t 10240 kB\n";
        assert_eq!(held(text), Some(10 << 20));
        assert_eq!(held("Name: x"), None);
        assert_eq!(
            total("MemTotal:       16384 kB\nMemFree: 1 kB"),
            Some(16 << 20)
        );
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(held(&own).is_some_and(|n| n > 0));
    }

    #[test]
    fn what_is_configured_goes_first() {
        assert_eq!(ceiling(Some(7)), Some(7));
        let derived = ceiling(None).unwrap();
        assert!(derived < of_machine().unwrap());
    }
}
