//! Names of resources and hosts, and what is known of them before anything else is judged.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::check::Context;
use crate::config::document::Document;
use crate::config::nearest::hint;
use crate::config::place::{At, Place, Problems};
use crate::config::raw::File;
use crate::vocab::limits;
use crate::vocab::resource::ResourceName;

/// Namespace of a resource that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Every name that is written, by kind. A resource with a problem of its own is still there to be referred to, so that
/// one mistake is one message.
#[derive(Debug)]
pub(crate) struct Known {
    names: BTreeMap<&'static str, BTreeSet<ResourceName>>,
    /// A file could not be read whole, or not all files are here: what seems to be missing may be there.
    unsure: bool,
}

const REFERRED: [&str; 4] = [
    "gateway",
    "workloadEntry",
    "serviceEntry",
    "extensionProvider",
];

impl Known {
    /// From the trees of all files; `partial` if there are others.
    pub(crate) fn new(documents: &[Document], partial: bool) -> Self {
        let mut names: BTreeMap<&'static str, BTreeSet<ResourceName>> = BTreeMap::new();
        let mut unsure = partial || documents.iter().any(|d| d.damaged);
        for (kind, document) in REFERRED
            .iter()
            .flat_map(|kind| documents.iter().map(move |d| (*kind, d)))
        {
            for item in document
                .root
                .entry(kind)
                .map(|e| e.value.items())
                .unwrap_or_default()
            {
                let text = |key: &str| item.entry(key).and_then(|e| e.value.text());
                match text("name") {
                    Some(name) => {
                        let namespace = text("namespace").unwrap_or(DEFAULT_NAMESPACE);
                        names
                            .entry(kind)
                            .or_default()
                            .insert(ResourceName::new(namespace, name));
                    }
                    None => unsure = true,
                }
            }
        }
        Self { names, unsure }
    }

    /// Whether a file could not be read whole.
    pub(crate) fn unsure(&self) -> bool {
        self.unsure
    }

    fn contains(&self, kind: &str, name: &ResourceName) -> bool {
        self.names
            .get(kind)
            .is_some_and(|names| names.contains(name))
    }

    fn all(&self, kind: &str) -> Vec<String> {
        self.names
            .get(kind)
            .into_iter()
            .flatten()
            .map(ToString::to_string)
            .collect()
    }
}

