//! The process at the other end of a unix socket, as the kernel knows it.
//!
//! A connection carries the credentials of the process that made it, whoever holds the socket now: one that was passed
//! on (`SCM_RIGHTS`, fork) still speaks for its maker. The maker is pinned by a pidfd, so that its number cannot come to
//! mean another process while it is looked at. Linux 6.5 hands that pidfd out with the connection; before, it is opened
//! by number, and only a process that is older than the connection can be its maker.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `SO_PEERPIDFD` of x86, Arm and RISC-V.
const SO_PEERPIDFD: c_int = 77;
/// No file of `/proc` that is read here is longer.
const PROC_BYTES: u64 = 64 * 1024;

/// Why a peer is nobody.
#[derive(Debug, Error)]
pub enum PeerError {
    /// It has ended, or its number means another process by now.
    #[error("the process that connected has ended")]
    Ended,
    /// It is in a PID namespace that is not below ours.
    #[error("the process that connected is in a PID namespace that cannot be seen")]
    Invisible,
    /// Without `SO_PEERPIDFD`: it began so late that it may not be the one that connected.
    #[error("the process that connected may have ended and its number been given away")]
    Young,
    /// The kernel says nothing.
    #[error("the kernel does not tell who connected")]
    Os(#[source] io::Error),
}

/// Time since the machine started, suspension included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// Now (`CLOCK_BOOTTIME`).
    ///
    /// # Errors
    /// As `clock_gettime(2)`.
    pub fn now() -> io::Result<Self> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `time` is a valid place for the answer.
        #[expect(unsafe_code, reason = "std does not read this clock")]
        let got = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        if got != 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Ok(Self(Duration::new(seconds, nanos)))
    }
}

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The file at `path`, links followed.
    ///
    /// # Errors
    /// As `stat(2)`.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = fs::metadata(path)?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

/// Who made a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its number here; it means this process as long as the process lives.
    pub pid: u32,
    /// Effective user when it connected.
    pub uid: u32,
    /// Effective group when it connected.
    pub gid: u32,
    pidfd: OwnedFd,
}

/// What a process is at one moment. What cannot be read is absent, and no selector matches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Effective user and group now.
    pub ids: Option<(u32, u32)>,
    /// The file that it runs. Seen only with the right to trace it.
    pub exe: Option<FileId>,
    /// What it calls that file, for records: a mount namespace of its own can make the name a lie.
    pub exe_name: Option<PathBuf>,
    /// `/proc/<pid>/cgroup`.
    pub cgroups: Option<String>,
}

