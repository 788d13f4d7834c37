//! `ringgate version`: what this program is made of, and what the kernel lets it use.

use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::os;
use crate::io::{kernel, rt};
use crate::record::aead::{Library, Suite};

/// `ringgate version`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ringgate version --long
  ringgate version --output json | jq .kernel.ioUring")]
pub struct VersionArgs {
    /// Also commit, target, libraries, and what the kernel lets this process use.
    #[arg(long)]
    pub long: bool,
    /// How to print it; JSON has everything.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One JSON object.
    Json,
}

/// All of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    /// Hash, with `-dirty` if the sources were not those of it; `debug build`; or `unknown, built without git`.
    commit: &'static str,
    profile: &'static str,
    target: &'static str,
    /// Needs no file beside it.
    #[serde(rename = "static")]
    linked_statically: bool,
    compiler: &'static str,
    /// Cargo features; there may be none to choose.
    features: Vec<&'static str>,
    rustls: &'static str,
    /// rustls's cryptography.
    tls_provider: &'static str,
    /// Whose AES-GCM seals records on this processor.
    record_aes: &'static str,
    allocator: &'static str,
    kernel: Kernel,
}

/// The kernel, as this process sees it. `None` is what cannot be read, for `/proc` is not mounted.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    release: String,
    io_uring: Ring,
    /// Version of its interface, 0 without it.
    landlock: u64,
    /// Why it is not there.
    landlock_refused: Option<String>,
    /// `off`, `strict` or `filter`.
    seccomp: Option<&'static str>,
    no_new_privileges: Option<bool>,
    /// Those in effect.
    capabilities: Option<Vec<String>>,
    /// Capture by TPROXY is possible.
    transparent_sockets: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Ring {
    /// What `process.io = "auto"` takes here.
    driver: &'static str,
    /// Why there is no ring.
    refused: Option<String>,
    /// Operations that the data cores need and the kernel has not.
    missing: Vec<&'static str>,
}

/// Names of the capabilities by their bit (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Prints it.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn run(args: &VersionArgs) -> anyhow::Result<ExitCode> {
    match args.output {
        Output::Json => os::say(&serde_json::to_string(&found())?),
        Output::Text if args.long => os::say(text(&found()).trim_end()),
        Output::Text => os::say(concat!("ringgate ", env!("CARGO_PKG_VERSION"))),
    }
    Ok(ExitCode::SUCCESS)
}

fn found() -> Version {
    let record_aes = match Library::fastest(Suite::Aes128Gcm) {
        Library::AwsLc => "aws-lc",
        Library::Ring => "ring",
    };
    Version {
        version: env!("CARGO_PKG_VERSION"),
        commit: env!("RINGGATE_BUILD_COMMIT"),
        profile: env!("RINGGATE_BUILD_PROFILE"),
        target: env!("RINGGATE_BUILD_TARGET"),
        linked_statically: cfg!(target_feature = "crt-static"),
        compiler: env!("RINGGATE_BUILD_RUSTC"),
        features: env!("RINGGATE_BUILD_FEATURES").split_whitespace().collect(),
        rustls: env!("RINGGATE_BUILD_RUSTLS"),
        tls_provider: concat!("aws-lc-rs ", env!("RINGGATE_BUILD_AWS_LC_RS")),
        record_aes,
        allocator: "mimalloc",
        kernel: look(),
    }
}

fn look() -> Kernel {
    let status = os::read_text(Path::new("/proc/self/status")).ok();
    let field = |name: &str| {
        let lines = status.as_deref()?.lines();
        let mut found = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.next().map(str::trim)
    };
    Kernel {
        release: kernel::release().unwrap_or_else(|error| error.to_string()),
        io_uring: ring(kernel::io_uring()),
        landlock: kernel::landlock().map_or(0, |version| u64::try_from(version).unwrap_or(0)),
        landlock_refused: kernel::landlock().err().map(|error| error.to_string()),
        seccomp: field("Seccomp").and_then(seccomp),
        no_new_privileges: field("NoNewPrivs").map(|value| value == "1"),
        capabilities: field("CapEff").and_then(capabilities),
        transparent_sockets: kernel::transparent_sockets().is_ok(),
    }
}

