//! Why a process could not start, with what helps: of a listener that it could not have where its address is written, who has
//! it, and what to change; of an image that was given no configuration how to give it one.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cli::status::{asked_within, at, reachable, word};
use crate::config::Problem;
use crate::config::checked::NamedListener;
use crate::worker::BootError;

/// How long who has an address may take to say who it is.
const ANSWER: Duration = Duration::from_secs(2);
/// The first port that everybody may have.
const PRIVILEGED: u16 = 1024;
/// What `check` says of a configuration in which all is commented out.
const NOTHING: &str = "nothing to do";

/// The error for the operator. An image holds a configuration of which nothing comes; who starts it is not told of packages.
pub(super) fn refused(error: BootError) -> anyhow::Error {
    let is_empty = matches!(&error, BootError::Config(errors)
        if errors.problems().iter().any(|problem| problem.message.starts_with(NOTHING)));
    if is_empty && std::process::id() == 1 {
        return anyhow::anyhow!(
            "{error}\nin a container: mount a directory that has your ringgate.toml at /etc/ringgate (`--volume \"$PWD/DIRECTORY:/etc/ringgate:ro\"`), \
             or start it with `demo` to try a whole mesh"
        );
    }
    error.into()
}

/// What is kept of a configuration for whom its start fails.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) listeners: Vec<NamedListener>,
    pub(super) admin: Option<SocketAddr>,
}

impl Wanted {
    /// The error for the operator: as it is, or if an address could not be had with its place and what helps.
    pub(super) fn explain(&self, config: &Path, error: BootError) -> anyhow::Error {
        let Some((address, kind)) = error.unbound() else {
            let who = error.is_locked().then(|| self.who_runs(config)).flatten();
            let error = anyhow::Error::from(error);
            return match who {
                Some(who) => anyhow::anyhow!("{error:#}; {who}"),
                None => error,
            };
        };
        let helps = if kind == ErrorKind::AddrInUse {
            self.holder(config, address)
        } else if kind == ErrorKind::AddrNotAvailable {
            "this machine has no such address (`ip address` lists what it has): write one of those, or all of them by `0.0.0.0`"
                .to_owned()
        } else if kind == ErrorKind::PermissionDenied && address.port() < PRIVILEGED {
            "a port below 1024 needs CAP_NET_BIND_SERVICE, which the shipped units give, or a socket of systemd".to_owned()
        } else {
            return error.into();
        };
        let error = anyhow::Error::from(error);
        let message = format!("{error:#}; {helps}");
        let place = self.listeners.iter().find(|named| named.address == address);
        match place {
            Some(named) => {
                let place = named.place.clone();
                anyhow::anyhow!("{}", Problem { message, ..place })
            }
            None => anyhow::anyhow!(message),
        }
    }

    /// Who has the address.
    fn holder(&self, config: &Path, address: SocketAddr) -> String {
        self.who_runs(config).unwrap_or_else(|| {
            let port = address.port();
            format!(
                "another process has it (`ss -ltnp 'sport = {port}'` names it): stop that, or write another address"
            )
        })
    }

    /// The process that answers where this one would.
    fn who_runs(&self, config: &Path) -> Option<String> {
        let base = format!("http://{}", reachable(self.admin?));
        let told = asked_within(&base, ANSWER).ok()?;
        // Else it is something else that answers there.
        at(&told, "/pid").as_u64()?;
        Some(format!(
            "`{}`, process {}, answers at {base}: it runs already (`ringgate status --config {}`), or has the same addresses; \
             stop it, or write others",
            word(at(&told, "/name")),
            word(at(&told, "/pid")),
            config.display()
        ))
    }
}
