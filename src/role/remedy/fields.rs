//! The fields of a rule by name, and what a call presents for each of them.

use http::header::HeaderName;
use serde_json::Value;

use crate::policy::model::{Condition, Operation, Source};
use crate::policy::{Connection, Request};
use crate::vocab::claims::Claims;
use crate::vocab::spiffe::SpiffeId;

/// `from[].source` or `to[].operation`.
pub(super) trait Fields: Clone + Default {
    /// Every field with its name in the configuration.
    fn fields(&self) -> Vec<(&'static str, &Vec<String>)>;
    /// A field by its name.
    fn field_mut(&mut self, name: &str) -> Option<&mut Vec<String>>;
    /// The same with one field alone.
    fn only(&self, name: &str) -> Self {
        let mut one = Self::default();
        let values = self.fields().into_iter().find(|(n, _)| *n == name);
        if let (Some((_, values)), Some(field)) = (values, one.field_mut(name)) {
            values.clone_into(field);
        }
        one
    }
    /// Whether it has no field.
    fn is_empty(&self) -> bool {
        self.fields().iter().all(|(_, values)| values.is_empty())
    }
}

macro_rules! fields {
    ($type:ty, $($name:literal => $field:ident),+ $(,)?) => {
        impl Fields for $type {
            fn fields(&self) -> Vec<(&'static str, &Vec<String>)> {
                vec![$(($name, &self.$field)),+]
            }
            fn field_mut(&mut self, name: &str) -> Option<&mut Vec<String>> {
                match name {
                    $($name => Some(&mut self.$field),)+
                    _ => None,
                }
            }
        }
    };
}

fields!(Source,
    "principals" => principals,
    "notPrincipals" => not_principals,
    "requestPrincipals" => request_principals,
    "notRequestPrincipals" => not_request_principals,
    "namespaces" => namespaces,
    "notNamespaces" => not_namespaces,
    "serviceAccounts" => service_accounts,
    "notServiceAccounts" => not_service_accounts,
    "trustDomains" => trust_domains,
    "notTrustDomains" => not_trust_domains,
    "ipBlocks" => ip_blocks,
    "notIpBlocks" => not_ip_blocks,
    "remoteIpBlocks" => remote_ip_blocks,
    "notRemoteIpBlocks" => not_remote_ip_blocks,
);

fields!(Operation,
    "hosts" => hosts,
    "notHosts" => not_hosts,
    "ports" => ports,
    "notPorts" => not_ports,
    "methods" => methods,
    "notMethods" => not_methods,
    "paths" => paths,
    "notPaths" => not_paths,
    "pathRegexes" => path_regexes,
    "notPathRegexes" => not_path_regexes,
);

/// Every list of a condition with its name.
pub(super) fn condition_lists(condition: &Condition) -> [(&'static str, &Vec<String>); 4] {
    [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
        ("regexes", &condition.regexes),
        ("notRegexes", &condition.not_regexes),
    ]
}

/// What a call presents, in the words of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented<'a> {
    pub(super) connection: &'a Connection,
    pub(super) request: Option<&'a Request>,
}

impl Presented<'_> {
    fn id(&self) -> Option<&SpiffeId> {
        self.connection.principal.as_ref()
    }

    fn claims(&self) -> Option<&Claims> {
        self.request.and_then(|r| r.claims.as_ref())
    }

    /// The caller, as `principals` names it.
    pub(super) fn principal(&self) -> Option<String> {
        self.id().map(|id| id.principal().to_owned())
    }

    /// The end user, as `requestPrincipals` can name it: a subject with `/` cannot be named.
    pub(super) fn request_principal(&self) -> Option<String> {
        let claims = self.claims()?;
        let subject = claims.subject()?;
        claims
            .request_principal()
            .filter(|_| !subject.contains('/'))
    }

    /// The path without query.
    pub(super) fn path(&self) -> Option<String> {
        let path = self.request?.path.as_ref()?;
        Some(path.path().to_owned())
    }

