//! How an outside service is reached.

use std::fmt;
use std::net::IpAddr;

use crate::config::checked::{DestinationRule, Mesh, Service, UpstreamTls};
use crate::upstream::resolved::{Name, Resolved, Unusable};

/// The TLS rule for a service: of its hosts, the first that a rule names.
#[must_use]
pub fn tls_rule(mesh: &Mesh, service: usize) -> Option<&UpstreamTls> {
    let hosts = &mesh.services.get(service)?.hosts;
    let names = |rule: &&DestinationRule| rule.tls.is_some() && hosts.contains(&rule.host);
    let found = mesh.destination_rules.iter().find(names)?;
    found.tls.as_ref()
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
    let endpoints = service.endpoints.iter();
    endpoints.map(|endpoint| match endpoint.address.parse() {
        Ok(ip) => Endpoint::Address(ip),
        Err(_) => Endpoint::Name(Name {
            host: endpoint.address.clone(),
            allow_private: service.allow_private,
        }),
    })
}

/// Why a service has no endpoint to dial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoEndpoint(Vec<Unusable>);

impl NoEndpoint {
    /// What is wrong with each of a service's names.
    #[must_use]
    pub fn of(service: &Service, resolved: &Resolved) -> Self {
        let unusable = |endpoint| match endpoint {
            Endpoint::Address(_) => None,
            Endpoint::Name(name) => resolved.addresses(&name).err(),
        };
        Self(written(service).filter_map(unusable).collect())
    }
}

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
