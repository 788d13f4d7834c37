//! `cargo xtask bench`: the path node → waypoint → node against the same app direct, in one run.
//!
//! The apps are one process, the mesh another, the load a third. Direct and mesh runs alternate, so that
//! whatever else the machine does meets both. The result is the median with lowest and highest.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::ci;
use crate::cpu;
use crate::load::Outcome;
use crate::steps::command;

/// Addresses of config/demo.toml.
const APP: &str = "127.0.10.3:18080";
const SOCKS: &str = "127.0.10.1:15080";
const HOST: &str = "customer-api";
const SERVICE_PORT: &str = "80";
const PATH: &str = "/api/v1/users/7";

/// How long the demo may take to be ready.
const READY: Duration = Duration::from_secs(20);

struct Options {
    seconds: u64,
    runs: usize,
    connections: usize,
}

/// One measured run.
struct Sample {
    outcome: Outcome,
    ringgate_ns: u64,
    app_ns: u64,
}

/// Builds, starts, measures, prints the table, stops.
pub(crate) fn run(root: &Path, options: &[&str]) -> Result<bool> {
    let options = parse(options)?;
    command(
        root,
        "cargo",
        &["build", "--release", "--locked", "--workspace"],
    )?;
    let binary = ci::binary(root)?;
    let load = Path::new(&binary).with_file_name("xtask");
    let directory = Path::new(&binary).with_file_name("bench");
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?; // a kept configuration could be an edited one
    }
    let directory_name = directory.to_string_lossy().into_owned();
    let apps = Process::start(&binary, &["demo", "--apps-only", &directory_name])?;
    apps.wait_for(APP)?;
    let config = directory
        .join("ringgate.toml")
        .to_string_lossy()
        .into_owned();
    let mesh = Process::start(&binary, &["run", "--config", &config])?;
    mesh.wait_for(SOCKS)?;

    let mut direct = Vec::new();
    let mut through = Vec::new();
    warm_up(&load, options.connections)?;
    for number in 1..=options.runs {
        eprintln!("run {number} of {}", options.runs);
        direct.push(sample(&load, &options, APP, &[], &apps, &mesh)?);
        through.push(sample(
            &load,
            &options,
            SOCKS,
            &[HOST, SERVICE_PORT],
            &apps,
            &mesh,
        )?);
    }
    println!("{}", table(&options, &direct, &through));
    Ok(true)
}

fn parse(options: &[&str]) -> Result<Options> {
    let mut parsed = Options {
        seconds: 5,
        runs: 5,
        connections: 32,
    };
    for pair in options.chunks(2) {
        let [name, value] = pair else {
            bail!("{} wants a number", pair.join(" "))
        };
        match *name {
            "--seconds" => parsed.seconds = value.parse()?,
            "--runs" => parsed.runs = value.parse()?,
            "--connections" => parsed.connections = value.parse()?,
            other => bail!("no option `{other}`"),
        }
    }
    ensure!(parsed.runs >= 3, "fewer than 3 runs show no spread");
    ensure!((1..=60).contains(&parsed.seconds), "1 to 60 seconds a run");
    ensure!(
        (1..=1000).contains(&parsed.connections),
        "1 to 1000 connections"
    );
    Ok(parsed)
}

