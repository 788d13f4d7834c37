//! `ringgate authority`: join tokens, nodes, revocations and the rotation of the root.
//!
//! A running authority is told by the socket in its state directory; the state of one that does not run is changed in
//! place.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rustls::pki_types::UnixTime;
use serde_json::Value;

use super::{ConfigArgs, os};
use crate::config::{self, checked};
use crate::control::authority::control::{self, Command};
use crate::control::authority::{self, Authority, ledger};
use crate::control::join_token_file;
use crate::control::plane;
use crate::identity::revocation::{NodeName, Target};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;
use crate::vocab::text::chain;

/// How long the running authority may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// `ringgate authority`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 done, 1 refused or nobody answers, 2 wrong usage.

Examples:
  ringgate authority roots > root-ca.pem
  ringgate authority token create --node vm-1 --workload default/web > join-token
  ringgate authority node list
  ringgate authority revoke --node vm-1 --reason stolen
  ringgate authority status --json"
)]
pub struct AuthorityArgs {
    /// Configuration with the [authority].
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Answers as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: AuthorityCommand,
}

/// What to do with the authority.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Join tokens: a node uses one once, and then needs none any more.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Nodes that have joined.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Revoke a certificate, an identity or a node: open connections end within a second, nothing is issued for it.
    Revoke(RevokeArgs),
    /// Undo a revocation.
    Unrevoke(TargetArgs),
    /// List revocations.
    Revocations,
    /// Replace the root: both are trusted for the overlap, then the new one signs, and after as long again the old one
    /// leaves.
    RotateRoot(RotateArgs),
    /// Print the trusted roots as PEM: the `rootCa` of other processes.
    Roots,
    /// Roots, rotation, and which nodes have not been told of the last change.
    Status,
    /// Make an empty ledger where it is lost for good: nothing is revoked then, and every node has to join again.
    NewLedger,
}

/// Join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it; it is shown this once.
    Create(CreateArgs),
    /// List tokens, without what they are.
    List,
    /// Make a token useless.
    Revoke {
        /// Name, as listed.
        name: String,
    },
}

/// Nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List nodes and what they may ask for.
    List,
    /// Replace what a node may ask for.
    Grant(GrantNodeArgs),
    /// Forget a node: it gets nothing until it joins anew. What it has lives on; `revoke --node` ends that, too.
    Remove {
        /// Name.
        name: String,
    },
}

/// What a node may ask for. Nothing that is not named.
#[derive(Debug, Args)]
pub struct GrantArgs {
    /// Workload entry `namespace/name` of the configuration: its SPIFFE ID and the hosts of its services.
    #[arg(long, value_name = "NS/NAME")]
    pub workload: Vec<String>,
    /// Gateway `namespace/name` of the configuration: its SPIFFE ID and the hosts that it serves.
    #[arg(long, value_name = "NS/NAME")]
    pub gateway: Vec<String>,
    /// SPIFFE ID.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub id: Vec<String>,
    /// DNS name that may stand beside it.
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
}

/// `ringgate authority token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the node.
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// How long it may take to use it.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub ttl: String,
    /// Grants.
    #[command(flatten)]
    pub grant: GrantArgs,
}

/// `ringgate authority node grant`.
#[derive(Debug, Args)]
pub struct GrantNodeArgs {
    /// Name of the node.
    pub name: String,
    /// Grants.
    #[command(flatten)]
    pub grant: GrantArgs,
}

/// What a revocation is about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TargetArgs {
    /// Serial number of one certificate, hexadecimal.
    #[arg(long, value_name = "HEX")]
    pub serial: Option<String>,
    /// SPIFFE ID, whatever certificate proves it.
    #[arg(long, value_name = "SPIFFE_ID")]
    pub id: Option<String>,
    /// Node: its own identity and all certificates that were issued to it.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// `ringgate authority revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// What.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Why, for the list of revocations.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
    /// Also an identity or node that nothing here names.
    #[arg(long)]
    pub force: bool,
}

/// `ringgate authority rotate-root`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// How long both roots are trusted before and after the new one begins to sign; at least the longest life of what
    /// is issued.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub overlap: String,
}

