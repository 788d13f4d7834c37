//! `ringgate drill`: replays the breach against a running mesh with real curl processes.

pub mod report;
pub mod steps;
pub mod token;

mod edge;
mod outside;
mod reload;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;

use self::report::{Output, Step};
use super::curl;
use super::demo::Io;
use super::lab;
use super::layout::{Layout, free_subnet};
use super::os;
use super::stop::Stop;
use super::target::Target;

/// How long a mesh may take to start.
const START: Duration = Duration::from_secs(30);

/// How long a mesh that is said to run may take to answer.
const RUNNING: Duration = Duration::from_secs(5);

/// Arguments of `ringgate drill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 every step passed, 1 any failed or the mesh did not start, 2 wrong usage.

Examples:
  ringgate drill
  ringgate drill --lab netns                                # as root, with captured traffic
  ringgate drill --config ringgate-demo/ringgate.toml       # the demo that runs

Calls are made with curl, which has to be installed."
)]
pub struct DrillArgs {
    /// Drill the running demo system of this configuration instead of starting one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lab", "io"])]
    pub config: Option<PathBuf>,
    /// Drill in a laboratory instead of on loopback.
    #[arg(long, value_enum)]
    pub lab: Option<Lab>,
    /// Driver of the data cores.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
    /// Form of the report.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Keep the directory of the system that was started.
    #[arg(long)]
    pub keep: bool,
}

/// Where to drill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Lab {
    /// Network namespaces joined by veth pairs, capture by nftables; needs root.
    Netns,
}

/// Runs the command. Exit code 1 if any step fails.
///
/// # Errors
/// If the system under drill does not start.
pub fn run(args: &DrillArgs) -> anyhow::Result<ExitCode> {
    let stop = Stop::on_signals()?;
    curl::is_there()?;
    let mut teller = Teller::new(args.output, stop);
    let drilled = match (&args.config, args.lab) {
        (Some(config), _) => on_config(&mut teller, config),
        (None, Some(Lab::Netns)) => on_netns(&mut teller, args),
        (None, None) => on_loopback(&mut teller, args),
    };
    Ok(teller.finish(drilled))
}

fn on_config(teller: &mut Teller, config: &Path) -> anyhow::Result<()> {
    let target = Target::loopback(&Layout::of_config(config)?);
    teller.moat(&target)?;
    target.await_ready(RUNNING, || Ok(()))?;
    teller.story(&target)
}

fn on_loopback(teller: &mut Teller, args: &DrillArgs) -> anyhow::Result<()> {
    let dir = Scratch::new(args.keep)?;
    let layout = Layout::new(&dir.path, &free_subnet()?)?;
    let mut mesh = Mesh::start(&this_program()?, &layout, args.io)?;
    let target = Target::loopback(&layout);
    let started = target.await_ready(START, || mesh.alive());
    teller.moat(&target)?;
    started?;
    teller.story(&target)
}

fn on_netns(teller: &mut Teller, args: &DrillArgs) -> anyhow::Result<()> {
    let dir = Scratch::new(args.keep)?;
    let mut lab = lab::Lab::set_up(&dir.path, args.io, &this_program()?)?;
    let target = lab.target();
    teller.moat(&target)?;
    lab.raise_mesh()?;
    teller.story(&target)
}

/// Collects the steps and prints them in the wanted form.
#[derive(Debug)]
pub struct Teller {
    output: Output,
    stop: Stop,
    steps: Vec<Step>,
}

impl Teller {
    fn new(output: Output, stop: Stop) -> Self {
        Self {
            output,
            stop,
            steps: Vec::new(),
        }
    }

    fn tell(&mut self, step: Step) -> anyhow::Result<()> {
        if self.output == Output::Table {
            os::say(&report::table(&step));
        }
        self.steps.push(step);
        anyhow::ensure!(!self.stop.is_set(), "interrupted");
        Ok(())
    }

    /// Step 1, which needs the apps alone.
    fn moat(&mut self, target: &Target) -> anyhow::Result<()> {
        let [moat, ..] = &steps::STORY;
        self.tell(moat.run(target))
    }

    /// Steps 2 to 9.
    fn story(&mut self, target: &Target) -> anyhow::Result<()> {
        let [_, rest @ ..] = &steps::STORY;
        for plan in rest {
            self.tell(plan.run(target))?;
        }
        Ok(())
    }

    /// The rest of the report. Steps that the drill did not come to have failed.
    fn finish(&mut self, drilled: anyhow::Result<()>) -> ExitCode {
        let stopped = drilled.err().map(|error| format!("{error:#}"));
        if let Some(why) = &stopped {
            let missing = steps::STORY.iter().skip(self.steps.len());
            for step in missing.map(|plan| plan.not_run(why)) {
                if self.output == Output::Table {
                    os::say(&report::table(&step));
                }
                self.steps.push(step);
            }
        }
        let count = self.steps.iter().filter(|step| step.passed()).count();
        match self.output {
            Output::Table => os::say(&format!("{count} of {} steps passed", self.steps.len())),
            Output::Json => os::say(&report::to_json(&self.steps).to_string()),
            Output::Junit => os::say(&report::junit(&self.steps)),
        }
        if stopped.is_none() && count == steps::STORY.len() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// A temporary directory; removed when dropped unless it is to be kept.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
    keep: bool,
}

impl Scratch {
    /// Makes one with a random name.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(keep: bool) -> anyhow::Result<Self> {
        let name = format!("ringgate-drill-{}", os::hex(&os::random::<6>()?));
        let path = std::env::temp_dir().join(name);
        os::make_dir(&path, 0o755)?;
        Ok(Self { path, keep })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.keep {
            os::complain(&format!("kept: {}", self.path.display()));
        } else {
            os::ignore(std::fs::remove_dir_all(&self.path));
        }
    }
}

fn this_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("this program's file is not known")
}

/// A `ringgate demo` process; ended when dropped.
#[derive(Debug)]
pub struct Mesh {
    child: Child,
    log: PathBuf,
}

impl Mesh {
    /// Starts `ringgate demo` in the layout's directory; `program` is the `ringgate` to start.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn start(program: &Path, layout: &Layout, io: Io) -> anyhow::Result<Self> {
        os::make_dir(&layout.dir, 0o755)?;
        let log = layout.file("demo.log");
        let out = std::fs::File::create(&log)
            .with_context(|| format!("`{}` cannot be written", log.display()))?;
        let child = Command::new(program)
            .args([
                "demo",
                "--subnet",
                &layout.subnet,
                "--io",
                io.word(),
                "--dir",
            ])
            .arg(&layout.dir)
            .stdin(Stdio::null())
            .stderr(out.try_clone()?)
            .stdout(out)
            .spawn()
            .context("`ringgate demo` cannot be started")?;
        Ok(Self { child, log })
    }

    /// # Errors
    /// If the process has ended; with the last lines of its output.
    pub fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                anyhow::bail!("`ringgate demo` ended: {status}\n{}", last_lines(&self.log))
            }
        }
    }
}

impl Mesh {
    /// Sends SIGTERM and waits.
    ///
    /// # Errors
    /// If the process has not ended after `limit`.
    pub fn stop(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        os::terminate(self.child.id())?;
        let mut status = None;
        os::wait_until(limit, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        status.context("`ringgate demo` does not end")
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        lab::end(&mut self.child);
    }
}

/// The last three lines of a log.
#[must_use]
pub fn last_lines(log: &Path) -> String {
    let text = os::read_text(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(3);
    lines.get(from..).unwrap_or_default().join("\n")
}
