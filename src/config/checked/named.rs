//! Files and secrets that the configuration names, and where.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::checked::Secret;
use crate::config::problem::Problem;

/// A file or secret that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A file by its path.
    Path(PathBuf),
    /// A secret by reference.
    Secret(Secret),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) | Self::Secret(Secret::File(path)) => write!(f, "{}", path.display()),
            Self::Secret(secret) => write!(f, "{secret:?}"),
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

/// Where a file or secret is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Which.
    pub subject: Subject,
    /// File, line and key; the message is empty.
    pub place: Problem,
}
