//! What the running kernel has, and lets this process use.

use std::ffi::{CStr, c_long};
use std::io;
use std::ptr;

use io_uring::opcode;
use socket2::{Domain, Protocol, Socket, Type};

/// `landlock_create_ruleset(2)` with this flag tells the version of its interface.
const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;

/// Operations of io_uring that the data cores submit: readiness, the bell of other threads, timers, and their withdrawal.
const OPERATIONS: [(&str, u8); 4] = [
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("READ", opcode::Read::CODE),
    ("TIMEOUT", opcode::Timeout::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];

/// The release of the kernel, as `uname -r` prints it.
///
/// # Errors
/// As `uname(2)`.
pub fn release() -> io::Result<String> {
    // SAFETY: the struct is arrays of bytes, for which zeros are a value.
    #[expect(unsafe_code, reason = "std does not tell it")]
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: `name` is a valid place for the answer.
    #[expect(unsafe_code, reason = "std does not tell it")]
    let told = unsafe { libc::uname(&raw mut name) };
    if told != 0 {
        return Err(io::Error::last_os_error());
    }
    let release = name.release.map(libc::c_char::cast_unsigned);
    let text = CStr::from_bytes_until_nul(&release).map_err(io::Error::other)?;
    Ok(text.to_string_lossy().into_owned())
}

/// Which of the operations that the data cores need io_uring has, by name.
///
/// # Errors
/// What the kernel, or a filter of system calls, refuses a ring with.
pub fn io_uring() -> io::Result<Vec<(&'static str, bool)>> {
    let ring = io_uring::IoUring::new(2)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(OPERATIONS
        .iter()
        .map(|(name, code)| (*name, probe.is_supported(*code)))
        .collect())
}

/// The version of Landlock's interface (`LANDLOCK_CREATE_RULESET_VERSION`).
///
/// # Errors
/// `ENOSYS` without Landlock, `EOPNOTSUPP` where it is turned off at boot.
pub fn landlock() -> io::Result<c_long> {
    let none = ptr::null::<u8>();
    // SAFETY: with this flag the call takes no attributes, and only answers.
    #[expect(unsafe_code, reason = "libc has no function for it")]
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(version)
}

/// Whether a socket may be transparent (`IP_TRANSPARENT`), which capture by TPROXY and foreign source addresses need.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn transparent_sockets() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_ip_transparent_v4(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_its_release() {
        let release = release().unwrap();
        assert!(
            release.starts_with(|c: char| c.is_ascii_digit()),
            "{release}"
        );
        let uname = std::process::Command::new("uname").arg("-r").output();
        assert_eq!(uname.unwrap().stdout.trim_ascii_end(), release.as_bytes());
    }

    #[test]
    fn the_cores_take_a_ring_that_has_all_they_need() {
        let has_all = io_uring().is_ok_and(|operations| operations.iter().all(|(_, there)| *there));
        let automatic = crate::io::rt::automatic();
        assert_eq!(has_all, automatic == crate::io::rt::Driver::IoUring);
    }
}
