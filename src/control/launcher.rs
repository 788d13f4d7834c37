//! Who starts programs for a process that may not: a process of its own, split off before the sandbox of the other one
//! begins, with all that this one was started with. It reads no network, and who takes over the other process gains no program of his
//! choice by it: it starts that of an upgrade, which it was given at its own start, and, where the configuration captures, `nft`
//! and `ip` with the words that rules of capture need.
//!
//! A question is a connection of its own, whose end is passed over the socket that the launcher has as its standard input:
//! one line of JSON, answered by lines of JSON. The launcher ends when that socket closes.

mod serve;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

use crate::control::pass;
use crate::io::spawn::without_mask;
use crate::role::capture::TABLE;

pub use serve::serve;

/// Name of the hidden command that a launcher is.
pub const COMMAND: &str = "launcher";
/// Option of it: programs for rules of capture are run.
pub const CAPTURES: &str = "--captures";
/// Longest question or answer: the rules of a machine, or what a program says of them.
const TEXT_BYTES: u64 = 16 << 20;
/// Meant for one process alone: one that it starts must not read them as its own.
pub(super) const FOR_ONE: [&str; 4] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// Programs for the rules of capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tool {
    Nft,
    Ip,
}

impl Tool {
    /// Whether it is run with these words: nothing that starts another program, or reads a file.
    fn takes(self, words: &[String], input: &str) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match self {
            Self::Nft => match words.as_slice() {
                ["-f", "-"] => !includes(input),
                ["list", "tables"] => true,
                ["-s", "list", "table", "inet", table] => *table == TABLE,
                _ => false,
            },
            Self::Ip => match words.as_slice() {
                [
                    "-4" | "-6",
                    "rule" | "route",
                    "show" | "add" | "del" | "replace",
                    rest @ ..,
                ] => {
                    let plain = |c: u8| c.is_ascii_alphanumeric() || b"./:".contains(&c);
                    rest.iter().all(|word| word.bytes().all(plain))
                }
                _ => false,
            },
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            "nft" => Some(Self::Nft),
            "ip" => Some(Self::Ip),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Ip => "ip",
        }
    }
}

/// Whether a script has `include` in it where nft(8) takes it for its word: neither between quotes, in the path of a control
/// group for one, nor in a comment. Quotes of nft go on over lines; a script of ours has none that do, and one that has may
/// include.
fn includes(script: &str) -> bool {
    script.lines().any(|line| {
        let mut is_quoted = false;
        let mut plain = String::new();
        for c in line.chars() {
            match c {
                '"' => {
                    is_quoted = !is_quoted;
                    // What stands on both sides of quotes is no one word.
                    plain.push(' ');
                }
                '#' if !is_quoted => break,
                _ if !is_quoted => plain.push(c),
                _ => {}
            }
        }
        plain.contains("include") || is_quoted
    })
}

#[derive(Debug, Serialize, Deserialize)]
enum Question {
    /// Start the program of the upgrade; told of twice, when it has started and when it has ended.
    Renew,
    /// Run this one to its end.
    Run {
        tool: Tool,
        words: Vec<String>,
        input: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It runs under this number.
    Started(u32),
    /// It has ended so.
    Ended(String),
    /// It has ended, and said this.
    Ran(Output),
    /// It could not be started: error number if there is one, and text.
    Failed(Option<i32>, String),
}

/// What a program has said, and whether all was well.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) out: String,
    pub(super) err: String,
}

/// What a new process is started with at an upgrade.
#[derive(Clone, Debug)]
pub struct Upgrade {
    /// The program; what stands there when it is asked for.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Upgrade {
    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        for variable in FOR_ONE {
            command.env_remove(variable);
        }
        without_mask(&mut command);
        command
    }
}

/// The other end of a launcher.
#[derive(Debug)]
pub struct Launcher {
    line: UnixStream,
}

static LAUNCHER: OnceLock<Launcher> = OnceLock::new();