/// Runs `ringgate authority`.
///
/// # Errors
/// What the configuration, the state directory or the authority says.
pub fn run(args: &AuthorityArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.config.config).map_err(|e| anyhow::anyhow!("{e}"))?;
    let checked::IdentitySource::Embedded(settings) = &config.process.identity else {
        bail!("`{}` has no [authority]", args.config.config.display());
    };
    let Some(dir) = &settings.state_dir else {
        bail!("the [authority] has no stateDir: what it is told would be lost with the process");
    };
    if let AuthorityCommand::Revoke(args) = &args.command
        && !args.force
    {
        known(
            &args.target,
            &|command| done(dir, &config, settings, command),
            &config,
            settings,
        )?;
    }
    let answer = match command(&args.command, &config)? {
        Some(command) => done(dir, &config, settings, &command)?,
        None => {
            ledger::make_anew(dir, longest_life(settings), UnixTime::now())?;
            Value::Null
        }
    };
    if args.json {
        os::say(&answer.to_string());
    } else {
        for line in text(&args.command, &answer) {
            os::say(&line);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the running authority do it, or does it to the state of one that does not run.
fn done(
    dir: &Path,
    config: &config::Config,
    settings: &checked::Authority,
    command: &Command,
) -> anyhow::Result<Value> {
    let mut outcome = Err(anyhow::anyhow!("nobody answers"));
    // An authority that has its state, and not yet or no longer its socket, is starting or ending.
    os::wait_until(ANSWER, || {
        outcome = ask(&authority::socket(dir), command).and_then(|answer| match answer {
            Some(answer) => Ok(answer),
            None => perform(dir, config, settings, command),
        });
        !matches!(&outcome, Err(error) if is_locked(error))
    });
    outcome
}

/// How long the longest-lived certificate lives.
fn longest_life(settings: &checked::Authority) -> Duration {
    Duration::from_secs(settings.svid_ttl_s.max(settings.node_ttl_s))
}

/// What the authority is told; `None` for what it is not there to be told.
fn command(command: &AuthorityCommand, config: &config::Config) -> anyhow::Result<Option<Command>> {
    Ok(Some(match command {
        AuthorityCommand::NewLedger => return Ok(None),
        AuthorityCommand::Token(TokenCommand::Create(args)) => Command::TokenCreate {
            node: args.node.clone(),
            grant: grant(&args.grant, config)?,
            ttl: seconds(&args.ttl)?,
        },
        AuthorityCommand::Token(TokenCommand::List) => Command::TokenList,
        AuthorityCommand::Token(TokenCommand::Revoke { name }) => Command::TokenRevoke {
            token: name.clone(),
        },
        AuthorityCommand::Node(NodeCommand::List) => Command::NodeList,
        AuthorityCommand::Node(NodeCommand::Grant(args)) => Command::NodeGrant {
            node: args.name.clone(),
            grant: grant(&args.grant, config)?,
        },
        AuthorityCommand::Node(NodeCommand::Remove { name }) => {
            Command::NodeRemove { node: name.clone() }
        }
        AuthorityCommand::Revoke(args) => {
            let (kind, value) = target(&args.target);
            Command::Revoke {
                kind,
                value,
                reason: args.reason.clone(),
            }
        }
        AuthorityCommand::Unrevoke(args) => {
            let (kind, value) = target(args);
            Command::Unrevoke { kind, value }
        }
        AuthorityCommand::Revocations => Command::Revocations,
        AuthorityCommand::RotateRoot(args) => Command::RotateRoot {
            overlap: seconds(&args.overlap)?,
        },
        AuthorityCommand::Roots => Command::Roots,
        AuthorityCommand::Status => Command::Status,
    }))
}

/// Kind and value of what a revocation is about.
fn target(args: &TargetArgs) -> (String, String) {
    match (&args.serial, &args.id, &args.node) {
        (Some(serial), ..) => ("serial".to_owned(), serial.clone()),
        (None, Some(id), _) => ("id".to_owned(), id.clone()),
        (None, None, node) => ("node".to_owned(), node.clone().unwrap_or_default()),
    }
}

/// Refuses to revoke what nothing here names, for it may be misspelt. Serial numbers of certificates are kept nowhere.
fn known(
    args: &TargetArgs,
    ask: &dyn Fn(&Command) -> anyhow::Result<Value>,
    config: &config::Config,
    settings: &checked::Authority,
) -> anyhow::Result<()> {
    let (kind, value) = target(args);
    let (nodes, tokens) = match ledger::target(&kind, &value)? {
        Target::Serial(_) => return Ok(()),
        Target::Id(_) | Target::Node(_) => {
            let asked = |command: &Command| {
                ask(command).with_context(|| {
                    format!("whether there is a {kind} `{value}` cannot be asked; `--force` revokes without asking")
                })
            };
            (asked(&Command::NodeList)?, asked(&Command::TokenList)?)
        }
    };
    let rows = |all: &Value| -> Vec<Value> {
        let rows = all.as_object().into_iter().flatten();
        rows.map(|(_name, row)| row.clone()).collect()
    };
    let is_node = |name: &str| {
        nodes.get(name).is_some() || rows(&tokens).iter().any(|t| word(t, "node") == name)
    };
    let found = match ledger::target(&kind, &value)? {
        Target::Serial(_) => true,
        Target::Node(node) => is_node(&node.to_string()),
        Target::Id(id) => {
            let mesh = &config.mesh;
            let own = NodeName::of(&id).is_some_and(|node| is_node(&node.to_string()));
            let written = mesh.workloads.iter().any(|w| w.id == id)
                || mesh.gateways.iter().any(|g| g.id == id);
            let granted = rows(&nodes).iter().chain(&rows(&tokens)).any(|row| {
                let words = row.get("grant").and_then(Value::as_array);
                words.into_iter().flatten().any(|word| word == id.as_str())
            });
            own || written || granted || may_be_asked_for(&id, settings.join_tokens.as_ref())?
        }
    };
    if !found {
        let what = if kind == "id" { "identity" } else { "node" };
        bail!(
            "no workload, gateway, node or join token has the {what} `{value}`: nothing is revoked; with --force it is, \
             for whoever gets it later, or still holds it"
        );
    }
    Ok(())
}

/// Whether who holds a token of the file of join tokens may ask for it.
fn may_be_asked_for(id: &SpiffeId, secret: Option<&checked::Secret>) -> anyhow::Result<bool> {
    let Some(secret) = secret else {
        return Ok(false);
    };
    let tokens = join_token_file::read_again(secret).with_context(|| {
        format!(
            "whether a join token is for `{id}` cannot be read; `--force` revokes without asking"
        )
    })?;
    Ok(tokens.allows_id(id))
}

/// Whole seconds of `30s`, `15m`, `24h` or `7d`.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let bad = || format!("`{text}` is no time such as 30s, 15m, 24h or 7d");
    let at = text.len().saturating_sub(1);
    let (number, unit) = text.split_at_checked(at).with_context(bad)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => bail!(bad()),
    };
    let number: u64 = number.parse().with_context(bad)?;
    number.checked_mul(factor).with_context(bad)
}

