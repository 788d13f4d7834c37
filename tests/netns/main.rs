//! Tests in network namespaces. They need root, nftables, curl and python3, and fail where one is missing.

#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test ends by panicking, blocks and is not a data core"
)]

mod appliance;
mod capture;
mod full_disk;
mod loss;
mod machines;
mod vanish;
mod vm_edges;
mod vm_failure;
mod vm_names;
mod vm_owner;
mod vm_traffic;

#[path = "../support/netns.rs"]
#[allow(
    dead_code,
    clippy::allow_attributes,
    reason = "other tests use the rest of it"
)]
mod namespaces;
#[path = "../support/pair.rs"]
mod pair;

use std::path::Path;
use std::process::Command;

use ringgate::cli::demo::Io;
use ringgate::cli::drill::Scratch;
use ringgate::cli::lab::Lab;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");

/// A laboratory with apps and without a mesh, and its directory.
fn lab() -> (Lab, Scratch) {
    let dir = Scratch::new(false).unwrap();
    let lab =
        Lab::set_up(&dir.path, Io::Auto, Path::new(PROGRAM)).expect("the laboratory can be set up");
    (lab, dir)
}

/// The whole story, with each driver.
#[test]
fn the_drill_passes_in_namespaces() {
    for io in ["io_uring", "epoll"] {
        let output = Command::new(PROGRAM)
            .args(["drill", "--lab", "netns", "--output", "table", "--io", io])
            .output()
            .expect("the drill can be started");
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{io}:\n{text}\n{errors}");
        assert!(text.contains("9 of 9 steps passed"), "{io}:\n{text}");
    }
}
