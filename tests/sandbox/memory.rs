//! What is secret in a file is not found as text in the memory of the process that has read it, and no other process of
//! its user may look there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::system::{System, USER};

const PAGE: u64 = 4096;

/// The runs of pages between two addresses that are in memory or swapped out (the kernel's pagemap.rst): most of what an
/// allocator has reserved is neither.
fn there(pages: &File, start: u64, end: u64) -> Vec<(u64, u64)> {
    let entries = (end - start) / PAGE * 8;
    let mut map = vec![0; usize::try_from(entries).unwrap()];
    // Of some mappings there is none.
    let read = pages.read_at(&mut map, start / PAGE * 8).unwrap_or(0);
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (entry, at) in map[..read].chunks_exact(8).zip((start..).step_by(4096)) {
        if u64::from_ne_bytes(entry.try_into().unwrap()) >> 62 == 0 {
            continue;
        }
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end += PAGE,
            _ => runs.push((at, at + PAGE)),
        }
    }
    runs
}

/// Which of these are in memory that the process can write to (proc_pid_maps(5), proc_pid_mem(5)): where something may be
/// that was read.
pub(crate) fn holds(pid: u64, wanted: &[&[u8]]) -> Vec<bool> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let pages = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let mut found = vec![false; wanted.len()];
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        if !rights.starts_with("rw") {
            continue;
        }
        for (start, end) in there(&pages, number(start), number(end)) {
            let mut piece = vec![0; usize::try_from(end - start).unwrap()];
            // Some of what is mapped cannot be read, the rings for one.
            let Ok(length) = memory.read_at(&mut piece, start) else {
                continue;
            };
            for (bytes, found) in wanted.iter().zip(&mut found) {
                *found |= memchr::memmem::find(&piece[..length], bytes).is_some();
            }
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
