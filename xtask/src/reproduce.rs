//! `cargo xtask reproduce`: builds the program a second time, in another directory and from nothing that the first build has
//! left, and compares the two byte by byte. What must be equal for that is told in `docs/packages.md`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::package::archive::sha256;
use crate::package::material::{CHANGED, is_hash, said};
use crate::package::program::{Scratch, sections};
use crate::steps;

/// Variables by which a build would be of something else than the sources.
pub(crate) const FOREIGN: [&str; 11] = [
    "CARGO_BUILD_RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CFLAGS",
    "RINGGATE_PROFILE_TO",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
];
/// Names of sections that are told at most.
const TOLD: usize = 40;

/// Builds again and compares with `target/…/release/ringgate`, or another program of a release build.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let (first, keep) = options(root, words)?;
    let told = told_commit(&first)?;
    println!("{}: commit {told}", first.display());
    let scratch = Scratch::new()?;
    let sources = scratch.0.join("sources");
    copy(root, &told, &sources)?;
    let second = build(&scratch.0, &sources, &told)?;
    let one = fs::read(&first).with_context(|| format!("`{}`", first.display()))?;
    let two = fs::read(&second).with_context(|| format!("`{}`", second.display()))?;
    println!("{}  {}", sha256(&one), first.display());
    println!("{}  {}", sha256(&two), second.display());
    if let Some(keep) = keep {
        fs::copy(&second, &keep).with_context(|| format!("`{}`", keep.display()))?;
    }
    if one == two {
        println!("the same {} bytes a second time", one.len());
        return Ok(true);
    }
    for line in differences(&one, &two)? {
        eprintln!("{line}");
    }
    bail!("two builds of commit {told} are not the same program")
}

/// The same of the program that lies there now, which must be of the commit that is checked out: an older one would be
/// found to be the same, and say nothing of this one.
pub(crate) fn of_this_commit(root: &Path) -> Result<bool> {
    let told = told_commit(&steps::released(root, "ringgate"))?;
    is_checked_out(root, told.strip_suffix(CHANGED).unwrap_or(&told))?;
    run(root, &[])
}

/// Refuses another commit than the one that is checked out.
fn is_checked_out(root: &Path, hash: &str) -> Result<()> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(root);
    let here = said(&mut git)?;
    ensure!(
        here.trim() == hash,
        "the program is of commit {hash}, and {} is checked out: cargo build --release",
        here.trim()
    );
    Ok(())
}

/// The program to compare with, and where the second one is to be kept.
fn options(root: &Path, words: &[&str]) -> Result<(PathBuf, Option<PathBuf>)> {
    let (mut program, mut keep) = (steps::released(root, "ringgate"), None);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("`{word}` needs a value"))?;
        match *word {
            "--program" => program = PathBuf::from(value),
            "--keep" => keep = Some(PathBuf::from(value)),
            other => bail!("unknown option `{other}`, expected --program or --keep"),
        }
    }
    Ok((program, keep))
}

/// The commit that a program of a release build tells.
fn told_commit(program: &Path) -> Result<String> {
    let shown = program.display();
    ensure!(
        program.is_file(),
        "`{shown}` is missing: cargo build --release"
    );
    let told = said(Command::new(program).args(["version", "--output", "json"]))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let field = |name: &str| told.get(name).and_then(serde_json::Value::as_str);
    let commit = field("commit").context("the program tells no commit")?;
    let hash = commit.strip_suffix(CHANGED).unwrap_or(commit);
    ensure!(
        field("profile") == Some("release") && is_hash(hash),
        "`{shown}` is of commit `{commit}`, expected a release build of a commit in git"
    );
    Ok(commit.to_owned())
}

