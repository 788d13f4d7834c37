//! Tries what is forbidden, in a process that has entered the sandbox by the same two calls as `ringgate run`. The same
//! attempts without a sandbox say that it is the sandbox which refuses them.

#![expect(
    unsafe_code,
    reason = "system calls that nothing wraps, for nothing makes them"
)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};

use ringgate::config;
use ringgate::control::sandbox::Sandbox;

/// What an attempt is told that is refused by seccomp, and by Landlock.
const EPERM: &str = "EPERM";
const EACCES: &str = "EACCES";

const CONFIG: &str = r#"
[process]
sandbox = "MODE"
[authority]
stateDir = "state"
[records]
path = "log/decisions.jsonl"
[[node]]
name = "n"
[[node.workload]]
name = "a/w"
hbone = "127.0.0.1:15008"
[[workloadEntry]]
name = "w"
namespace = "a"
serviceAccount = "w"
address = "127.0.0.1"
"#;

fn told<T>(done: io::Result<T>) -> String {
    match done {
        Ok(_) => "done".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(libc::EPERM) => EPERM.to_owned(),
            Some(libc::EACCES) => EACCES.to_owned(),
            _ => error.to_string(),
        },
    }
}

/// A system call with arguments that do no harm where it is allowed.
fn call(number: i64, arguments: [i64; 6]) -> String {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument is the address of anything that the kernel could write to.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    told(match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    })
}

/// A page that can be written, made executable; or mapped so from the first.
fn execute_memory(at_once: bool) -> String {
    let both = libc::PROT_READ | libc::PROT_EXEC;
    let first = if at_once { both } else { libc::PROT_READ };
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping that nothing else knows of.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, first, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return told::<()>(Err(io::Error::last_os_error()));
    }
    // SAFETY: the mapping from above.
    let changed = unsafe { libc::mprotect(page, 4096, both) };
    told(match changed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    })
}

/// Name of each attempt and what came of it. Paths are `outside` of the configuration's directories, and `inside`.
fn attempts(outside: &Path, inside: &Path) -> Vec<Attempt> {
    let mut all = work(inside);
    all.extend(files(outside, inside));
    all.extend(programs());
    all.extend(memory());
    all.extend(sockets());
    all.extend(users());
    all.extend(machine());
    all
}

type Attempt = (&'static str, String);

fn append(path: &Path) -> String {
    told(OpenOptions::new().append(true).create(true).open(path))
}

fn socket_of(family: i32, kind: i32, protocol: i32) -> String {
    let [family, kind, protocol] = [family, kind, protocol].map(i64::from);
    call(libc::SYS_socket, [family, kind, protocol, 0, 0, 0])
}

fn socket(family: i32, kind: i32) -> String {
    socket_of(family, kind, 0)
}

/// A call with arguments that are no use.
fn plain(number: i64) -> String {
    call(number, [-1, 0, 0, 0, 0, 0])
}

/// What has to go on.
fn work(inside: &Path) -> Vec<Attempt> {
    vec![
        (
            "reads its configuration",
            told(File::open(inside.join("ringgate.toml"))),
        ),
        (
            "writes records",
            append(&inside.join("log/decisions.jsonl")),
        ),
        (
            "moves records",
            told(std::fs::rename(
                inside.join("log/decisions.jsonl"),
                inside.join("log/old"),
            )),
        ),
        ("writes state", append(&inside.join("state/file"))),
        (
            "starts threads",
            told(std::thread::Builder::new().spawn(|| ()).map(|t| t.join())),
        ),
        ("opens sockets", socket(libc::AF_INET6, libc::SOCK_STREAM)),
    ]
}

/// Files.
fn files(outside: &Path, inside: &Path) -> Vec<Attempt> {
    let other = format!("/proc/{}/environ", std::os::unix::process::parent_id());
    vec![
        ("reads elsewhere", told(File::open(outside.join("file")))),
        ("lists elsewhere", told(std::fs::read_dir(outside))),
        ("writes elsewhere", append(&outside.join("new"))),
        (
            "writes its configuration",
            append(&inside.join("ringgate.toml")),
        ),
        (
            "removes elsewhere",
            told(std::fs::remove_file(outside.join("file"))),
        ),
        ("reads /etc/shadow", told(File::open("/etc/shadow"))),
        ("reads another process", told(File::open(other))),
    ]
}

/// Programs and processes.
fn programs() -> Vec<Attempt> {
    let i = i64::from;
    vec![
        ("runs a program", told(Command::new("/bin/true").status())),
        ("replaces itself", {
            use std::os::unix::process::CommandExt as _;
            told::<()>(Err(Command::new("/nonexistent").exec()))
        }),
        (
            "forks",
            call(
                libc::SYS_clone,
                [
                    i(libc::SIGCHLD) | i(libc::CLONE_VM) | i(libc::CLONE_SIGHAND)
            // The kernel refuses these two together.
            | i(libc::CLONE_NEWNS) | i(libc::CLONE_FS),
                    0,
                    0,
                    0,
                    0,
                    0,
                ],
            ),
        ),
        (
            "signals",
            call(
                libc::SYS_kill,
                [i64::from(std::process::id()), 0, 0, 0, 0, 0],
            ),
        ),
        (
            "traces",
            call(
                libc::SYS_ptrace,
                [i64::from(libc::PTRACE_DETACH), 1 << 22, 0, 0, 0, 0],
            ),
        ),
        (
            "reads memory of others",
            call(libc::SYS_process_vm_readv, [1 << 22, 0, 0, 0, 0, 0]),
        ),
        ("takes descriptors of others", plain(libc::SYS_pidfd_getfd)),
    ]
}

/// Memory that could be executed.
fn memory() -> Vec<Attempt> {
    vec![
        ("executes what it wrote", execute_memory(false)),
        ("maps executable memory", execute_memory(true)),
        (
            "changes its personality",
            call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0]),
        ),
    ]
}

