//! `ringgate explain`: who would decide about a call, by which rule, and what would have to change.
//!
//! The configuration is compiled as for a start, and the call goes the way that a connection takes: the same plan, the same
//! engine. A call is given by arguments or taken from a decision record.

mod compare;
mod question;
mod record;
mod report;
mod text;
mod tokens;
mod way;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::ConfigArgs;
use super::os;
use crate::cli::status::reachable;
use crate::config::Config;
use crate::control::http_client::HttpClient;
use crate::exchange::close::CloseReason;
use crate::role::enforcement::Enforcements;
use crate::role::remedy::{self, Breadth, Edit};
use crate::role::walk::{Assumed, Hop, Stop};

use self::question::Asked;
use self::report::{Subject, shown};

pub use self::report::Report;
use self::tokens::Verifier;

/// Exit code of a usage error, and of a configuration or record that cannot be read: neither allowed nor denied.
const USAGE: u8 = 2;
/// How long the admin listener may take.
const ADMIN: Duration = Duration::from_secs(2);

/// Form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// Arguments of `ringgate explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code: 0 allowed, 1 denied, 2 wrong usage or a configuration or record that cannot be read.

To is a host name (of a service, or outside the mesh), an address, `workload:NAMESPACE/NAME`, `service:NAMESPACE/NAME` or
`gateway:NAMESPACE/NAME`. NAMESPACE/NAME alone is a workload, if there is one, else a service or a gateway.

