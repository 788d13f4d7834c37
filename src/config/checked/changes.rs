//! How much of a configuration is another than before, in a few words for the log.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::serving::{IngressListener, ListenerCertificate, UnknownServerName};
use super::{Config, Mesh, Process};

/// Resources of one kind that were added, taken away, and are others under the same name.
fn count<T: PartialEq, K: Ord>(now: &[T], then: &[T], name: impl Fn(&T) -> K) -> [usize; 3] {
    let now: BTreeMap<K, &T> = now.iter().map(|one| (name(one), one)).collect();
    let then: BTreeMap<K, &T> = then.iter().map(|one| (name(one), one)).collect();
    let added = now.keys().filter(|key| !then.contains_key(key)).count();
    let removed = then.keys().filter(|key| !now.contains_key(key)).count();
    let others = |(key, one): &(&K, &&T)| then.get(*key).is_some_and(|before| before != *one);
    [added, removed, now.iter().filter(others).count()]
}

/// What `count` found, as `httpRoute: 1 added, 2 changed`; `None` if nothing.
fn in_words(kind: &str, counts: [usize; 3]) -> Option<String> {
    let words = counts.into_iter().zip(["added", "removed", "changed"]);
    let words = words.filter(|(count, _)| *count > 0);
    let words: Vec<String> = words
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    (!words.is_empty()).then(|| format!("{kind}: {}", words.join(", ")))
}

impl Config {
    /// What a reload has taken in since `before`: what differs in the mesh, and in what listeners serve. Empty if nothing.
    #[must_use]
    pub fn changes(&self, before: &Self) -> String {
        let mesh = Some(self.mesh.changes(&before.mesh)).filter(|told| !told.is_empty());
        let mut told: Vec<String> = mesh.into_iter().collect();
        let (now, then) = (self.process.certificates(), before.process.certificates());
        let name = |(at, one): &(SocketAddr, &ListenerCertificate)| (*at, one.certificate.clone());
        let certificates = in_words("certificate", count(&now, &then, name));
        let is_in_order = certificates.is_some() || now == then;
        told.extend(certificates);
        if !is_in_order {
            told.push("the order of certificates has changed".to_owned());
        }
        let (now, then) = (self.process.unknown(), before.process.unknown());
        told.extend(in_words(
            "unknownServerName",
            count(&now, &then, |(at, _)| *at),
        ));
        told.join("; ")
    }
}

impl Process {
    fn serving(&self) -> impl Iterator<Item = &IngressListener> {
        self.ingresses.iter().flat_map(|ingress| &ingress.listeners)
    }

    fn certificates(&self) -> Vec<(SocketAddr, &ListenerCertificate)> {
        let each = self.serving().map(|l| (l.address, &l.certificates));
        each.flat_map(|(at, all)| all.iter().map(move |one| (at, one)))
            .collect()
    }

    fn unknown(&self) -> Vec<(SocketAddr, UnknownServerName)> {
        self.serving().map(|l| (l.address, l.unknown)).collect()
    }
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
        let kinds = kinds.into_iter();
        let mut told: Vec<String> = kinds
            .filter_map(|(kind, counts)| in_words(kind, counts))
            .collect();
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
    #[test]
    fn changes_of_what_listeners_serve() {
        let of = |lines: &str| {
            let gateway =
                "name = \"g\"\ngatewayClassName = \"ringgate-ingress\"\naddress = \"10.0.0.1\"";
            let text = format!(
                "[authority]\n[[gateway]]\n{gateway}\n[[ingress]]\ngateway = \"default/g\"\n[[ingress.listener]]\n\
                 address = \"10.0.0.1:443\"\n{lines}"
            );
            crate::config::parse(&[("a.toml".into(), text)], Path::new("/")).unwrap()
        };
        let one = |file: &str, names: &str| {
            format!(
                "[[ingress.listener.certificates]]\ncertificate = \"{file}.pem\"\nkey = \"file:k\"\n{names}"
            )
        };
        let [a, b, c] = ["a", "b", "c"].map(|file| one(file, ""));
        let before = of(&format!("{a}{b}"));
        assert_eq!(before.changes(&before), "");
        let now = of(&format!("{b}{a}"));
        assert_eq!(
            now.changes(&before),
            "the order of certificates has changed"
        );
        let now = of(&format!(
            "unknownServerName = \"REFUSE\"\n{}{c}",
            one("b", "hostnames = [\"b.test\"]\n")
        ));
        assert_eq!(
            now.changes(&before),
            "certificate: 1 added, 1 removed, 1 changed; unknownServerName: 1 changed"
        );
    }
}
