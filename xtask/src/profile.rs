//! `cargo xtask profile`: has a program that counts what it passes go through every case of `bench l7`, and writes down for
//! the compiler which code is hot (profile-guided optimization). `.cargo/rustc` hands it on in each release build.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::package::material::said;
use crate::package::program::sections;
use crate::{l7, steps};

/// The profile.
const PROFILE: &str = "benches/profile/ringgate.profdata";
/// The compiler that it is for, as `rustc --version` says it.
const COMPILER: &str = "benches/profile/compiler.txt";
/// Where the linker puts the code that the profile calls hot.
const HOT: &str = ".text.hot";
/// A program with less of it than this was compiled without: a few functions fit any profile.
const HOT_LEAST: usize = 100_000;

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
    build
        .args(["build", "--release", "--locked", "--bin", "ringgate"])
        .current_dir(root)
        .env("CARGO_TARGET_DIR", &directory)
        .env("RINGGATE_PROFILE_TO", &counts);
    steps::finish(&mut build)?;
    let tuple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    l7::train(root, &directory.join(tuple).join("release/ringgate"))?;
    // With what was never passed, which is most of it: it is compiled for size then, a fifteenth of the program.
    let mut merging = Command::new(merge);
    merging
        .args(["merge", "--output"])
        .args([root.join(PROFILE), counts]);
    steps::finish(&mut merging)?;
    let compiler = said(Command::new("rustc").arg("--version"))?;
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

/// Tells whether a program was compiled with the profile: nothing fails where it does not fit, say because it was made by
/// another compiler, and the program is a sixth slower.
pub(crate) fn fits(program: &[u8]) -> Result<String> {
    let sections = sections(program)?;
    let hot = sections.iter().find(|(name, _)| name == HOT);
    let hot = hot.map_or(0, |(_, code)| code.len());
    Ok(if hot < HOT_LEAST {
        format!(
            "{hot} bytes hot: {PROFILE} DOES NOT FIT and the program is slower: cargo xtask profile"
        )
    } else {
        format!("{hot} bytes hot")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::program::{Scratch, make_executable};

    /// What `.cargo/rustc` gives a compiler that says of its version what `version` prints.
    fn given(version: &str, to: Option<&str>, words: &str) -> String {
        let scratch = Scratch::new().expect("a directory");
        let compiler = scratch.0.join("rustc");
        let text = format!("#!/bin/sh\n[ $1 = --version ] && exec {version}\necho \"$@\"\n");
        fs::write(&compiler, text).expect("written");
        make_executable(&compiler).expect("executable");
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
        let uses = format!("{uses} -Clink-arg=-Wl,-z,keep-text-section-prefix");
        assert_eq!(given(THE_ONE, None, release), uses);
        assert_eq!(given(ANOTHER, None, release), release);
        let counts = format!("{same} -Cprofile-generate=/counts");
        assert_eq!(given(ANOTHER, Some("/counts"), release), counts);
    }

    #[test]
    fn nothing_else_is() {
        for other in [
            "-vV",
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
        let told = fits(&fs::read(own).expect("read")).expect("a program");
        assert!(told.contains("DOES NOT FIT"), "{told}");
    }
}
