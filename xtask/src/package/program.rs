//! What a program must be to be packaged: static, without symbols, small, and able to run where there is nothing else.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::{ci, profile};

/// The program is meant to stay below this.
const BYTES_MAX: u64 = 20_000_000;

/// Words of the ELF format that are looked at.
const PT_INTERP: u64 = 3;
const SHT_SYMTAB: u64 = 2;

/// A processor, as the formats call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Architecture {
    /// By Debian and by OCI.
    pub(crate) name: &'static str,
    /// `e_machine` of ELF.
    machine: u64,
}

const ARCHITECTURES: [Architecture; 2] = [
    Architecture {
        name: "amd64",
        machine: 62,
    },
    Architecture {
        name: "arm64",
        machine: 183,
    },
];

/// What was found.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) architecture: Architecture,
    bytes: u64,
    hot: usize,
    told: String,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.architecture.name;
        write!(
            f,
            "program: {name}, static, {} bytes; {}",
            self.bytes,
            profile::told(self.hot)
        )?;
        write!(f, "; in an empty root it says:\n{}", self.told.trim_end())
    }
}

/// Examines it.
///
/// # Errors
/// Whatever it is not.
pub(crate) fn examine(path: &Path, any_size: bool) -> Result<Facts> {
    let bytes = fs::read(path)
        .with_context(|| format!("`{}`: build it, cargo build --release", path.display()))?;
    let shown = path.display();
    let elf = Elf::read(&bytes).with_context(|| format!("`{shown}` is no ELF program"))?;
    ensure!(
        !elf.segments.contains(&PT_INTERP),
        "`{shown}` is dynamically linked: RUSTFLAGS in the environment replace the flags of .cargo/config.toml"
    );
    ensure!(
        !elf.sections.contains(&SHT_SYMTAB),
        "`{shown}` has its symbols: expected a program of the release profile, or one that `strip` has seen"
    );
    let size = u64::try_from(bytes.len())?;
    ensure!(
        any_size || size <= BYTES_MAX,
        "`{shown}` has {size} bytes, expected {BYTES_MAX} at most"
    );
    Ok(Facts {
        architecture: elf.architecture,
        bytes: size,
        hot: profile::hot(&bytes)?,
        told: in_an_empty_root(&bytes)?,
    })
}

/// What it says where there is no other file.
fn in_an_empty_root(program: &[u8]) -> Result<String> {
    let empty = Scratch::new()?;
    let inside = empty.0.join("ringgate");
    fs::write(&inside, program)?;
    make_executable(&inside)?;
    let mut command = if ci::is_root()? {
        Command::new("chroot")
    } else {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "chroot"]);
        unshare
    };
    command
        .arg(&empty.0)
        .args(["/ringgate", "version", "--long"]);
    let output = command.output().context("chroot cannot be started")?;
    ensure!(
        output.status.success(),
        "in an empty root `ringgate version --long` ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// A directory that goes when it is no longer needed.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) std::path::PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).context("the system gives no random bytes")?;
        let name = format!("ringgate-package-{:016x}", u64::from_ne_bytes(random));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("`{}` cannot be made", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("`{}` is left: {error}", self.0.display());
        }
    }
}

/// The parts of an ELF file that matter here (System V ABI, chapters 4 and 5).
#[derive(Debug)]
struct Elf {
    architecture: Architecture,
    /// Types of the program headers.
    segments: Vec<u64>,
    /// Types of the section headers.
    sections: Vec<u64>,
}

impl Elf {
    fn read(bytes: &[u8]) -> Result<Self> {
        // Magic, 64 bits, little end first.
        ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "no 64-bit ELF file");
        let machine = number(bytes, 18, 2)?;
        let Some(architecture) = ARCHITECTURES.iter().find(|a| a.machine == machine) else {
            bail!("a machine of number {machine}, which is not packaged");
        };
        let table = |offset: u64, size: u64, count: u64, within: u64| -> Result<Vec<u64>> {
            (0..count)
                .map(|index| number(bytes, offset + index * size + within, 4))
                .collect()
        };
        let at = |offset, length| number(bytes, offset, length);
        Ok(Self {
            architecture: *architecture,
            segments: table(at(32, 8)?, at(54, 2)?, at(56, 2)?, 0)?,
            sections: table(at(40, 8)?, at(58, 2)?, at(60, 2)?, 4)?,
        })
    }
}

/// Type of a section that has no bytes in the file.
const SHT_NOBITS: u64 = 8;

/// Name and content of each section of a program, in their order; its header and table of sections are among them, in
/// parentheses.
pub(crate) fn sections(bytes: &[u8]) -> Result<Vec<(String, &[u8])>> {
    Elf::read(bytes)?;
    let at = |offset, length| number(bytes, offset, length);
    let (table, size, count) = (at(40, 8)?, at(58, 2)?, at(60, 2)?);
    let part = |offset: u64, length: u64| -> Result<&[u8]> {
        let (start, length) = (usize::try_from(offset)?, usize::try_from(length)?);
        bytes.get(start..start + length).context("it is cut off")
    };
    let header = |index: u64| table + index * size;
    let names = header(at(62, 2)?);
    let names = part(at(names + 24, 8)?, at(names + 32, 8)?)?;
    let mut found = vec![
        ("(header)".to_owned(), part(0, 64)?),
        ("(table of sections)".to_owned(), part(table, size * count)?),
    ];
    for index in 1..count {
        let header = header(index);
        if at(header + 4, 4)? == SHT_NOBITS {
            continue;
        }
        let name = names.get(usize::try_from(at(header, 4)?)?..);
        let name = name.context("a section has no name")?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        found.push((name, part(at(header + 24, 8)?, at(header + 32, 8)?)?));
    }
    Ok(found)
}

fn number(bytes: &[u8], offset: u64, length: usize) -> Result<u64> {
    let start = usize::try_from(offset)?;
    let field = bytes.get(start..start + length).context("it is cut off")?;
    Ok(field
        .iter()
        .rev()
        .fold(0, |sum, b| sum << 8 | u64::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(name: &str) -> std::path::PathBuf {
        ci::find(name).expect("it is installed")
    }

    #[test]
    fn a_dynamic_program_is_refused() {
        let error = examine(&find("sh"), true).expect_err("it has an interpreter");
        assert!(error.to_string().contains("dynamically linked"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let whole = fs::read(find("sh")).expect("read");
        assert!(Elf::read(&whole).is_ok());
        assert!(Elf::read(b"#!/bin/sh\n").is_err());
        for length in [100, whole.len() - 100] {
            let mut cut = whole.clone();
            cut.truncate(length);
            assert!(Elf::read(&cut).is_err(), "{length}");
        }
    }

    #[test]
    fn symbols_are_seen() {
        // This test has them.
        let own = std::env::current_exe().expect("own path");
        let elf = Elf::read(&fs::read(own).expect("read")).expect("ELF");
        assert!(elf.sections.contains(&SHT_SYMTAB));
    }
}
