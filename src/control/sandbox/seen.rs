//! The threads of this process as the kernel sees them (proc_pid_status(5)).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control::durable;

const TASKS: &str = "/proc/self/task";
const FILE_BYTES: u64 = 64 << 10;

fn all() -> Vec<u32> {
    let entries = std::fs::read_dir(TASKS).into_iter().flatten().flatten();
    let ids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut ids: Vec<u32> = ids.collect();
    ids.sort_unstable();
    ids
}

/// All but the first.
pub(super) fn others() -> Vec<u32> {
    let first = std::process::id();
    all().into_iter().filter(|id| *id != first).collect()
}

/// One line of a status.
fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.map(str::trim)
}

/// Whether a filter of system calls is in force for this thread.
pub(super) fn is_filtered() -> bool {
    let status = durable::read(Path::new("/proc/thread-self/status"), FILE_BYTES);
    status.is_ok_and(|bytes| field(&String::from_utf8_lossy(&bytes), "Seccomp") == Some("2"))
}

/// What has been given up by all threads, and which of them have not. Those of `before` began before the sandbox.
pub(super) fn threads(before: &[u32]) -> Value {
    let mut all_threads = Vec::new();
    for id in all() {
        let path = PathBuf::from(TASKS).join(id.to_string()).join("status");
        // One that has ended meanwhile is none.
        let Ok(bytes) = durable::read(&path, FILE_BYTES) else {
            continue;
        };
        let status = String::from_utf8_lossy(&bytes).into_owned();
        let text = |name| field(&status, name).unwrap_or_default();
        all_threads.push(json!({
            "id": id,
            "name": text("Name"),
            "noNewPrivs": text("NoNewPrivs") == "1",
            "seccomp": text("Seccomp") == "2",
            "capabilities": text("CapEff"),
            "before": before.contains(&id),
        }));
    }
    Value::Array(all_threads)
}
