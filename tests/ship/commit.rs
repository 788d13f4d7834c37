//! What `ringgate version --long` says that it is made of: `build.rs`, compiled and run in repositories made for that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{output, root};

/// The build script as a program.
fn build_script(at: &Path) -> PathBuf {
    let program = at.join("build-script");
    output(
        Command::new("rustc")
            .args(["--edition", "2024", "--crate-name", "build_script"])
            .arg(root().join("build.rs"))
            .arg("-o")
            .arg(&program),
    );
    program
}

/// Its lines for Cargo, of a build of `profile` in `sources`.
fn told(script: &Path, sources: &Path, profile: &str, given: Option<&str>) -> Vec<String> {
    let mut build = Command::new(script);
    build
        .current_dir(sources)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("PROFILE", profile)
        .env("RUSTC", "rustc");
    if let Some(given) = given {
        build.env("RINGGATE_COMMIT", given);
    }
    output(&mut build).lines().map(str::to_owned).collect()
}

fn commit(lines: &[String]) -> &str {
    let mut found = lines
        .iter()
        .filter_map(|line| line.strip_prefix("cargo::rustc-env=RINGGATE_BUILD_COMMIT="));
    let commit = found.next().expect("a commit");
    assert_eq!(found.next(), None);
    commit
}

fn git(at: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=t", "-c", "user.email=t@example.test"]);
    let told = output(git.args(arguments).current_dir(at));
    told.trim().to_owned()
}

fn sources(at: &Path) {
    for directory in ["src", "docs", ".cargo", "benches/profile", "config"] {
        fs::create_dir_all(at.join(directory)).unwrap();
    }
    for file in [
        "build.rs",
        "Cargo.lock",
        "Cargo.toml",
        "benches/profile/ringgate.profdata",
        "src/main.rs",
        "docs/page.md",
    ] {
        fs::write(at.join(file), file).unwrap();
    }
}

#[test]
fn a_release_build_names_its_commit_and_whether_that_is_all() {
    let dir = tempfile::tempdir().unwrap();
    let script = build_script(dir.path());
    let clone = dir.path().join("clone");
    sources(&clone);
    let release = |at: &Path| told(&script, at, "release", None);
    const NONE: &str = "unknown, built without git";

    assert_eq!(commit(&release(&clone)), NONE);
    git(&clone, &["init", "-q"]);
    git(&clone, &["add", "-A"]);
    git(&clone, &["commit", "-qm", "one"]);
    let hash = git(&clone, &["rev-parse", "HEAD"]);
    let lines = release(&clone);
    assert_eq!(commit(&lines), hash);
    assert!(hash.len() == 40 && !hash.contains('-'));
    // A change of the sources has it look again; another build of the same ones does not.
    for path in ["src", "config", ".cargo", "benches/profile", "Cargo.toml"] {
        let line = format!("cargo::rerun-if-changed={path}");
        assert!(lines.contains(&line), "{lines:?}");
    }

    let changed = format!("{hash}-dirty");
    fs::write(clone.join("docs/page.md"), "changed").unwrap();
    assert_eq!(commit(&release(&clone)), hash, "pages are not in it");
    fs::write(clone.join("src/main.rs"), "changed").unwrap();
    assert_eq!(commit(&release(&clone)), changed);
    git(&clone, &["checkout", "-q", "src/main.rs"]);
    assert_eq!(commit(&release(&clone)), hash);
    let profile = "benches/profile/ringgate.profdata";
    fs::write(clone.join(profile), "changed").unwrap();
    assert_eq!(commit(&release(&clone)), changed);
    git(&clone, &["checkout", "-q", profile]);
    fs::write(clone.join("src/new.rs"), "new").unwrap();
    assert_eq!(commit(&release(&clone)), changed, "a file git has not");
    git(&clone, &["add", "-A"]);
    assert_eq!(commit(&release(&clone)), changed);
    git(&clone, &["commit", "-qm", "two"]);
    assert_eq!(
        commit(&release(&clone)),
        git(&clone, &["rev-parse", "HEAD"])
    );

    // A git that does not tell what was changed.
    let broken = dir.path().join("broken");
    fs::create_dir(&broken).unwrap();
    let own = output(Command::new("sh").args(["-c", "command -v git"]));
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = status ] && exit 128\nexec {} \"$@\"\n",
        own.trim()
    );
    fs::write(broken.join("git"), text).unwrap();
    fs::set_permissions(broken.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut paths = broken.into_os_string();
    paths.push(":");
    paths.push(std::env::var_os("PATH").unwrap());
    let mut build = Command::new(&script);
    build.current_dir(&clone).env("PATH", paths);
    build.env("PROFILE", "release").env("RUSTC", "rustc");
    build.env_remove("RINGGATE_COMMIT");
    let lines: Vec<String> = output(&mut build).lines().map(str::to_owned).collect();
    let head = git(&clone, &["rev-parse", "HEAD"]);
    assert_eq!(commit(&lines), format!("{head}-dirty"));

    // An unpacked archive inside of another repository.
    let archive = clone.join("unpacked");
    sources(&archive);
    assert_eq!(commit(&release(&archive)), NONE);
    assert_eq!(
        commit(&told(&script, &archive, "release", Some("abc"))),
        "abc"
    );
    assert_eq!(commit(&told(&script, &archive, "release", Some(""))), NONE);
    assert_eq!(commit(&told(&script, &clone, "debug", None)), "debug build");
}
