//! What the command line needs of the machine: clock, files, waiting, standard streams.
//!
//! The demo and the drill are clients beside the data path: they may block, the data cores may not.

#![expect(
    clippy::disallowed_methods,
    reason = "nothing here runs on a data core; the bans of the data path are lifted in this one file"
)]

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::telemetry::diagnostics;
pub use crate::vocab::text::hex;

/// Seconds since 1970; 0 if the clock stands before it.
#[must_use]
pub fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Monotonic time.
#[must_use]
pub fn now() -> Instant {
    Instant::now()
}

/// Polls `ready` every 20 ms until it holds or `limit` has passed; whether it held.
pub fn wait_until(limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if ready() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file's bytes; the error names the file.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("`{}` cannot be read", path.display()))
}

/// A file's text; the error names the file.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()))
}

/// Writes a file whole by rename, with `mode`, so that a watcher never sees half of it.
pub fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let fail = || format!("`{}` cannot be written", path.display());
    let mut name = path.file_name().with_context(fail)?.to_os_string();
    name.push(".new");
    let beside = path.with_file_name(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&beside)
        .with_context(fail)?;
    file.write_all(content).with_context(fail)?;
    // The mode above is narrowed by the umask; apps under other uids must be able to read what is public.
    file.set_permissions(Permissions::from_mode(mode))
        .with_context(fail)?;
    drop(file);
    std::fs::rename(&beside, path).with_context(fail)
}

/// Makes a directory and its parents with `mode`.
pub fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    let fail = || format!("directory `{}` cannot be made", path.display());
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(fail)?;
    std::fs::set_permissions(path, Permissions::from_mode(mode)).with_context(fail)
}

/// Starts a named thread.
pub fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .with_context(|| format!("thread `{name}` cannot be started"))
}

/// One line to standard output. A closed pipe is not an error of the program.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    ignore(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// One line to standard error, or several. It may repeat what a peer sent, so that control characters are escaped. In the
/// journal it is an error.
pub fn complain(line: &str) {
    let text = diagnostics::as_error(&printable(line));
    ignore(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Text without control characters but line ends: a terminal would obey them.
#[must_use]
pub fn printable(text: &str) -> String {
    let escaped = |c: char| {
        let plain = !c.is_control() || c == '\n';
        let one = plain.then_some(c);
        one.into_iter()
            .chain((!plain).then(|| c.escape_debug()).into_iter().flatten())
    };
    text.chars().flat_map(escaped).collect()
}

/// For results that nobody can act on: output to a stream that was closed, removal of what is already gone.
pub fn ignore<T, E>(_result: Result<T, E>) {}

/// Sends SIGTERM to a process. By the shell's own `kill`: a small system has no program of that name.
///
/// # Errors
/// If there is no shell, or no such process.
pub fn terminate(pid: u32) -> std::io::Result<()> {
    let sent = std::process::Command::new("sh")
        .args(["-c", "kill -TERM \"$0\"", &pid.to_string()])
        .status()?;
    if sent.success() {
        Ok(())
    } else {
        Err(std::io::ErrorKind::NotFound.into())
    }
}

/// Random bytes from the system.
pub fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).context("the system gives no random bytes")?;
    Ok(bytes)
}
