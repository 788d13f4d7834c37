//! `ringgate version`: what it says of the program and of the kernel, held against what others say.

use std::process::Command;

use serde_json::Value;

use crate::{PROGRAM, output, ringgate};

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn it_is_short_unless_more_is_wanted() {
    let short = ringgate(&["--version"]);
    assert_eq!(short, concat!("ringgate ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(ringgate(&["version"]), short);
    let long = ringgate(&["version", "--long"]);
    assert!(long.starts_with(&short), "{long}");
    for name in ["commit", "target", "rustls", "io_uring", "Landlock"] {
        assert!(
            long.lines().any(|line| line.starts_with(name)),
            "{name}: {long}"
        );
    }
}

#[test]
fn it_says_what_it_is_made_of() {
    let told = object(&ringgate(&["version", "--output", "json"]));
    let lock = std::fs::read_to_string(crate::root().join("Cargo.lock")).unwrap();
    let rustls = told["rustls"].as_str().unwrap();
    let entry = format!("name = \"rustls\"\nversion = \"{rustls}\"\n");
    assert!(lock.contains(&entry), "{told}");
    // A build of each commit anew is for what is shipped.
    let commit = told["commit"].as_str().unwrap();
    let hash = commit.strip_suffix("-dirty").unwrap_or(commit);
    let is_hash = hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(
        is_hash || commit == "debug build" || commit == "unknown, built without git",
        "{told}"
    );
    let file = output(Command::new("readelf").args(["--program-headers", PROGRAM]));
    assert_eq!(told["static"], !file.contains("INTERP"), "{told}\n{file}");
    let version = output(Command::new("rustc").arg("--version"));
    assert_eq!(told["compiler"], version.trim(), "{told}");
}

#[test]
fn it_says_what_the_kernel_lets_it_use() {
    let told = object(&ringgate(&["version", "--output", "json"]));
    let kernel = &told["kernel"];
    let release = output(Command::new("uname").arg("-r"));
    assert_eq!(kernel["release"], release.trim());
    let driver = &kernel["ioUring"]["driver"];
    let refused = &kernel["ioUring"]["refused"];
    assert_eq!(driver == "io_uring", refused.is_null(), "{kernel}");
    assert_eq!(
        kernel["transparentSockets"], true,
        "tests are run as root: {kernel}"
    );

    // Another user with fewer rights.
    let mut less = Command::new("setpriv");
    less.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    less.args([
        "--inh-caps",
        "-all",
        "--ambient-caps",
        "-all",
        "--no-new-privs",
    ]);
    // The directory of the build may be closed to others: the program comes as an open file.
    less.args(["--bounding-set", "-net_admin", "/proc/self/fd/0"]);
    less.args(["version", "--output", "json"]);
    less.stdin(std::fs::File::open(PROGRAM).unwrap());
    let told = object(&output(&mut less));
    let kernel = &told["kernel"];
    assert_eq!(kernel["capabilities"], serde_json::json!([]), "{kernel}");
    assert_eq!(kernel["noNewPrivileges"], true, "{kernel}");
    assert_eq!(kernel["transparentSockets"], false, "{kernel}");
}
