//! How an outside service is reached.

use crate::config::checked::{DestinationRule, Mesh, UpstreamTls};

/// The TLS rule for a service: of its hosts, the first that a rule names.
#[must_use]
pub fn tls_rule(mesh: &Mesh, service: usize) -> Option<&UpstreamTls> {
    let hosts = &mesh.services.get(service)?.hosts;
    let names = |rule: &&DestinationRule| hosts.contains(&rule.host);
    mesh.destination_rules
        .iter()
        .find(names)
        .map(|rule| &rule.tls)
}
