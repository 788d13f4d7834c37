//! Callers and providers as people name them, on the command line and in tests.

use crate::config::checked::Mesh;
use crate::config::nearest::hint;
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
