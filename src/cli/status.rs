//! `ringgate status`: asks the admin listener of a running process how it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::os;
use crate::config;
use crate::control::http_client::HttpClient;

/// How long the process may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Nobody answers.
const UNREACHABLE: u8 = 2;

/// Whom to ask, and how to tell it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 it serves, 1 it does not yet or has problems, 2 it cannot be reached, or wrong usage.

Examples:
  ringgate status                                   # the process of /etc/ringgate/ringgate.toml
  ringgate status --admin http://127.0.0.1:15000
  ringgate status --output json | jq .sandbox"
)]
pub struct StatusArgs {
    /// Whom to ask.
    #[command(flatten)]
    pub whom: Whom,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// A process that runs.
#[derive(Debug, Args)]
pub struct Whom {
    /// Configuration file of the process, whose `admin.listen` is asked.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/ringgate/ringgate.toml",
        conflicts_with = "admin"
    )]
    pub config: PathBuf,
    /// Or the admin listener itself, such as http://127.0.0.1:15000.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
}

/// How to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people: what runs, and each problem.
    Text,
    /// One JSON object: the answer of `/status` as it is.
    Json,
}

/// Asks and prints.
pub fn run(args: &StatusArgs) -> ExitCode {
    let told = match args.whom.ask() {
        Ok(told) => told,
        Err(error) => {
            os::complain(&format!("ringgate: {error:#}"));
            if args.whom.admin.is_none() && error.is::<Silent>() {
                os::complain(&starting(&args.whom.config));
            }
            return ExitCode::from(UNREACHABLE);
        }
    };
    match args.output {
        Output::Text => os::say(&os::printable(&text(&told))),
        Output::Json => os::say(&told.to_string()),
    }
    let is_good = *at(&told, "/ready") == true && list(at(&told, "/problems")).is_empty();
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What is at this address does not answer.
#[derive(Clone, Debug)]
struct Silent(String);

impl std::fmt::Display for Silent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} does not answer", self.0)
    }
}

/// How the process of a configuration is started, and where it tells why it has ended: by its unit, where it is the file of one.
fn starting(config: &Path) -> String {
    let unit = std::path::absolute(config).ok().and_then(|path| {
        let name = path.file_stem()?.to_str()?;
        let is_there = path.parent() == Some(Path::new("/etc/ringgate"));
        let is_toml = path.extension().is_some_and(|e| e == "toml");
        let unit = if name == "ringgate" {
            name.to_owned()
        } else {
            format!("ringgate@{name}")
        };
        (is_there && is_toml).then_some(unit)
    });
    match unit {
        Some(unit) => format!(
            "ringgate: if it does not run: `systemctl start {unit}`; why it has ended: `journalctl -u {unit}`"
        ),
        None => format!(
            "ringgate: if it does not run: `ringgate run --config {}`",
            config.display()
        ),
    }
}

impl Whom {
    /// The answer of `/status`.
    ///
    /// # Errors
    /// There is no listener to ask, or it does not answer with a status.
    pub(super) fn ask(&self) -> anyhow::Result<Value> {
        let base = self.base()?.with_context(|| {
            let file = self.config.display();
            format!("{file}: [admin] is not set, expected `listen` there, or `--admin URL`")
        })?;
        asked(&base)
    }

    /// Where it listens, such as `http://127.0.0.1:15000`; `None` if the configuration has no such listener.
    ///
    /// # Errors
    /// The configuration is refused, and does not tell where either.
    pub(super) fn base(&self) -> anyhow::Result<Option<String>> {
        let admin = match &self.admin {
            Some(url) if url.contains("://") => {
                return Ok(Some(url.trim_end_matches('/').to_owned()));
            }
            Some(address) => return Ok(Some(format!("http://{address}"))),
            None => {
                let file = self.config.display();
                match (
                    config::load(&self.config),
                    config::admin_listen(&self.config),
                ) {
                    (Ok(config), _) => config.process.admin,
                    // The process may run by what the file held before.
                    (Err(_), Some(listen)) => {
                        os::complain(&format!(
                            "ringgate: {file} is refused now (`ringgate check`); who listens at {listen} is asked"
                        ));
                        Some(listen)
                    }
                    (Err(errors), None) => anyhow::bail!(
                        "{errors}\n`--admin URL` asks a process whatever its file says now"
                    ),
                }
            }
        };
        Ok(admin.map(|admin| format!("http://{}", reachable(admin))))
    }
}

/// What `/status` of this listener answers.
pub(super) fn asked(base: &str) -> anyhow::Result<Value> {
    asked_within(base, ANSWER)
}

/// As `asked`, for who may be no process of ours.
pub(super) fn asked_within(base: &str, limit: Duration) -> anyhow::Result<Value> {
    let url = format!("{base}/status");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = HttpClient::of_listener();
    let body = runtime
        .block_on(client.get(&url, limit))
        .with_context(|| Silent(url.clone()))?;
    serde_json::from_slice(&body).with_context(|| format!("{url} does not answer with a status"))
}

