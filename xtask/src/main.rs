//! `cargo xtask ci` runs every check there is; `bench` measures; `package` makes what is released; `reproduce` builds it again;
//! `profile` has the program tell the compiler which of its code is hot; `property` and `fuzz` search for longer than a test may.
//! Nothing in a shell script beside it, but for `.cargo/rustc`, which is there before this program is.

mod assure;
mod bench;
mod ci;
mod cpu;
mod golang;
mod image;
mod l4;
mod l7;
mod load;
mod package;
mod profile;
mod python;
mod reproduce;
mod samples;
mod steps;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "\
usage: cargo xtask ci [--list | --only STEP[,STEP..]]
       cargo xtask bench [--seconds N] [--runs N] [--connections N]
       cargo xtask bench l4 [--cases NAME[,NAME..]] [--peers NAME[,NAME..]] [--runs N] [--seconds N] [--idle N]
                            [--ringgate FILE] [--json FILE] [--profile DIRECTORY]
       cargo xtask bench l7 [--cases NAME[,NAME..]] [--peers NAME[,NAME..]] [--runs N] [--seconds N] [--idle N]
                            [--cores N] [--ringgate FILE] [--json FILE] [--profile DIRECTORY] [--write]
       cargo xtask bench all
       cargo xtask package [--program FILE] [--out DIRECTORY] [--only deb,image,tarball,sbom] [--revision N] [--any-size]
       cargo xtask profile
       cargo xtask reproduce [--program FILE] [--keep FILE]
       cargo xtask soak [--minutes N | --seconds N] [--ringgate FILE]
       cargo xtask image microvm [--program FILE] [--out DIRECTORY] [--kernel FILE.deb] [--config DIRECTORY]
                                 [--roots FILE.pem] [--cmdline TEXT] [--module NAME]..
       cargo xtask image boot [--out DIRECTORY] [--memory MIB[,MIB..]]
       cargo xtask property [--cases N] [--seed N]
       cargo xtask fuzz [--target NAME] [--seconds N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<bool> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if words
        .iter()
        .any(|word| ["-h", "--help", "help"].contains(word))
    {
        println!("{USAGE}");
        return Ok(true);
    }
    match words.as_slice() {
        ["ci"] => ci::run(&root()?, None),
        ["ci", "--list"] => ci::list(),
        ["ci", "--only", names] => ci::run(&root()?, Some(names)),
        ["bench", "l4", options @ ..] => l4::run(&root()?, options),
        ["bench", "l7", options @ ..] => l7::run(&root()?, options),
        ["bench", "all"] => Ok(l4::run(&root()?, &[])? && l7::run(&root()?, &[])?),
        ["soak", options @ ..] => l7::soak::run(&root()?, options),
        ["image", "microvm", options @ ..] => image::microvm(&root()?, options),
        ["image", "boot", options @ ..] => image::boot(&root()?, options),
        ["bench", options @ ..] => bench::run(&root()?, options),
        ["package", options @ ..] => package::run(&root()?, options),
        ["profile"] => profile::run(&root()?),
        ["reproduce", options @ ..] => reproduce::run(&root()?, options),
        ["property", options @ ..] => assure::property(&root()?, options),
        ["fuzz", options @ ..] => assure::fuzz(&root()?, options),
        ["load", options @ ..] => load::run(options), // started by `bench`, in a release build
        ["l4-load", options @ ..] => l4::load(options), // by `bench l4`
        ["l4-serve", options @ ..] => l4::serve(options),
        ["l7-load", options @ ..] => l7::load(options), // by `bench l7`
        _ => bail!("{USAGE}"),
    }
}

/// The workspace: the parent of this package.
fn root() -> Result<PathBuf> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").context("run it as `cargo xtask`")?;
    Ok(Path::new(&manifest)
        .parent()
        .context("xtask has a parent directory")?
        .to_owned())
}
