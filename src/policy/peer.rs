//! PeerAuthentication: the effective mTLS mode of a workload's port (policy semantics section 6).

use std::collections::BTreeMap;

use crate::policy::model::{MtlsMode, PeerAuthentication};

/// The effective mode of `port` (the workload's own port); never `Unset`.
///
/// Mesh-wide, namespace and workload policies overwrite each other in this order unless `Unset`; without any
/// it is `Permissive`. Where two stand in one scope the first of the slice counts (a configuration check
/// refuses that; an import puts the oldest first). A selector in the root namespace is ignored.
#[must_use]
pub fn mtls_mode(
    policies: &[PeerAuthentication],
    root_namespace: &str,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    port: u16,
) -> MtlsMode {
    let selector = |p: &PeerAuthentication| p.selector.as_ref().filter(|s| !s.is_empty()).cloned();
    let wide = |ns: &str| {
        policies
            .iter()
            .find(|p| p.name.namespace == ns && selector(p).is_none())
    };
    let own = policies.iter().find(|p| {
        let selected = selector(p).is_some_and(|s| s.iter().all(|(k, v)| labels.get(k) == Some(v)));
        p.name.namespace == namespace && namespace != root_namespace && selected
    });
    let mut mode = MtlsMode::Permissive;
    for policy in [wide(root_namespace), wide(namespace), own]
        .into_iter()
        .flatten()
    {
        if policy.mode != MtlsMode::Unset {
            mode = policy.mode;
        }
    }
    match own.and_then(|p| p.ports.get(&port)) {
        None | Some(MtlsMode::Unset) => mode,
        Some(port_mode) => *port_mode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::resource::ResourceName;

    fn policy(
        name: &str,
        app: Option<&str>,
        mode: MtlsMode,
        ports: &[(u16, MtlsMode)],
    ) -> PeerAuthentication {
        PeerAuthentication {
            name: ResourceName::parse(name).unwrap(),
            selector: app.map(|a| BTreeMap::from([("app".to_owned(), a.to_owned())])),
            mode,
            ports: ports.iter().copied().collect(),
        }
    }

    fn check(policies: &[PeerAuthentication], port: u16, want: MtlsMode) {
        let labels = BTreeMap::from([("app".to_owned(), "api".to_owned())]);
        assert_eq!(
            mtls_mode(policies, "istio-system", "default", &labels, port),
            want
        );
    }

    #[test]
    fn modes() {
        use MtlsMode::{Disable, Permissive, Strict, Unset};
        let mesh = policy("istio-system/default", None, Strict, &[]);
        check(&[], 80, Permissive);
        check(std::slice::from_ref(&mesh), 80, Strict);
        check(
            &[mesh.clone(), policy("default/ns", None, Permissive, &[])],
            80,
            Permissive,
        );
        check(
            &[mesh.clone(), policy("other/ns", None, Permissive, &[])],
            80,
            Strict,
        );
        check(
            &[
                mesh.clone(),
                policy("istio-system/x", Some("api"), Disable, &[]),
            ],
            80,
            Strict,
        );
        let ports = [(80, Disable), (90, Unset)];
        let api = policy("default/api", Some("api"), Unset, &ports);
        check(&[mesh.clone(), api.clone()], 80, Disable);
        check(&[mesh.clone(), api.clone()], 90, Strict);
        check(&[mesh, api], 91, Strict);
    }
}
