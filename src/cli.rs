//! The command line: run, check, explain, demo, drill, policy test, version.

pub mod apps;
pub mod authority;
pub mod cases;
pub mod check;
pub mod curl;
pub mod demo;
pub mod drill;
pub mod explain;
pub mod lab;
pub mod layout;
pub mod material;
pub mod named;
pub mod node;
pub mod os;
pub mod policy;
pub mod resources;
pub mod stop;
pub mod target;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Zero trust from the edge to the outside: ingress, node, waypoint and egress in one binary.
#[derive(Debug, Parser)]
#[command(name = "ringgate", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the roles that a configuration describes, until SIGINT or SIGTERM.
    Run(ConfigArgs),
    /// Check a configuration and report every problem.
    Check(CheckArgs),
    /// Explain who would decide about a call, by which rule, and what would have to change.
    Explain(Box<explain::ExplainArgs>),
    /// Start a whole mesh with three workloads on loopback addresses, as an ordinary user.
    Demo(demo::DemoArgs),
    /// Replay the breach against a mesh with real curl processes; exit code 1 if any step fails.
    Drill(drill::DrillArgs),
    /// Join tokens, nodes, revocations and the root of the authority that a configuration describes.
    Authority(Box<authority::AuthorityArgs>),
    /// Set up, remove or compare the capture of this machine's traffic.
    Node(node::NodeArgs),
    /// Test policies.
    Policy(policy::PolicyArgs),
    /// Print the version.
    Version,
}

/// What to check.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 good, 1 any problem, or a file that cannot be read, 2 wrong usage.

Examples:
  ringgate check --config ringgate.toml            # what `run` would read
  ringgate check ringgate.toml policies/ new.yaml  # with resources added to its mesh, and where each holds
  ringgate check --as toml istio.yaml"
)]
pub struct CheckArgs {
    /// The configuration of a process.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Or files of resources.
    #[command(flatten)]
    pub resources: resources::ResourceArgs,
    /// How to tell what is found.
    #[command(flatten)]
    pub report: check::ReportArgs,
}

/// A configuration file.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ringgate/ringgate.toml"
    )]
    pub config: PathBuf,
}

/// Parses the argument vector and runs the command. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            os::ignore(error.print());
            return ExitCode::from(code);
        }
    };
    match dispatch(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            os::complain(&format!("ringgate: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run_mesh(&args.config, || ()),
        Command::Check(args) => check::run(args),
        Command::Explain(args) => Ok(explain::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Drill(args) => drill::run(args),
        Command::Authority(args) => authority::run(args),
        Command::Node(args) => node::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Version => {
            os::say(concat!("ringgate ", env!("CARGO_PKG_VERSION")));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Runs the roles of `config` on this process until it is told to stop; `ready` is called once all of them serve.
pub(crate) fn run_mesh(config: &Path, ready: impl FnOnce()) -> anyhow::Result<ExitCode> {
    crate::telemetry::diagnostics::start();
    let stop = stop::Stop::on_signals()?;
    crate::worker::run(config, stop.phase(), |_process| ready())?;
    Ok(ExitCode::SUCCESS)
}
