//! The command line: run, check, status, reload, explain, demo, drill, policy test, init, config, completions, man, version.

pub mod apps;
pub mod authority;
mod cannot_start;
pub mod cases;
pub mod check;
pub mod completions;
pub mod curl;
pub mod demo;
pub mod drill;
pub mod explain;
pub mod init;
pub mod lab;
pub mod launcher;
pub mod layout;
pub mod man;
pub mod material;
pub mod named;
pub mod node;
pub mod os;
pub mod policy;
pub mod reload;
pub mod resources;
pub mod settings;
pub mod status;
pub mod stop;
pub mod target;
pub mod version;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::control::signals;

/// Zero trust from the edge to the outside: ingress, node, waypoint and egress in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "ringgate",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  ringgate demo                                     # a whole mesh on loopback, to try
  ringgate init --role ingress --config ringgate.toml
  ringgate check --config ringgate.toml             # every problem of a configuration
  ringgate run --config ringgate.toml
  ringgate explain --config ringgate.toml --from default/web --to customer-api
  ringgate config reference                         # every key of the configuration"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the roles that a configuration describes, until SIGINT or SIGTERM.
    #[command(
        after_help = "Exit code: 0 stopped by a signal, 1 it could not start, 2 wrong usage.

Examples:
  ringgate run                                      # /etc/ringgate/ringgate.toml
  ringgate run --config ringgate.toml"
    )]
    Run(ConfigArgs),
    /// Check a configuration and report every problem.
    Check(CheckArgs),
    /// Ask a running process how it is: roles, generation, problems, identities, listeners, sandbox.
    Status(status::StatusArgs),
    /// Have a running process read its configuration again, and wait for what becomes of it.
    Reload(reload::ReloadArgs),
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
    /// Write a first configuration for the roles that are wanted, with comments.
    Init(init::InitArgs),
    /// Print the reference or the JSON Schema of the configuration.
    Config(settings::SettingsArgs),
    /// Print completions for a shell.
    Completions(completions::CompletionsArgs),
    /// Write the manual pages.
    Man(man::ManArgs),
    /// Print the version, and with `--long` what it is made of and what the kernel has.
    Version(version::VersionArgs),
    /// Start programs for a process that may not: what `run` splits off.
    #[command(name = crate::control::launcher::COMMAND, hide = true)]
    Launcher(launcher::LauncherArgs),
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
        global = true,
        value_name = "FILE",
        default_value = "/etc/ringgate/ringgate.toml"
    )]
    pub config: PathBuf,
}

/// The command that signals are for.
const RUN: &str = "run";

/// Parses the argument vector and runs the command. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|word| word == RUN) {
        signals::hold();
    }
    if crate::appliance::is_init() {
        return appliance();
    }
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
        Command::Status(args) => Ok(status::run(args)),
        Command::Reload(args) => reload::run(args),
        Command::Explain(args) => Ok(explain::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Drill(args) => drill::run(args),
        Command::Authority(args) => authority::run(args),
        Command::Node(args) => node::run(args),
        Command::Policy(args) => policy::run(args),
        Command::Init(args) => init::run(args),
        Command::Config(args) => Ok(settings::run(args)),
        Command::Completions(args) => Ok(completions::run(args)),
        Command::Man(args) => man::run(args),
        Command::Launcher(args) => launcher::run(args),
        Command::Version(args) => version::run(args),
    }
}

/// The life of a machine of which this is the first process; there is nobody to return to, but for the kernel.
fn appliance() -> ExitCode {
    match stop::Stop::on_signals() {
        Ok(stop) => crate::appliance::run(stop.phase()),
        Err(error) => {
            os::complain(&format!("ringgate: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the roles of `config` on this process until it is told to stop; `ready` is called once all of them serve.
pub(crate) fn run_mesh(config: &Path, ready: impl FnOnce()) -> anyhow::Result<ExitCode> {
    crate::telemetry::diagnostics::start();
    // Before there is a second thread, the one that hears signals.
    let prepared = crate::worker::prepare(config).map_err(cannot_start::refused)?;
    let stop = stop::Stop::on_signals()?;
    let wanted = cannot_start::Wanted {
        listeners: prepared.config().listeners.clone(),
        admin: prepared.config().process.admin,
    };
    match crate::worker::run(prepared, stop.phase(), |_process| ready()) {
        Err(crate::worker::BootError::Told) => tracing::info!("told to stop before it served"),
        Err(error) => return Err(wanted.explain(config, error)),
        Ok(()) => {}
    }
    Ok(ExitCode::SUCCESS)
}
