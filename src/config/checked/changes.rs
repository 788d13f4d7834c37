//! How much of a mesh is another than before, in a few words for the log.

use std::collections::BTreeMap;

use super::Mesh;

/// Resources of one kind that were added, taken away, and are others under the same name.
fn count<T: PartialEq, K: Ord>(now: &[T], then: &[T], name: impl Fn(&T) -> K) -> [usize; 3] {
    let now: BTreeMap<K, &T> = now.iter().map(|one| (name(one), one)).collect();
    let then: BTreeMap<K, &T> = then.iter().map(|one| (name(one), one)).collect();
    let added = now.keys().filter(|key| !then.contains_key(key)).count();
    let removed = then.keys().filter(|key| !now.contains_key(key)).count();
    let others = |(key, one): &(&K, &&T)| then.get(*key).is_some_and(|before| before != *one);
    [added, removed, now.iter().filter(others).count()]
}

impl Mesh {
    /// What differs from the mesh `before`, as `authorizationPolicy: 1 added, 2 changed; [mesh] has changed`; empty if nothing.
    #[must_use]
    pub fn changes(&self, before: &Self) -> String {
        let kinds = [
            (
                "gateway",
                count(&self.gateways, &before.gateways, |r| r.name.clone()),
            ),
            (
                "workloadEntry",
                count(&self.workloads, &before.workloads, |r| r.name.clone()),
            ),
            (
                "serviceEntry",
                count(&self.services, &before.services, |r| r.name.clone()),
            ),
            (
                "destinationRule",
                count(&self.destination_rules, &before.destination_rules, |r| {
                    r.name.clone()
                }),
            ),
            (
                "httpRoute",
                count(&self.routes, &before.routes, |r| r.name.clone()),
            ),
            (
                "rateLimit",
                count(&self.rate_limits, &before.rate_limits, |r| r.name.clone()),
            ),
            (
                "authorizationPolicy",
                count(
                    &self.authorization_policies,
                    &before.authorization_policies,
                    |r| r.name.clone(),
                ),
            ),
            (
                "peerAuthentication",
                count(
                    &self.peer_authentications,
                    &before.peer_authentications,
                    |r| r.name.clone(),
                ),
            ),
            (
                "requestAuthentication",
                count(
                    &self.request_authentications,
                    &before.request_authentications,
                    |r| r.name.clone(),
                ),
            ),
            (
                "extensionProvider",
                sum(
                    count(&self.oidc_providers, &before.oidc_providers, |r| {
                        r.name.clone()
                    }),
                    count(&self.authorizers, &before.authorizers, |r| r.name.clone()),
                ),
            ),
        ];
        let told = kinds.into_iter().filter_map(|(kind, counts)| {
            let words = counts.into_iter().zip(["added", "removed", "changed"]);
            let words = words.filter(|(count, _)| *count > 0);
            let words: Vec<String> = words
                .map(|(count, word)| format!("{count} {word}"))
                .collect();
            (!words.is_empty()).then(|| format!("{kind}: {}", words.join(", ")))
        });
        let mut told: Vec<String> = told.collect();
        if self.revocations != before.revocations {
            let (now, then) = (self.revocations.len(), before.revocations.len());
            told.push(format!("revocation: {now}, {then} before"));
        }
        if self.settings() != before.settings() {
            told.push("[mesh] has changed".to_owned());
        }
        if told.is_empty() && self != before {
            told.push("the order of resources has changed".to_owned());
        }
        told.join("; ")
    }

    /// Keys of `[mesh]`.
    fn settings(&self) -> impl PartialEq + use<'_> {
        (
            (
                &self.trust_domain,
                &self.trust_domain_aliases,
                &self.root_namespace,
            ),
            (
                self.path_normalization,
                self.outbound_allow_any,
                self.num_trusted_proxies,
            ),
            (
                self.forward_client_cert,
                self.gateway_name_selector,
                self.gateway_selectors,
            ),
            (self.audience_stripping, self.l4_deny, self.dry_run),
        )
    }
}

fn sum(one: [usize; 3], other: [usize; 3]) -> [usize; 3] {
    let mut both = one;
    for (both, other) in both.iter_mut().zip(other) {
        *both = both.saturating_add(other);
    }
    both
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn mesh(text: &str) -> std::sync::Arc<crate::config::checked::Mesh> {
        let text = format!(
            "[authority]\n[[waypoint]]\ngateway = \"default/w\"\nhbone = \"127.0.0.1:1\"\n{text}"
        );
        crate::config::parse(&[("a.toml".into(), text)], Path::new("/"))
            .unwrap()
            .mesh
    }

    #[test]
    fn changes_are_counted_by_kind() {
        let gateway = "[[gateway]]\nname = \"w\"\ngatewayClassName = \"istio-waypoint\"\naddress = \"127.0.0.1\"\n";
        let policy = |name: &str, path: &str| {
            format!(
                "[[authorizationPolicy]]\nname = \"{name}\"\nrules = [{{ to = [{{ operation.paths = [\"{path}\"] }}] }}]\n"
            )
        };
        let before = mesh(&format!(
            "{gateway}{}{}{}",
            policy("a", "/a"),
            policy("b", "/b"),
            policy("c", "/c")
        ));
        assert_eq!(before.changes(&before), "");
        let now = mesh(&format!(
            "[mesh]\noutboundTrafficPolicy = \"ALLOW_ANY\"\n{gateway}{}{}{}{}",
            policy("a", "/a"),
            policy("b", "/other"),
            policy("d", "/d"),
            policy("e", "/e"),
        ));
        assert_eq!(
            now.changes(&before),
            "authorizationPolicy: 2 added, 1 removed, 1 changed; [mesh] has changed"
        );
        let now = mesh(&format!(
            "{gateway}{}{}{}",
            policy("b", "/b"),
            policy("a", "/a"),
            policy("c", "/c")
        ));
        assert_eq!(now.changes(&before), "the order of resources has changed");
    }
}
