//! `ringgate completions SHELL`: what a shell needs to complete this command line.

use std::process::ExitCode;

use clap::CommandFactory as _;
use clap_complete::aot::{self, generate};

use crate::cli::{Cli, os};

/// `ringgate completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ringgate completions bash > /usr/share/bash-completion/completions/ringgate
  ringgate completions zsh > /usr/share/zsh/vendor-completions/_ringgate
  ringgate completions fish > /usr/share/fish/vendor_completions.d/ringgate.fish
  source <(ringgate completions bash)              # for this shell alone")]
pub struct CompletionsArgs {
    /// Shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// GNU bash, with its package bash-completion.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

/// Prints the completions.
pub fn run(args: &CompletionsArgs) -> ExitCode {
    let mut command = Cli::command();
    let mut out = Vec::new();
    let name = command.get_name().to_owned();
    match args.shell {
        Shell::Bash => generate(aot::Bash, &mut command, name, &mut out),
        Shell::Zsh => generate(aot::Zsh, &mut command, name, &mut out),
        Shell::Fish => generate(aot::Fish, &mut command, name, &mut out),
    }
    os::say(String::from_utf8_lossy(&out).trim_end());
    ExitCode::SUCCESS
}
