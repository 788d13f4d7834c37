//! File systems of the machine: what the kernel shows, memory to write to, and a root that nothing is written to.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, ensure};
use rustix::mount::{MountFlags, mount, mount_remount};

/// Where the configuration is laid.
pub const CONFIG: &str = "/run/ringgate-config";

/// `(kind, place, more flags, options)`
const BASE: &[(&str, &str, MountFlags, &str)] = &[
    ("devtmpfs", "/dev", MountFlags::NOEXEC, "mode=0755"),
    ("proc", "/proc", HIDDEN, ""),
    ("sysfs", "/sys", HIDDEN, ""),
    ("tmpfs", "/run", HIDDEN, "mode=0755,size=16m"),
    ("tmpfs", CONFIG, HIDDEN, "mode=0700,size=16m"),
    ("tmpfs", "/tmp", HIDDEN, "mode=1777,size=16m"),
    ("tmpfs", "/var/lib/ringgate", HIDDEN, "mode=0700,size=64m"),
    ("tmpfs", "/var/log/ringgate", HIDDEN, "mode=0700,size=64m"),
];

/// No devices, nothing to run.
const HIDDEN: MountFlags = MountFlags::NODEV.union(MountFlags::NOEXEC);

/// Mounts them, and has the standard streams on the console.
///
/// # Errors
/// One cannot be mounted, or there is no console.
pub fn base() -> anyhow::Result<()> {
    for (kind, place, flags, options) in BASE {
        std::fs::create_dir_all(place).with_context(|| format!("`{place}` cannot be made"))?;
        let flags = *flags | MountFlags::NOSUID;
        let options = std::ffi::CString::new(*options)?;
        match mount(*kind, *place, *kind, flags, Some(options.as_c_str())) {
            // The kernel may have mounted `/dev`.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("{kind} on `{place}`")),
        }
    }
    console()
}

/// The kernel has opened it for the first process only if the initramfs had its node.
fn console() -> anyhow::Result<()> {
    let console = File::options()
        .read(true)
        .write(true)
        .open("/dev/console")
        .context("`/dev/console`")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// Makes the root and the configuration read-only.
///
/// # Errors
/// The kernel refuses it, or does not do it.
pub fn seal() -> anyhow::Result<()> {
    for (place, flags) in [
        (CONFIG, HIDDEN | MountFlags::NOSUID),
        ("/", MountFlags::empty()),
    ] {
        mount_remount(place, flags | MountFlags::RDONLY, c"")
            .with_context(|| format!("`{place}` cannot be made read-only"))?;
        ensure!(
            rustix::fs::statvfs(Path::new(place))?
                .f_flag
                .contains(rustix::fs::StatVfsMountFlags::RDONLY),
            "`{place}` is not read-only although the kernel has accepted it"
        );
    }
    Ok(())
}
