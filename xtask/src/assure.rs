//! Longer runs of what the tests do shortly: random policies against the oracle, and the fuzz targets under libFuzzer.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps;

/// Cases of `cargo xtask property` without `--cases`.
const CASES: &str = "1000000";
/// Seconds for each target of `cargo xtask fuzz` without `--seconds`.
const SECONDS: &str = "60";

/// The values of `options`, each of which may be given once as `--NAME VALUE`.
fn read<'o, const N: usize>(
    options: &[&'o str],
    names: [&str; N],
    mut values: [&'o str; N],
) -> Result<[&'o str; N]> {
    for pair in options.chunks(2) {
        let (option, value) = match pair {
            [option, value] => (*option, *value),
            _ => bail!("{} needs a value", pair.join(" ")),
        };
        let known = names.iter().zip(&mut values).find(|(n, _)| **n == option);
        let (_, slot) = known.with_context(|| format!("unknown option `{option}`"))?;
        *slot = value;
    }
    Ok(values)
}

/// Judges random policies and requests by the engine and by the oracle, in a release build.
pub(crate) fn property(root: &Path, options: &[&str]) -> Result<bool> {
    let [cases, seed] = read(options, ["--cases", "--seed"], [CASES, "1"])?;
    for number in [cases, seed] {
        number
            .parse::<u64>()
            .with_context(|| format!("`{number}` is not a number"))?;
    }
    let mut test = Command::new("cargo");
    test.args(["test", "--release", "--locked", "--test", "oracle", "--"])
        .args(["--exact", "engine_and_oracle_agree", "--nocapture"])
        .current_dir(root)
        .env("RINGGATE_PROPERTY_CASES", cases)
        .env("RINGGATE_PROPERTY_SEED", seed);
    steps::finish(&mut test)?;
    Ok(true)
}

/// Runs one fuzz target, or each in turn. What libFuzzer finds out about the code stays in the target directory; an input
/// that fails is printed with its file.
pub(crate) fn fuzz(root: &Path, options: &[&str]) -> Result<bool> {
    let [target, seconds] = read(options, ["--target", "--seconds"], ["", SECONDS])?;
    let fuzz = root.join("tests/fuzz");
    let programs = Command::new("cargo").args(["fuzz", "--version"]).output();
    ensure!(
        programs.is_ok_and(|output| output.status.success()),
        "`cargo fuzz` is missing: cargo install cargo-fuzz, and rustup toolchain install nightly"
    );
    // The versions that the product is built with.
    std::fs::copy(root.join("Cargo.lock"), fuzz.join("Cargo.lock"))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(fuzz.join("bin"))? {
        let path = entry?.path();
        let name = path.file_stem().context("a program has a name")?;
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort();
    if !target.is_empty() {
        ensure!(
            names.iter().any(|name| name == target),
            "no fuzz target `{target}` among {names:?}"
        );
        names.retain(|name| name == target);
    }
    let built = steps::target(root).join("fuzz");
    for name in &names {
        let found = built.join("corpus").join(name);
        std::fs::create_dir_all(&found)?;
        let mut run = Command::new("cargo");
        run.args(["+nightly", "fuzz", "run", "--fuzz-dir", "tests/fuzz"])
            .arg("--target-dir")
            .arg(&built)
            .arg(name)
            .arg(&found)
            .arg(format!("tests/data/corpus/{name}"))
            .arg("--")
            .arg(format!("-max_total_time={seconds}"))
            .args(["-print_final_stats=1", "-timeout=10"])
            .current_dir(root);
        steps::finish(&mut run)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_or_refused() {
        let names = ["--cases", "--seed"];
        let of = |options: &[&'static str]| read(options, names, ["1", "2"]).ok();
        assert_eq!(of(&[]), Some(["1", "2"]));
        assert_eq!(of(&["--seed", "7"]), Some(["1", "7"]));
        assert_eq!(of(&["--seed"]), None);
        assert_eq!(of(&["--speed", "7"]), None);
    }
}
