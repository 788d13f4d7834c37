//! Descriptors that the process was started with: sockets of systemd's socket units and of its store (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes them, with their names; nothing the second time, or where they are meant for another process.
///
/// # Errors
/// The environment tells of descriptors that are not there, or of another number of names.
pub fn take() -> io::Result<Vec<(String, OwnedFd)>> {
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let given = sd_notify::listen_fds_with_names(false)?;
    Ok(given.map(|(fd, name)| (name, own(fd))).collect())
}

#[expect(
    unsafe_code,
    reason = "what was passed by number has no owner before it is given one"
)]
fn own(fd: i32) -> OwnedFd {
    // SAFETY: `LISTEN_PID` says that this descriptor was opened for this process, `sd_notify` has set a flag on it, so that
    // it is open; `TAKEN` lets this be called once for each, and nothing else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
