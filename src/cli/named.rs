//! Callers and providers as people name them, on the command line and in tests.

use crate::config::checked::Mesh;
use crate::config::nearest::hint;
use crate::role::enforcement::Enforcements;
use crate::role::names;
use crate::role::walk::{self, To};
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// Who calls: `anonymous`, a workload or gateway as `namespace/name`, or an identity.
///
/// # Errors
/// Why it is none of these.
pub fn caller(mesh: &Mesh, text: &str) -> Result<Option<SpiffeId>, String> {
    if text == "anonymous" {
        return Ok(None);
    }
    let workloads = mesh.workloads.iter().map(|w| (&w.name, &w.id));
    let named = workloads.chain(mesh.gateways.iter().map(|g| (&g.name, &g.id)));
    let near = || {
        let names: Vec<String> = named.clone().map(|(name, _)| name.to_string()).collect();
        hint(text, names.iter().map(String::as_str))
    };
    if let Some(wanted) = ResourceName::parse(text) {
        let found = named.clone().find(|(name, _)| **name == wanted);
        return match found {
            Some((_, id)) => Ok(Some(id.clone())),
            None => Err(format!("no workload or gateway of this name{}", near())),
        };
    }
    let expected = "expected a SPIFFE ID, a workload as NAMESPACE/NAME, or `anonymous`";
    let has_scheme = text.contains("://");
    // A trust domain alone is an identity, but who writes one word means a workload.
    if !has_scheme && !text.contains('/') {
        return Err(format!("{expected}{}", near()));
    }
    let uri = if has_scheme {
        text.to_owned()
    } else {
        format!("spiffe://{text}")
    };
    let id = SpiffeId::parse(&uri);
    id.map(Some).map_err(|error| format!("{error}; {expected}"))
}

/// The service that a host name means to a caller, short names of its namespace included.
#[must_use]
pub fn service(rules: &Enforcements, name: &str, from: Option<&SpiffeId>) -> Option<usize> {
    let namespace = from.and_then(SpiffeId::k8s).map(|(namespace, _)| namespace);
    let named = names::find(&rules.mesh, &rules.directory, name, namespace, &[]);
    named.map(|named| named.service)
}

/// The port that a call without one is for.
#[must_use]
pub fn port(rules: &Enforcements, to: &To, from: Option<&SpiffeId>) -> u16 {
    let named = match to {
        To::Name(name) => service(rules, name, from),
        To::Address(_) | To::Workload(_) | To::Gateway(_) => None,
    };
    let first = named.and_then(|at| rules.mesh.services.get(at)?.ports.first());
    first.map_or_else(|| walk::default_port(rules, to, false), |port| port.number)
}

/// `, did you mean `web`?`, for one word that is no host: the nearest host, or first part of one.
#[must_use]
pub fn nearest_host(mesh: &Mesh, name: &str) -> String {
    let hosts = mesh.services.iter().flat_map(|s| &s.hosts);
    let words = hosts.flat_map(|host| {
        let short = host.split('.').next().unwrap_or_default();
        [short, host.as_str()]
    });
    hint(name, words)
}

/// Whether there is a provider of this name.
///
/// # Errors
/// There is none.
pub fn provider(mesh: &Mesh, name: &str) -> Result<(), String> {
    let logins = mesh.oidc_providers.iter().map(|p| p.name.as_str());
    let names = logins.chain(mesh.authorizers.iter().map(|a| a.name.as_str()));
    if names.clone().any(|known| known == name) {
        return Ok(());
    }
    let near = hint(name, names);
    let name = name.escape_debug();
    Err(format!("there is no extensionProvider `{name}`{near}"))
}
