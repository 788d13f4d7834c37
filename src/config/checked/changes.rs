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
        // Every kind has names.
        macro_rules! counted {
            ($($kind:literal, $field:ident;)*) => {
                [$(($kind, count(&self.$field, &before.$field, |one| one.name.clone())),)*]
            };
        }
        let kinds = counted! {
            "gateway", gateways;
            "workloadEntry", workloads;
            "serviceEntry", services;
            "destinationRule", destination_rules;
            "httpRoute", routes;
            "rateLimit", rate_limits;
            "authorizationPolicy", authorization_policies;
            "peerAuthentication", peer_authentications;
            "requestAuthentication", request_authentications;
            "extensionProvider of kind oidc", oidc_providers;
            "extensionProvider", authorizers;
        };
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
        let of = |policies: &[String]| mesh(&format!("{gateway}{}", policies.concat()));
        let [a, b, c] = ["a", "b", "c"].map(|name| policy(name, &format!("/{name}")));
        let before = of(&[a.clone(), b.clone(), c.clone()]);
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
        let now = of(&[b, a, c]);
        assert_eq!(now.changes(&before), "the order of resources has changed");
    }
}