/// The words that the ledger keeps: of workloads and gateways, what a process that serves them asks for.
fn grant(args: &GrantArgs, config: &config::Config) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    for name in &args.workload {
        let wanted = plane::wanted_of_workload(&config.mesh, name)
            .with_context(|| format!("there is no workloadEntry `{name}`"))?;
        words.push(wanted.id.to_string());
        words.extend(wanted.dns_names.iter().map(|n| format!("dns:{n}")));
    }
    for name in &args.gateway {
        let wanted = plane::wanted_of_gateway(&config.mesh, name)
            .with_context(|| format!("there is no gateway `{name}`"))?;
        words.push(wanted.id.to_string());
        words.extend(wanted.dns_names.iter().map(|n| format!("dns:{n}")));
    }
    words.extend(args.id.iter().cloned());
    words.extend(args.dns.iter().map(|name| format!("dns:{name}")));
    words.sort_unstable();
    words.dedup();
    Ok(words)
}

fn is_locked(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<authority::AuthorityError>();
    matches!(
        error,
        Some(authority::AuthorityError::Locked(_) | authority::AuthorityError::Elsewhere(_))
    )
}

/// Asks the running authority; `None` if there is none.
fn ask(socket: &Path, command: &Command) -> anyhow::Result<Option<Value>> {
    let fail = || format!("the authority at `{}` does not answer", socket.display());
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(e).with_context(fail),
    };
    stream.set_read_timeout(Some(ANSWER)).with_context(fail)?;
    stream.set_write_timeout(Some(ANSWER)).with_context(fail)?;
    let mut line = serde_json::to_string(command)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).with_context(fail)?;
    let mut answer = String::new();
    BufReader::new(stream.take(limits::CONTROL_LINE_BYTES))
        .read_line(&mut answer)
        .with_context(fail)?;
    let answer: Value = serde_json::from_str(&answer).with_context(fail)?;
    if answer.get("again") == Some(&Value::Bool(true)) {
        let dir = socket.parent().unwrap_or(socket);
        return Err(authority::AuthorityError::Elsewhere(dir.to_owned()).into());
    }
    match (answer.get("done"), answer.get("error")) {
        (Some(done), _) => Ok(Some(done.clone())),
        (None, error) => bail!(
            "{}",
            error
                .and_then(Value::as_str)
                .unwrap_or("answer not understood")
        ),
    }
}

/// Changes the state of an authority that does not run.
fn perform(
    dir: &Path,
    config: &config::Config,
    settings: &checked::Authority,
    command: &Command,
) -> anyhow::Result<Value> {
    if settings.issuing.is_some() {
        bail!("the authority does not run, and only while it runs is its issuing CA here");
    }
    let now = UnixTime::now();
    let authority = Authority::open(dir, config.mesh.trust_domain.clone(), now)?
        .with_longest_life(longest_life(settings));
    control::perform(&authority, command, now).map_err(|error| anyhow::anyhow!("{}", chain(&error)))
}

