//! How an outside service is reached.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::checked::{DestinationRule, Mesh, Service, UpstreamTls};
use crate::upstream::in_turn;
use crate::upstream::resolved::{Name, Resolved, Unusable};
use crate::vocab::addr::UpstreamAddr;

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

/// Names that the certificate of a service's server may hold: those of the TLS rule, else those of the service; none
/// means the name that is sent as SNI.
#[must_use]
pub fn subject_alt_names<'m>(service: &'m Service, rule: &'m UpstreamTls) -> &'m [String] {
    match rule {
        UpstreamTls::Simple {
            subject_alt_names, ..
        } if !subject_alt_names.is_empty() => subject_alt_names,
        UpstreamTls::Simple { .. } | UpstreamTls::Disable => &service.subject_alt_names,
    }
}

/// One `endpoints` entry of a service: an address as the operator wrote it, or a name to ask DNS for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Dialled as it stands.
    Address(IpAddr),
    /// Dialled at the addresses that were judged.
    Name(Name),
}

/// What the `endpoints` of a service stand for.
pub fn written(service: &Service) -> impl Iterator<Item = Endpoint> + '_ {
    service.endpoints.iter().map(|text| match text.parse() {
        Ok(ip) => Endpoint::Address(ip),
        Err(_) => Endpoint::Name(Name {
            host: text.clone(),
            allow_private: service.allow_private,
        }),
    })
}

/// Why a service has no endpoint to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoEndpoint(Vec<Unusable>);

impl fmt::Display for NoEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("service has no endpoint");
        }
        for (at, unusable) in self.0.iter().enumerate() {
            write!(f, "{}{unusable}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

/// Addresses of a service in the order in which they are tried; never none.
///
/// # Errors
/// `NoEndpoint`, with what is wrong with each name.
pub fn endpoints(
    service: &Service,
    resolved: &Resolved,
    port: u16,
    turn: usize,
) -> Result<Vec<UpstreamAddr>, NoEndpoint> {
    let mut all: Vec<IpAddr> = Vec::new();
    let mut unusable = Vec::new();
    for endpoint in written(service) {
        match endpoint {
            Endpoint::Address(ip) => all.push(ip),
            Endpoint::Name(name) => match resolved.addresses(&name) {
                Ok(addresses) => all.extend(addresses),
                Err(why) => unusable.push(why),
            },
        }
    }
    if all.is_empty() {
        return Err(NoEndpoint(unusable));
    }
    let address = |ip| UpstreamAddr(SocketAddr::new(ip, port));
    Ok(in_turn(&all, turn).into_iter().map(address).collect())
}