/// Splits a launcher off, that starts `upgrade` when it is asked to, and programs for rules of capture if the process
/// `captures`; it ends with this process.
///
/// # Errors
/// As `fork(2)` and `execve(2)`.
pub fn split_off(upgrade: &Upgrade, captures: bool) -> io::Result<()> {
    if LAUNCHER.get().is_some() {
        return Ok(());
    }
    let (line, theirs) = UnixStream::pair()?;
    // The running program itself, whatever stands at its path now.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("ringgate")
        .arg(COMMAND)
        .args(captures.then_some(CAPTURES))
        .arg(&upgrade.program)
        .arg("--")
        .args(&upgrade.arguments)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        // What a terminal sends its foreground is for the process that serves.
        .process_group(0);
    drop(command.spawn()?);
    drop(LAUNCHER.set(Launcher { line }));
    Ok(())
}

/// The launcher of this process, if it has one.
#[must_use]
pub fn launcher() -> Option<&'static Launcher> {
    LAUNCHER.get()
}

/// What a process cannot do any more once its launcher has ended. It goes on by what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// It was to be upgraded by SIGUSR2.
    pub upgrades: bool,
    /// It keeps rules of capture.
    pub captures: bool,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.captures, self.upgrades) {
            (true, true) => "rules of capture stay as they are, and there is no upgrade by SIGUSR2",
            (true, false) => "rules of capture stay as they are",
            (false, _) => "there is no upgrade by SIGUSR2",
        };
        write!(
            f,
            "the launcher of this process has ended: {what}; restart the process"
        )
    }
}

fn broken(text: String) -> io::Error {
    io::Error::other(text)
}

impl Launcher {
    fn ask(&self, question: &Question) -> io::Result<UnixStream> {
        let (mut own, theirs) = UnixStream::pair()?;
        pass::send(&self.line, &[theirs.as_fd()])?;
        drop(theirs);
        own.write_all(&line_of(question)?)?;
        Ok(own)
    }

    /// Waits until it has ended. It says nothing by itself on this line, so that all there is to read is the end.
    pub async fn ended(&self) {
        let watched = || {
            let line = self.line.try_clone()?;
            // What is sent does not wait anyway.
            line.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(line)
        };
        let line: io::Result<tokio::net::UnixStream> = watched();
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                tracing::warn!(%error, "the launcher is not watched");
                return std::future::pending().await;
            }
        };
        let mut word = [0];
        while line.readable().await.is_ok() {
            match line.try_read(&mut word) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Its end reset the line.
                Err(_error) => return,
            }
        }
    }

    /// Runs a program for the rules of capture to its end; blocks. `None`: it is none of those.
    pub(super) fn run(
        &self,
        program: &str,
        words: &[&str],
        input: &str,
    ) -> Option<io::Result<Output>> {
        let tool = Tool::named(program)?;
        let question = Question::Run {
            tool,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            input: input.to_owned(),
        };
        Some(self.ask(&question).and_then(|stream| {
            let mut line = String::new();
            BufReader::new(stream.take(TEXT_BYTES)).read_line(&mut line)?;
            match answer(&line)? {
                Answer::Ran(output) => Ok(output),
                Answer::Started(_) | Answer::Ended(_) => Err(broken(line)),
                Answer::Failed(number, text) => Err(failure(number, text)),
            }
        }))
    }

    /// Starts the program of the upgrade: its number, and what waits for its end.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) async fn renew(&self) -> io::Result<(u32, Renewed)> {
        let stream = self.ask(&Question::Renew)?;
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        stream.flush().await?;
        let mut renewed = Renewed(tokio::io::BufReader::new(stream));
        match renewed.next().await? {
            Answer::Started(pid) => Ok((pid, renewed)),
            Answer::Failed(number, text) => Err(failure(number, text)),
            other @ (Answer::Ended(_) | Answer::Ran(_)) => Err(broken(format!("{other:?}"))),
        }
    }
}

/// A process that was started for an upgrade.
#[derive(Debug)]
pub(super) struct Renewed(tokio::io::BufReader<tokio::net::UnixStream>);

impl Renewed {
    async fn next(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        answer(&line)
    }

    /// How it ended.
    pub(super) async fn ended(mut self) -> io::Result<String> {
        match self.next().await? {
            Answer::Ended(how) => Ok(how),
            other @ (Answer::Started(_) | Answer::Ran(_) | Answer::Failed(..)) => {
                Err(broken(format!("{other:?}")))
            }
        }
    }
}

fn failure(number: Option<i32>, text: String) -> io::Error {
    number.map_or_else(|| broken(text), io::Error::from_raw_os_error)
}

fn line_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn answer(line: &str) -> io::Result<Answer> {
    if line.is_empty() {
        return Err(broken("the launcher has ended".to_owned()));
    }
    Ok(serde_json::from_str(line)?)
}

