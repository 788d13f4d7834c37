//! The launcher itself. Who asks may have been taken over, so that whatever comes is refused, told and survived: it holds a
//! bounded number of questions, waits a bounded time for each to come whole and for its answer to be taken, and starts one
//! new process at a time. What it runs takes the time that it takes.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use thiserror::Error;

use super::{Answer, Question, TEXT_BYTES, Upgrade, line_of, run};
use crate::control::pass;
use crate::io::clock;
use crate::vocab::text::chain;

/// Questions at a time: one for each family of addresses that rules of capture have, an upgrade, and some to spare.
const QUESTIONS: usize = 16;
/// How long a question may take to come.
const WHOLE: Duration = Duration::from_secs(10);
/// Refusals that are told, each; of those after them the 128th, the 256th and so on, for who asks can ask without end.
const TOLD: u64 = 64;
/// What is told of a question, in bytes before some are escaped.
const WORDS: usize = 200;
/// What is told of why one is refused: it may repeat the question.
const WHY: usize = 400;

/// Why a question is not answered by what was asked for.
#[derive(Debug, Error)]
enum Refused {
    #[error("there are {QUESTIONS} questions already")]
    Many,
    #[error("it is no socket")]
    NoSocket(#[source] io::Error),
    #[error("it did not come whole within {seconds} seconds", seconds = WHOLE.as_secs())]
    Late(#[source] io::Error),
    #[error("it is longer than {TEXT_BYTES} bytes")]
    Long,
    #[error("no question")]
    Words(#[source] serde_json::Error),
    #[error("`{0}` is not run here")]
    Program(String),
    #[error("a new process runs already")]
    Renews,
    #[error("what came on the line of questions is none")]
    Line,
}

/// What all questions share.
#[derive(Debug)]
struct Desk {
    upgrade: Upgrade,
    captures: bool,
    open: AtomicUsize,
    renews: AtomicBool,
    refused: AtomicU64,
}

/// Is a launcher until its standard input closes.
///
/// # Errors
/// Standard input is no socket of a ringgate.
pub fn serve(upgrade: &Upgrade, captures: bool) -> io::Result<()> {
    // It has the environment of the process, secrets of it among them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // What is sent to all processes of the service is for the one that serves.
    SigSet::all().thread_block()?;
    let line = io::stdin().as_fd().try_clone_to_owned()?;
    let line = UnixStream::from(line);
    let desk = Arc::new(Desk {
        upgrade: upgrade.clone(),
        captures,
        open: AtomicUsize::new(0),
        renews: AtomicBool::new(false),
        refused: AtomicU64::new(0),
    });
    loop {
        match pass::receive(&line) {
            Ok(passed) => passed.into_iter().for_each(|stream| desk.take(stream)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The other process has ended.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => desk.tell(&Refused::Line),
            Err(error) => return Err(error),
        }
    }
}

/// A question that has a place.
struct Place(Arc<Desk>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The one new process.
struct Renewing<'d>(&'d Desk);

impl Drop for Renewing<'_> {
    fn drop(&mut self) {
        self.0.renews.store(false, Ordering::Release);
    }
}

impl Desk {
    fn tell(&self, refused: &Refused) {
        let number = self
            .refused
            .fetch_add(1, Ordering::AcqRel)
            .saturating_add(1);
        if number <= TOLD || number.is_power_of_two() {
            let why = told(chain(refused), WHY);
            tracing::warn!(
                number,
                "the launcher refuses its process: {why}; nothing that ringgate asks for is refused, so that somebody else may \
                 be asking"
            );
        }
    }

    /// Answers a question on a thread of its own, if there is a place.
    fn take(self: &Arc<Self>, stream: OwnedFd) {
        // This thread alone adds.
        if self.open.load(Ordering::Acquire) >= QUESTIONS {
            return self.tell(&Refused::Many);
        }
        self.open.fetch_add(1, Ordering::AcqRel);
        let place = Place(Arc::clone(self));
        // What it was to answer ends unanswered if it cannot be started.
        drop(
            std::thread::Builder::new()
                .name("launch".to_owned())
                .spawn(move || place.0.answer(UnixStream::from(stream))),
        );
    }

    /// Nobody else's failure: who asks and goes away before the answer hears none.
    fn answer(&self, mut stream: UnixStream) {
        let refused = match question(&mut stream) {
            Ok(question) => match self.reply(&mut stream, &question) {
                Ok(()) => return,
                Err(refused) => refused,
            },
            Err(refused) => refused,
        };
        self.tell(&refused);
        let answer = Answer::Failed(None, told(chain(&refused), WHY));
        if let Ok(line) = line_of(&answer) {
            drop(stream.write_all(&line));
        }
    }

    fn reply(&self, stream: &mut UnixStream, question: &Question) -> Result<(), Refused> {
        let mut say = |answer: &Answer| {
            if let Ok(line) = line_of(answer) {
                drop(stream.write_all(&line));
            }
        };
        let failed = |error: &io::Error| Answer::Failed(error.raw_os_error(), error.to_string());
        match question {
            Question::Run { tool, words, input } => {
                if !self.captures || !tool.takes(words, input) {
                    let text = format!("{} {}", tool.name(), words.join(" "));
                    return Err(Refused::Program(told(text, WORDS)));
                }
                match run(tool.name(), words, input) {
                    Ok(output) => say(&Answer::Ran(output)),
                    Err(error) => say(&failed(&error)),
                }
            }
            Question::Renew => {
                if self.renews.swap(true, Ordering::AcqRel) {
                    return Err(Refused::Renews);
                }
                let _one = Renewing(self);
                match self.upgrade.command().stdin(Stdio::null()).spawn() {
                    Ok(mut child) => {
                        say(&Answer::Started(child.id()));
                        match child.wait() {
                            Ok(ended) => say(&Answer::Ended(ended.to_string())),
                            Err(error) => say(&failed(&error)),
                        }
                    }
                    Err(error) => say(&failed(&error)),
                }
            }
        }
        Ok(())
    }
}

/// A text that who asks has chosen, of this many bytes, as one line in which nothing is hidden.
fn told(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    // Quotes stay: nobody reads them as an end.
    let plain = |c: char| !c.is_control() && (c.is_alphanumeric() || c.is_ascii());
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if plain(c) {
            line.push(c);
        } else {
            line.extend(c.escape_unicode());
        }
    }
    line
}

/// Reads one line.
fn question(stream: &mut UnixStream) -> Result<Question, Refused> {
    let end = clock::now() + WHOLE;
    let most = usize::try_from(TEXT_BYTES).unwrap_or(usize::MAX);
    // A descriptor that is passed may be anything, and may be told not to wait.
    stream.set_nonblocking(false).map_err(Refused::NoSocket)?;
    // Nor waits an answer longer for who does not read it.
    stream
        .set_write_timeout(Some(WHOLE))
        .map_err(Refused::NoSocket)?;
    let mut line = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let left = end.saturating_duration_since(clock::now());
        let left = left.max(Duration::from_millis(1));
        stream
            .set_read_timeout(Some(left))
            .map_err(Refused::NoSocket)?;
        let got = match stream.read(&mut piece) {
            Ok(0) => return Err(Refused::Late(io::ErrorKind::UnexpectedEof.into())),
            Ok(got) => piece.get(..got).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Refused::Late(error)),
        };
        let whole = got.iter().position(|byte| *byte == b'\n');
        line.extend_from_slice(whole.map_or(got, |at| got.get(..at).unwrap_or_default()));
        if line.len() > most {
            return Err(Refused::Long);
        }
        if whole.is_some() {
            return serde_json::from_slice(&line).map_err(Refused::Words);
        }
        if clock::now() >= end {
            return Err(Refused::Late(io::ErrorKind::TimedOut.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_one_short_line() {
        let text = told(
            format!("a `b`\n\u{1b}[2J\u{202e}\u{85}ü{}", "x".repeat(9999)),
            20,
        );
        assert_eq!(text, "a `b`\\u{a}\\u{1b}[2J\\u{202e}\\u{85}üxxx");
        // No half of a character.
        assert_eq!(told("üü".to_owned(), 3), "ü");
    }
}
