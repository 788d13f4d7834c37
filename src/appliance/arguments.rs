//! `ringgate.*` of the kernel command line.
//!
//! Whoever can read `/proc/cmdline`, the boot loader's files or a hypervisor's list of processes can read it: nothing secret
//! belongs there, and no key here takes a secret.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use crate::appliance::address::{Network, parse_network};

/// What all keys begin with.
const PREFIX: &str = "ringgate.";
/// Longest host name (`HOST_NAME_MAX`).
const HOSTNAME_BYTES: usize = 64;

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `ringgate.config=`
    pub config: Option<ConfigArgument>,
    /// `ringgate.net=`, each of them; none means DHCP.
    pub networks: Vec<Network>,
    /// `ringgate.nic=`: name of the interface.
    pub nic: Option<String>,
    /// `ringgate.hostname=`
    pub hostname: Option<String>,
    /// `ringgate.stop=`: what follows an orderly end.
    pub stop: End,
    /// `ringgate.failure=`: what follows a failure.
    pub failure: End,
}

/// Where the command line says that the configuration is.
#[derive(Clone, PartialEq, Eq)]
pub enum ConfigArgument {
    /// `base64:`, the text itself.
    Text(Vec<u8>),
    /// A file in the image.
    Path(PathBuf),
}

impl std::fmt::Debug for ConfigArgument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Path(path) => write!(f, "Path({})", path.display()),
        }
    }
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Its power goes off.
    #[default]
    PowerOff,
    /// It starts anew.
    Reboot,
    /// It stands still, with the console as it is.
    Halt,
}

/// Why a command line is refused: every problem of it.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("kernel command line: {}", .0.join("; "))]
pub struct ArgumentError(Vec<String>);

impl Arguments {
    /// Reads a command line as the kernel splits it: by white space, which double quotes keep.
    ///
    /// # Errors
    /// Keys that are not known or stand twice, values that cannot be read: all of them.
    pub fn parse(line: &str) -> Result<Self, ArgumentError> {
        let mut arguments = Self::default();
        let mut problems = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        for word in words(line) {
            let Some((key, value)) = own(&word) else {
                continue;
            };
            if key != "net" && seen.iter().any(|before| before == key) {
                problems.push(format!("`{PREFIX}{key}` stands twice"));
                continue;
            }
            seen.push(key.to_owned());
            if let Err(expected) = arguments.set(key, value) {
                problems.push(expected);
            }
        }
        let is_alone = |n: &Network| matches!(n, Network::Dhcp | Network::Off);
        if arguments.networks.len() > 1 && arguments.networks.iter().any(is_alone) {
            problems.push(format!("`{PREFIX}net=dhcp` and `none` stand alone"));
        }
        if problems.is_empty() {
            Ok(arguments)
        } else {
            Err(ArgumentError(problems))
        }
    }

    /// `ringgate.failure` alone, of a line that may be refused otherwise.
    #[must_use]
    pub fn failure_of(line: &str) -> Option<End> {
        let value = words(line)
            .into_iter()
            .find_map(|word| Some(word.strip_prefix("ringgate.failure=")?.to_owned()))?;
        off(&value)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let fail = |expected: &str| format!("`{PREFIX}{key}={value}`: expected {expected}");
        match key {
            "config" => {
                self.config = Some(config(value).ok_or_else(|| {
                    // The value may be long, and is the operator's whole configuration.
                    format!(
                        "`{PREFIX}config`: expected `base64:` and a configuration, or an absolute path"
                    )
                })?);
            }
            "net" => self
                .networks
                .push(parse_network(value).map_err(|expected| fail(&expected))?),
            "nic" => {
                let is_name = !value.is_empty() && value.len() < 16 && !value.contains('/');
                self.nic = Some(
                    is_name
                        .then(|| value.to_owned())
                        .ok_or_else(|| fail("the name of an interface"))?,
                );
            }
            "hostname" => {
                let is_name = is_hostname(value);
                self.hostname =
                    Some(is_name.then(|| value.to_owned()).ok_or_else(|| {
                        fail("a host name of at most 64 letters, digits, `-`, `.`")
                    })?);
            }
            "stop" => self.stop = off(value).ok_or_else(|| fail(OFF))?,
            "failure" => self.failure = off(value).ok_or_else(|| fail(OFF))?,
            _ => {
                return Err(format!(
                    "`{PREFIX}{key}` is no key; there are config, net, nic, hostname, stop, failure"
                ));
            }
        }
        Ok(())
    }
}

