//! The options of `bench l7`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::case::{self, Case};
use super::peer::{self, Peer};
use crate::samples::chosen;

/// What to measure, how often and how long.
#[derive(Debug)]
pub(crate) struct Options {
    /// Cases, in their own order.
    pub(crate) cases: Vec<Case>,
    /// Peers, in their own order.
    pub(crate) peers: Vec<Peer>,
    /// Runs of everything.
    pub(crate) runs: usize,
    /// Length of one sample.
    pub(crate) seconds: u64,
    /// Idle connections of the case `idle`.
    pub(crate) idle: usize,
    /// Threads or workers of each proxy.
    pub(crate) cores: usize,
    /// Where the figures go as JSON.
    pub(crate) json: Option<PathBuf>,
    /// Where profiles go; taking them costs time that the figures then contain.
    pub(crate) profile: Option<PathBuf>,
    /// A ringgate that is already built.
    pub(crate) ringgate: Option<PathBuf>,
    /// `process.sandbox` of ringgate: a program that is to write down what it did cannot do so inside.
    pub(crate) sandbox: &'static str,
    /// Whether table and plot go into the documentation: of everything, or where it is asked for.
    pub(crate) write: bool,
}

impl Options {
    /// Reads `--name value` pairs, and `--write`.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            cases: case::ALL.to_vec(),
            peers: peer::USUAL.to_vec(),
            runs: 3,
            // 58 samples a run, with what lies between them: 17 minutes for all runs on two cores.
            seconds: 3,
            idle: 2000,
            cores: 2,
            json: None,
            profile: None,
            ringgate: None,
            sandbox: "on",
            write: words.is_empty(),
        };
        let pairs: Vec<&str> = words
            .iter()
            .copied()
            .filter(|word| *word != "--write")
            .collect();
        options.write |= pairs.len() < words.len();
        for pair in pairs.chunks(2) {
            let [name, value] = pair else {
                bail!("{} wants a value", pair.join(" "))
            };
            match *name {
                "--cases" => options.cases = cases(value)?,
                "--peers" => options.peers = peers(value)?,
                "--runs" => options.runs = value.parse().context("--runs")?,
                "--seconds" => options.seconds = value.parse().context("--seconds")?,
                "--idle" => options.idle = value.parse().context("--idle")?,
                "--cores" => options.cores = value.parse().context("--cores")?,
                "--json" => options.json = Some(value.into()),
                "--profile" => options.profile = Some(value.into()),
                "--ringgate" => options.ringgate = Some(std::path::absolute(value)?),
                other => bail!("no option `{other}`"),
            }
        }
        options.check()
    }

    /// Every case for a moment, for a program that notes what it passes.
    pub(crate) fn training(program: &Path) -> Result<Self> {
        Ok(Self {
            peers: vec![Peer::Ringgate],
            runs: 1,
            seconds: 2,
            ringgate: Some(program.to_owned()),
            sandbox: "off",
            write: false,
            ..Self::parse(&[])?
        })
    }

    fn check(self) -> Result<Self> {
        // One run tells a direction, and is no table.
        let least = if self.write { 3 } else { 1 };
        ensure!(self.runs >= least, "fewer than {least} runs show no spread");
        ensure!(
            !self.write || self.profile.is_none(),
            "figures that contain the work of perf are not written down"
        );
        ensure!((1..=60).contains(&self.seconds), "1 to 60 seconds a sample");
        ensure!(
            (100..=9_000).contains(&self.idle),
            "100 to 9000 idle connections"
        );
        ensure!((1..=64).contains(&self.cores), "1 to 64 cores");
        Ok(self)
    }
}

/// Cases by name, or all of a job by its letters and a `*`.
fn cases(names: &str) -> Result<Vec<Case>> {
    let named = |asked: &str, name: &str| match asked.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => asked == name,
    };
    chosen("case", names, &case::ALL, |case| case.name, named)
}

fn peers(names: &str) -> Result<Vec<Peer>> {
    let named = |asked: &str, name: &str| asked == name;
    chosen("peer", names, &peer::ALL, |peer| peer.name(), named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for bad in [
            &["--runs", "0"][..],
            &["--runs", "2", "--write"],
            &["--write", "--profile", "x"],
            &["--seconds"],
            &["--secs", "3"],
            &["--seconds", "0"],
            &["--idle", "1"],
            &["--cases", "bulk"],
            &["--peers", "linkerd"],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
        let options = Options::parse(&["--cases", "e-*,w-h1", "--peers", "nginx,ringgate"]);
        let options = options.expect("valid");
        let names: Vec<_> = options.cases.iter().map(|case| case.name).collect();
        assert_eq!(names, ["w-h1", "e-h1", "e-h1-denied", "e-h2"]);
        assert_eq!(options.peers, [Peer::Ringgate, Peer::Nginx]);
        assert!(!options.write);
        assert!(Options::parse(&[]).expect("valid").write);
        let asked = Options::parse(&["--cases", "w-h1", "--write", "--runs", "3"]);
        assert!(asked.expect("valid").write);
    }
}
