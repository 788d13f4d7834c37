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

    /// What `.cargo/rustc` would start.
    fn started(to: Option<&str>, words: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(root.join(".cargo/rustc"));
        command.arg("echo").args(words.split(' '));
        command.env_remove("RINGGATE_PROFILE_TO");
        if let Some(to) = to {
            command.env("RINGGATE_PROFILE_TO", to);
        }
        said(&mut command).expect("started").trim_end().to_owned()
    }

    #[test]
    fn ringgate_is_compiled_with_its_profile() {
        let release = "--crate-name ringgate src/lib.rs -C opt-level=3 -C metadata=1f -C x";
        let same = "--crate-name ringgate src/lib.rs -C opt-level=3 -C metadata=ringgate -C x";
        let uses = format!("{same} -Cprofile-use={PROFILE} -Cllvm-args=-no-pgo-warn-mismatch");
        let uses = format!("{uses} -Clink-arg=-Wl,-z,keep-text-section-prefix");
        assert_eq!(started(None, release), uses);
        let counts = format!("{same} -Cprofile-generate=/counts");
        assert_eq!(started(Some("/counts"), release), counts);
    }

    #[test]
    fn nothing_else_is() {
        for other in [
            "-vV",
            "--crate-name ringgate src/lib.rs -C metadata=1f",
            "--crate-name bytes src/lib.rs -C opt-level=3 -C metadata=1f",
            "--crate-name ringgate_fuzz src/lib.rs -C opt-level=3 -C metadata=1f",
        ] {
            assert_eq!(started(Some("/counts"), other), other);
        }
    }

    #[test]
    fn a_program_without_is_told() {
        let own = std::env::current_exe().expect("own path");
        let told = fits(&fs::read(own).expect("read")).expect("a program");
        assert!(told.contains("DOES NOT FIT"), "{told}");
    }
}
