//! Allocator and argument vector only.
fn main() {}