impl Context<'_> {
    /// Whether what seems to be missing may be in a file that is not here or not valid.
    pub(crate) fn unsure(&self) -> bool {
        self.known.unsure
    }

    /// Whether `name` of `kind` exists; if not, a problem at `place` says so.
    pub(crate) fn exists(
        &mut self,
        kind: &'static str,
        name: &ResourceName,
        place: &Place,
    ) -> bool {
        let exists = self.known.contains(kind, name);
        if !exists && !self.known.unsure {
            let all = self.known.all(kind);
            // Of the same name in another namespace before any that is spelt like it.
            let elsewhere = all.iter().find(|full| {
                full.split_once('/')
                    .is_some_and(|(_, own)| own == name.name)
            });
            let near = match elsewhere {
                Some(full) => format!(", did you mean `{full}`?"),
                None => hint(&name.to_string(), all.iter().map(String::as_str)),
            };
            self.out
                .error(place, format!("there is no {kind} `{name}`{near}"));
        }
        exists
    }

    /// Whether an extension provider exists; providers have no namespace.
    pub(crate) fn provider_exists(&mut self, written: &At<String>) {
        let all = self.known.all("extensionProvider");
        let names = || {
            all.iter()
                .filter_map(|n| n.split_once('/').map(|(_, name)| name))
        };
        if !self.known.unsure && !names().any(|n| n == written.value) {
            let near = hint(written, names());
            let text = written.escape_debug();
            self.out.error(
                &written.place,
                format!("there is no extensionProvider `{text}`{near}"),
            );
        }
    }

    /// `namespace/name` of a resource of `kind` that exists.
    pub(crate) fn reference(
        &mut self,
        kind: &'static str,
        written: &At<String>,
    ) -> Option<ResourceName> {
        let Some(name) = ResourceName::parse(written) else {
            let text = written.escape_debug();
            self.out.error(
                &written.place,
                format!("`{text}` is not `namespace/name` of a {kind}"),
            );
            return None;
        };
        self.exists(kind, &name, &written.place).then_some(name)
    }

    /// Namespace and name of a resource.
    pub(crate) fn resource(
        &mut self,
        name: &At<String>,
        namespace: Option<&At<String>>,
    ) -> ResourceName {
        if !dns_subdomain(name) {
            let text = name.escape_debug();
            self.out.error(
                &name.place,
                format!("`{text}` is not a name: lower case letters, digits, `-` and `.`"),
            );
        }
        if let Some(ns) = namespace {
            self.namespace(ns);
        }
        ResourceName::new(namespace.map_or(DEFAULT_NAMESPACE, |ns| &ns.value), name)
    }

    /// The name of a namespace.
    pub(crate) fn namespace(&mut self, name: &At<String>) {
        if !dns_label(name) {
            let text = name.escape_debug();
            self.out.error(
                &name.place,
                format!("`{text}` is not a namespace: lower case letters, digits and `-`"),
            );
        }
    }

    /// A host, lower case: an exact name or, where `wildcard`, `*.suffix`.
    pub(crate) fn host(&mut self, written: &At<String>, wildcard: bool) -> Option<String> {
        let host = written.to_ascii_lowercase();
        let name = if wildcard {
            host.strip_prefix("*.").unwrap_or(&host)
        } else {
            &host
        };
        let label = |l: &str| {
            (1..=63).contains(&l.len())
                && l.bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() <= limits::HOST_BYTES && name.split('.').all(label) {
            return Some(host);
        }
        let also = if wildcard { " or `*.suffix`" } else { "" };
        let text = written.escape_debug();
        self.out.error(
            &written.place,
            format!("`{text}` is not a host, expected a DNS name without a port{also}"),
        );
        None
    }
}

/// RFC 1123 label.
pub(crate) fn dns_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| plain(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain.
pub(crate) fn dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(dns_label)
}

/// Two resources of one kind, namespace and name.
pub(crate) fn duplicates(files: &[File], out: &mut Problems) {
    macro_rules! kind {
        ($kind:literal, $field:ident) => {
            let all = files.iter().flat_map(|f| f.$field.iter().flatten());
            unique($kind, all.map(|r| (&r.name, r.namespace.as_ref())), out);
        };
    }
    kind!("gateway", gateway);
    kind!("serviceAccount", service_account);
    kind!("workloadEntry", workload_entry);
    kind!("serviceEntry", service_entry);
    kind!("destinationRule", destination_rule);
    kind!("httpRoute", http_route);
    kind!("rateLimit", rate_limit);
    kind!("peerAuthentication", peer_authentication);
    kind!("requestAuthentication", request_authentication);
    kind!("authorizationPolicy", authorization_policy);
    let namespaces = files.iter().flat_map(|f| f.namespace.iter().flatten());
    unique("namespace", namespaces.map(|n| (&n.name, None)), out);
    let providers = files
        .iter()
        .flat_map(|f| f.extension_provider.iter().flatten());
    unique("extensionProvider", providers.map(|p| (&p.name, None)), out);
}

fn unique<'a>(
    kind: &str,
    names: impl Iterator<Item = (&'a At<String>, Option<&'a At<String>>)>,
    out: &mut Problems,
) {
    let mut seen: BTreeMap<ResourceName, &Place> = BTreeMap::new();
    for (name, namespace) in names {
        let full = ResourceName::new(namespace.map_or(DEFAULT_NAMESPACE, |ns| &ns.value), name);
        match seen.get(&full) {
            Some(first) => out.clash(&name.place, format!("a second {kind} `{full}`"), first),
            None => drop(seen.insert(full, &name.place)),
        }
    }
}
