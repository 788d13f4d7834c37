//! What the appliance needs of the system: bounded reads, small writes, waiting. Nothing here runs on a data core.

#![expect(
    clippy::disallowed_methods,
    reason = "before the cores run, and on threads beside them; the bans of the data path are lifted in this one file"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// A file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read(path: &Path, limit: u64) -> anyhow::Result<Vec<u8>> {
    let fail = || format!("`{}` cannot be read", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(fail)?;
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(fail)?;
    ensure!(
        u64::try_from(bytes.len()).is_ok_and(|length| length <= limit),
        "`{}` is larger than {limit} bytes",
        path.display()
    );
    Ok(bytes)
}

/// The first `length` bytes of a file or device, or as many as it has.
///
/// # Errors
/// It cannot be read.
pub fn read_start(path: &Path, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A text of at most `limit` bytes.
///
/// # Errors
/// As `read`; it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> anyhow::Result<String> {
    String::from_utf8(read(path, limit)?)
        .with_context(|| format!("`{}` is not UTF-8", path.display()))
}

/// Writes a file that there was not, readable by this process alone.
///
/// # Errors
/// It cannot be made or written.
pub fn write_new(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let fail = || format!("`{}` cannot be written", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(fail)?;
    file.write_all(content).with_context(fail)
}

/// Writes into a file of the kernel, or into one of ours that may be there.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    std::fs::write(path, content).with_context(|| format!("`{}` cannot be written", path.display()))
}

/// Waits.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Starts a named thread beside the roles.
///
/// # Errors
/// The system's.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .with_context(|| format!("thread `{name}` cannot be started"))
}

/// Version of the running kernel.
#[must_use]
pub fn kernel_release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

/// Names the machine; a name that the kernel refuses is told.
pub fn set_hostname(name: &str) {
    match rustix::system::sethostname(name.as_bytes()) {
        Ok(()) => tracing::info!(name, "hostname"),
        Err(error) => tracing::warn!(name, %error, "hostname is not set"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_new(&path, b"12345").unwrap();
        assert!(write_new(&path, b"again").is_err());
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        let refused = read(&path, 4).unwrap_err().to_string();
        assert!(refused.contains("larger than 4 bytes"), "{refused}");
        assert_eq!(read_start(&path, 3).unwrap(), b"123");
        assert!(read(&dir.path().join("none"), 5).is_err());
    }
}