/// Kinds of sockets.
fn sockets() -> Vec<Attempt> {
    vec![
        ("opens raw packets", socket(libc::AF_PACKET, libc::SOCK_RAW)),
        (
            "opens raw IP",
            socket_of(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ),
        ("opens vsock", socket(libc::AF_VSOCK, libc::SOCK_STREAM)),
        (
            "opens kernel crypto",
            socket(libc::AF_ALG, libc::SOCK_SEQPACKET),
        ),
    ]
}

/// Who it is, and its limits.
fn users() -> Vec<Attempt> {
    vec![
        (
            "becomes a user",
            call(libc::SYS_setresuid, [65534, -1, -1, 0, 0, 0]),
        ),
        (
            "becomes a group",
            call(libc::SYS_setresgid, [65534, -1, -1, 0, 0, 0]),
        ),
        (
            "makes itself dumpable",
            call(
                libc::SYS_prctl,
                [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0],
            ),
        ),
        ("raises a limit", {
            let limit = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            // SAFETY: `limit` is read alone.
            let answer = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
            told(if answer == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            })
        }),
    ]
}

/// The machine.
fn machine() -> Vec<Attempt> {
    vec![
        ("mounts", call(libc::SYS_mount, [0, 0, 0, 0, 0, 0])),
        (
            "changes its root",
            call(libc::SYS_chroot, [0, 0, 0, 0, 0, 0]),
        ),
        (
            "leaves its namespaces",
            call(
                libc::SYS_unshare,
                [i64::from(libc::CLONE_NEWUTS), 0, 0, 0, 0, 0],
            ),
        ),
        (
            "makes a user namespace",
            call(
                libc::SYS_unshare,
                [i64::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0],
            ),
        ),
        ("enters a namespace", plain(libc::SYS_setns)),
        ("loads BPF", plain(libc::SYS_bpf)),
        (
            "loads a module",
            call(libc::SYS_finit_module, [-1, 0, 0, 0, 0, 0]),
        ),
        (
            "uses keyrings",
            call(libc::SYS_keyctl, [999, 0, 0, 0, 0, 0]),
        ),
        ("observes the kernel", plain(libc::SYS_perf_event_open)),
        (
            "handles faults",
            call(libc::SYS_userfaultfd, [-1, 0, 0, 0, 0, 0]),
        ),
        (
            "makes a ring",
            call(libc::SYS_io_uring_setup, [0, 0, 0, 0, 0, 0]),
        ),
        (
            "sets the clock",
            call(libc::SYS_clock_settime, [-1, 0, 0, 0, 0, 0]),
        ),
        (
            "names the machine",
            call(libc::SYS_sethostname, [0, -1, 0, 0, 0, 0]),
        ),
        (
            "pushes into a terminal",
            call(libc::SYS_ioctl, [-1, 0x5412, 0, 0, 0, 0]),
        ),
    ]
}

