//! The memory ceiling: above it new work is refused, so that what is open goes on and the kernel ends nothing.
//!
//! The ceiling is what `limits.maxMemoryMib` says, else a share of what the control group of the process, or the machine,
//! has. What the process holds is read from `/proc` here, for the cores never wait for a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::tally::Tally;
use crate::vocab::limits;

/// Between two looks while there is room.
const LOOK: Duration = Duration::from_millis(200);
/// And while there is little.
const NEAR: Duration = Duration::from_millis(50);
/// What the kernel tells of a process, in files.
pub(super) const STATUS: &str = "/proc/self/status";
/// Bytes of it at once, and at most: the groups of a process may make it long.
const STATUS_BYTES: usize = 4096;
const STATUS_MOST: usize = 1 << 20;

/// The part of `whole` that is `percent`.
fn share(whole: u64, percent: u64) -> u64 {
    whole.saturating_mul(percent).checked_div(100).unwrap_or(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the control thread, and files that the kernel makes up at once"
)]
fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
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
    let text = read(Path::new("/proc/self/cgroup"))?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(group);
    let groups = own.ancestors().take_while(|at| at.starts_with(root));
    groups
        .filter_map(|at| read(&at.join("memory.max")))
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

fn of_machine() -> Option<u64> {
    let told = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    told.or_else(|| {
        // A unit may hide that file (`ProcSubset=pid`).
        let info = rustix::system::sysinfo();
        #[expect(clippy::useless_conversion, reason = "of another width elsewhere")]
        let all = u64::from(info.totalram);
        all.checked_mul(info.mem_unit.into())
    })
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

/// What [`watch`] reads. It is opened once: where no descriptors are left the ceiling matters most.
///
/// # Errors
/// The operating system's.
pub fn status() -> io::Result<File> {
    File::open(STATUS)
}

/// Resident bytes of the process, as `status` tells them now; `text` is for its content.
fn look(status: &File, text: &mut Vec<u8>) -> io::Result<u64> {
    let mut len = 0_usize;
    loop {
        let room = len.saturating_add(STATUS_BYTES);
        if room > STATUS_MOST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if text.len() < room {
            text.resize(room, 0);
        }
        let at = u64::try_from(len).unwrap_or(u64::MAX);
        match status.read_at(text.get_mut(len..).unwrap_or_default(), at)? {
            0 => break,
            n => len = len.saturating_add(n),
        }
    }
    let told = String::from_utf8_lossy(text.get(..len).unwrap_or_default());
    held(&told).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Says to the cores, as long as the process runs, whether new work is to be refused, by what `status` tells. What cannot be
/// read changes nothing.
pub async fn watch(status: File, tally: Arc<Tally>, ceiling: u64) {
    let enough = share(ceiling, limits::MEMORY_ENOUGH_PERCENT);
    let (mut text, mut complained) = (Vec::new(), false);
    loop {
        let held = match look(&status, &mut text) {
            Ok(held) => held,
            Err(error) => {
                if !complained {
                    let refused = tally.sheds();
                    tracing::error!(
                        %error,
                        refused,
                        "what memory the process holds cannot be read: new work is refused or taken as before"
                    );
                }
                complained = true;
                tokio::time::sleep(NEAR).await;
                continue;
            }
        };
        complained = false;
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
        let own = read(Path::new(STATUS)).unwrap();
        assert!(held(&own).is_some_and(|n| n > 0));
    }

    #[test]
    fn the_own_process_is_read_again_and_again() {
        let (status, mut text) = (status().unwrap(), Vec::new());
        for _ in 0..3 {
            assert!(look(&status, &mut text).unwrap() > 1 << 20);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_read_lifts_no_ceiling() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A long list of groups stands before what is looked for.
        let tell = |kib: u64| {
            let text = format!("Groups:\t{}\nRssAnon:\t{kib} kB\n", "65534 ".repeat(2000));
            std::fs::write(file.path(), text).unwrap();
        };
        tell(10);
        let tally = Arc::new(Tally::default());
        let watching = watch(file.reopen().unwrap(), Arc::clone(&tally), 1 << 20);
        let watching = tokio::spawn(watching);
        let look = || tokio::time::sleep(LOOK * 2);
        for (kib, sheds) in [(10, false), (2000, true), (10, false), (2000, true)] {
            tell(kib);
            look().await;
            assert_eq!(tally.sheds(), sheds, "{kib}");
            std::fs::write(file.path(), "nothing").unwrap();
            look().await;
            assert_eq!(tally.sheds(), sheds, "as before");
        }
        assert!(!watching.is_finished());
        watching.abort();
    }

    #[test]
    fn what_is_configured_goes_first() {
        assert_eq!(ceiling(Some(7)), Some(7));
        let derived = ceiling(None).unwrap();
        assert!(derived < of_machine().unwrap());
    }
}
