//! `cargo xtask profile`: has a program that counts what it passes go through every case of `bench l7` and `bench l4`, and
//! writes down for the compiler which code is hot (profile-guided optimization). `.cargo/rustc` hands it on in each release
//! build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::package::material::said;
use crate::package::program::sections;
use crate::reproduce::FOREIGN;
use crate::{l4, l7, steps};

/// The profile.
const PROFILE: &str = "benches/profile/ringgate.profdata";
/// The compiler that it is for, as `rustc -vV` says it.
const COMPILER: &str = "benches/profile/compiler.txt";
/// Where the linker puts the code that the profile calls hot.
const HOT: &str = ".text.hot";
/// A program with less of it than this does not have most of what the profile names: it has 1,200,000.
const HOT_LEAST: usize = 400_000;

/// Writes the profile anew.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let merge = profdata()?;
    let directory = steps::target(root).join("profile");
    let counts = directory.join("counts");
    if counts.exists() {
        fs::remove_dir_all(&counts)?;
    }
    fs::create_dir_all(&counts)?;
    let mut build = Command::new("cargo");
    for variable in FOREIGN {
        build.env_remove(variable);
    }
    build
        .args(["build", "--release", "--locked", "--bin", "ringgate"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &directory)
        .env("RINGGATE_PROFILE_TO", &counts);
    steps::finish(&mut build)?;
    let tuple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = directory.join(tuple).join("release/ringgate");
    l4::train(root, &program)?;
    l7::train(root, &program)?;
    ensure!(
        fs::read_dir(&counts)?.next().is_some(),
        "`{}` is empty: the program has counted nothing",
        counts.display()
    );
    // With what was never passed, which is most of it: it is compiled for size then, a fifteenth of the program.
    let mut merging = Command::new(merge);
    merging
        .args(["merge", "--output"])
        .args([root.join(PROFILE), counts]);
    steps::finish(&mut merging)?;
    let compiler = said(Command::new("rustc").arg("-vV"))?;
    fs::write(root.join(COMPILER), compiler)?;
    Ok(true)
}

/// The program of LLVM that writes profiles, of the compiler's own version.
fn profdata() -> Result<PathBuf> {
    let mut rustc = Command::new("rustc");
    let libraries = said(rustc.args(["--print", "target-libdir"]))?;
    let path = Path::new(libraries.trim()).with_file_name("bin/llvm-profdata");
    ensure!(
        path.is_file(),
        "`{}` is missing: rustup component add llvm-tools",
        path.display()
    );
    Ok(path)
}

/// How much of a program is hot: nothing fails where a build was not given the profile or it names other functions, and the
/// program is slower.
pub(crate) fn hot(program: &[u8]) -> Result<usize> {
    let sections = sections(program)?;
    let hot = sections.iter().find(|(name, _)| name == HOT);
    Ok(hot.map_or(0, |(_, code)| code.len()))
}

/// The same in words.
pub(crate) fn told(hot: usize) -> String {
    if hot < HOT_LEAST {
        format!(
            "{hot} bytes hot: compiled WITHOUT {PROFILE}, or it is old (cargo xtask profile), or the linker is none that keeps {HOT}"
        )
    } else {
        format!("{hot} bytes hot")
    }
}

/// Refuses a program without the profile where the compiler is the one that it is for.
pub(crate) fn check(root: &Path, program: &[u8]) -> Result<()> {
    let hot = hot(program)?;
    println!("{}", told(hot));
    let compiler = said(Command::new("rustc").arg("-vV"))?;
    let made_by = fs::read_to_string(root.join(COMPILER))?;
    ensure!(
        hot >= HOT_LEAST || compiler.trim() != made_by.trim(),
        "the program lacks {PROFILE}, though it is this compiler's: unset RUSTC_WRAPPER, or cargo xtask profile"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::program::Scratch;

    /// What `.cargo/rustc` gives a compiler that says of its version what `version` prints.
    fn given(version: &str, to: Option<&str>, words: &str) -> String {
        let scratch = Scratch::new().expect("a directory");
        let compiler = scratch.0.join("rustc");
        let text = format!("#!/bin/sh\n[ $1 = -vV ] && exec {version}\necho \"$@\"\n");
        // By another process: a test that starts one meanwhile would hold the file open for writing, and nobody could run it.
        let mut write = Command::new("sh");
        write.args(["-c", "printf %s \"$1\" > \"$0\" && chmod +x \"$0\""]);
        said(write.arg(&compiler).arg(text)).expect("written");
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(root.join(".cargo/rustc"));
        command.arg(compiler).args(words.split(' '));
        command
            .current_dir(root)
            .env_remove("RINGGATE_PROFILE_TO")
            .envs(to.map(|to| ("RINGGATE_PROFILE_TO", to)));
        said(&mut command).expect("started").trim_end().to_owned()
    }

    const THE_ONE: &str = "cat benches/profile/compiler.txt";
    const ANOTHER: &str = "echo rustc 1.0.0";

    #[test]
    fn ringgate_is_compiled_with_its_profile() {
        let release = "--crate-name ringgate src/lib.rs -C opt-level=3 -C metadata=1f -C x";
        let same = "--crate-name ringgate src/lib.rs -C opt-level=3 -C metadata=ringgate -C x";
        let uses = format!("{same} -Cprofile-use={PROFILE} -Cllvm-args=-no-pgo-warn-mismatch");
        assert_eq!(given(THE_ONE, None, release), uses);
        assert_eq!(given(ANOTHER, None, release), release);
        let counts = format!("{same} -Cprofile-generate=/counts");
        assert_eq!(given(ANOTHER, Some("/counts"), release), counts);
    }

    #[test]
    fn nothing_else_is() {
        for other in [
            "--print cfg",
            "--crate-name ringgate src/lib.rs -C opt-level=3 -C metadata=1f -Cinstrument-coverage",
            "--crate-name ringgate src/lib.rs -C metadata=1f",
            "--crate-name bytes src/lib.rs -C opt-level=3 -C metadata=1f",
            "--crate-name ringgate_fuzz src/lib.rs -C opt-level=3 -C metadata=1f",
        ] {
            assert_eq!(given(THE_ONE, Some("/counts"), other), other);
        }
    }

    #[test]
    fn a_program_without_is_told() {
        let own = std::env::current_exe().expect("own path");
        let hot = hot(&fs::read(own).expect("read")).expect("a program");
        assert!(told(hot).contains("WITHOUT"), "{hot}");
        assert_eq!(told(HOT_LEAST), "400000 bytes hot");
    }
}