/// What goes on in the sandbox.
const ALLOWED: [&str; 6] = [
    "reads its configuration",
    "writes records",
    "moves records",
    "writes state",
    "starts threads",
    "opens sockets",
];

/// Refused by Landlock; all else by seccomp, but for raw IP, for which a capability is missing.
const FILES: [&str; 7] = [
    "reads elsewhere",
    "lists elsewhere",
    "writes elsewhere",
    "writes its configuration",
    "removes elsewhere",
    "reads /etc/shadow",
    "reads another process",
];

/// Makes the attempts of the other tests, in a process of its own: what it gives up it does not get back.
#[test]
#[ignore = "the inside of the other tests, which start it"]
fn inside() {
    let at = |name: &str| std::env::var_os(name).expect("set by the test that starts this one");
    let (dir, outside, what) = (at("SANDBOX_DIR"), at("SANDBOX_OUTSIDE"), at("SANDBOX_WHAT"));
    let main = Path::new(&dir).join("ringgate.toml");
    let config = config::load(&main).map_err(|e| e.to_string()).unwrap();
    let mut sandbox = Sandbox::begin(&main, &config).unwrap();
    sandbox.finish().unwrap();
    if what == "abort" {
        std::process::abort();
    }
    if what == "cost" {
        const CALLS: u32 = 1_000_000;
        for (name, number) in [
            ("getppid", libc::SYS_getppid),
            ("clock_getres", libc::SYS_clock_getres),
        ] {
            let begun = std::time::Instant::now();
            for _ in 0..CALLS {
                call(number, [0; 6]);
            }
            println!(
                "attempt {name}: {} ns",
                (begun.elapsed() / CALLS).as_nanos()
            );
        }
        return;
    }
    for (name, outcome) in attempts(Path::new(&outside), Path::new(&dir)) {
        println!("attempt {name}: {outcome}");
    }
}

/// Runs `inside` with the sandbox in a mode: what came of each attempt, and how the process ended.
fn run(mode: &str, what: &str) -> (BTreeMap<String, String>, ExitStatus) {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let text = CONFIG.replace("MODE", mode);
    // Not the directory of the records, which may be written.
    std::fs::write(dir.path().join("ringgate.toml"), text).unwrap();
    std::fs::write(elsewhere.path().join("file"), "secret").unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "forbidden::inside", "--ignored", "--nocapture"])
        .env("SANDBOX_DIR", dir.path())
        .env("SANDBOX_OUTSIDE", elsewhere.path())
        .env("SANDBOX_WHAT", what)
        .current_dir(elsewhere.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    // The harness may have begun the line.
    let attempts = text.lines().filter_map(|line| {
        let (_, attempt) = line.split_once("attempt ")?;
        let (name, outcome) = attempt.split_once(": ")?;
        Some((name.to_owned(), outcome.to_owned()))
    });
    let attempts: BTreeMap<_, _> = attempts.collect();
    if what == "attempts" {
        assert!(!attempts.is_empty(), "{text}{error}");
    }
    (attempts, output.status)
}

#[test]
fn what_is_forbidden_is_refused() {
    let (attempts, status) = run("on", "attempts");
    assert!(status.success(), "{attempts:#?}");
    for (name, outcome) in &attempts {
        let name = name.as_str();
        let wanted = match name {
            _ if ALLOWED.contains(&name) => "done",
            _ if FILES.contains(&name) => EACCES,
            _ => EPERM,
        };
        assert_eq!(outcome, wanted, "{name}");
    }
}

#[test]
fn without_the_sandbox_nothing_of_it_is_refused() {
    for mode in ["off", "log"] {
        let (attempts, _) = run(mode, "attempts");
        for (name, outcome) in &attempts {
            assert!(
                outcome != EPERM && outcome != EACCES,
                "{mode}, {name}: {outcome}"
            );
        }
        assert!(attempts.len() > 40, "{mode}: {attempts:#?}");
    }
}

/// For docs/decisions/0021: `--ignored --nocapture what_a_call_costs`.
#[test]
#[ignore = "a measurement, of which nothing is expected"]
fn what_a_call_costs() {
    for mode in ["off", "on", "off", "on", "off", "on"] {
        println!("{mode}: {:?}", run(mode, "cost").0);
    }
}

#[test]
fn a_crash_leaves_no_core_dump() {
    let (_, status) = run("off", "abort");
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(
        status.core_dumped(),
        "this machine dumps no cores, and so nothing is shown"
    );
    let (_, status) = run("on", "abort");
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped());
}
