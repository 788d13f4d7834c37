//! A connection, tunnel or request that is open now, as the admin endpoint tells of it.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::policy::Connection;
use crate::telemetry::record::{Kind, rfc3339};

/// What is open.
#[derive(Clone, Debug)]
pub struct Live {
    /// Role.
    pub role: &'static str,
    /// Node or gateway.
    pub instance: String,
    /// Kind.
    pub kind: Kind,
    /// Who and where.
    pub connection: Option<Connection>,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// Service that was asked for.
    pub service: Option<String>,
    /// Workload.
    pub workload: Option<String>,
    /// When it began, since the Unix epoch.
    pub since: Duration,
    /// Bytes from the downstream peer so far.
    pub received: u64,
    /// Bytes to it.
    pub sent: u64,
}

impl Live {
    /// As one JSON object, in the words of the decision record.
    #[must_use]
    pub fn to_json(&self, core: usize) -> Value {
        let connection = self.connection.as_ref();
        let principal = connection.and_then(|c| c.principal.as_ref());
        json!({
            "core": core,
            "role": self.role,
            "instance": self.instance,
            "kind": self.kind.label(),
            "source": {
                "principal": principal.map(|id| id.principal().to_owned()),
                "address": self.peer.to_string(),
            },
            "destination": {
                "service": self.service,
                "workload": self.workload,
                "address": connection.map(|c| c.destination.to_string()),
                "port": connection.map(|c| c.port),
            },
            "since": rfc3339(self.since),
            "bytes": { "received": self.received, "sent": self.sent },
        })
    }
}