    /// The value that a field of a source or operation compares; the `not` form compares the same.
    pub(super) fn field(&self, name: &str) -> Option<String> {
        let connection = self.connection;
        match name {
            "principals" | "notPrincipals" => self.principal(),
            "requestPrincipals" | "notRequestPrincipals" => self.request_principal(),
            "namespaces" | "notNamespaces" => {
                self.id()?.k8s().map(|(namespace, _)| namespace.to_owned())
            }
            "serviceAccounts" | "notServiceAccounts" => {
                let (namespace, account) = self.id()?.k8s()?;
                Some(format!("{namespace}/{account}"))
            }
            "trustDomains" | "notTrustDomains" => Some(self.id()?.trust_domain().to_owned()),
            "ipBlocks" | "notIpBlocks" => Some(connection.peer.to_string()),
            "remoteIpBlocks" | "notRemoteIpBlocks" => Some(connection.remote.to_string()),
            "hosts" | "notHosts" => self.request.map(|r| r.host.as_str().to_owned()),
            "ports" | "notPorts" => Some(connection.port.to_string()),
            "methods" | "notMethods" => self.request.map(|r| r.method.as_str().to_owned()),
            "paths" | "notPaths" | "pathRegexes" | "notPathRegexes" => self.path(),
            _ => None,
        }
    }

    /// The values that a `when` key compares.
    pub(super) fn key(&self, key: &str) -> Vec<String> {
        let field = match key {
            "source.principal" => "principals",
            "source.namespace" => "namespaces",
            "source.serviceAccount" => "serviceAccounts",
            "source.trustDomain" => "trustDomains",
            "source.ip" => "ipBlocks",
            "remote.ip" => "remoteIpBlocks",
            "destination.port" => "ports",
            "request.auth.principal" => "requestPrincipals",
            "destination.ip" => return vec![self.connection.destination.to_string()],
            "connection.sni" => {
                return self
                    .connection
                    .sni
                    .iter()
                    .map(ToString::to_string)
                    .collect();
            }
            "request.auth.audiences" => return self.claim(&["aud"]),
            "request.auth.presenter" => return self.claim(&["azp"]),
            _ => return self.map_key(key),
        };
        self.field(field).into_iter().collect()
    }

    fn map_key(&self, key: &str) -> Vec<String> {
        let inner = |map: &str| {
            let rest = key.strip_prefix(map)?;
            rest.strip_prefix('[')?.strip_suffix(']')
        };
        if let Some(name) = inner("request.headers") {
            return self.header(&name.to_ascii_lowercase());
        }
        if let Some(name) = inner("request.query") {
            let path = self.request.and_then(|r| r.path.as_ref());
            let pairs = path.into_iter().flat_map(|p| p.query_params());
            let of_name = pairs.filter(|(n, _)| *n == name);
            return of_name.map(|(_, value)| value.into_owned()).collect();
        }
        match inner("request.auth.claims") {
            Some(names) => self.claim(&names.split("][").collect::<Vec<_>>()),
            None => Vec::new(),
        }
    }

    fn header(&self, name: &str) -> Vec<String> {
        let field = match name {
            ":method" => "methods",
            ":authority" | "host" => "hosts",
            ":path" => {
                let path = self.request.and_then(|r| r.path.as_ref());
                return path.into_iter().map(|p| p.as_str().to_owned()).collect();
            }
            name => {
                let Ok(name) = HeaderName::try_from(name) else {
                    return Vec::new();
                };
                let headers = self.request.map(|r| r.headers.get_all(name));
                let values = headers.into_iter().flatten();
                return values
                    .filter_map(|v| v.to_str().ok())
                    .map(|v| v.trim_matches([' ', '\t']).to_owned())
                    .collect();
            }
        };
        self.field(field).into_iter().collect()
    }

    /// A string, or the strings of a list.
    fn claim(&self, names: &[&str]) -> Vec<String> {
        let Some((first, rest)) = names.split_first() else {
            return Vec::new();
        };
        let top = self.claims().and_then(|c| c.claim(first));
        let found = rest
            .iter()
            .try_fold(top, |value, name| {
                let value = value?.as_object()?.get(*name)?;
                Some(Some(value))
            })
            .flatten();
        match found {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => list
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(_) | None => Vec::new(),
        }
    }
}
