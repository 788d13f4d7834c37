//! `cargo xtask bench l7`: what ringgate costs as waypoint, egress and ingress, beside Envoy, HAProxy and nginx in the same
//! run.
//!
//! Everything runs on loopback: each peer has an address of its own in a subnet of the run. All peers of a job run at the
//! same time; each case is taken through one after the other, another one first each time, so that whatever else the
//! machine does meets all. CPU time is that of the proxy alone, all its processes together.

mod case;
mod config;
mod docs;
mod fire;
mod gun;
mod options;
mod peer;
mod pki;
mod plot;
mod proxy;
mod report;
pub(crate) mod soak;
mod tools;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use self::case::{Case, Job, Load, Metric, Sample};
pub(crate) use self::fire::run as load;
use self::fire::{Changed, Outcome, Shot};
use self::gun::Gun;
use self::options::Options;
use self::peer::{Ground, Peer, Rig};
use self::pki::Pki;
use self::proxy::Proxy;
use self::report::Results;
use self::tools::Tools;
use crate::l4::profile::Recording;
use crate::samples::number;

/// How long memory may take to settle.
const SETTLE: Duration = Duration::from_secs(3);
/// Starts of a process that one sample is the median of.
const STARTS: usize = 5;
/// How long a changed policy is waited for.
const CHANGE: Duration = Duration::from_secs(25);

/// Measures and prints the table.
pub(crate) fn run(root: &Path, words: &[&str]) -> Result<bool> {
    let options = Options::parse(words)?;
    let tools = Tools::find(root, &options.peers, options.ringgate.as_deref())?;
    let directory = tools.directory.clone();
    let results = measured(root, &options, tools)?;
    println!("{}", results.table(&options));
    if let Some(path) = &options.json {
        let text = format!("{:#}\n", results.json(&options));
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if options.write {
        docs::write(root, &results, &options)?;
    }
    // After an error it stays, for whoever looks for the reason.
    std::fs::remove_dir_all(directory)?;
    Ok(true)
}

/// Runs every case with a program that notes what it passes.
pub(crate) fn train(root: &Path, program: &Path) -> Result<()> {
    let options = Options::training(program)?;
    let tools = Tools::find(root, &options.peers, options.ringgate.as_deref())?;
    let directory = tools.directory.clone();
    measured(root, &options, tools)?;
    Ok(std::fs::remove_dir_all(directory)?)
}

fn measured(root: &Path, options: &Options, tools: Tools) -> Result<Results> {
    let ground = Ground {
        sandbox: options.sandbox,
        ..ground(root, tools, options.cores)?
    };
    let _upstream = peer::upstream(&ground)?;
    let mut results = Results::default();
    for number in 0..options.runs {
        eprintln!("run {} of {}", number + 1, options.runs);
        for job in [Job::Waypoint, Job::WaypointHbone, Job::Egress, Job::Ingress] {
            one_job(number, job, options, &ground, &mut results)?;
        }
    }
    Ok(results)
}

/// Certificates, tokens and a subnet for one run.
fn ground(root: &Path, tools: Tools, cores: usize) -> Result<Ground> {
    let pki = tools.directory.join("pki");
    std::fs::create_dir_all(&pki)?;
    let id = std::process::id();
    // Bench runs side by side have nothing to do with each other.
    let subnet = [
        127,
        u8::try_from(64 + id % 128)?,
        u8::try_from(id / 128 % 250)?,
    ];
    Ok(Ground {
        root: root.to_owned(),
        pki: Pki::write(&pki)?,
        tools,
        cores,
        sandbox: "on",
        subnet,
    })
}

/// All cases of a job, once.
fn one_job(
    number: usize,
    job: Job,
    options: &Options,
    ground: &Ground,
    results: &mut Results,
) -> Result<()> {
    let (apart, together): (Vec<&Case>, Vec<&Case>) = options
        .cases
        .iter()
        .filter(|case| case.job == job)
        .partition(|case| matches!(case.load, Load::Start | Load::Change));
    let mut rigs = Vec::new();
    for peer in &options.peers {
        if let Some(case) = together.iter().find(|case| case.holds(*peer)) {
            rigs.push(Rig::ready(*peer, case, ground)?);
        }
    }
    for case in &together {
        let first = number % rigs.len().max(1);
        rigs.rotate_left(first);
        for rig in rigs.iter().filter(|rig| case.holds(rig.peer)) {
            let sample = match case.load {
                Load::Idle => idle(case, rig, options.idle, ground),
                _ => sampled(case, rig, options, ground),
            };
            let sample = sample.with_context(|| format!("{}, {}", case.name, rig.peer.name()))?;
            told(case, rig.peer, &sample);
            results.add(case, rig.peer, sample);
        }
        rigs.sort_by_key(|rig| rig.peer);
    }
    for rig in &rigs {
        results.recorded(job, rig.peer, rig.recorded()?);
    }
    drop(rigs);
    for case in &apart {
        for peer in options.peers.iter().filter(|peer| case.holds(**peer)) {
            let sample = match case.load {
                Load::Start => start(case, *peer, ground),
                _ => change(case, *peer, ground),
            };
            let sample = sample.with_context(|| format!("{}, {}", case.name, peer.name()))?;
            told(case, *peer, &sample);
            results.add(case, *peer, sample);
        }
    }
    Ok(())
}

fn told(case: &Case, peer: Peer, sample: &Sample) {
    let words = sample.iter().map(|(metric, value)| {
        let digits = metric.digits();
        format!("{value:.digits$} {}", metric.heading())
    });
    let words = words.collect::<Vec<_>>().join(", ");
    eprintln!("  {:<14} {:<16} {words}", case.name, peer.name());
}

/// Word for the load of requests.
fn kind(load: Load) -> Result<&'static str> {
    Ok(match load {
        Load::Http1(_) => "h1",
        Load::Http2(..) => "h2",
        Load::Hbone(..) => "hbone",
        Load::Handshakes(_) => "handshake",
        Load::Idle | Load::Start | Load::Change => anyhow::bail!("no load of requests"),
    })
}