/// Copies the sources of a commit; for a program of changed ones, those that lie in `root` now, which must be at that commit.
fn copy(root: &Path, told: &str, into: &Path) -> Result<()> {
    fs::create_dir(into)?;
    let tar = into.with_extension("tar");
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(root);
        git
    };
    match told.strip_suffix(CHANGED) {
        None => {
            said(git(&["archive", "--output"]).arg(&tar).arg(told))?;
        }
        Some(hash) => {
            is_checked_out(root, hash)?;
            println!("with the changes that are not in that commit");
            let list = into.with_extension("list");
            let listing = [
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ];
            let names = said(&mut git(&listing))?;
            // Removed files are listed, for the index has them.
            let names: Vec<&str> = names
                .split_terminator('\0')
                .filter(|name| root.join(name).symlink_metadata().is_ok())
                .collect();
            fs::write(&list, names.join("\0"))?;
            let mut pack = Command::new("tar");
            pack.args(["--null", "--files-from"]).arg(&list);
            said(pack.arg("-cf").arg(&tar).current_dir(root))?;
        }
    }
    said(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(into))?;
    fs::remove_file(&tar)?;
    Ok(())
}

/// Builds with a target directory of its own.
fn build(scratch: &Path, sources: &Path, told: &str) -> Result<PathBuf> {
    let target = scratch.join("built");
    let arguments = [
        "build",
        "--release",
        "--locked",
        "--bin",
        "ringgate",
        "--target-dir",
    ];
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).arg(&target).current_dir(sources);
    for name in FOREIGN {
        cargo.env_remove(name);
    }
    // The copy is no repository.
    cargo.env("RINGGATE_COMMIT", told);
    // Cargo would fill a terminal; of a build that fails, all of it is there.
    let log = scratch.join("build.log");
    let out = File::create(&log)?;
    cargo
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    println!("$ {cargo:?}");
    let status = cargo.status().context("cargo cannot be started")?;
    ensure!(
        status.success(),
        "the second build ended with {status}:\n{}",
        fs::read_to_string(&log)?
    );
    let tuple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    Ok(target.join(tuple).join("release/ringgate"))
}

/// A line for each section of ELF that the two do not have alike, and for bytes outside of all.
fn differences(one: &[u8], two: &[u8]) -> Result<Vec<String>> {
    let (first, second) = (by_name(one)?, by_name(two)?);
    let mut names: Vec<&String> = first.keys().chain(second.keys()).collect();
    names.sort();
    names.dedup();
    let mut lines = Vec::new();
    for name in names {
        let line = match (first.get(name), second.get(name)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => match a.iter().zip(*b).position(|(a, b)| a != b) {
                Some(at) => format!(
                    "{name} differs from byte {at} of {} and {} on: {} | {}",
                    a.len(),
                    b.len(),
                    shown(a, at),
                    shown(b, at)
                ),
                None => format!("{name} has {} and {} bytes", a.len(), b.len()),
            },
            (Some(_), None) => format!("{name} is in the first alone"),
            (None, _) => format!("{name} is in the second alone"),
        };
        lines.push(line);
    }
    if lines.is_empty() {
        lines.push("the same sections, and other bytes between them".to_owned());
    }
    lines.truncate(TOLD);
    Ok(lines)
}

/// Sections by name; two of the same name are told apart by their number.
fn by_name(program: &[u8]) -> Result<BTreeMap<String, &[u8]>> {
    let mut found = BTreeMap::new();
    for (number, (name, bytes)) in sections(program)?.into_iter().enumerate() {
        let name = if found.contains_key(&name) {
            format!("{name} (section {number})")
        } else {
            name
        };
        found.insert(name, bytes);
    }
    Ok(found)
}

