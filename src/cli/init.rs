//! `ringgate init`: a first configuration for the roles that are wanted, with comments, to be changed from there.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;

use crate::cli::{ConfigArgs, os};
use crate::config;

/// Readable by the user of the service, whoever that is: it may name files of secrets, and holds none.
const MODE: u32 = 0o644;
const DIRECTORY: u32 = 0o755;

/// `ringgate init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 written, 1 a file is there already or cannot be written, 2 wrong usage.

Examples:
  ringgate init --all-in-one --config ringgate.toml     # every role, on loopback addresses
  ringgate init --role authority                        # on one machine,
  ringgate init --role node --role waypoint             # on another
  ringgate init --role ingress --print"
)]
pub struct InitArgs {
    /// Role of the process; may be repeated.
    #[arg(
        long,
        value_enum,
        value_name = "ROLE",
        required_unless_present = "all_in_one"
    )]
    pub role: Vec<Role>,
    /// All roles in one process, on loopback addresses.
    #[arg(long, conflicts_with = "role")]
    pub all_in_one: bool,
    /// Where to write it.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Replace a file that is there.
    #[arg(long)]
    pub force: bool,
    /// Print it, and write nothing.
    #[arg(long, conflicts_with = "force")]
    pub print: bool,
}

/// A role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Issues identities, for a mesh without another CA.
    Authority,
    /// mTLS for the workloads of a machine.
    Node,
    /// Tokens and L7 policies in front of services.
    Waypoint,
    /// The way in from outside.
    Ingress,
    /// The way out.
    Egress,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::Authority,
        Self::Node,
        Self::Waypoint,
        Self::Ingress,
        Self::Egress,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Node => "node",
            Self::Waypoint => "waypoint",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Authority => include_str!("init/authority.toml"),
            Self::Node => include_str!("init/node.toml"),
            Self::Waypoint => include_str!("init/waypoint.toml"),
            Self::Ingress => include_str!("init/ingress.toml"),
            Self::Egress => include_str!("init/egress.toml"),
        }
    }

    /// What its token has to grant.
    fn grants(self) -> &'static str {
        match self {
            Self::Authority => "",
            Self::Node => " --workload default/web --workload default/api",
            Self::Waypoint => " --gateway default/waypoint",
            Self::Ingress => " --gateway edge/public",
            Self::Egress => " --gateway egress/egress",
        }
    }
}

/// Writes or prints it.
///
/// # Errors
/// If the file is there already, or cannot be written.
pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let mut roles = args.role.clone();
    roles.sort_unstable();
    roles.dedup();
    let text = if args.all_in_one {
        written(&Role::ALL, true)
    } else {
        written(&roles, false)
    };
    // What is written here is what `check` takes: nobody should begin with an error of ours.
    let path = &args.config.config;
    config::parse(&[("ringgate.toml".into(), text.clone())], Path::new("/"))
        .map_err(|errors| anyhow::anyhow!("{errors}"))?;
    if args.print {
        os::say(text.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    if !args.force && path.symlink_metadata().is_ok() {
        bail!("`{}` is there already; --force replaces it", path.display());
    }
    if let Some(directory) = path
        .parent()
        .filter(|d| !d.as_os_str().is_empty() && !d.exists())
    {
        os::make_dir(directory, DIRECTORY)?;
    }
    os::write(path, text.as_bytes(), MODE)?;
    let shown = path.display();
    os::say(&format!(
        "{shown} is written. Change addresses, names and policies in it, then:"
    ));
    os::say(&format!("  ringgate check --config {shown}"));
    os::say(&format!("  ringgate run --config {shown}"));
    Ok(ExitCode::SUCCESS)
}

/// The text for these roles, in the order of a call through the mesh.
fn written(roles: &[Role], all_in_one: bool) -> String {
    let (name, net) = if all_in_one {
        ("all-in-one".to_owned(), "127.0.20")
    } else {
        let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
        (words.join("-"), "10.1.0")
    };
    let arguments = if all_in_one {
        "--all-in-one".to_owned()
    } else {
        let words: Vec<String> = roles
            .iter()
            .map(|r| format!("--role {}", r.word()))
            .collect();
        words.join(" ")
    };
    let mut text = include_str!("init/head.toml").to_owned();
    if !roles.contains(&Role::Authority) {
        text.push_str(include_str!("init/identity.toml"));
    }
    for role in roles {
        text.push_str(role.text());
    }
    text.push_str(include_str!("init/mesh.toml"));
    let grants: String = roles.iter().map(|role| role.grants()).collect();
    text.replace("@ARGUMENTS@", &arguments)
        .replace("@NAME@", &name)
        .replace("@GRANTS@", &grants)
        .replace("@NET@", net)
}
