//! The options of `bench l4`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::case::{self, Case};
use super::peer::{self, Peer};
use super::tools;
use crate::samples::chosen;

/// What to measure, how often and how long.
#[derive(Debug)]
pub(crate) struct Options {
    /// Cases, in their own order.
    pub(crate) cases: Vec<Case>,
    /// Whether the decision with ten thousand policies is among them.
    pub(crate) decision: bool,
    /// Peers, in their own order.
    pub(crate) peers: Vec<Peer>,
    /// Runs of everything.
    pub(crate) runs: usize,
    /// Length of one sample.
    pub(crate) seconds: u64,
    /// Idle connections of the case `idle`.
    pub(crate) idle: usize,
    /// Where the figures go as JSON.
    pub(crate) json: Option<PathBuf>,
    /// Where profiles go; taking them costs time that the figures then contain.
    pub(crate) profile: Option<PathBuf>,
    /// A ringgate that is already built.
    pub(crate) ringgate: Option<PathBuf>,
    /// `process.sandbox` of ringgate: a program that is to write down what it did cannot do so inside.
    pub(crate) sandbox: &'static str,
}

/// Not measured with the load.
const DECISION: &str = "decision";

impl Options {
    /// Reads `--name value` pairs.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self {
            cases: case::ALL.to_vec(),
            decision: true,
            peers: Vec::new(),
            runs: 3,
            seconds: 4,
            idle: 2000,
            json: None,
            profile: None,
            ringgate: None,
            sandbox: "on",
        };
        let mut named = None;
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                bail!("{} wants a value", pair.join(" "))
            };
            match *name {
                "--cases" => options.choose(value)?,
                "--peers" => named = Some(peers(value)?),
                "--runs" => options.runs = value.parse().context("--runs")?,
                "--seconds" => options.seconds = value.parse().context("--seconds")?,
                "--idle" => options.idle = value.parse().context("--idle")?,
                "--json" => options.json = Some(value.into()),
                "--profile" => options.profile = Some(value.into()),
                "--ringgate" => options.ringgate = Some(std::path::absolute(value)?),
                other => bail!("no option `{other}`"),
            }
        }
        options.peers = match named {
            Some(peers) => peers,
            None => every()?,
        };
        let least = if options.profile.is_some() { 1 } else { 3 };
        ensure!(options.runs >= least, "fewer than 3 runs show no spread");
        ensure!(
            (1..=60).contains(&options.seconds),
            "1 to 60 seconds a sample"
        );
        ensure!(
            (100..=60_000).contains(&options.idle),
            "100 to 60000 idle connections"
        );
        Ok(options)
    }

    /// Every case for a moment, for a program that notes what it passes.
    pub(crate) fn training(program: &Path) -> Self {
        Self {
            cases: case::ALL.to_vec(),
            decision: false,
            peers: vec![Peer::Ringgate, Peer::SameNode],
            runs: 1,
            seconds: 2,
            idle: 200,
            json: None,
            profile: None,
            ringgate: Some(program.to_owned()),
            sandbox: "off",
        }
    }

    fn choose(&mut self, names: &str) -> Result<()> {
        let names: Vec<&str> = names.split(',').collect();
        let known = |name: &str| name == DECISION || case::ALL.iter().any(|case| case.name == name);
        if let Some(unknown) = names.iter().find(|name| !known(name)) {
            let all: Vec<_> = case::ALL.iter().map(|case| case.name).collect();
            bail!("no case `{unknown}`: {}, {DECISION}", all.join(", "));
        }
        self.cases.retain(|case| names.contains(&case.name));
        self.decision = names.contains(&DECISION);
        Ok(())
    }
}

fn peers(names: &str) -> Result<Vec<Peer>> {
    let named = |asked: &str, name: &str| asked == name;
    chosen("peer", names, &peer::ALL, |peer| peer.name(), named)
}

/// All peers; ztunnel only if its binary was named.
fn every() -> Result<Vec<Peer>> {
    let mut all = peer::ALL.to_vec();
    if !tools::has_ztunnel()? {
        println!("ztunnel is not measured: RINGGATE_ZTUNNEL does not name one");
        all.retain(|peer| *peer != Peer::Ztunnel);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for bad in [
            &["--runs", "2"][..],
            &["--seconds"],
            &["--secs", "3"],
            &["--seconds", "0"],
            &["--idle", "1"],
            &["--cases", "bulk"],
            &["--peers", "linkerd"],
        ] {
            assert!(Options::parse(bad).is_err(), "{bad:?}");
        }
        let options = Options::parse(&["--cases", "rr-1,idle", "--peers", "ringgate,direct"]);
        let options = options.expect("valid");
        let names: Vec<_> = options.cases.iter().map(|case| case.name).collect();
        assert_eq!(names, ["idle", "rr-1"]);
        assert_eq!(options.peers, [Peer::Direct, Peer::Ringgate]);
        assert!(!options.decision);
    }
}