fn ring(found: io::Result<Vec<(&'static str, bool)>>) -> Ring {
    let (refused, missing) = match found {
        Ok(operations) => {
            let missing = operations.iter().filter(|(_, there)| !there);
            (None, missing.map(|(name, _)| *name).collect())
        }
        Err(error) => (Some(error.to_string()), Vec::new()),
    };
    Ring {
        driver: rt::automatic().label(),
        refused,
        missing,
    }
}

/// The mode of seccomp(2).
fn seccomp(mode: &str) -> Option<&'static str> {
    match mode {
        "0" => Some("off"),
        "1" => Some("strict"),
        "2" => Some("filter"),
        _ => None,
    }
}

/// Names of a mask in hexadecimal digits; a bit without a name keeps its number.
fn capabilities(mask: &str) -> Option<Vec<String>> {
    let mask = u64::from_str_radix(mask, 16).ok()?;
    let set = (0..64_usize).filter(|bit| mask >> bit & 1 == 1);
    let name = |bit: usize| {
        let known = CAPABILITIES.get(bit).map(|name| (*name).to_owned());
        known.unwrap_or_else(|| bit.to_string())
    };
    Some(set.map(name).collect())
}

fn text(all: &Version) -> String {
    let kernel = &all.kernel;
    let linked = if all.linked_statically {
        "static"
    } else {
        "needs the C library of the machine"
    };
    let mut out = format!("ringgate {}\n", all.version);
    let mut line = |name: &str, value: &str| os::ignore(writeln!(out, "{name:<20} {value}"));
    line("commit", all.commit);
    line("profile", all.profile);
    line("target", &format!("{}, {linked}", all.target));
    line("compiler", all.compiler);
    line("features", &or_none(&all.features));
    line(
        "rustls",
        &format!("{}, by {}", all.rustls, all.tls_provider),
    );
    line("AES of records", all.record_aes);
    line("allocator", all.allocator);
    line("kernel", &kernel.release);
    line("io_uring", &ring_text(&kernel.io_uring));
    let landlock = match kernel.landlock {
        0 => match &kernel.landlock_refused {
            Some(why) => format!("not there: {why}"),
            None => "not there".to_owned(),
        },
        version => format!("version {version}"),
    };
    line("Landlock", &landlock);
    let unknown = "unknown, /proc is not mounted";
    line("seccomp", kernel.seccomp.unwrap_or(unknown));
    let privileges = match kernel.no_new_privileges {
        Some(true) => "none can be gained",
        Some(false) => "can be gained",
        None => unknown,
    };
    line("new privileges", privileges);
    let capabilities = match kernel.capabilities.as_deref() {
        None => unknown.to_owned(),
        Some(names) if names.len() == CAPABILITIES.len() => "all".to_owned(),
        Some(names) => or_none(names),
    };
    line("capabilities", &capabilities);
    let transparent = if kernel.transparent_sockets {
        "allowed"
    } else {
        "refused, which TPROXY needs (CAP_NET_ADMIN)"
    };
    line("transparent sockets", transparent);
    out
}

fn or_none<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(" ")
}

fn ring_text(ring: &Ring) -> String {
    let why = match &ring.refused {
        Some(error) => format!("refused: {error}"),
        None if ring.missing.is_empty() => "allowed, with all that is used".to_owned(),
        None => format!("allowed, without {}", ring.missing.join(" ")),
    };
    format!("{why}; `auto` takes {}", ring.driver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_names_capabilities() {
        let names = capabilities("0000000000001400").unwrap();
        assert_eq!(names, ["CAP_NET_BIND_SERVICE", "CAP_NET_ADMIN"]);
        assert_eq!(capabilities("8000000000000000").unwrap(), ["63"]);
        assert!(capabilities("0").unwrap().is_empty());
        assert_eq!(capabilities("x"), None);
    }

    #[test]
    fn a_refused_ring_says_why() {
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let text = ring_text(&ring(Err(refused)));
        assert!(text.contains("Operation not permitted"), "{text}");
        let text = ring_text(&ring(Ok(vec![("POLL_ADD", true), ("READ", false)])));
        assert!(text.contains("without READ"), "{text}");
    }
}
