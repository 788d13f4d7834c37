//! What the machine says of itself once it serves: that nothing else runs on it, how much memory it takes, what is read-only.

use std::path::Path;

use crate::appliance::os;

/// Largest file of `/proc` that is read here.
const FACT_BYTES: u64 = 64 * 1024;
/// `PF_KTHREAD` of the kernel's `task_struct.flags`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What runs on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Running {
    /// Processes with a program, by number and name.
    processes: Vec<String>,
    kernel_threads: usize,
}

/// Says it in one line.
pub(super) fn tell() {
    let proc = Path::new("/proc");
    let running = running(proc);
    let memory = os::read_text(&proc.join("meminfo"), FACT_BYTES).unwrap_or_default();
    let own = os::read_text(&proc.join("self/status"), FACT_BYTES).unwrap_or_default();
    let mounts = os::read_text(&proc.join("self/mounts"), FACT_BYTES).unwrap_or_default();
    let uptime = os::read_text(&proc.join("uptime"), FACT_BYTES).unwrap_or_default();
    tracing::info!(
        processes = running.processes.len(),
        are = running.processes.join(","),
        kernel_threads = running.kernel_threads,
        memory_kib = kib(&memory, "MemTotal:"),
        available_kib = kib(&memory, "MemAvailable:"),
        resident_kib = kib(&own, "VmRSS:"),
        root = if is_read_only(&mounts) {
            "read-only"
        } else {
            "writable"
        },
        uptime_s = uptime.split(' ').next().unwrap_or_default(),
        "appliance serves"
    );
}

/// Processes below `proc`; one that ends meanwhile is none.
fn running(proc: &Path) -> Running {
    let mut running = Running::default();
    let mut numbers: Vec<u32> = std::fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    for number in numbers {
        let stat = proc.join(number.to_string()).join("stat");
        let Ok(stat) = os::read_text(&stat, FACT_BYTES) else {
            continue;
        };
        match task(&stat) {
            Some((_, flags)) if flags & KERNEL_THREAD != 0 => running.kernel_threads += 1,
            Some((name, _)) => running.processes.push(format!("{number}:{name}")),
            None => running.processes.push(format!("{number}:?")),
        }
    }
    running
}

/// Name and flags of `/proc/N/stat` (`proc_pid_stat(5)`); a name may hold spaces and parentheses.
fn task(stat: &str) -> Option<(&str, u64)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once('(')?;
    let flags = after.split(' ').nth(6)?.parse().ok()?;
    Some((name, flags))
}

/// A value of `/proc/meminfo` or `/proc/self/status`.
fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// Whether the last mount of `/` is.
fn is_read_only(mounts: &str) -> bool {
    let root = mounts
        .lines()
        .rfind(|line| line.split(' ').nth(1) == Some("/"));
    let options = root.and_then(|line| line.split(' ').nth(3));
    options.is_some_and(|options| options.split(',').any(|option| option == "ro"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(proc: &Path, number: &str, stat: &str) {
        let dir = proc.join(number);
        std::fs::create_dir(&dir).unwrap();
        os::write_new(&dir.join("stat"), stat.as_bytes()).unwrap();
    }

    #[test]
    fn another_process_is_seen() {
        let proc = tempfile::tempdir().unwrap();
        show(proc.path(), "1", "1 (init) S 0 1 1 0 -1 4194560 9 0 0\n");
        show(proc.path(), "2", "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0\n");
        show(
            proc.path(),
            "9",
            "9 (kworker/0:1H) I 2 0 0 0 -1 69238880 0\n",
        );
        std::fs::create_dir(proc.path().join("self")).unwrap();
        let running_now = running(proc.path());
        assert_eq!(running_now.processes, ["1:init"]);
        assert_eq!(running_now.kernel_threads, 2);
        show(proc.path(), "77", "77 (a) b) R 1 1 1 0 -1 4194304 9 0 0\n");
        show(proc.path(), "78", "what is this");
        let running_now = running(proc.path());
        assert_eq!(running_now.processes, ["1:init", "77:a) b", "78:?"]);
    }

    #[test]
    fn facts_are_found() {
        let memory = "MemTotal:         224156 kB\nMemAvailable:   180000 kB\n";
        assert_eq!(kib(memory, "MemAvailable:"), 180_000);
        assert_eq!(kib(memory, "Nothing:"), 0);
        assert!(is_read_only(
            "rootfs / rootfs ro,size=1k 0 0\ntmpfs /run tmpfs rw 0 0\n"
        ));
        assert!(!is_read_only("rootfs / rootfs rw,size=1k 0 0\n"));
        assert!(!is_read_only(
            "rootfs / rootfs ro 0 0\nnone / tmpfs rw,errors=ro 0 0\n"
        ));
        assert!(!is_read_only(""));
    }
}
