//! Why the control plane does not start.

use std::net::SocketAddr;

use thiserror::Error;

use crate::config::{self, Problem};
use crate::control::authority::AuthorityError;
use crate::control::grpc::RemoteError;
use crate::control::snapshot::SnapshotError;
use crate::control::workload_api::socket::SocketError;
/// Why the process cannot start.
#[derive(Debug, Error)]
pub enum PlaneError {
    /// The embedded authority.
    #[error("authority")]
    Authority(#[source] AuthorityError),
    /// The remote authority.
    #[error("remote authority")]
    Remote(#[source] RemoteError),
    /// The socket of the Workload API that this process serves.
    #[error("Workload API")]
    Socket(#[source] SocketError),
    /// A secret.
    #[error("secret")]
    Secret(#[source] config::secret::SecretError),
    /// A file or address.
    #[error("`{what}`")]
    Io {
        /// Which.
        what: String,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A listener of the control plane.
    #[error("cannot listen on `{address}` as {what}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What for.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Something written wrongly in a file that the configuration names.
    #[error("`{what}`: {problem}")]
    Content {
        /// Which.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// A file that the configuration names.
    #[error("{0}")]
    File(Problem),
    /// The first snapshot.
    #[error("configuration cannot be enforced")]
    Snapshot(#[source] SnapshotError),
    /// No identities in time.
    #[error("the authority has issued no identities within {0} s")]
    NoIdentities(u64),
}