impl Peer {
    /// Who made the connection of `socket`. `quiet` is a moment at which nobody waited in the listener's queue, so that
    /// this connection was made later.
    ///
    /// # Errors
    /// `PeerError`.
    pub fn of(socket: BorrowedFd<'_>, quiet: BootTime) -> Result<Self, PeerError> {
        match Self::by_kernel(socket) {
            Err(PeerError::Os(error)) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
                Self::by_age(socket, quiet)
            }
            found => found,
        }
    }

    /// By the pidfd that came with the connection.
    ///
    /// # Errors
    /// `PeerError`; `ENOPROTOOPT` before Linux 6.5.
    pub fn by_kernel(socket: BorrowedFd<'_>) -> Result<Self, PeerError> {
        let got = option::<c_int>(socket, SO_PEERPIDFD, -1);
        let raw = match got {
            Ok(raw) if raw >= 0 => raw,
            Ok(_none) => return Err(PeerError::Ended),
            Err(error) => {
                let ended = matches!(
                    error.raw_os_error(),
                    Some(libc::ESRCH | libc::EINVAL | libc::ENODATA)
                );
                return Err(if ended {
                    PeerError::Ended
                } else {
                    PeerError::Os(error)
                });
            }
        };
        // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
        #[expect(unsafe_code, reason = "a raw descriptor becomes an owned one")]
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Self::new(socket, pidfd)
    }

    /// By its number: whoever has it now is the maker of the connection only if he began before `quiet`, for a number
    /// is not given away while its process lives.
    ///
    /// # Errors
    /// `PeerError`.
    pub fn by_age(socket: BorrowedFd<'_>, quiet: BootTime) -> Result<Self, PeerError> {
        let credentials = credentials(socket)?;
        let pidfd = open_pid(credentials.pid)?;
        let peer = Self::new(socket, pidfd)?;
        let stat = peer.read("stat").map_err(|_hidden| PeerError::Young)?;
        peer.check_alive()?;
        let began = start(&stat, ticks_per_second()?).ok_or(PeerError::Young)?;
        if began < quiet {
            Ok(peer)
        } else {
            Err(PeerError::Young)
        }
    }

    fn new(socket: BorrowedFd<'_>, pidfd: OwnedFd) -> Result<Self, PeerError> {
        let credentials = credentials(socket)?;
        let pid = u32::try_from(credentials.pid).unwrap_or(0);
        if pid == 0 {
            return Err(PeerError::Invisible);
        }
        let peer = Self {
            pid,
            uid: credentials.uid,
            gid: credentials.gid,
            pidfd,
        };
        // Newer kernels hand out a pidfd of one that has long been waited for, too.
        peer.check_alive()?;
        Ok(peer)
    }

    /// What it is now.
    ///
    /// # Errors
    /// `PeerError::Ended`: nothing that was read is sure to be of this process.
    pub fn facts(&self) -> Result<Facts, PeerError> {
        let exe = self.path("exe");
        let facts = Facts {
            ids: self.read("status").ok().as_deref().and_then(ids),
            exe: FileId::of(&exe).ok(),
            exe_name: fs::read_link(&exe).ok(),
            cgroups: self.read("cgroup").ok(),
        };
        // Last: while it lives its number is its own, so that all of the above was about it.
        self.check_alive()?;
        Ok(facts)
    }

    /// Fails once the process has ended, even if nobody has waited for it.
    ///
    /// # Errors
    /// `PeerError::Ended`.
    pub fn check_alive(&self) -> Result<(), PeerError> {
        match readable(self.pidfd.as_fd()) {
            Ok(false) => Ok(()),
            Ok(true) => Err(PeerError::Ended),
            Err(error) => Err(PeerError::Os(error)),
        }
    }

    /// Watches for the end of the process, within a tokio runtime.
    ///
    /// # Errors
    /// As `dup(2)` and `epoll_ctl(2)`.
    pub fn watch(&self) -> io::Result<Watch> {
        let fd = self.pidfd.try_clone()?;
        #[expect(
            unsafe_code,
            reason = "the descriptor must stay the same while it is registered"
        )]
        // SAFETY: an `OwnedFd` is the descriptor that it was made of until it is dropped, and it is dropped by the
        // `AsyncFd` alone, which deregisters it before.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Watch(registered?))
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        File::open(self.path(name))?
            .take(PROC_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    }
}

/// A watch over one process.
#[derive(Debug)]
pub struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Ends when the process has ended, or can no longer be watched.
    pub async fn ended(&self) {
        drop(self.0.readable().await);
    }
}

