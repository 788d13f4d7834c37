//! `cargo xtask package`: what a release consists of. A Debian package, an image for container runtimes, an archive, the list
//! of what is in the program, and checksums. The same program and commit give the same bytes.

pub(crate) mod archive;
mod container;
mod contents;
mod deb;
pub(crate) mod material;
mod notices;
mod oci;
mod profile;
pub(crate) mod program;
mod sbom;
pub(crate) mod trial;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps;
use material::Material;

/// What may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The Debian package.
    Deb,
    /// The image, in both formats.
    Image,
    /// The archive.
    Tarball,
    /// The components of the program.
    Sbom,
}

const KINDS: [(&str, Kind); 4] = [
    ("deb", Kind::Deb),
    ("image", Kind::Image),
    ("tarball", Kind::Tarball),
    ("sbom", Kind::Sbom),
];

/// What is wanted.
#[derive(Debug)]
struct Options {
    program: PathBuf,
    out: PathBuf,
    only: Vec<Kind>,
    /// Of the Debian package: the second number of its version.
    revision: u32,
    /// For trials with debug builds, which are too large; they are packed quickly.
    any_size: bool,
}

impl Options {
    fn parse(root: &Path, words: &[&str]) -> Result<Self> {
        let mut options = Self {
            program: steps::released(root, "ringgate"),
            out: steps::target(root).join("package"),
            only: KINDS.map(|(_, kind)| kind).to_vec(),
            revision: 1,
            any_size: false,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--any-size" {
                options.any_size = true;
                continue;
            }
            let value = words
                .next()
                .with_context(|| format!("`{word}` needs a value"))?;
            match *word {
                "--program" => options.program = PathBuf::from(value),
                "--out" => options.out = PathBuf::from(value),
                "--only" => options.only = kinds(value)?,
                "--revision" => {
                    options.revision = value.parse().context("--revision takes a number")?;
                }
                other => bail!("unknown option `{other}`"),
            }
        }
        Ok(options)
    }
}

fn kinds(names: &str) -> Result<Vec<Kind>> {
    let one = |name: &str| {
        let found = KINDS.iter().find(|(known, _)| *known == name);
        let (_, kind) = found.with_context(|| {
            let known = KINDS.map(|(name, _)| name).join(", ");
            format!("`{name}` cannot be made, expected {known}")
        })?;
        Ok(*kind)
    };
    names.split(',').map(one).collect()
}

/// Makes all of it and prints what and where.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    make(root, &Options::parse(root, words)?)?;
    Ok(true)
}

fn make(root: &Path, options: &Options) -> Result<Vec<PathBuf>> {
    let facts = program::examine(&options.program, options.any_size)?;
    println!("{facts}");
    let mut material =
        Material::gather(root, &options.program, facts.architecture, options.revision)?;
    material.quick = options.any_size;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("`{}` cannot be made", options.out.display()))?;
    let mut made = Vec::new();
    let mut keep = |name: String, bytes: &[u8]| -> Result<()> {
        let path = options.out.join(name);
        fs::write(&path, bytes)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
        println!("{:>10} bytes  {}", bytes.len(), path.display());
        made.push(path);
        Ok(())
    };
    let stem = material.stem();
    for kind in &options.only {
        match kind {
            Kind::Deb => keep(material.deb_name(), &deb::build(&material)?)?,
            Kind::Image => {
                let image = oci::Image::build(&material)?;
                println!("image {}", image.digest());
                keep(format!("{stem}.oci.tar"), &image.oci_archive()?)?;
                keep(format!("{stem}.docker.tar"), &image.docker_archive()?)?;
            }
            Kind::Tarball => keep(format!("{stem}.tar.gz"), &contents::tarball(&material)?)?,
            Kind::Sbom => keep(format!("{stem}.cdx.json"), &material.sbom)?,
        }
    }
    checksums(&options.out, &mut made)?;
    Ok(made)
}

/// `SHA256SUMS` of what was made, and of what an earlier call has left there, as `sha256sum --check` reads it.
fn checksums(out: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    let path = out.join("SHA256SUMS");
    let earlier = fs::read_to_string(&path).unwrap_or_default();
    let names = earlier.lines().filter_map(|line| line.split_once("  "));
    let mut all: BTreeSet<PathBuf> = names.map(|(_, name)| out.join(name)).collect();
    all.retain(|path| path.is_file());
    all.extend(made.iter().cloned());
    let mut text = String::new();
    for path in &all {
        let name = path.file_name().context("a file has a name")?;
        let sum = archive::sha256(&fs::read(path)?);
        text.push_str(&format!("{sum}  {}\n", name.to_string_lossy()));
    }
    fs::write(&path, text)?;
    made.push(path);
    ensure!(made.len() > 1, "nothing was asked for");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let root = Path::new("/project");
        let words = ["--only", "deb,sbom", "--revision", "7", "--any-size"];
        let options = Options::parse(root, &words).expect("good");
        assert_eq!(options.only, [Kind::Deb, Kind::Sbom]);
        assert_eq!((options.revision, options.any_size), (7, true));
        for bad in [
            &["--only", "rpm"][..],
            &["--out"],
            &["--revision", "one"],
            &["--quick", "yes"],
        ] {
            assert!(Options::parse(root, bad).is_err(), "{bad:?}");
        }
    }
}