const OFF: &str = "poweroff, reboot or halt";

fn off(value: &str) -> Option<End> {
    match value {
        "poweroff" => Some(End::PowerOff),
        "reboot" => Some(End::Reboot),
        "halt" => Some(End::Halt),
        _ => None,
    }
}

fn config(value: &str) -> Option<ConfigArgument> {
    if let Some(text) = value.strip_prefix("base64:") {
        let text = STANDARD.decode(text).ok()?;
        return (!text.is_empty()).then_some(ConfigArgument::Text(text));
    }
    value
        .starts_with('/')
        .then(|| ConfigArgument::Path(value.into()))
}

/// Whether a machine may have this name; a DHCP server offers one, too.
#[must_use]
pub fn is_hostname(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    !name.is_empty()
        && name.len() <= HOSTNAME_BYTES
        && name.bytes().all(good)
        && !name.starts_with(['-', '.'])
}

/// Key without what all begin with, and value, of one of ours.
fn own(word: &str) -> Option<(&str, &str)> {
    let rest = word.strip_prefix(PREFIX)?;
    Some(rest.split_once('=').unwrap_or((rest, "")))
}

fn words(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            c if c.is_ascii_whitespace() && !is_quoted => {
                if !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        found.push(word);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, wanted: &Arguments) {
        assert_eq!(Arguments::parse(line).as_ref(), Ok(wanted), "{line}");
    }

    fn refused(line: &str, why: &[&str]) {
        let error = Arguments::parse(line).unwrap_err().to_string();
        for part in why {
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn lines_are_read() {
        check("console=ttyS0 panic=-1 quiet\n", &Arguments::default());
        check(
            "ringgate.config=/etc/other.toml ringgate.stop=reboot ringgate.failure=halt",
            &Arguments {
                config: Some(ConfigArgument::Path("/etc/other.toml".into())),
                stop: End::Reboot,
                failure: End::Halt,
                ..Arguments::default()
            },
        );
        check(
            "\"ringgate.hostname=edge-1\" ringgate.config=base64:YSA9IDEK ringgate.nic=eth1",
            &Arguments {
                config: Some(ConfigArgument::Text(b"a = 1\n".to_vec())),
                hostname: Some("edge-1".to_owned()),
                nic: Some("eth1".to_owned()),
                ..Arguments::default()
            },
        );
        let both = "ringgate.net=10.0.0.2/24,gw=10.0.0.1 ringgate.net=2001:db8::2/64";
        assert_eq!(Arguments::parse(both).unwrap().networks.len(), 2);
    }

    #[test]
    fn all_problems_are_told() {
        refused(
            "ringgate.cfg=/a ringgate.stop=never ringgate.net=10.0.0.2",
            &["`ringgate.cfg` is no key", "stop=never", "10.0.0.2"],
        );
        refused("ringgate.config=x", &["`ringgate.config`"]);
        refused("ringgate.config=base64:", &["`ringgate.config`"]);
        refused("ringgate.config=base64:!!", &["`ringgate.config`"]);
        refused("ringgate.hostname=-a", &["hostname=-a"]);
        refused("ringgate.nic=a/b", &["nic=a/b"]);
        refused("ringgate.stop=halt ringgate.stop=halt", &["twice"]);
        refused("ringgate.net=dhcp ringgate.net=10.0.0.2/8", &["alone"]);
        refused("ringgate.config", &["`ringgate.config`"]);
    }

    #[test]
    fn a_line_that_is_refused_still_says_what_follows() {
        let line = "ringgate.cfg=/a ringgate.failure=reboot";
        assert_eq!(Arguments::failure_of(line), Some(End::Reboot));
        assert_eq!(Arguments::failure_of("ringgate.failure=never"), None);
    }

    #[test]
    fn a_configuration_is_not_printed() {
        let text = format!("{:?}", ConfigArgument::Text(b"hunter2".to_vec()));
        assert_eq!(text, "Text(7 bytes)");
    }
}
