//! What is secret in a file is not found as text in the memory of the process that has read it, and no other process of
//! its user may look there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::system::{System, USER};

/// All that can be read of the memory of a process, piece by piece (proc_pid_maps(5), proc_pid_mem(5)).
pub(crate) fn holds(pid: u64, wanted: &[&[u8]]) -> Vec<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = vec![false; wanted.len()];
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        // What can be written may hold something that was read.
        if !rights.starts_with("rw") {
            continue;
        }
        let mut piece = vec![0; usize::try_from(end - start).unwrap()];
        // Some of what is mapped cannot be read, the rings for one.
        let Ok(length) = memory.read_at(&mut piece, start) else {
            continue;
        };
        for (bytes, found) in wanted.iter().zip(&mut found) {
            *found |= memchr::memmem::find(&piece[..length], bytes).is_some();
        }
    }
    found
}

#[test]
fn the_text_of_a_key_is_not_kept() {
    let system = System::start("", "");
    let key = system.text("tls/key.pem");
    // One whole line.
    let key = key.lines().nth(1).unwrap();
    let pid = system.status()["pid"].as_u64().unwrap();
    let found = holds(pid, &[key.as_bytes(), b"decisions.jsonl"]);
    // What is there is found.
    assert!(found[1]);
    assert!(!found[0], "the key is still there as text");
}

/// Whether another process of the user can read this one's environment.
fn another_sees(pid: u64) -> bool {
    let status = Command::new("cat")
        .arg(format!("/proc/{pid}/environ"))
        .uid(USER)
        .gid(USER)
        .output()
        .unwrap();
    status.status.success()
}

#[test]
fn another_process_of_the_user_does_not_look_in() {
    // One of his that does not mind can be looked into.
    let plain = Command::new("sleep").arg("60").uid(USER).gid(USER).spawn();
    let mut plain = plain.unwrap();
    let seen = another_sees(plain.id().into());
    plain.kill().unwrap();
    plain.wait().unwrap();
    assert!(seen, "no process of the user can be looked into here");
    let closed = System::start(&format!("user = \"{USER}\"\n"), "");
    let pid = closed.status()["pid"].as_u64().unwrap();
    assert!(!another_sees(pid));
}
