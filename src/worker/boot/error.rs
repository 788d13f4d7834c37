//! Why a process does not run.

use std::io::ErrorKind;
use std::net::SocketAddr;

use thiserror::Error;

use crate::config::ConfigErrors;
use crate::control::authority::AuthorityError;
use crate::control::capture::CaptureError;
use crate::control::dns_server::DnsError;
use crate::control::grpc::{NodeError, RemoteError};
use crate::control::handover::HandoverError;
use crate::control::plane::PlaneError;
use crate::control::sandbox::SandboxError;
use crate::worker::listen::ListenError;

/// Why the process does not run.
#[derive(Debug, Error)]
pub enum BootError {
    /// The configuration is refused.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The node would capture itself.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The control plane cannot start.
    #[error("cannot start")]
    Plane(#[source] PlaneError),
    /// A listener cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What another process serves cannot be taken over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// A DNS listener cannot be had.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// What the process forbids itself.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The operating system refuses.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// It was told to stop before it served.
    #[error("told to stop before it served")]
    Told,
    /// A thread of the process ended before it was ready.
    #[error("{0} has ended")]
    Ended(&'static str),
}

impl BootError {
    /// The address of a listener that could not be had, and why.
    #[must_use]
    pub fn unbound(&self) -> Option<(SocketAddr, ErrorKind)> {
        let (address, source) = match self {
            Self::Listen(error) => (error.address, &error.source),
            Self::Dns(error) => (error.address, &error.source),
            Self::Plane(PlaneError::Listen {
                address, source, ..
            }) => (*address, source),
            Self::Config(_)
            | Self::Capture(_)
            | Self::Plane(_)
            | Self::Handover(_)
            | Self::Sandbox(_)
            | Self::Os { .. }
            | Self::Told
            | Self::Ended(_) => return None,
        };
        Some((address, source.kind()))
    }

    /// Whether another process has the state that this one needs.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(
            self,
            Self::Plane(
                PlaneError::Authority(AuthorityError::Locked(_))
                    | PlaneError::Remote(RemoteError::Node(NodeError::Locked(_)))
            )
        )
    }
}
