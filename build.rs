//! Tells the program which commit, profile, target and libraries it is made of (`ringgate version --long`).
#![expect(
    clippy::disallowed_methods,
    reason = "this is how a build script asks; it is no data core"
)]

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Crates of which the version is told, by the name of the variable that has it.
const CRATES: &[(&str, &str)] = &[("rustls", "RUSTLS"), ("aws-lc-rs", "AWS_LC_RS")];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-env-changed=RINGGATE_COMMIT");
    let released = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match env::var("RINGGATE_COMMIT") {
        Ok(given) if !given.is_empty() => given,
        _ if released => commit().unwrap_or_else(|| "unknown, built without git".to_owned()),
        // Else each commit would have the whole library compiled once more.
        _ => "debug build".to_owned(),
    };
    if released {
        // Relocations of a position-independent program as a bit map instead of 24 bytes each, 0.7 MB less; glibc reads it
        // since 2.36.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        // What the profile calls hot is laid together, in a section of its own.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
        // What decides whether the compiler is given the profile: cargo does not know of it.
        for path in [".cargo", "benches/profile"] {
            println!("cargo::rerun-if-changed={path}");
        }
        for variable in [
            "RINGGATE_PROFILE_TO",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
        ] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
    }
    println!("cargo::rustc-env=RINGGATE_BUILD_COMMIT={commit}");
    println!(
        "cargo::rustc-env=RINGGATE_BUILD_PROFILE={}",
        value("PROFILE")
    );
    println!("cargo::rustc-env=RINGGATE_BUILD_TARGET={}", value("TARGET"));
    println!("cargo::rustc-env=RINGGATE_BUILD_FEATURES={}", features());
    let compiler = said(&value("RUSTC"), &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=RINGGATE_BUILD_RUSTC={compiler}");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    for (name, variable) in CRATES {
        let version = version(&lock, name).unwrap_or("unknown");
        println!("cargo::rustc-env=RINGGATE_BUILD_{variable}={version}");
    }
}

fn value(variable: &str) -> String {
    env::var(variable).unwrap_or_default()
}

/// What the program is made of, as git calls it.
const MADE_OF: &[&str] = &[
    ".cargo",
    "Cargo.lock",
    "Cargo.toml",
    "benches/profile",
    "build.rs",
    "config",
    "src",
];

/// The commit that is checked out, with `-dirty` if the sources are not those of it or git cannot tell, and has this run again when it is
/// another.
fn commit() -> Option<String> {
    // An archive of the sources that lies inside somebody's repository is none of its commits.
    said("git", &["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = said("git", &["rev-parse", "HEAD"])?;
    let branch = said("git", &["symbolic-ref", "-q", "HEAD"]);
    // A branch stands in a file of its own, or among others in one.
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        let file = said("git", &["rev-parse", "--git-path", name]);
        // A file that is not there would have this run each time.
        if let Some(file) = file.filter(|file| Path::new(file).is_file()) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let mut status = vec!["status", "--porcelain", "--"];
    for path in MADE_OF {
        println!("cargo::rerun-if-changed={path}");
        status.push(path);
    }
    // What git cannot tell is not known to be clean: its index may be broken, or somebody else's.
    let clean = printed("git", &status).is_some_and(|names| names.is_empty());
    Some(if !clean {
        format!("{commit}-dirty")
    } else {
        commit
    })
}

/// What a command prints, if it succeeds and that is anything.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    printed(program, arguments).filter(|text| !text.is_empty())
}

/// What a command prints, if it succeeds.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Names of the Cargo features of this build, with spaces between them.
fn features() -> String {
    let names = env::vars().filter_map(|(name, _)| {
        let name = name.strip_prefix("CARGO_FEATURE_")?;
        Some(name.to_lowercase().replace('_', "-"))
    });
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.join(" ")
}

/// The version of a crate in the lock file.
fn version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let at = format!("name = \"{name}\"");
    let mut lines = lock.lines().skip_while(|line| *line != at).skip(1);
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}
