//! `ringgate launcher`, which `run` splits off: it starts programs for a process that may not.

use std::ffi::{CStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::launcher::{self, Upgrade};

/// What `ps` and `top` call it (`PR_SET_NAME`, 15 bytes at most).
const NAME: &CStr = c"ringgate-launch";

/// What an upgrade starts.
#[derive(Debug, clap::Args)]
pub struct LauncherArgs {
    /// Programs for rules of capture are run, too.
    #[arg(long)]
    pub captures: bool,
    /// The program.
    #[arg(value_name = "PROGRAM")]
    pub program: PathBuf,
    /// Its arguments.
    #[arg(value_name = "ARGUMENT", last = true)]
    pub arguments: Vec<OsString>,
}

/// Serves until the process that it belongs to has ended.
///
/// # Errors
/// Standard input is not the socket of such a process.
pub fn run(args: &LauncherArgs) -> anyhow::Result<ExitCode> {
    crate::telemetry::diagnostics::start();
    // It was started by the link that leads to the program that runs, and would be called `exe`.
    if let Err(error) = rustix::thread::set_name(NAME) {
        tracing::debug!(%error, "no name");
    }
    let upgrade = Upgrade {
        program: args.program.clone(),
        arguments: args.arguments.clone(),
    };
    launcher::serve(&upgrade, args.captures)?;
    Ok(ExitCode::SUCCESS)
}
