//! `ringgate init`: a first configuration for the roles that are wanted, with comments, to be changed from there.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::ValueEnum;

use crate::cli::os;
use crate::config;

/// Readable by the user of the service, whoever that is: it may name files of secrets, and holds none.
const MODE: u32 = 0o644;
const DIRECTORY: u32 = 0o755;
/// Where the units look for configurations: `ringgate.toml`, and `NAME.toml` of the instance NAME.
const CONFIGURATIONS: &str = "/etc/ringgate";
/// Name of the file that is no instance's.
const PLAIN: &str = "ringgate";
/// Longest name of an instance: with `ringgate-` before it, it is the name of a user, who has 31 bytes (systemd.exec(5), `DynamicUser=`).
const NAME_BYTES: usize = 22;

/// `ringgate init`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code: 0 written, 1 a file is there already or cannot be written, 2 wrong usage.

Examples:
  ringgate init --all-in-one --config ringgate.toml     # every role, on loopback addresses
  ringgate init --role authority                        # on one machine,
  ringgate init --role node --role waypoint             # on another
  ringgate init --role egress --instance egress         # one of several on a machine: the unit ringgate@egress
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
    /// Configuration of an instance of `ringgate@.service`, with directories, join token and admin port of its own.
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub instance: Option<String>,
    /// Where to write it [default: /etc/ringgate/ringgate.toml, of an instance /etc/ringgate/NAME.toml].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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

/// A name that systemd takes as it is, `%i` in `ringgate@.service`, also in the name of a user, and that is no other unit's file.
fn instance_name(text: &str) -> Result<String, String> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
    let begins = text
        .as_bytes()
        .first()
        .is_some_and(u8::is_ascii_alphanumeric);
    if !begins || !text.bytes().all(plain) || text.len() > NAME_BYTES {
        return Err(format!(
            "expected a letter or digit, then letters, digits, `-` and `_`, {NAME_BYTES} bytes at most, for the unit's user is `ringgate-NAME`"
        ));
    }
    if text == PLAIN {
        return Err(format!(
            "{CONFIGURATIONS}/{PLAIN}.toml is the file of ringgate.service, which is no instance; expected another name"
        ));
    }
    Ok(text.to_owned())
}

impl InitArgs {
    /// The instance that it is for: the named one, or the one whose unit reads the file that it is written to.
    fn instance(&self) -> Option<String> {
        let of_file = || {
            let path = std::path::absolute(self.config.as_deref()?).ok()?;
            let is_there = path.parent() == Some(Path::new(CONFIGURATIONS));
            let is_toml = path
                .extension()
                .is_some_and(|extension| extension == "toml");
            let name = path.file_stem()?.to_str()?;
            instance_name(name).ok().filter(|_| is_there && is_toml)
        };
        self.instance.clone().or_else(of_file)
    }

    fn roles(&self) -> Vec<Role> {
        if self.all_in_one {
            return Role::ALL.to_vec();
        }
        let mut roles = self.role.clone();
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}

/// The file that the unit reads.
fn read_by_unit(instance: Option<&str>) -> PathBuf {
    let name = instance.unwrap_or(PLAIN);
    Path::new(CONFIGURATIONS).join(format!("{name}.toml"))
}

/// Writes or prints it.
///
/// # Errors
/// If the file is there already, or cannot be written.
pub fn run(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let instance = args.instance();
    let unit_file = read_by_unit(instance.as_deref());
    let text = written(&args.roles(), args.all_in_one, instance.as_deref());
    // What is written here is what `check` takes: nobody should begin with an error of ours.
    let path = args.config.as_ref().unwrap_or(&unit_file);
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
    for line in next(path, &unit_file, instance.as_deref()) {
        os::say(&line);
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be done next: with a file of a unit, what has systemd run it.
fn next(path: &Path, unit_file: &Path, instance: Option<&str>) -> Vec<String> {
    let (shown, unit_shown) = (path.display(), unit_file.display());
    let mut lines = vec![
        format!("{shown} is written. Change addresses, names and policies in it, then:"),
        format!("  ringgate check --config {shown}"),
    ];
    let is_of_unit = std::path::absolute(path).is_ok_and(|path| path == unit_file);
    if !is_of_unit && instance.is_none() {
        lines.push(format!("  ringgate run --config {shown}"));
        return lines;
    }
    if !is_of_unit {
        lines.push(format!("  install -m 644 {shown} {unit_shown}"));
    }
    let unit = instance.map_or_else(
        || format!("{PLAIN}.service"),
        |name| format!("ringgate@{name}.service"),
    );
    lines.push(format!("  systemctl enable --now {unit}"));
    lines.push(format!("  ringgate status --config {unit_shown}"));
    lines
}

/// Where the operator asks. Instances of a machine have ports of their own.
fn admin(roles: &[Role], all_in_one: bool, instance: Option<&str>) -> &'static str {
    let first = if instance.is_none() || all_in_one {
        None
    } else {
        roles.first()
    };
    match first {
        None => "127.0.0.1:15000",
        Some(Role::Authority) => "127.0.0.1:15100",
        Some(Role::Node) => "127.0.0.1:15101",
        Some(Role::Waypoint) => "127.0.0.1:15102",
        Some(Role::Ingress) => "127.0.0.1:15103",
        Some(Role::Egress) => "127.0.0.1:15104",
    }
}

/// The text for these roles, in the order of a call through the mesh.
fn written(roles: &[Role], all_in_one: bool, instance: Option<&str>) -> String {
    let words: Vec<&str> = roles.iter().map(|role| role.word()).collect();
    let (name, net) = match (instance, all_in_one) {
        (Some(instance), _) => (
            instance.to_owned(),
            if all_in_one { "127.0.20" } else { "10.1.0" },
        ),
        (None, true) => ("all-in-one".to_owned(), "127.0.20"),
        (None, false) => (words.join("-"), "10.1.0"),
    };
    let mut arguments = if all_in_one {
        "--all-in-one".to_owned()
    } else {
        let words: Vec<String> = words.iter().map(|word| format!("--role {word}")).collect();
        words.join(" ")
    };
    if let Some(instance) = instance {
        arguments.push_str(&format!(" --instance {instance}"));
    }
    let mut text = include_str!("init/head.toml").to_owned();
    if !roles.contains(&Role::Authority) {
        text.push_str(include_str!("init/identity.toml"));
    }
    for role in roles {
        text.push_str(role.text());
    }
    text.push_str(include_str!("init/mesh.toml"));
    let grants: String = roles.iter().map(|role| role.grants()).collect();
    let token = instance.map_or_else(
        || "join-token".to_owned(),
        |name| format!("{name}.join-token"),
    );
    let own = instance.map_or_else(|| PLAIN.to_owned(), |name| format!("{PLAIN}-{name}"));
    text.replace("@ARGUMENTS@", &arguments)
        .replace("@NAME@", &name)
        .replace("@GRANTS@", &grants)
        .replace("@TOKEN@", &token)
        .replace("@OWN@", &own)
        .replace("@ADMIN@", admin(roles, all_in_one, instance))
        .replace("@NET@", net)
}
