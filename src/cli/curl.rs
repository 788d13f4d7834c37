//! Runs real curl processes and reads what came back.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;

use super::os;

/// Longest time one call may take, in seconds, unless the caller's own arguments say otherwise.
const CALL_S: &str = "15";
/// Longest time a download may take, in seconds.
const DOWNLOAD_S: &str = "60";

/// Who calls: the command that puts curl in its place, and the arguments that lead it into the mesh.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Command and arguments in front of curl, such as `ip netns exec NAME setpriv --reuid UID`.
    pub prefix: Vec<String>,
    /// Arguments of every call, such as `--socks5-hostname ADDRESS`.
    pub args: Vec<String>,
}

/// What a call brought.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// curl's exit code; -1 if a signal ended it.
    pub exit: i32,
    /// curl's error text.
    pub stderr: String,
    /// First line of the last response head, without the line end.
    pub status_line: String,
    /// Status code of the last response head; 0 if there was none.
    pub status: u16,
    /// Header fields of the last response head, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// First value of a header field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// One line for people: what came back.
    #[must_use]
    pub fn seen(&self) -> String {
        let mut parts = Vec::new();
        if !self.status_line.is_empty() {
            parts.push(self.status_line.clone());
        }
        if self.exit != 0 {
            parts.push(self.stderr.trim().replace('\n', " "));
        }
        let body = self.body.trim();
        if !body.is_empty() {
            parts.push(body.chars().take(90).collect());
        }
        if parts.is_empty() {
            parts.push(format!("exit code {}", self.exit));
        }
        parts.join(", ")
    }
}

/// Says what to do where there is no curl.
///
/// # Errors
/// It cannot be started.
pub fn is_there() -> anyhow::Result<()> {
    let mut version = Command::new("curl");
    version.arg("--version").stdin(Stdio::null());
    let started = version.stdout(Stdio::null()).stderr(Stdio::null()).status();
    started.map(|_| ()).context(
        "the drill makes its calls with curl, which cannot be started here: install it (Debian: apt-get install curl). The \
         image has no other program: run `ringgate demo` in it, and on the machine the last command that the demo prints, \
         `ringgate drill --config $D/ringgate.toml`",
    )
}

impl Caller {
    /// This caller with more arguments.
    #[must_use]
    pub fn with(&self, args: &[&str]) -> Self {
        let mut caller = self.clone();
        caller.args.extend(args.iter().map(|&arg| arg.to_owned()));
        caller
    }

    /// Calls `url` and waits.
    ///
    /// # Errors
    /// If curl cannot be started.
    pub fn call(&self, url: &str) -> anyhow::Result<Answer> {
        let output = self
            .command(CALL_S)
            .args(["--include", "--suppress-connect-headers"])
            .arg(url)
            .stdin(Stdio::null())
            .output()
            .context("curl cannot be started; is it installed?")?;
        let mut answer = parse(&String::from_utf8_lossy(&output.stdout));
        answer.exit = output.status.code().unwrap_or(-1);
        answer.stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(answer)
    }

    /// Starts a download of `url` into `file` and leaves it running.
    ///
    /// # Errors
    /// If curl cannot be started.
    pub fn download(&self, url: &str, file: &Path) -> anyhow::Result<Download> {
        let child = self
            .command(DOWNLOAD_S)
            .args(["--no-buffer", "--output"])
            .arg(file)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("curl cannot be started; is it installed?")?;
        Ok(Download { child })
    }

    /// curl without the user's settings: no `.curlrc`, no proxies from the environment.
    fn command(&self, limit_s: &str) -> Command {
        let mut words = self.prefix.iter().map(String::as_str).chain(["curl"]);
        let mut command = Command::new(words.next().unwrap_or("curl"));
        command
            .args(words)
            .args(["-q", "-sS", "--max-time", limit_s])
            .args(&self.args);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }
}

/// A running download; it is ended when this is dropped.
#[derive(Debug)]
pub struct Download {
    child: Child,
}

impl Download {
    /// Exit code and error text once curl has ended within `limit`; `None` if it still runs.
    pub fn ended(&mut self, limit: Duration) -> Option<(i32, String)> {
        let mut exit = None;
        os::wait_until(limit, || {
            exit = self.child.try_wait().ok().flatten();
            exit.is_some()
        });
        let code = exit?.code().unwrap_or(-1);
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            os::ignore(std::io::Read::read_to_string(&mut stderr, &mut text));
        }
        Some((code, text.trim().to_owned()))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        os::ignore(self.child.kill());
        os::ignore(self.child.wait());
    }
}

/// Splits `curl --include` output; heads of interim responses (1xx) are skipped.
fn parse(output: &str) -> Answer {
    let mut rest = output;
    let mut answer = Answer::default();
    while rest.starts_with("HTTP/") {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let mut lines = head.split("\r\n");
        answer.status_line = lines.next().unwrap_or_default().trim().to_owned();
        answer.status = answer
            .status_line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        answer.headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        rest = body;
        if !(100..200).contains(&answer.status) {
            break;
        }
    }
    answer.body = rest.to_owned();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, status: u16, headers: usize, body: &str) {
        let answer = parse(output);
        assert_eq!(answer.status, status, "{output:?}");
        assert_eq!(answer.headers.len(), headers, "{output:?}");
        assert_eq!(answer.body, body, "{output:?}");
    }

    #[test]
    fn heads_and_bodies() {
        check("", 0, 0, "");
        check(
            "HTTP/1.1 403 Forbidden\r\nA: b\r\nC: d\r\n\r\nno",
            403,
            2,
            "no",
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/2 200 \r\nA: b\r\n\r\nHTTP/x",
            200,
            1,
            "HTTP/x",
        );
        check("HTTP/1.1 200 OK\r\nA: b", 200, 1, "");
    }
}