/// A value of an answer as a word.
fn word(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// A list of an answer as words.
fn list(value: &Value, key: &str) -> String {
    let items = value.get(key).and_then(Value::as_array);
    let items: Vec<&str> = items
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    items.join(" ")
}

fn token_line(name: &str, token: &Value) -> String {
    let has = |key: &str| token.get(key).is_some_and(|v| !v.is_null());
    let state = match (has("revoked"), has("used")) {
        (true, _) => "revoked",
        (false, true) => "used",
        (false, false) => "unused",
    };
    let (node, expires) = (word(token, "node"), word(token, "expires"));
    let (refused, grant) = (word(token, "refused"), list(token, "grant"));
    format!("{name}  node={node}  {state}  expires={expires}  refused={refused}  {grant}")
}

fn revocation_line(entry: &Value) -> String {
    let (kind, value) = (word(entry, "kind"), word(entry, "value"));
    let (time, reason) = (word(entry, "time"), word(entry, "reason"));
    format!("{kind} {value}  since={time}  {reason}")
}

fn status_lines(answer: &Value) -> Vec<String> {
    let (nodes, revocations) = (word(answer, "nodes"), word(answer, "revocations"));
    let behind = list(answer, "nodesBehind");
    vec![
        format!("trust domain {}", word(answer, "trustDomain")),
        format!("roots {}", word(answer, "roots")),
        format!("rotation {}", word(answer, "rotation")),
        format!("{nodes} nodes, {revocations} revocations"),
        format!("not told of the last change: {behind}"),
    ]
}

/// The answer for people.
fn text(command: &AuthorityCommand, answer: &Value) -> Vec<String> {
    let rows = answer.as_object().into_iter().flatten();
    match command {
        AuthorityCommand::Token(TokenCommand::Create(_)) => vec![word(answer, "token")],
        AuthorityCommand::Token(TokenCommand::List) => {
            rows.map(|(name, token)| token_line(name, token)).collect()
        }
        AuthorityCommand::Node(NodeCommand::List) => rows
            .map(|(name, node)| {
                let (joined, grant) = (word(node, "joined"), list(node, "grant"));
                format!("{name}  joined={joined}  {grant}")
            })
            .collect(),
        AuthorityCommand::Revocations => {
            let entries = answer.as_array().into_iter().flatten();
            entries.map(revocation_line).collect()
        }
        AuthorityCommand::RotateRoot(_) => vec![format!(
            "root {} is trusted now, signs from {}, and root {} leaves at {} (Unix time)",
            word(answer, "next"),
            word(answer, "activates"),
            word(answer, "old"),
            word(answer, "retires")
        )],
        AuthorityCommand::Roots => {
            let pem = answer.as_str().unwrap_or_default();
            pem.lines().map(str::to_owned).collect()
        }
        AuthorityCommand::Status => status_lines(answer),
        AuthorityCommand::Token(TokenCommand::Revoke { name }) => {
            vec![format!("join token {name} lets nobody join any more")]
        }
        AuthorityCommand::Node(NodeCommand::Grant(args)) => {
            vec![format!(
                "node {} may ask for what is named here, and nothing else",
                args.name
            )]
        }
        AuthorityCommand::Node(NodeCommand::Remove { name }) => vec![format!(
            "node {name} is forgotten: it gets nothing until it joins anew, and what it has lives on"
        )],
        AuthorityCommand::Revoke(args) => {
            let (kind, value) = target(&args.target);
            vec![format!(
                "{kind} {value} is revoked: nothing is issued for it, and open connections with it end; to undo it: \
                 ringgate authority unrevoke --{kind} {value}"
            )]
        }
        AuthorityCommand::Unrevoke(args) => {
            let (kind, value) = target(args);
            vec![format!("{kind} {value} is not revoked any more")]
        }
        AuthorityCommand::NewLedger => vec!["the ledger is new and empty".to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_file_that_cannot_be_read_names_nobody_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let secret = checked::Secret::File(path.clone());
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let asked = || may_be_asked_for(&id, Some(&secret));
        assert!(!asked().unwrap(), "it was taken away");
        let put = |text: &str| os::write(&path, text.as_bytes(), 0o600).unwrap();
        put("0123456789abcdef spiffe://cluster.local/ns/a/*\n");
        assert!(asked().unwrap());
        put("no token\n");
        assert!(asked().unwrap_err().to_string().contains("--force"));
    }

    #[test]
    fn times() {
        for (text, want) in [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(seconds(text).unwrap(), want);
        }
        for bad in ["", "s", "10", "-1s", "1w", "é", "99999999999999999999h"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
