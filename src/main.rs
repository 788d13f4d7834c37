//! Allocator and argument vector only.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ringgate::io::wiping::Wiping = ringgate::io::wiping::Wiping;

fn main() -> ExitCode {
    ringgate::cli::main()
}
