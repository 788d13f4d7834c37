//! `ringgate man DIRECTORY`: manual pages of the commands and of the configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::{Cli, os};
use crate::config::reference;

const PUBLIC: u32 = 0o644;
const DIRECTORY: u32 = 0o755;

/// `ringgate man`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  ringgate man /usr/local/share/man      # then: man ringgate, man ringgate-check, man ringgate.toml")]
pub struct ManArgs {
    /// Directory to write to; the pages are in man1 and man5 below it.
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}

/// Writes the pages.
///
/// # Errors
/// If a file cannot be written.
pub fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let (commands, files) = (args.directory.join("man1"), args.directory.join("man5"));
    os::make_dir(&commands, DIRECTORY)?;
    os::make_dir(&files, DIRECTORY)?;
    let mut command = without_help(Cli::command());
    command.build();
    let mut all = Vec::new();
    pages(&command, &mut all)?;
    for (name, page) in all {
        os::write(&commands.join(name), page.as_bytes(), PUBLIC)?;
    }
    let page = reference::manual();
    os::write(&files.join("ringgate.toml.5"), page.as_bytes(), PUBLIC)?;
    Ok(ExitCode::SUCCESS)
}

/// Without the commands `help`, which have no pages.
fn without_help(command: Command) -> Command {
    command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help)
}

fn pages(command: &Command, out: &mut Vec<(String, String)>) -> anyhow::Result<()> {
    for inner in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(inner, out)?;
    }
    let man = Man::new(command.clone()).manual("ringgate");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    page.extend_from_slice(synopsis(command).as_bytes());
    man.render_description_section(&mut page)?;
    if command
        .get_arguments()
        .any(|argument| !argument.is_hide_set())
    {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut page = String::from_utf8_lossy(&page).into_owned();
    if let Some(more) = command.get_after_help() {
        page.push_str(&more_sections(&more.to_string()));
    }
    page.push_str(&see_also(command));
    out.push((man.get_filename(), page));
    Ok(())
}

/// How it is called: with the value of each option, and first those that it must have.
fn synopsis(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let mut out = format!(".SH SYNOPSIS\n\\fB{}\\fR", escaped(name));
    let shown = |argument: &&Arg| {
        !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
    };
    let all = || command.get_arguments().filter(shown);
    let options = all().filter(|argument| !argument.is_positional());
    let (must, may): (Vec<&Arg>, Vec<&Arg>) = options.partition(|a| a.is_required_set());
    for argument in must.into_iter().chain(may).chain(command.get_positionals()) {
        let value = argument.get_value_names().and_then(|names| names.first());
        let value = value.filter(|_| argument.get_action().takes_values());
        let value = value.map(|name| format!("\\fI{}\\fR", escaped(name)));
        let flag = argument
            .get_long()
            .map(|long| format!("\\fB\\-\\-{}\\fR", escaped(long)));
        let words: Vec<String> = flag.into_iter().chain(value).collect();
        let words = words.join(" ");
        let many = argument
            .get_num_args()
            .is_some_and(|count| count.max_values() > 1);
        let again = if many || matches!(argument.get_action(), ArgAction::Append) {
            "..."
        } else {
            ""
        };
        let text = if argument.is_required_set() {
            format!(" {words}{again}")
        } else {
            format!(" [{words}]{again}")
        };
        out.push_str(&text);
    }
    if command.has_subcommands() {
        out.push_str(" \\fICOMMAND\\fR");
    }
    out.push('\n');
    out
}

/// What stands after the options in `--help`: `Examples:` and `Exit code:` begin sections of their own.
fn more_sections(text: &str) -> String {
    let (mut notes, mut out) = (String::new(), String::new());
    for paragraph in text.split("\n\n") {
        if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            out.push_str(".SH EXAMPLES\n");
            out.push_str(&verbatim(examples));
        } else if let Some(codes) = paragraph.strip_prefix("Exit code: ") {
            out.push_str(&format!(".SH \"EXIT STATUS\"\n{}\n", escaped(codes)));
        } else if let Some((title, rest)) = paragraph.split_once(":\n  ") {
            notes.push_str(&format!(".PP\n{}:\n", escaped(title)));
            notes.push_str(&verbatim(&format!("  {rest}")));
        } else if paragraph.starts_with("  ") {
            notes.push_str(&verbatim(paragraph));
        } else {
            notes.push_str(&format!(".PP\n{}\n", escaped(paragraph)));
        }
    }
    if !notes.is_empty() {
        // A paragraph does not follow a heading.
        let notes = notes.strip_prefix(".PP\n").unwrap_or(&notes);
        out.insert_str(0, &format!(".SH NOTES\n{notes}"));
    }
    out
}

fn verbatim(text: &str) -> String {
    format!(".PP\n.nf\n{}\n.fi\n", escaped(text))
}

/// Text that roff takes as it is.
fn escaped(text: &str) -> String {
    let line = |line: &str| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) {
            format!("\\&{line}")
        } else {
            line
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn see_also(command: &Command) -> String {
    let own = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let above = own.rsplit_once('-').map(|(above, _)| above);
    let above = above.filter(|above| *above != "ringgate" && above.starts_with("ringgate"));
    let mut pages = vec!["ringgate.toml (5)".to_owned()];
    if own != "ringgate" {
        pages.insert(0, "ringgate (1)".to_owned());
    }
    if let Some(above) = above {
        pages.insert(1, format!("{} (1)", above.replace('-', "\\-")));
    }
    let last = pages.len().saturating_sub(1);
    let mut out = String::from(".SH \"SEE ALSO\"\n");
    for (number, page) in pages.iter().enumerate() {
        let comma = if number == last { "" } else { "," };
        out.push_str(&format!(".BR {page}{comma}\n"));
    }
    out
}
