//! `cargo xtask bench l4`: what a pair of nodes costs, beside ztunnel and Envoy in the same run.
//!
//! Each peer has two network namespaces of its own, joined by a veth pair: the load in one, the apps in the other, a
//! proxy in each. Every run starts all of them afresh and takes every case through every peer, one after the other,
//! so that whatever else the machine does meets all. CPU time is that of the proxies alone. It needs root.

mod blast;
mod case;
mod decision;
mod mesh;
mod net;
mod options;
mod peer;
pub(crate) mod process;
pub(crate) mod profile;
pub(crate) mod report;
mod serve;
mod tools;

#[path = "../../tests/support/peers/envoy.rs"]
#[allow(dead_code, reason = "the tests that share it use more of it")]
pub(crate) mod envoy;
#[path = "../../tests/support/peers/ztunnel.rs"]
#[allow(dead_code, reason = "the tests that share it use more of it")]
mod ztunnel;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub(crate) use self::blast::run as load;
use self::case::{Case, Load};
use self::options::Options;
use self::peer::{Held, Peer, Rig};
use self::process::Process;
use self::profile::Recording;
use self::report::Results;
pub(crate) use self::serve::run as serve;
use self::tools::Tools;

/// How long memory may take to settle: allocators give back what they do not need within seconds.
const SETTLE: Duration = Duration::from_secs(8);

/// Measures and prints the table.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = Options::parse(words)?;
    let mut results = measured(root, &options)?;
    if options.decision {
        results.decision = decision::run(root)?;
    }
    println!("{}", results.table(&options));
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", results.json(&options)))
            .with_context(|| path.display().to_string())?;
    }
    Ok(true)
}

/// Runs every case with a program that notes what it passes.
pub(crate) fn train(root: &Path, program: &Path) -> Result<()> {
    measured(root, &Options::training(program)).map(drop)
}

fn measured(root: &Path, options: &Options) -> Result<Results> {
    net::sweep()?;
    let tools = Tools::find(root, options)?;
    let mut results = Results::default();
    for number in 0..options.runs {
        eprintln!("run {} of {}", number + 1, options.runs);
        one_run(number, options, &tools, &mut results)?;
    }
    Ok(results)
}

fn one_run(number: usize, options: &Options, tools: &Tools, results: &mut Results) -> Result<()> {
    let mut rigs = Vec::new();
    for peer in &options.peers {
        rigs.push(Rig::start(*peer, tools)?);
    }
    for case in &options.cases {
        // Another one is first each time.
        let first = number % rigs.len().max(1);
        rigs.rotate_left(first);
        let held = rigs.iter().filter(|rig| case.holds(rig.peer()));
        if case.load == Load::Idle {
            let held: Vec<&Rig> = held.collect();
            idle(case, &held, options.idle, results)?;
        } else {
            for rig in held {
                let sample = sampled(case, rig, options)?;
                eprintln!(
                    "  {:<12} {:<18} {}",
                    case.name,
                    rig.peer().name(),
                    brief(&sample)
                );
                results.add(case, rig.peer(), sample);
            }
        }
        rigs.sort_by_key(Rig::peer);
    }
    rigs.iter().try_for_each(Rig::recorded)
}

fn sampled(case: &Case, rig: &Rig, options: &Options) -> Result<case::Sample> {
    let profiled = options
        .profile
        .as_ref()
        .filter(|_| rig.peer() != Peer::Direct);
    let Some(directory) = profiled else {
        return case.sample(rig, options.seconds);
    };
    let ids: Vec<u32> = rig.proxies().iter().map(Process::id).collect();
    let recording = Recording::start(&ids, directory)?;
    let sample = case.sample(rig, options.seconds)?;
    let file = format!("{}-{}.txt", case.name, rig.peer().name());
    recording.end(&directory.join(file))?;
    Ok(sample)
}

/// Memory of all pairs at the same time: it does not depend on what else the machine does.
fn idle(case: &Case, rigs: &[&Rig], connections: usize, results: &mut Results) -> Result<()> {
    std::thread::sleep(SETTLE);
    let before: Vec<Vec<u64>> = rigs.iter().map(|rig| memory(rig)).collect::<Result<_>>()?;
    let mut held = Vec::new();
    for rig in rigs {
        held.push(Held::open(rig, connections)?);
    }
    std::thread::sleep(SETTLE);
    for (rig, before) in rigs.iter().zip(&before) {
        let sample = case::memory(before, &memory(rig)?, connections)?;
        eprintln!(
            "  {:<12} {:<18} {}",
            case.name,
            rig.peer().name(),
            brief(&sample)
        );
        results.add(case, rig.peer(), sample);
    }
    held.into_iter().try_for_each(Held::close)
}

fn memory(rig: &Rig) -> Result<Vec<u64>> {
    rig.proxies().iter().map(Process::rss_bytes).collect()
}

fn brief(sample: &case::Sample) -> String {
    let words = sample.iter().map(|(metric, value)| {
        let digits = metric.digits();
        format!("{value:.digits$} {}", metric.heading())
    });
    words.collect::<Vec<_>>().join(", ")
}
