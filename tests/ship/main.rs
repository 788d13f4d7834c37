//! What is shipped beside the program: completions in the real shells, manual pages by the real `man`, the generated files
//! of `config/`, and the configurations that a first start takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::too_many_lines,
    clippy::string_slice,
    reason = "a test ends by panicking, blocks, and is not a data core"
)]

mod commands;
mod commit;
mod generated;
#[expect(dead_code, reason = "each suite uses its part of the namespaces")]
#[path = "../support/netns.rs"]
mod netns;
mod pages;
mod shells;
mod start;
mod version;

use std::path::PathBuf;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}

/// What a command prints; it must exit with 0.
fn output(command: &mut Command) -> String {
    let line = format!("{command:?}");
    let out = command.output().unwrap_or_else(|e| {
        panic!("{line} cannot be started: {e}; `cargo xtask ci --only tools` installs it")
    });
    assert!(out.status.success(), "{line}: {}", told(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn told(out: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", out.status, text(&out.stdout), text(&out.stderr))
}

fn ringgate(arguments: &[&str]) -> String {
    output(Command::new(PROGRAM).args(arguments))
}
