//! Configuration from files: the demo in detail, broken files with their messages, and what must always be refused.

use std::path::{Path, PathBuf};

use ringgate::config::{self, Config};

#[test]
fn demo() {
    let text = std::fs::read_to_string(root().join("config/demo.toml")).unwrap();
    let c = config::parse(&[("demo.toml".into(), text)], Path::new("/etc/ringgate")).unwrap_or_else(|e| panic!("{e}"));
    for w in &c.warnings { println!("{w}"); }
    println!("{c:#?}");
}

fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from)
}