/// Some bytes around `at`, as text.
fn shown(bytes: &[u8], at: usize) -> String {
    let part = bytes.get(at.saturating_sub(24)..(at + 40).min(bytes.len()));
    format!("`{}`", part.unwrap_or_default().escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(root: &Path, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@example.test"]);
        said(git.args(arguments).current_dir(root)).expect("git")
    }

    #[test]
    fn what_is_built_again_is_the_commit_or_what_lies_there() {
        let scratch = Scratch::new().expect("a directory");
        let root = scratch.0.join("repository");
        fs::create_dir_all(root.join("src")).expect("made");
        git(&root, &["init", "-q"]);
        let write = |name: &str, text: &str| fs::write(root.join(name), text).expect("written");
        write(".gitignore", "target\n");
        write("src/main.rs", "one");
        write("src/gone.rs", "gone");
        git(&root, &["add", "-A"]);
        git(&root, &["commit", "-qm", "one"]);
        let hash = git(&root, &["rev-parse", "HEAD"]).trim().to_owned();
        write("src/main.rs", "two");
        write("src/new.rs", "new");
        write("target", "ignored");
        fs::remove_file(root.join("src/gone.rs")).expect("removed");

        is_checked_out(&root, &hash).expect("this one");
        git(&root, &["commit", "-q", "--allow-empty", "-m", "two"]);
        let error = is_checked_out(&root, &hash).expect_err("an older one");
        assert!(error.to_string().contains("is checked out"), "{error}");
        git(&root, &["reset", "-q", "--soft", "HEAD~1"]);

        let text = |at: &Path, name: &str| fs::read_to_string(at.join(name)).ok();
        let clean = scratch.0.join("clean");
        copy(&root, &hash, &clean).expect("copied");
        assert_eq!(text(&clean, "src/main.rs").as_deref(), Some("one"));
        assert_eq!(text(&clean, "src/gone.rs").as_deref(), Some("gone"));
        assert_eq!(text(&clean, "src/new.rs"), None);

        let changed = scratch.0.join("changed");
        copy(&root, &format!("{hash}{CHANGED}"), &changed).expect("copied");
        assert_eq!(text(&changed, "src/main.rs").as_deref(), Some("two"));
        assert_eq!(text(&changed, "src/gone.rs"), None);
        assert_eq!(text(&changed, "src/new.rs").as_deref(), Some("new"));
        assert_eq!(text(&changed, "target"), None);

        let other = format!("{}{CHANGED}", "0".repeat(40));
        let error = copy(&root, &other, &scratch.0.join("other")).expect_err("another commit");
        assert!(error.to_string().contains("is checked out"), "{error}");
    }

    #[test]
    fn sections_that_differ_are_named() {
        let own = std::env::current_exe().expect("own path");
        let one = fs::read(own).expect("read");
        assert_eq!(
            differences(&one, &one).expect("ELF"),
            ["the same sections, and other bytes between them"]
        );
        let found = by_name(&one).expect("ELF");
        let rodata = found.get(".rodata").expect("constants");
        let at = rodata.as_ptr().addr() - one.as_ptr().addr() + 7;
        let mut two = one.clone();
        *two.get_mut(at).expect("a byte") ^= 1;
        let lines = differences(&one, &two).expect("ELF").join("\n");
        assert!(
            lines.starts_with(".rodata differs from byte 7 of ") && !lines.contains('\n'),
            "{lines}"
        );
        assert!(differences(&one, b"#!/bin/sh").is_err());
    }

    #[test]
    fn a_program_without_a_commit_is_refused() {
        let scratch = Scratch::new().expect("a directory");
        let program = scratch.0.join("ringgate");
        let check = |commit: &str, profile: &str| {
            let script = format!(
                "#!/bin/sh\necho '{{\"commit\":\"{commit}\",\"profile\":\"{profile}\"}}'\n"
            );
            fs::write(&program, script).expect("written");
            crate::package::program::make_executable(&program).expect("mode");
            told_commit(&program)
        };
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let changed = format!("{hash}{CHANGED}");
        assert_eq!(check(hash, "release").expect("good"), hash);
        assert_eq!(check(&changed, "release").expect("good"), changed);
        for (commit, profile) in [
            ("debug build", "release"),
            (hash, "debug"),
            ("unknown, built without git", "release"),
        ] {
            let error = check(commit, profile).expect_err("refused").to_string();
            assert!(error.contains(commit), "{error}");
        }
    }
}