Examples:
  ringgate explain --config FILE --from default/reviews-service --to customer-api --path /api/v1/users/7
  ringgate explain --config FILE --from anonymous --to gateway:edge/public --host portal.example.test \\
      --claims '{\"iss\":\"https://auth.example.test\",\"sub\":\"alice\"}'
  tail -n 1 decisions.jsonl | ringgate explain --config FILE --record -"
)]
pub struct ExplainArgs {
    /// Configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The call.
    #[command(flatten)]
    pub call: CallArgs,
    /// Instead of a call: a decision record, or `-` for standard input.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["from", "to", "log"])]
    pub record: Option<String>,
    /// Instead of a call: a decision log to take the record from.
    #[arg(long, value_name = "FILE", requires = "id", conflicts_with_all = ["from", "to"])]
    pub log: Option<PathBuf>,
    /// The `id` of the record in the log, or the `x-request-id` of a request: its first denial, else its last record.
    #[arg(long, value_name = "ID", requires = "log")]
    pub id: Option<String>,
    /// Ask the running process, at `admin.listen`, which generation it is at.
    #[arg(long)]
    pub running: bool,
    /// Form of the answer.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// A call that somebody might make.
#[derive(Debug, Default, Args)]
pub struct CallArgs {
    /// Who calls: a SPIFFE ID, a workload as NAMESPACE/NAME, or `anonymous`.
    #[arg(long, value_name = "ID", required_unless_present_any = ["record", "log"])]
    pub from: Option<String>,
    /// Who is called; see below.
    #[arg(long, value_name = "TO", required_unless_present_any = ["record", "log"])]
    pub to: Option<String>,
    /// Port; the first of the service if it is left out.
    #[arg(long)]
    pub port: Option<u16>,
    /// Method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// Path, with its query.
    #[arg(long, default_value = "/")]
    pub path: String,
    /// Host of the request; that of the destination if it is left out.
    #[arg(long)]
    pub host: Option<String>,
    /// A header field, `name: value`; may be repeated.
    #[arg(long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
    /// Bytes that are not HTTP.
    #[arg(long, conflicts_with_all = ["headers", "host", "token", "claims"])]
    pub no_http: bool,
    /// An end user's token, sent as `authorization: Bearer`.
    #[arg(long, value_name = "JWT", conflicts_with = "claims")]
    pub token: Option<String>,
    /// Claims of a token that verifies, one JSON object.
    #[arg(long, value_name = "JSON")]
    pub claims: Option<String>,
    /// Key set that stands for those of `jwksUri` and of discovery.
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<PathBuf>,
    /// Address of the caller; that of its workload if it is left out.
    #[arg(long, value_name = "ADDRESS")]
    pub source_ip: Option<std::net::IpAddr>,
    /// Server name of a TLS client hello.
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// When, RFC 3339 or seconds since 1970; now if it is left out.
    #[arg(long, value_name = "TIME")]
    pub time: Option<String>,
    /// What the provider of a CUSTOM policy answers, `NAME=allow` or `NAME=deny`; all allow if it is left out.
    #[arg(long = "custom", value_name = "ANSWER")]
    pub custom: Vec<String>,
}

/// Runs the command.
#[must_use]
pub fn run(args: &ExplainArgs) -> ExitCode {
    let config = match crate::config::load(&args.config.config) {
        Ok(config) => config,
        Err(errors) => {
            os::complain(&errors.to_string());
            return ExitCode::from(USAGE);
        }
    };
    let report = explain(&config, args);
    match report {
        Ok(report) => {
            let text = match args.output {
                Output::Text => text::render(&report),
                Output::Json => report.to_json(),
            };
            os::say(text.trim_end());
            ExitCode::from(u8::from(!report.is_allowed()))
        }
        Err(error) => {
            os::complain(&format!("ringgate: {error:#}"));
            ExitCode::from(USAGE)
        }
    }
}

/// Explains a call or a record by a configuration.
///
/// # Errors
/// What is wrong with the arguments or the record.
pub fn explain(config: &Config, args: &ExplainArgs) -> anyhow::Result<Report> {
    let mut mesh = Arc::clone(&config.mesh);
    let mut verifier = Verifier::new(&args.call, &mut mesh)?;
    let rules = Enforcements::build(Arc::clone(&mesh))?;
    let recorded = record::of(args)?;
    let (asked, recorded) = match recorded {
        Some(recorded) => (recorded.asked(&rules, args)?, Some(recorded)),
        None => (question::of(&rules, &args.call, &verifier)?, None),
    };
    let refusing = question::refusing(&rules.mesh, &args.call.custom)?;
    let mut again = |rules: &Enforcements| -> Vec<Hop> {
        let mut verify = |rules: &crate::jwt::TokenRules, request: &crate::policy::Request| {
            verifier.verify(rules, request, asked.claims())
        };
        let mut assumed = Assumed {
            verify: &mut verify,
            refusing: &refusing,
        };
        asked.walk(rules, &mut assumed)
    };
    let mut hops = again(&rules);
    // With `--claims` it is told what policies would say of a token that is good.
    let refused = recorded.as_ref().and_then(record::Recorded::refused_token);
    let refused = refused.filter(|_| args.call.claims.is_none());
    for hop in &mut hops {
        if let Some((_status, why)) = refused {
            hop.stop = Some(Stop::Close(CloseReason::Token, shown(why)));
        }
    }
    // No policy has refused what came with a bad token.
    let denied = refused.is_none() && hops.iter().any(|hop| !hop.allows() || hop.would_deny());
    let mut ways: Vec<(Breadth, Vec<Edit>)> = Vec::new();
    for breadth in [Breadth::Narrow, Breadth::Wide] {
        if denied && let Some(edits) = remedy::edits(&mesh, breadth, &mut again) {
            let known = ways.iter().any(|(_, known)| *known == edits);
            if !known && !edits.is_empty() {
                ways.push((breadth, edits));
            }
        }
    }
    Ok(Report::new(&Subject {
        config,
        rules: &rules,
        asked: &asked,
        hops: &hops,
        ways: &ways,
        recorded: recorded.as_ref(),
        refused,
        with_claims: args.call.claims.is_some(),
        running: if args.running {
            Some(running(config)?)
        } else {
            None
        },
        notes: verifier.notes(),
    }))
}

/// The generation of the running process.
fn running(config: &Config) -> anyhow::Result<u64> {
    let admin = config.process.admin;
    let admin = admin.context("`--running`: the configuration has no `admin.listen`")?;
    let url = format!("http://{}/generation", reachable(admin));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = HttpClient::of_listener();
    let body = runtime
        .block_on(client.get(&url, ADMIN))
        .with_context(|| format!("`--running`: {url}"))?;
    let text = String::from_utf8_lossy(&body).into_owned();
    text.trim()
        .parse()
        .with_context(|| format!("`--running`: {url} answers no number"))
}

impl Asked {
    fn walk(&self, rules: &Enforcements, assumed: &mut Assumed<'_>) -> Vec<Hop> {
        match self {
            Self::Call { call, .. } => crate::role::walk::walk(rules, call, assumed),
            Self::Bad { .. } | Self::Redirected { .. } => Vec::new(),
            Self::Point {
                place,
                point,
                connection,
                request,
                ..
            } => crate::role::walk::judge_at(
                rules,
                (*place, point),
                connection.clone(),
                request.clone(),
                assumed,
            )
            .into_iter()
            .collect(),
            Self::Departure { call } => {
                let mut hops = crate::role::walk::walk(rules, call, assumed);
                hops.truncate(1);
                hops
            }
        }
    }
}
