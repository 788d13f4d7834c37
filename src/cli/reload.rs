//! `ringgate reload`: has a running process read its configuration again, and tells what became of it.
//!
//! The process counts the hang-ups that it has heard, and those that a reload has answered which began later: so that what is
//! told is the outcome of a reload that has read what the files hold now, not of one that was under way.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::cli::status::{Whom, asked, at, list, word};
use crate::cli::{RUN, os};

/// How long a reload may take: a supervisor would wait for 90 s.
const OUTCOME: Duration = Duration::from_secs(60);

/// Whom to ask.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 the process goes by its configuration, certificates and roots as they are now, 1 it does not, or cannot be asked, 2 wrong usage.

Examples:
  ringgate reload                                   # the process of /etc/ringgate/ringgate.toml
  ringgate reload --config /etc/ringgate/edge.toml && echo taken"
)]
pub struct ReloadArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub whom: Whom,
    /// Process to send SIGHUP, as a supervisor knows it [default: the one that answers].
    #[arg(long, value_name = "PID")]
    pub pid: Option<i32>,
}

/// Asks for it and waits.
///
/// # Errors
/// The process cannot be told or asked, or does not take the configuration.
pub fn run(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    let base = match (args.whom.base(), args.pid) {
        (Ok(Some(base)), _) => base,
        (Ok(None), Some(pid)) => {
            hang_up(pid)?;
            let file = args.whom.config.display();
            os::say(&format!(
                "process {pid} was sent SIGHUP; {file} has no [admin], and so the log alone tells what becomes of it: a process that was \
                 started with one refuses the file"
            ));
            return Ok(ExitCode::SUCCESS);
        }
        (Ok(None), None) => {
            let file = args.whom.config.display();
            anyhow::bail!(
                "{file}: [admin] is not set, expected `listen` there, `--admin URL` or `--pid PID`"
            );
        }
        (Err(error), _) => return Err(error),
    };
    let before = match (asked(&base), args.pid) {
        (Ok(before), _) => before,
        (Err(error), Some(pid)) => {
            hang_up(pid)?;
            let why = "the process was sent SIGHUP, and what became of it is not known; another `listen` of [admin] than that of \
                       its start needs a restart";
            return Err(error.context(why));
        }
        (Err(error), None) => return Err(error),
    };
    let told = at(&before, "/pid")
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok());
    let told = told.with_context(|| format!("{base}/status names no process"))?;
    match args.pid {
        Some(pid) if pid != told => anyhow::bail!("process {told} answers at {base}, not {pid}"),
        Some(_) => {}
        None => is_ours(told)?,
    }
    hang_up(told)?;
    let Some(heard) = at(&before, "/reload/heard").as_u64() else {
        os::say("the process is of an older version, and the log alone tells what becomes of it");
        return Ok(ExitCode::SUCCESS);
    };
    let mut last = Ok(before);
    let mut ended = false;
    let answered = os::wait_until(OUTCOME, || {
        // Its socket may outlive it, in the hands of a supervisor that starts it anew when we have ended.
        ended = !lives(told);
        if ended {
            return true;
        }
        last = asked(&base);
        last.as_ref().is_ok_and(|status| {
            let answered = at(status, "/reload/answered").as_u64();
            answered > Some(heard) || *at(status, "/pid") != told
        })
    });
    anyhow::ensure!(!ended, "process {told} has ended before it answered");
    let status = last?;
    anyhow::ensure!(
        answered,
        "no answer to SIGHUP within {} s",
        OUTCOME.as_secs()
    );
    if *at(&status, "/pid") != told {
        anyhow::bail!(
            "process {told} has handed over to {} meanwhile: ask that one",
            word(at(&status, "/pid"))
        );
    }
    Ok(outcome(&status))
}

fn outcome(status: &Value) -> ExitCode {
    let generation = word(at(status, "/generation"));
    let problems = list(at(status, "/reload/problems"));
    for problem in problems {
        os::complain(&os::printable(&format!("ringgate: {}", word(problem))));
    }
    if problems.is_empty() {
        os::say(&format!("reloaded: generation {generation}"));
        return ExitCode::SUCCESS;
    }
    if at(status, "/refusedAt").is_null() {
        os::complain(&format!(
            "ringgate: generation {generation} is served, with what those files held before"
        ));
    } else {
        os::complain(&format!(
            "ringgate: the reload was refused, generation {generation} goes on"
        ));
    }
    ExitCode::FAILURE
}

/// A process by the number that it has here: one of another container may have answered, whose number means another one.
fn is_ours(pid: i32) -> anyhow::Result<()> {
    let read = |name| os::read_text(Path::new(&format!("/proc/{pid}/{name}"))).unwrap_or_default();
    let (name, words) = (read("comm"), read("cmdline"));
    let own = os::read_text(Path::new("/proc/self/comm")).unwrap_or_default();
    let second = words.split('\0').nth(1);
    anyhow::ensure!(
        second == Some(RUN) && name == own,
        "process {pid} is not `ringgate {RUN}` here: the one that answers runs in another container or under another name; \
         reload it there, or with `--pid PID` if this is its number"
    );
    Ok(())
}

/// Whether there is such a process.
fn lives(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

fn hang_up(pid: i32) -> anyhow::Result<()> {
    let process = Pid::from_raw(pid).filter(|_| pid > 0);
    let process = process.with_context(|| format!("{pid} is no process"))?;
    kill_process(process, Signal::HUP).with_context(|| {
        let told = format!("process {pid} cannot be sent SIGHUP");
        if rustix::process::geteuid().is_root() {
            told
        } else {
            format!(
                "{told} by uid {}: it is another user's, ask as root",
                rustix::process::geteuid()
            )
        }
    })
}
