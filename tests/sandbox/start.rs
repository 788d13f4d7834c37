//! Signals of the first moments, and where records may go.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;
use rustix::process::{Pid, Signal, kill_process};

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
