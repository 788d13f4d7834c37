//! Which system calls the process makes (seccomp(2)): those that it has a use for once it serves. All others fail with
//! `EPERM`: a gateway that is wrong about one of them goes on, and says what failed.
//!
//! What a ring of io_uring is asked for is no system call; no new ring can be made.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use super::State;

/// Calls that are allowed whatever their arguments.
const ALWAYS: &[i64] = &[
    // reading, writing, sockets that are there
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_splice,
    libc::SYS_sendfile,
    // waiting
    libc::SYS_io_uring_enter,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // memory
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_getrandom,
    // threads and signals; `clone3` is refused by a filter of its own, so that the C library falls back to `clone`
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getcpu,
    libc::SYS_getrusage,
    libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    // giving up more
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_seccomp,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    // files, where Landlock lets them be
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchown,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    // processes at the other end of a socket
    libc::SYS_pidfd_open,
];

/// Those that newer kinds of processors do not have.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_symlink,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];

/// Kinds of sockets (socket(2)): no packets of other processes, no crypto, no virtual machines.
const FAMILIES: [i32; 4] = [
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_UNIX,
    libc::AF_NETLINK,
];
/// Whether something is a terminal, its width, blocking, close on exec, what waits to be read or sent.
const CONTROLS: [u64; 6] = [
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
    libc::FIOCLEX,
    libc::FIONREAD,
    libc::TIOCOUTQ,
];
/// Names of threads and of anonymous memory.
const SELF: [i32; 2] = [libc::PR_SET_NAME, libc::PR_SET_VMA];

/// Bits of a file's mode: set-user-ID and the like, group, others.
const MODE_OF_OTHERS: u64 = 0o7077;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// One condition on argument `at`.
fn when(
    at: u8,
    length: SeccompCmpArgLen,
    compare: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(at, length, compare, value)?])
}

/// One rule for each value that argument `at` may have.
fn one_of(at: u8, values: impl IntoIterator<Item = u64>) -> Result<Vec<SeccompRule>, BackendError> {
    let rule = |value| when(at, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    values.into_iter().map(rule).collect()
}

fn rules(pid: u32) -> Result<Rules, BackendError> {
    let number = |n: i32| u64::from(n.unsigned_abs());
    let (executable, thread) = (number(libc::PROT_EXEC), number(libc::CLONE_THREAD));
    let mut rules: Rules = ALWAYS.iter().chain(OLD).map(|c| (*c, Vec::new())).collect();
    // Nothing that is mapped can be executed but what the program brought along.
    let masked = SeccompCmpOp::MaskedEq(executable);
    let mapped = when(2, SeccompCmpArgLen::Qword, masked, 0)?;
    rules.insert(libc::SYS_mmap, vec![mapped.clone()]);
    rules.insert(libc::SYS_mprotect, vec![mapped]);
    // Threads, and no processes.
    let masked = SeccompCmpOp::MaskedEq(thread);
    let threads = when(0, SeccompCmpArgLen::Qword, masked, thread)?;
    rules.insert(libc::SYS_clone, vec![threads]);
    // Nothing is given to others by its mode, and no program made one of its owner; Landlock does not bound these.
    let private = |at| {
        let others = SeccompCmpOp::MaskedEq(MODE_OF_OTHERS);
        Ok::<_, BackendError>(vec![when(at, SeccompCmpArgLen::Dword, others, 0)?])
    };
    rules.insert(libc::SYS_fchmod, private(1)?);
    rules.insert(libc::SYS_fchmodat, private(2)?);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_chmod, private(1)?);
    rules.insert(libc::SYS_socket, one_of(0, FAMILIES.map(number))?);
    rules.insert(libc::SYS_socketpair, one_of(0, [number(libc::AF_UNIX)])?);
    rules.insert(libc::SYS_ioctl, one_of(1, CONTROLS)?);
    rules.insert(libc::SYS_prctl, one_of(0, SELF.map(number))?);
    // An abort; nobody else is sent anything.
    rules.insert(libc::SYS_tgkill, one_of(0, [u64::from(pid)])?);
    // Its own limits, to be read.
    let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?;
    let unchanged = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    let read = SeccompRule::new(vec![own, unchanged])?;
    rules.insert(libc::SYS_prlimit64, vec![read]);
    Ok(rules)
}

fn programs(pid: u32, refuse: SeccompAction) -> Result<[BpfProgram; 2], BackendError> {
    let arch = std::env::consts::ARCH.try_into()?;
    let (missing, allow) = (libc::ENOSYS.unsigned_abs(), SeccompAction::Allow);
    // That it is not there, and not that it is forbidden, is what the C library goes by.
    let new_clone = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let first = SeccompFilter::new(
        new_clone,
        allow.clone(),
        SeccompAction::Errno(missing),
        arch,
    )?;
    let second = SeccompFilter::new(rules(pid)?, refuse, allow, arch)?;
    Ok([first.try_into()?, second.try_into()?])
}

/// Takes all other calls away from every thread; with `log` the kernel only logs them.
pub(super) fn take(log: bool) -> State {
    let refused = libc::EPERM.unsigned_abs();
    let refuse = if log {
        SeccompAction::Log
    } else {
        SeccompAction::Errno(refused)
    };
    let programs = match programs(std::process::id(), refuse) {
        Ok(programs) => programs,
        Err(error) => return State::Missing(error.to_string()),
    };
    // While calls are only logged the first one would refuse one all the same.
    for program in programs.iter().skip(usize::from(log)) {
        if let Err(error) = apply_filter_all_threads(program) {
            return State::Missing(error.to_string());
        }
    }
    let text = if log {
        "other calls are logged"
    } else {
        "other calls fail with EPERM; what a ring of io_uring is asked for is none"
    };
    State::Active(text.to_owned())
}
