//! The load as a process of its own, and what it says.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::fire::Shot;

/// The load that stands ready. It is told to go by a byte, and to end by the end of its input.
#[derive(Debug)]
pub(crate) struct Gun {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Gun {
    /// Starts it and waits until it is ready.
    pub(crate) fn load(kind: &str, shot: &Shot, program: &Path) -> Result<Self> {
        // Thousands of connections are more than a process may have unless it asks.
        let raised = "ulimit -n \"$(ulimit -H -n)\" && exec \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", raised, "load"])
            .arg(program)
            .args(["l7-load", kind])
            .args(shot.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the load")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut gun = Self {
            child,
            input,
            output,
        };
        let first = gun.line()?;
        ensure!(first == "ready", "the load printed `{first}`");
        Ok(gun)
    }

    /// Lets it begin.
    pub(crate) fn go(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("the load has ended")?;
        input.write_all(b"\n")?;
        Ok(input.flush()?)
    }

    /// The next line of what it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{}", self.complaint());
        }
        Ok(line.trim().to_owned())
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<()> {
        self.input = None;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{}", self.complaint());
        }
        Ok(())
    }

    fn complaint(&mut self) -> String {
        self.input = None;
        let mut text = String::new();
        if let Some(mut errors) = self.child.stderr.take()
            && let Err(error) = errors.read_to_string(&mut text)
        {
            text = error.to_string();
        }
        format!("load: {}", text.trim())
    }
}

impl Drop for Gun {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("load: {error}");
        }
    }
}
