//! Kernel modules of the image: all of them, in the order in which they need each other.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::appliance::os;
use crate::vocab::limits;

/// Largest `modules.dep`, in bytes.
const DEP_BYTES: u64 = 1 << 20;

/// Loads every module that `modules.dep` of the running kernel names below `base`. What a module says against it is told,
/// and the rest is loaded: a driver for hardware that is not there does no harm.
pub fn load_all(base: &Path) {
    let dir = base.join(os::kernel_release());
    let text = match os::read_text(&dir.join("modules.dep"), DEP_BYTES) {
        Ok(text) => text,
        Err(error) => {
            return tracing::warn!("no modules are loaded: {error:#}");
        }
    };
    let order = order(&text);
    let mut loaded = 0_usize;
    for module in &order {
        match load(&dir.join(module)) {
            Ok(()) => loaded += 1,
            Err(error) => {
                tracing::warn!(module = %module.display(), %error, "module is not loaded");
            }
        }
    }
    // Nothing is loaded after this, whoever asks.
    let closed = os::write(Path::new("/proc/sys/kernel/modules_disabled"), b"1\n");
    if let Err(error) = &closed {
        tracing::warn!("modules can still be loaded: {error:#}");
    }
    tracing::info!(loaded, of = order.len(), closed = closed.is_ok(), "modules");
}

fn load(path: &Path) -> std::io::Result<()> {
    let file = File::open(path)?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Modules by `modules.dep(5)`, each after those it needs. What is needed and has no line is left out with what needs it
/// loaded all the same, for the kernel says best what is missing.
fn order(text: &str) -> Vec<PathBuf> {
    let lines: Vec<(&str, Vec<&str>)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module.trim(), needs.split_whitespace().collect()))
        .take(limits::APPLIANCE_MODULES)
        .collect();
    let mut done: Vec<&str> = Vec::new();
    // Each round takes at least one module, or what is left needs itself.
    for _ in 0..lines.len() {
        let before = done.len();
        for (module, needs) in &lines {
            let is_known = |need: &&str| lines.iter().any(|(module, _)| module == need);
            let mut missing = needs.iter().filter(|need| is_known(need));
            if !done.contains(module) && missing.all(|need| done.contains(need)) {
                done.push(module);
            }
        }
        if done.len() == before {
            break;
        }
    }
    done.into_iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: &[&str]) {
        let got = order(text);
        let got: Vec<_> = got.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(got, wanted, "{text}");
    }

    #[test]
    fn what_is_needed_comes_first() {
        check(
            "a/virtio_net.ko: a/net_failover.ko a/failover.ko a/virtio.ko a/virtio_ring.ko\n\
             a/virtio.ko: a/virtio_ring.ko\n\
             a/net_failover.ko: a/failover.ko\n\
             a/failover.ko:\n\
             a/virtio_ring.ko:\n",
            &[
                "a/failover.ko",
                "a/virtio_ring.ko",
                "a/virtio.ko",
                "a/net_failover.ko",
                "a/virtio_net.ko",
            ],
        );
    }

    #[test]
    fn files_that_are_broken_end() {
        check("", &[]);
        check("no colon\n", &[]);
        check("a.ko: b.ko\nb.ko: a.ko\nc.ko:\n", &["c.ko"]);
        check("a.ko: gone.ko\n", &["a.ko"]);
        check("a.ko: a.ko\n", &[]);
        check("a.ko:\na.ko:\n", &["a.ko"]);
    }
}
