//! Signals of the first moments, and where records may go.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::PROGRAM;
use crate::system::{USER, WAIT};

const CONFIG: &str = "[process]\nuser = \"65534\"\nhandover = \"run/handover.sock\"\n[admin]\nlisten = \"NET.1:15000\"\n\
                      [authority]\nstateDir = \"state\"\n[records]\npath = \"/dev/stdout\"\n";

fn started(dir: &Path, net: &str) -> Child {
    chown(dir, Some(USER), Some(USER)).unwrap();
    let file = dir.join("ringgate.toml");
    std::fs::write(&file, CONFIG.replace("NET", net)).unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    Command::new(PROGRAM)
        .args(["run", "--config"])
        .arg(file)
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .unwrap()
}

/// Waits until the program itself has begun: it has signals wait in its first moment. Before that it is the kernel that
/// ends it, which no program can help.
fn has_begun(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    let begun = os::wait_until(WAIT, || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let blocked = text.lines().find_map(|l| l.strip_prefix("SigBlk:\t"));
        blocked.is_some_and(|set| u64::from_str_radix(set, 16).unwrap() & 1 == 1)
    });
    assert!(begun, "it never has signals wait");
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Starts it and sends it signals from its first moment until it serves, then ends it.
fn survives(signals: &[Signal]) -> ExitStatus {
    let (dir, net) = (tempfile::tempdir().unwrap(), free_subnet().unwrap());
    let mut child = started(dir.path(), &net);
    has_begun(&child);
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    let serves = os::wait_until(WAIT, || {
        for signal in signals {
            send(&child, *signal);
        }
        assert_eq!(child.try_wait().unwrap(), None, "{signals:?}: {}", log());
        let status = Command::new(PROGRAM)
            .args(["status", "--output", "json", "--admin"])
            .arg(format!("{net}.1:15000"))
            .output()
            .unwrap();
        let told: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        told["ready"] == true
    });
    assert!(serves, "{}", log());
    send(&child, Signal::TERM);
    child.wait().unwrap()
}

#[test]
fn hang_ups_from_the_first_moment_on_end_nothing() {
    for round in 0..8 {
        let ended = survives(&[Signal::HUP, Signal::USR1]);
        assert!(ended.success(), "{round}: {ended}");
    }
}

#[test]
fn a_stop_in_the_first_moment_ends_it_well() {
    for round in 0..8 {
        let (dir, net) = (tempfile::tempdir().unwrap(), free_subnet().unwrap());
        let mut child = started(dir.path(), &net);
        has_begun(&child);
        send(&child, Signal::TERM);
        let ended = child.wait().unwrap();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(ended.success(), "{round}: {ended} {log}");
    }
}

/// `landlock_create_ruleset(2)`, which has the same number everywhere.
const CREATE_RULESET: i64 = 444;

/// Not a test of its own: becomes the program, under a filter that answers a call of Landlock's as it is told.
#[test]
#[ignore = "started by another test, as a process of its own"]
fn under_a_filter() {
    let errno: u32 = std::env::var("SANDBOX_ERRNO").unwrap().parse().unwrap();
    let refused = BTreeMap::from([(CREATE_RULESET, Vec::new())]);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let (allow, refuse) = (SeccompAction::Allow, SeccompAction::Errno(errno));
    let filter = SeccompFilter::new(refused, allow, refuse, arch).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    apply_filter(&filter).unwrap();
    let mut program = Command::new(PROGRAM);
    let error = program
        .args(["run", "--config"])
        .arg(std::env::var_os("SANDBOX_CONFIG").unwrap())
        .exec();
    panic!("{error}");
}

/// A filter of system calls, of a container for one, is not a kernel without Landlock.
#[test]
fn who_refuses_landlock_is_told() {
    let text = "[process]\nsandbox = \"required\"\n[admin]\nlisten = \"127.0.0.1:15000\"\n[authority]\nstateDir = \"state\"\n";
    for (errno, told, not) in [
        (
            Errno::PERM,
            "landlock_create_ruleset is refused (EPERM) by the filter of system calls",
            "kernel has none",
        ),
        (
            Errno::NOSYS,
            "the kernel has none, or the filter of system calls",
            "is refused",
        ),
        (Errno::OPNOTSUPP, "it was not enabled at boot", "has none"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ringgate.toml");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "start::under_a_filter",
                "--ignored",
                "--nocapture",
            ])
            .env("SANDBOX_CONFIG", &file)
            .env("SANDBOX_ERRNO", errno.raw_os_error().to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Whoever wants all of it does not start, and says so.
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("landlock cannot be had") && said.contains(told),
            "{errno}: {said}"
        );
        assert!(!said.contains(not), "{errno}: {said}");
    }
}