/// Requests or handshakes for some seconds.
fn sampled(case: &Case, rig: &Rig, options: &Options, ground: &Ground) -> Result<Sample> {
    let kind = kind(case.load)?;
    let shot = Shot {
        span: Duration::from_secs(options.seconds),
        ..ground.shot(rig.peer, case)
    };
    let mut gun = Gun::load(kind, &shot, &ground.tools.load)?;
    let ids = rig.proxy().ids()?;
    let recording = match &options.profile {
        Some(directory) => Some((Recording::start(&ids, directory)?, directory)),
        None => None,
    };
    let before = Proxy::cpu_ns(&ids)?;
    gun.go()?;
    let line = gun.line().with_context(|| rig.log())?;
    let used = Proxy::cpu_ns(&ids)?.saturating_sub(before);
    gun.end()?;
    if let Some((recording, directory)) = recording {
        let file = format!("{}-{}.txt", case.name, rig.peer.name());
        recording.end(&directory.join(file))?;
    }
    let outcome = Outcome::parse(&line)?;
    ensure!(used > 0, "the proxy did nothing: the load went another way");
    rig.answered(outcome.operations);
    Ok(case::figures(case.load, &outcome, used))
}

/// Memory at rest, and with idle connections.
fn idle(case: &Case, rig: &Rig, connections: usize, ground: &Ground) -> Result<Sample> {
    std::thread::sleep(SETTLE);
    let before = rig.proxy().memory()?;
    let shot = Shot {
        connections,
        ..ground.shot(rig.peer, case)
    };
    let gun = Gun::load("hold", &shot, &ground.tools.load)?;
    std::thread::sleep(SETTLE);
    let with = rig.proxy().memory()?;
    gun.end()?;
    // Once to open, and once to see that it is still there.
    let connections = u64::try_from(connections)?;
    rig.answered(2 * connections);
    let grown = number(with.proportional) - number(before.proportional);
    Ok(vec![
        (Metric::Resident, number(before.resident) / 1e6),
        (Metric::PerConnection, grown / 1e3 / number(connections)),
    ])
}

/// Nanoseconds as milliseconds.
fn milliseconds(nanoseconds: u128) -> Result<f64> {
    Ok(number(u64::try_from(nanoseconds)?) / 1e6)
}

/// From the start of the process to its first answer.
fn start(case: &Case, peer: Peer, ground: &Ground) -> Result<Sample> {
    let shot = Shot {
        span: CHANGE,
        ..ground.shot(peer, case)
    };
    let mut all = Vec::new();
    for _ in 0..STARTS {
        let mut gun = Gun::load("first", &shot, &ground.tools.load)?;
        let rig = Rig::start(peer, case.job, ground)?;
        let line = gun.line().with_context(|| rig.log())?;
        gun.end()?;
        let first: u128 = line.parse().context("nanoseconds")?;
        all.push(milliseconds(first.saturating_sub(rig.began_ns))?);
    }
    all.sort_by(f64::total_cmp);
    let size = std::fs::metadata(peer.binary(&ground.tools)?)?.len();
    Ok(vec![
        (
            Metric::Start,
            all.get(STARTS / 2).copied().unwrap_or(f64::NAN),
        ),
        (Metric::Binary, number(size) / 1e6),
    ])
}

/// From a change of policy to the first denial.
fn change(case: &Case, peer: Peer, ground: &Ground) -> Result<Sample> {
    let shot = Shot {
        span: CHANGE,
        ..ground.shot(peer, case)
    };
    let mut rig = Rig::ready(peer, case, ground)?;
    let mut gun = Gun::load("change", &shot, &ground.tools.load)?;
    gun.go()?;
    // The open connection is busy by then.
    std::thread::sleep(Duration::from_millis(200));
    let began = fire::unix_ns()?;
    rig.allow_only(pki::OTHER, ground)?;
    let line = gun.line().with_context(|| rig.log())?;
    gun.end()?;
    let Changed { open_ns, new_ns } = Changed::parse(&line)?;
    let since = |ns: Option<u128>| {
        // What never came is told as the time that it was waited for.
        let ns = ns.unwrap_or(began + CHANGE.as_nanos());
        milliseconds(ns.saturating_sub(began))
    };
    Ok(vec![
        (Metric::ChangeOpen, since(open_ns)?),
        (Metric::ChangeNew, since(new_ns)?),
    ])
}
