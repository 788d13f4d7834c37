//! `ringgate config`: what a configuration may hold.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::cli::os;
use crate::config::{reference, schema};

/// `ringgate config`.
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// What to print.
    #[command(subcommand)]
    pub command: SettingsCommand,
}

/// What to print about the configuration.
#[derive(Debug, Subcommand)]
pub enum SettingsCommand {
    /// Print every key, with its type, its default and a sentence, as TOML in comments.
    #[command(after_help = "Examples:
  ringgate config reference | less
  ringgate config reference | grep -B 3 '^#drain'")]
    Reference,
    /// Print the JSON Schema of the configuration, for editors that know TOML.
    #[command(after_help = "Examples:
  ringgate config schema > ringgate.schema.json
  sed -i '1i #:schema ./ringgate.schema.json' ringgate.toml     # for the editor's Even Better TOML or taplo")]
    Schema,
}

/// Prints it.
pub fn run(args: &SettingsArgs) -> ExitCode {
    let text = match args.command {
        SettingsCommand::Reference => reference::reference(),
        SettingsCommand::Schema => schema::schema(),
    };
    os::say(text.trim_end());
    ExitCode::SUCCESS
}
