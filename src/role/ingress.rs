//! Which route an edge request takes.

use crate::config::checked::{HttpRoute, Mesh, PathMatch};
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;
use crate::vocab::resource::ResourceName;

/// A backend: indices and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// Service port.
    pub port: u16,
}

/// The most specific route by Gateway API's precedence: exact host, longest wildcard, any; exact path, longest prefix.
#[must_use]
pub fn route(
    mesh: &Mesh,
    gateway: &ResourceName,
    host: &Host,
    path: &CanonicalPath,
) -> Option<Backend> {
    let mut best: Option<((usize, usize), Backend)> = None;
    for route in &mesh.routes {
        let attached =
            route.name.namespace == gateway.namespace && route.parents.contains(&gateway.name);
        let Some(host_rank) = host_rank(route, host.name()).filter(|_| attached) else {
            continue;
        };
        for rule in &route.rules {
            let Some(path_rank) = rule
                .matches
                .iter()
                .filter_map(|m| path_rank(m, path.path()))
                .max()
            else {
                continue;
            };
            let rank = (host_rank, path_rank);
            // Of two equal ones the first written wins.
            if best.as_ref().is_none_or(|(known, _)| rank > *known) {
                best = Some((
                    rank,
                    Backend {
                        service: rule.service,
                        port: rule.port,
                    },
                ));
            }
        }
    }
    best.map(|(_rank, backend)| backend)
}

/// How specifically a route's hostnames match; `None` if they do not.
fn host_rank(route: &HttpRoute, host: &str) -> Option<usize> {
    if route.hostnames.is_empty() {
        return Some(0);
    }
    let rank = |name: &String| match name.strip_prefix('*') {
        Some(suffix) => {
            let inside = host.len() > suffix.len() && host.ends_with(suffix);
            inside.then_some(suffix.len())
        }
        None => (name == host).then_some(usize::MAX),
    };
    route.hostnames.iter().filter_map(rank).max()
}

fn path_rank(rule: &PathMatch, path: &str) -> Option<usize> {
    match rule {
        PathMatch::Exact(exact) => (exact == path).then_some(usize::MAX),
        PathMatch::Prefix(prefix) => {
            let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
            let rest = path.strip_prefix(prefix)?;
            (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::path_rank;
    use crate::config::checked::PathMatch;

    #[test]
    fn prefixes_by_segment() {
        for (prefix, path, want) in [
            ("/api/", "/api", true),
            ("/api", "/api/x", true),
            ("/api", "/apix", false),
            ("/", "/anything", true),
        ] {
            assert_eq!(
                path_rank(&PathMatch::Prefix(prefix.to_owned()), path).is_some(),
                want,
                "{prefix} {path}"
            );
        }
    }
}
