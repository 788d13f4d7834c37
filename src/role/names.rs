//! Which service a name means to a workload: full names, short names of Kubernetes, names with a search domain appended.

use std::borrow::Cow;

use crate::config::checked::Mesh;
use crate::role::directory::Directory;

/// What follows the namespace in the full name of a service of Kubernetes.
const CLUSTER: &str = "svc.cluster.local";

/// A service that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<'n> {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// The name by which it is registered; of a wildcard the name that was asked for.
    pub host: Cow<'n, str>,
}

/// The service that `name`, in lower case and without a dot at its end, means to workloads of `namespace`. `search` are
/// suffixes that a resolver may have appended to what its user wrote.
///
/// An exact name comes first, then the short forms `service`, `service.namespace` and `service.namespace.svc`, then the
/// name without a suffix of `search` or of the cluster, then a wildcard.
#[must_use]
pub fn find<'n>(
    mesh: &Mesh,
    directory: &Directory,
    name: &'n str,
    namespace: Option<&str>,
    search: &[String],
) -> Option<Named<'n>> {
    let exact = |host: Cow<'n, str>| {
        let service = directory.seen_exact(&mesh.services, &host, namespace)?;
        Some(Named { service, host })
    };
    if let Some(found) = exact(Cow::Borrowed(name)) {
        return Some(found);
    }
    if let Some(found) = full(name, namespace).and_then(|full| exact(Cow::Owned(full))) {
        return Some(found);
    }
    for suffix in suffixes(namespace, search) {
        let rest = name.strip_suffix(suffix.as_ref());
        let Some(rest) = rest.and_then(|rest| rest.strip_suffix('.')) else {
            continue;
        };
        let written = exact(Cow::Borrowed(rest));
        let found = written.or_else(|| exact(Cow::Owned(full(rest, namespace)?)));
        if found.is_some() {
            return found;
        }
    }
    let service = directory.seen(&mesh.services, name, namespace)?;
    Some(Named {
        service,
        host: Cow::Borrowed(name),
    })
}

/// The full name of a short one.
fn full(name: &str, namespace: Option<&str>) -> Option<String> {
    let mut labels = name.split('.');
    let (service, of) = (labels.next()?, labels.next());
    match (labels.next(), labels.next()) {
        (None | Some("svc"), None) => {}
        (Some(_), _) | (None, Some(_)) => return None,
    }
    Some([service, of.or(namespace)?, CLUSTER].join("."))
}

/// The longest first: what remains of a name must be what its user wrote.
fn suffixes<'s>(namespace: Option<&str>, search: &'s [String]) -> Vec<Cow<'s, str>> {
    let mut all: Vec<Cow<'s, str>> = search.iter().map(|s| Cow::Borrowed(s.as_str())).collect();
    all.extend(namespace.map(|namespace| Cow::Owned(format!("{namespace}.{CLUSTER}"))));
    all.push(Cow::Borrowed(CLUSTER));
    all.push(Cow::Borrowed("cluster.local"));
    all.sort_by_key(|suffix| std::cmp::Reverse(suffix.len()));
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const MESH: &str = r#"
[authority]
stateDir = "state"
[mesh]

[[serviceEntry]]
name = "api"
namespace = "shop"
hosts = ["api.shop.svc.cluster.local"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.1" }]

[[serviceEntry]]
name = "short"
namespace = "shop"
hosts = ["orders"]
ports = [{ number = 80, name = "http", protocol = "HTTP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.2" }]

[[serviceEntry]]
name = "partner"
hosts = ["api.partner.example"]
ports = [{ number = 443, name = "tls", protocol = "TLS" }]
resolution = "DNS"

[[serviceEntry]]
name = "wild"
hosts = ["*.partner.example"]
ports = [{ number = 443, name = "tls", protocol = "TLS" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.3" }]

[[serviceEntry]]
name = "mine"
namespace = "a"
hosts = ["db.example"]
exportTo = ["."]
ports = [{ number = 5432, name = "tcp", protocol = "TCP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.4" }]

[[serviceEntry]]
name = "ours"
namespace = "b"
hosts = ["db.example"]
ports = [{ number = 5432, name = "tcp", protocol = "TCP" }]
resolution = "STATIC"
endpoints = [{ address = "192.0.2.5" }]
"#;

    #[test]
    fn what_a_name_means_depends_on_who_asks() {
        let config =
            config::parse(&[("mesh.toml".into(), MESH.to_owned())], Path::new("")).unwrap();
        let directory = Directory::new(&config.mesh);
        let search = ["corp.example".to_owned()];
        for (name, namespace, want) in [
            ("api.shop.svc.cluster.local", None, "api"),
            ("api", Some("shop"), "api"),
            ("api", Some("other"), ""),
            ("api", None, ""),
            ("api.shop", Some("other"), "api"),
            ("api.shop.svc", None, "api"),
            ("api.other", Some("shop"), ""),
            ("api.shop.corp.example", Some("other"), "api"),
            ("api.shop.other.svc.cluster.local", Some("other"), "api"),
            ("orders", Some("x"), "short"),
            ("orders.x.svc.cluster.local", Some("x"), "short"),
            ("orders.corp.example", None, "short"),
            ("api.partner.example", None, "partner"),
            ("api.partner.example.corp.example", None, "partner"),
            (
                "api.partner.example.shop.svc.cluster.local",
                Some("shop"),
                "partner",
            ),
            ("www.partner.example", None, "wild"),
            // A name with a search domain is never a wildcard's: it is the resolver's next attempt that is.
            ("www.partner.example.corp.example", None, ""),
            ("partner.example", None, ""),
            ("db.example", Some("a"), "mine"),
            ("db.example", Some("b"), "ours"),
            ("db.example", Some("c"), "ours"),
            ("db.example", None, "ours"),
            ("corp.example", None, ""),
            ("", None, ""),
        ] {
            let found = find(&config.mesh, &directory, name, namespace, &search);
            let got = found.map_or("", |n| config.mesh.services[n.service].name.name.as_str());
            assert_eq!(got, want, "{name} in {namespace:?}");
        }
    }
}