/// Opens the tunnels and fills the caches; the mesh may answer a little later than it listens.
fn warm_up(load: &Path, connections: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        match fire(load, 1, connections, SOCKS, &[HOST, SERVICE_PORT]) {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > READY => {
                return Err(error.context("the mesh does not serve"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn sample(
    load: &Path,
    options: &Options,
    address: &str,
    socks: &[&str],
    apps: &Process,
    mesh: &Process,
) -> Result<Sample> {
    let before = (mesh.cpu_ns()?, apps.cpu_ns()?);
    let outcome = fire(load, options.seconds, options.connections, address, socks)?;
    Ok(Sample {
        outcome,
        ringgate_ns: mesh.cpu_ns()?.saturating_sub(before.0),
        app_ns: apps.cpu_ns()?.saturating_sub(before.1),
    })
}

/// Runs the load generator in a process of its own, in the release build.
fn fire(
    load: &Path,
    seconds: u64,
    connections: usize,
    address: &str,
    socks: &[&str],
) -> Result<Outcome> {
    let output = Command::new(load)
        .args([
            "load",
            &seconds.to_string(),
            &connections.to_string(),
            address,
            HOST,
            PATH,
        ])
        .args(socks)
        .output()
        .context("cannot start the load generator")?;
    ensure!(
        output.status.success(),
        "load: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Outcome::parse(String::from_utf8(output.stdout)?.trim())
}

/// A server that ends with this value.
struct Process {
    child: std::cell::RefCell<Child>,
    name: String,
}

impl Process {
    fn start(binary: &str, arguments: &[&str]) -> Result<Self> {
        let name = format!("ringgate {}", arguments.join(" "));
        let child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            child: child.into(),
            name,
        })
    }

    fn wait_for(&self, address: &str) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.borrow_mut().try_wait()? {
                bail!("{} ended with {status}", self.name);
            }
            ensure!(
                start.elapsed() < READY,
                "{}: {address} does not listen after {READY:?}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn cpu_ns(&self) -> Result<u64> {
        cpu::nanoseconds(self.child.borrow().id()).with_context(|| self.name.clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        if let Err(error) = child.kill().and_then(|()| child.wait().map(drop)) {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// Median, lowest and highest.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (
        at(values.len() / 2),
        at(0),
        at(values.len().saturating_sub(1)),
    )
}

fn table(options: &Options, direct: &[Sample], through: &[Sample]) -> String {
    let cell = |samples: &[Sample], value: fn(&Sample) -> f64, digits: usize| {
        let (median, low, high) = spread(samples.iter().map(value).collect());
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    };
    let row = |name: &str, samples: &[Sample]| {
        format!(
            "| {name} | {} | {} | {} | {} | {} |\n",
            cell(samples, |s| s.outcome.rate(), 0),
            cell(samples, |s| s.per_100k(s.ringgate_ns), 2),
            cell(samples, |s| s.per_100k(s.app_ns), 2),
            cell(samples, |s| micros(s.outcome.p50_us), 0),
            cell(samples, |s| micros(s.outcome.p99_us), 0),
        )
    };
    format!(
        "| path | requests/s | CPU s per 100k requests, ringgate | app | p50 µs | p99 µs |\n\
         |---|---|---|---|---|---|\n{}{}\n\
         Median (lowest–highest) of {} alternating runs of {} s, {} keep-alive connections, `GET {PATH}`; \
         load, mesh and app share {} cores.",
        row("direct", direct),
        row("node → waypoint → node", through),
        options.runs,
        options.seconds,
        options.connections,
        std::thread::available_parallelism().map_or(0, usize::from),
    )
}

impl Outcome {
    fn rate(&self) -> f64 {
        count(self.requests) / self.seconds
    }
}

impl Sample {
    /// CPU seconds for each 100,000 requests.
    fn per_100k(&self, nanoseconds: u64) -> f64 {
        Duration::from_nanos(nanoseconds).as_secs_f64() / count(self.outcome.requests) * 100_000.0
    }
}

fn micros(value: u64) -> f64 {
    count(value)
}

/// Exact below 2^53, far above any count here.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one bench run are far below 2^53"
)]
fn count(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_lowest_highest() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert!(spread(Vec::new()).0.is_nan());
    }

    #[test]
    fn cpu_is_per_100k_requests() {
        let outcome = Outcome {
            requests: 50_000,
            seconds: 2.0,
            p50_us: 1,
            p99_us: 2,
        };
        let sample = Sample {
            outcome,
            ringgate_ns: 1_500_000_000,
            app_ns: 0,
        };
        assert!((sample.per_100k(sample.ringgate_ns) - 3.0).abs() < 1e-9);
        assert!((outcome.rate() - 25_000.0).abs() < 1e-9);
        let options = parse(&["--runs", "3"]).expect("valid");
        let text = table(&options, &[], &[sample]);
        assert!(
            text.contains(
                "| node → waypoint → node | 25000 (25000–25000) | 3.00 (3.00–3.00) | 0.00"
            ),
            "{text}"
        );
    }

    #[test]
    fn options_are_checked() {
        for bad in [
            &["--runs", "2"][..],
            &["--seconds"],
            &["--secs", "3"],
            &["--seconds", "0"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
