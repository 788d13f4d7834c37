//! Capture on this machine, from the command line: `ringgate node setup|teardown|status`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use crate::cli::{ConfigArgs, os};
use crate::config::{self, Config};
use crate::control::capture::{self, Machine, Wanted};
use crate::role::capture as rules;

/// Capture of this machine's traffic by its node.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ringgate node setup --print                       # the rules, without loading them
  ringgate node setup                               # before the node starts, as root
  ringgate node status || ringgate node setup
  ringgate node teardown")]
pub struct NodeArgs {
    /// The configuration of the process; to remove rules none is needed.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: NodeCommand,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Load the rules and routes that the configuration wants, in one transaction; what was loaded before is replaced.
    Setup(PrintArgs),
    /// Remove all rules and routes of ringgate, whatever the configuration says.
    Teardown(TeardownArgs),
    /// Compare what is loaded with what the configuration wants: exit code 0 if it is the same, 1 if not.
    Status(PrintArgs),
}

/// To act or to print.
#[derive(Debug, Args)]
pub struct PrintArgs {
    /// Print the rules for nftables and touch nothing.
    #[arg(long)]
    pub print: bool,
}

/// How to remove.
#[derive(Debug, Args)]
pub struct TeardownArgs {
    /// Print the script for nftables and touch nothing.
    #[arg(long)]
    pub print: bool,
}

/// Runs the command.
///
/// # Errors
/// If the configuration is refused or the kernel refuses the rules.
pub fn run(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    let file = &args.config.config;
    match &args.command {
        NodeCommand::Setup(args) => set_up(file, args),
        NodeCommand::Teardown(args) => {
            if args.print {
                os::say(rules::teardown().trim_end());
            } else {
                capture::remove().context("capture is not removed")?;
            }
            Ok(ExitCode::SUCCESS)
        }
        NodeCommand::Status(args) => status(file, args),
    }
}

fn load(file: &Path) -> anyhow::Result<Config> {
    config::load(file).map_err(|errors| anyhow::anyhow!("{errors}"))
}

fn warn(wanted: Wanted) -> Wanted {
    for workload in &wanted.missing {
        os::complain(&format!(
            "warning: nothing is captured of workload `{workload}` until its control group is there"
        ));
    }
    wanted
}

fn set_up(file: &Path, args: &PrintArgs) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    if args.print {
        let wanted = warn(capture::wanted(&config, &Machine::look())?);
        os::say(wanted.script.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let loaded = capture::load(&config).context("capture is not set up")?;
    if !loaded.in_turn {
        os::complain("warning: somebody else has been loading capture rules for long");
    }
    warn(loaded.wanted);
    Ok(ExitCode::SUCCESS)
}

fn status(file: &Path, args: &PrintArgs) -> anyhow::Result<ExitCode> {
    let config = load(file)?;
    let wanted = warn(capture::wanted(&config, &Machine::look())?);
    if args.print {
        os::say(wanted.script.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let differences = capture::status(&wanted).context("capture cannot be compared")?;
    if differences.is_empty() {
        os::say("capture is loaded as configured");
        return Ok(ExitCode::SUCCESS);
    }
    for difference in differences {
        os::say(&difference);
    }
    Ok(ExitCode::FAILURE)
}