/// Runs a program to its end, here.
pub(super) fn run(program: &str, words: &[impl AsRef<str>], input: &str) -> io::Result<Output> {
    let mut command = Command::new(program);
    without_mask(&mut command)
        .args(words.iter().map(AsRef::as_ref))
        // A service may have been given no PATH with the tools for root.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says why in its own words.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Output {
        success: output.status.success(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal, raise};

    use super::*;

    /// Runs `check` in a thread that holds all signals back while one waits, as `systemctl kill` leaves it.
    fn while_one_waits(check: impl FnOnce()) {
        let before = SigSet::thread_get_mask().unwrap();
        SigSet::all().thread_block().unwrap();
        raise(Signal::SIGUSR1).unwrap();
        check();
        // Held back all the time, and not lost.
        let waited: SigSet = [Signal::SIGUSR1].into_iter().collect();
        assert_eq!(waited.wait(), Ok(Signal::SIGUSR1));
        let after = SigSet::thread_get_mask().unwrap();
        assert!(after.contains(Signal::SIGUSR1) && after.contains(Signal::SIGTERM));
        before.thread_set_mask().unwrap();
    }

    // No shell: some of them empty the mask themselves.
    const SHOW: [&str; 2] = ["SigBlk", "/proc/self/status"];
    const NONE: &str = "SigBlk:\t0000000000000000";

    #[test]
    fn what_is_started_takes_signals_that_wait_here() {
        while_one_waits(|| {
            let told = run("grep", &SHOW, "").unwrap();
            assert_eq!(told.out.trim(), NONE);
        });
    }

    #[test]
    fn an_upgrade_takes_signals_that_wait_here() {
        let upgrade = Upgrade {
            program: PathBuf::from("/bin/grep"),
            arguments: SHOW.map(OsString::from).to_vec(),
        };
        while_one_waits(|| {
            let told = upgrade.command().output().unwrap();
            assert_eq!(String::from_utf8(told.stdout).unwrap().trim(), NONE);
        });
    }

    #[test]
    fn only_rules_of_capture_are_loaded() {
        let takes = |tool: Tool, words: &str, input: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            tool.takes(&words, input)
        };
        assert!(takes(
            Tool::Ip,
            "-4 rule add fwmark 0x1/0xff lookup 100 pref 5",
            ""
        ));
        assert!(takes(
            Tool::Ip,
            "-6 route replace local default dev lo table 100",
            ""
        ));
        assert!(takes(Tool::Nft, "-f -", "table inet ringgate {}"));
        assert!(takes(Tool::Nft, "list tables", ""));
        for words in [
            "netns exec x /bin/sh",
            "-batch /etc/shadow",
            "-4 -batch /etc/shadow",
            "-4 netns exec x sh",
            "-4 rule add -batch x",
            "-4 rule flush",
            "",
        ] {
            assert!(!takes(Tool::Ip, words, ""), "{words}");
        }
        for words in [
            "-f /etc/shadow",
            "-I /etc -f -",
            "list table inet other",
            "",
        ] {
            assert!(!takes(Tool::Nft, words, ""), "{words}");
        }
        for script in [
            "include \"/etc/shadow\"",
            "table inet ringgate {}\n include \"/etc/shadow\"",
            "table inet ringgate { chain c { socket cgroupv2 level 1 \"a\" } } ; include\"/etc/shadow\"",
            "define a = \"b\"include \"/etc/shadow\"",
            "define a = \"# b\" include \"/etc/shadow\"",
            "define a = \"\n include \"/etc/shadow\"\n\"",
            "# \"\ninclude \"/etc/shadow\"",
            "define a = \"b include \n\"",
            "define a = \"b\nc\"; include \"/etc/shadow\" # \"",
            "define a = \"b\nc\"; include \"/etc/shadow\"; define d = \"\"",
            // To nft a backslash is nothing within quotes.
            "define a = \"\\\" include \"/etc/shadow\"",
        ] {
            assert!(!takes(Tool::Nft, "-f -", script), "{script}");
        }
        for script in [
            "socket cgroupv2 level 2 \"system.slice/include-proxy.service\" accept",
            "# what rules include\n",
        ] {
            assert!(takes(Tool::Nft, "-f -", script), "{script}");
        }
    }
}