/// Where a listener of all addresses is reached.
pub(super) fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

/// What is at a path (RFC 6901); null if nothing.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> &'v Value {
    value.pointer(path).unwrap_or(&Value::Null)
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            other.to_string()
        }
    }
}

/// `90s`, `5m`, `3h 20m`, `4d 2h`.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn ago(unix_s: &Value) -> String {
    let then = unix_s.as_u64().unwrap_or_default();
    format!("{} ago", span(os::unix_s().saturating_sub(then)))
}

/// One fact a line.
fn text(told: &Value) -> String {
    let of = |key: &str| word(at(told, &format!("/{key}")));
    let roles: Vec<String> = list(at(told, "/roles")).iter().map(word).collect();
    let state = if *at(told, "/ready") == true {
        "serves"
    } else {
        "does not serve"
    };
    let up = at(told, "/uptimeSeconds").as_u64().unwrap_or_default();
    let mut lines = vec![
        format!(
            "{} {state}: ringgate {}, pid {}, up {}",
            of("name"),
            of("version"),
            of("pid"),
            span(up)
        ),
        format!(
            "roles        {}; {} on {} cores",
            roles.join(", "),
            of("driver"),
            of("cores")
        ),
        format!(
            "generation   {}, loaded {}",
            of("generation"),
            ago(at(told, "/loadedAt"))
        ),
    ];
    if !at(told, "/refusedAt").is_null() {
        lines.push(format!(
            "refused      a reload, {}; the generation above goes on",
            ago(at(told, "/refusedAt"))
        ));
    }
    let problems = list(at(told, "/problems")).iter();
    lines.extend(problems.map(|problem| format!("problem      {}", word(problem))));
    if !at(told, "/upgrade").is_null() {
        lines.push(format!("upgrade      {}", of("upgrade")));
    }
    for listener in list(at(told, "/listeners")) {
        let (address, what) = (word(at(listener, "/address")), word(at(listener, "/what")));
        lines.push(format!("listener     {address} {what}"));
    }
    lines.extend(list(at(told, "/certificates")).iter().map(certificate));
    for identity in list(at(told, "/identities/identities")) {
        let left = at(identity, "/secondsLeft").as_u64().unwrap_or_default();
        let (id, left) = (word(at(identity, "/id")), span(left));
        lines.push(format!("identity     {id}, {left} left"));
    }
    let (open, refused) = (
        word(at(told, "/connections/open")),
        word(at(told, "/connections/refused")),
    );
    lines.push(format!("connections  {open} open, {refused} refused"));
    lines.extend(sandbox(at(told, "/sandbox")));
    lines.join("\n")
}

/// Names of a certificate that are told; `--output json` has all.
const NAMES: usize = 3;

fn certificate(told: &Value) -> String {
    let of = |key: &str| word(at(told, &format!("/{key}")));
    let names = list(at(told, "/hostnames"));
    let mut shown: Vec<String> = names.iter().take(NAMES).map(word).collect();
    let more = names.len().saturating_sub(NAMES);
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    if *at(told, "/otherNames") == true {
        shown.push("other names".to_owned());
    }
    if shown.is_empty() {
        shown.push("no server name".to_owned());
    }
    let left = at(told, "/secondsLeft").as_u64().unwrap_or_default();
    let (listener, file) = (of("listener"), of("certificate"));
    let (names, left) = (shown.join(", "), span(left));
    format!("certificate  {file} at {listener} for {names}, {left} left")
}

fn sandbox(told: &Value) -> Vec<String> {
    if told.is_null() {
        return vec!["sandbox      not yet".to_owned()];
    }
    let mut lines = vec![format!("sandbox      {}", word(at(told, "/mode")))];
    for measure in list(at(told, "/measures")) {
        let state = if *at(measure, "/partial") == true {
            "partial"
        } else if *at(measure, "/active") == true {
            "active"
        } else {
            "not active"
        };
        let (name, detail) = (word(at(measure, "/name")), word(at(measure, "/detail")));
        lines.push(format!("  {name:<12} {state}: {detail}"));
    }
    let threads = list(at(told, "/threads"));
    let with = |key: &str| {
        threads
            .iter()
            .filter(|t| *at(t, &format!("/{key}")) == true)
            .count()
    };
    lines.push(format!(
        "  threads      {}: {} without new privileges, {} with filtered calls",
        threads.len(),
        with("noNewPrivs"),
        with("seccomp")
    ));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(span(119), "119s");
        assert_eq!(span(120), "2m");
        assert_eq!(span(7260), "2h 1m");
        assert_eq!(span(180_000), "2d 2h");
    }

    #[test]
    fn a_listener_of_all_addresses_is_asked_on_loopback() {
        let at = |text: &str| reachable(text.parse().unwrap()).to_string();
        assert_eq!(at("0.0.0.0:15000"), "127.0.0.1:15000");
        assert_eq!(at("[::]:15000"), "[::1]:15000");
        assert_eq!(at("127.9.9.9:1"), "127.9.9.9:1");
    }
}