/// Whether something can be read from a descriptor, or accepted from a listener, at once.
///
/// # Errors
/// As `poll(2)`.
pub fn readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: `poll` is one valid entry, and the count is 1.
        #[expect(unsafe_code, reason = "std has no poll")]
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        if ready >= 0 {
            return Ok(ready > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn credentials(socket: BorrowedFd<'_>) -> Result<libc::ucred, PeerError> {
    let none = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    option(socket, libc::SO_PEERCRED, none).map_err(PeerError::Os)
}

/// A socket option of a plain type, which `value` is a place for.
fn option<T: Copy>(socket: BorrowedFd<'_>, name: c_int, mut value: T) -> io::Result<T> {
    let size = size_of::<T>();
    let mut length = libc::socklen_t::try_from(size).map_err(io::Error::other)?;
    // SAFETY: `value` is `length` bytes of a type that any bytes are valid for: `c_int` and `ucred`.
    #[expect(unsafe_code, reason = "std does not read these options")]
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length).is_ok_and(|length| length == size) {
        Ok(value)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

fn open_pid(pid: libc::pid_t) -> Result<OwnedFd, PeerError> {
    if pid == 0 {
        return Err(PeerError::Invisible);
    }
    // SAFETY: takes two integers.
    #[expect(unsafe_code, reason = "std opens no pidfd")]
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let Ok(raw) = c_int::try_from(raw) else {
        return Err(PeerError::Ended);
    };
    if raw < 0 {
        let error = io::Error::last_os_error();
        return Err(match error.raw_os_error() {
            Some(libc::ESRCH) => PeerError::Ended,
            Some(_) | None => PeerError::Os(error),
        });
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    #[expect(unsafe_code, reason = "a raw descriptor becomes an owned one")]
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn ticks_per_second() -> Result<u64, PeerError> {
    // SAFETY: takes an integer.
    #[expect(unsafe_code, reason = "std has no sysconf")]
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks)
        .ok()
        .filter(|ticks| *ticks > 0)
        .ok_or_else(|| PeerError::Os(io::Error::last_os_error()))
}

/// The end of the tick in which a process began, of `/proc/<pid>/stat`: field 22, in ticks since the machine started.
/// Field 2, the name, may hold anything; it ends at the last parenthesis.
fn start(stat: &str, ticks_per_second: u64) -> Option<BootTime> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let ends = ticks.checked_add(1)?;
    let nanos = (ends % ticks_per_second).checked_mul(1_000_000_000)? / ticks_per_second;
    let whole = Duration::from_secs(ends / ticks_per_second);
    Some(BootTime(whole.checked_add(Duration::from_nanos(nanos))?))
}

/// Effective user and group of `/proc/<pid>/status`.
fn ids(status: &str) -> Option<(u32, u32)> {
    let effective = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((effective("Uid:")?, effective("Gid:")?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn this_process_is_its_own_peer() {
        let quiet = BootTime::now().unwrap();
        let (a, _b) = UnixStream::pair().unwrap();
        let peer = Peer::of(a.as_fd(), quiet).unwrap();
        assert_eq!(peer.pid, std::process::id());
        let facts = peer.facts().unwrap();
        assert_eq!(facts.ids, Some((peer.uid, peer.gid)));
        let own = FileId::of(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(facts.exe, Some(own));
        assert!(facts.cgroups.unwrap().contains(':'));
        let aged = Peer::by_age(a.as_fd(), quiet);
        // Test runners start this process in the same tick at times; then it is refused.
        assert!(
            matches!(&aged, Ok(p) if p.pid == peer.pid) || matches!(aged, Err(PeerError::Young)),
            "{aged:?}"
        );
    }

    #[test]
    fn a_process_that_began_after_the_quiet_moment_is_not_taken() {
        let (a, _b) = UnixStream::pair().unwrap();
        let early = BootTime(Duration::ZERO);
        assert!(matches!(
            Peer::by_age(a.as_fd(), early),
            Err(PeerError::Young)
        ));
    }

    #[test]
    fn start_of_a_process() {
        let tail = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        for name in [
            "cat",
            "a b",
            "x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9 0",
        ] {
            let stat = format!("77 ({name}) {tail}");
            let want = BootTime(Duration::from_millis(123_460));
            assert_eq!(start(&stat, 100), Some(want), "{name}");
        }
        for bad in [
            "",
            "77 (cat",
            "77 (cat) S 1 2",
            "77 (cat) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 x",
        ] {
            assert_eq!(start(bad, 100), None, "{bad}");
        }
    }

    #[test]
    fn effective_ids() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n";
        assert_eq!(ids(status), Some((2, 6)));
        for bad in [
            "",
            "Uid:\t1\t2\n",
            "Uid:\t1\nGid:\t1\t2\n",
            "Uid:\t1\t-2\nGid:\t1\t2\n",
        ] {
            assert_eq!(ids(bad), None, "{bad:?}");
        }
    }
}
