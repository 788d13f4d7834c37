//! Files and secrets that the configuration names, and where.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::checked::Secret;
use crate::config::problem::Problem;
use crate::vocab::resource::ResourceName;

/// A file, secret or name that the configuration holds, about which files that it names say more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A file by its path.
    Path(PathBuf),
    /// A secret by reference.
    Secret(Secret),
    /// The key of the certificate in a file that a listener serves: a key may be that of several.
    Key(SocketAddr, PathBuf, Secret),
    /// One of the `hostnames` of the certificates of a listener.
    Hostname(SocketAddr, String),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path)
            | Self::Secret(Secret::File(path))
            | Self::Key(.., Secret::File(path)) => write!(f, "{}", path.display()),
            Self::Secret(secret) | Self::Key(.., secret) => write!(f, "{secret:?}"),
            Self::Hostname(_, name) => f.write_str(name),
        }
    }
}

/// Where the address of a listener is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedListener {
    /// Where it listens.
    pub address: SocketAddr,
    /// File, line and key; the message is empty.
    pub place: Problem,
}

/// Where one of the `hostnames` of a route is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedHost {
    /// The route.
    pub route: ResourceName,
    /// The host, as the route has it.
    pub host: String,
    /// File, line and key; the message is empty.
    pub place: Problem,
}

/// Where a file or secret is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Which.
    pub subject: Subject,
    /// File, line and key; the message is empty.
    pub place: Problem,
}
