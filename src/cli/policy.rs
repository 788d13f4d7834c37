//! `ringgate policy test`: policy tests from files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::cases::{self, Options};
use crate::cli::os;

/// Exit code for files that cannot be read.
const USAGE: u8 = 2;

/// `ringgate policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Configuration that TOML tests are about, instead of the one that they name.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do with policies.
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What to do with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Run policy tests: TOML tests of a configuration, and cases in JSON lines.
    #[command(
        after_help = "Exit code: 0 all passed, 1 some failed, 2 wrong usage or a file that cannot be read.

A TOML test:
  config = \"ringgate.toml\"              # from the directory of this file; or --config

  [[test]]
  name = \"reviews does not\"
  from = \"default/reviews-service\"      # or a principal, or \"anonymous\"
  to = \"customer-api\"                   # or workload = \"default/customer-api\", or gateway = \"edge/public\"
  path = \"/api/v1/users\"
  expect = \"deny\"                       # or \"allow\", or a status: 401

More keys: port, method, host, headers, token, signature, http, sourceIp, sni, time, custom, policy, reason, audit.

Examples:
  ringgate policy test policies.tests.toml
  ringgate policy test --config ringgate.toml --output json policies.tests.toml"
    )]
    Test(TestArgs),
}

/// `ringgate policy test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files of tests: TOML (*.toml), JSON lines (*.jsonl), or `-` for JSON lines on standard input.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Key set of token cases [default: `jwks.json` beside the file].
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Trust bundles of certificate cases [default: `spiffe_bundle.json` beside the file].
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// TOML list of cases that are known to fail; one that passes fails the run.
    #[arg(long, value_name = "FILE")]
    pub known_gaps: Option<PathBuf>,
    /// What to print.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line per failure, and how many passed and failed.
    Text,
    /// One JSON object per case.
    Json,
}

/// Runs `ringgate policy`.
///
/// # Errors
/// None: what is wrong with a file is complained of, with its own exit code.
pub fn run(args: &PolicyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        PolicyCommand::Test(tests) => Ok(test(tests, args.config.as_deref())),
    }
}

fn test(args: &TestArgs, config: Option<&Path>) -> ExitCode {
    match report(args, config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            os::complain(&format!("ringgate: {error:#}"));
            ExitCode::from(USAGE)
        }
    }
}

/// Prints what came out; whether nothing failed.
fn report(args: &TestArgs, config: Option<&Path>) -> anyhow::Result<bool> {
    let options = Options {
        config: config.map(Path::to_path_buf),
        jwks: args.jwks.clone(),
        bundle: args.bundle.clone(),
    };
    let gaps = args
        .known_gaps
        .as_deref()
        .map(cases::read_gaps)
        .transpose()?;
    let report = cases::run(&args.files, &options, gaps.as_ref())?;
    for note in &report.notes {
        os::complain(&format!("note: {note}"));
    }
    match args.output {
        Output::Text => {
            for line in report.failures() {
                os::say(&line);
            }
            os::say(&report.summary());
        }
        Output::Json => {
            for line in report.json_lines() {
                os::say(&line);
            }
        }
    }
    Ok(report.is_good())
}
