//! What the protocol of a port lets do.

use crate::config::checked::Protocol;
use crate::upstream::check::{HealthCheck, How};

impl Protocol {
    /// Whether an endpoint that speaks it can be asked by a health check.
    #[must_use]
    pub const fn takes(self, check: &HealthCheck) -> bool {
        match (self, &check.how) {
            (Self::Http, How::Http(_))
            | (Self::Http2 | Self::Grpc, How::Http(_) | How::Grpc { .. }) => true,
            // What passes through is TLS of the client's own, and HTTPS ends where its client says.
            (Self::Http | Self::Https | Self::Tls | Self::Tcp, How::Http(_) | How::Grpc { .. }) => {
                false
            }
            (_, How::Tcp) => true,
        }
    }
}
