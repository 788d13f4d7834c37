//! `[[httpRoute]]` (gateway.networking.k8s.io HTTPRoute).

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::vocab::host::Host;
use crate::vocab::resource::ResourceName;

/// One route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// Namespace and name.
    pub name: ResourceName,
    /// `parentRefs`.
    pub parents: Vec<RouteParent>,
    /// `hostnames`, lower case; empty means any; `*.suffix` allowed. Of no meaning at a service.
    pub hostnames: Vec<String>,
    /// Rules.
    pub rules: Vec<RouteRule>,
}

/// What a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteParent {
    /// A gateway, as an index into `Mesh::gateways`.
    Gateway(usize),
    /// A service, as an index into `Mesh::services`, and its port; `None` means all.
    Service(usize, Option<u16>),
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// `namespace/route/rule` in records: the rule by its `name`, else by its number.
    pub label: Arc<str>,
    /// `matches`; any one suffices. Never empty: absent is `PathPrefix /`.
    pub matches: Vec<RouteMatch>,
    /// `requestRedirect`: answered here, and there are no backends.
    pub redirect: Option<Redirect>,
    /// `urlRewrite`.
    pub rewrite: Rewrite,
    /// `requestHeaderModifier`.
    pub request_headers: HeaderChange,
    /// `responseHeaderModifier`.
    pub response_headers: HeaderChange,
    /// `requestMirror`.
    pub mirrors: Vec<Mirror>,
    /// `backendRefs`; the weights are not all 0.
    pub backends: Vec<WeightedBackend>,
    /// `timeouts`.
    pub timeouts: Timeouts,
    /// `retry`.
    pub retry: Option<Retry>,
}

impl RouteRule {
    /// Whether what is sent differs from what was asked for, in what policies read.
    #[must_use]
    pub fn edits_request(&self) -> bool {
        self.rewrite != Rewrite::default() || !self.request_headers.is_empty()
    }
}

/// `matches[]`: all that is written must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    /// `path`; `PathPrefix /` if absent.
    pub path: PathMatch,
    /// `method`.
    pub method: Option<Method>,
    /// `headers`, names in lower case, each once.
    pub headers: Vec<FieldMatch>,
    /// `queryParams`, each name once.
    pub query: Vec<FieldMatch>,
}

/// `matches[].path`, canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// `Exact`.
    Exact(String),
    /// `PathPrefix`, by whole segments, without a slash at its end; empty for `/`.
    Prefix(String),
    /// `RegularExpression`, of the whole path.
    Regex(String),
}

/// `headers[]`, `queryParams[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldMatch {
    /// `name`.
    pub name: String,
    /// `value`.
    pub value: ValueMatch,
}

/// How a value is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// `Exact`.
    Exact(String),
    /// `RegularExpression`, of the whole value.
    Regex(String),
}

/// One of `backendRefs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Where.
    pub backend: Backend,
    /// `weight`; 1 if absent, 0 gets nothing.
    pub weight: u32,
}

/// A port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Index into `Mesh::services`.
    pub service: usize,
    /// Service port.
    pub port: u16,
}

/// `requestMirror`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `backendRef`.
    pub backend: Backend,
    /// `percent` or `fraction`: so many copies of so many requests; all if absent.
    pub share: (u32, u32),
}

impl Mirror {
    /// Whether a request is copied for which this number was drawn.
    #[must_use]
    pub fn takes(&self, chance: u64) -> bool {
        let (copies, of) = self.share;
        chance.checked_rem(of.into()).unwrap_or(0) < u64::from(copies)
    }
}

/// `requestHeaderModifier`, `responseHeaderModifier`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// `set`.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// `add`.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// `remove`.
    pub remove: Vec<HeaderName>,
}

impl HeaderChange {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// `urlRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// `hostname`.
    pub host: Option<Host>,
    /// `path`.
    pub path: Option<PathChange>,
}

/// `path` of `urlRewrite` and `requestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// `ReplaceFullPath`.
    Full(String),
    /// `ReplacePrefixMatch`: length in bytes of the prefix that the rule matches, and what stands in its place, without a slash at its end.
    Prefix(usize, String),
}

/// `requestRedirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `scheme`; the request's if absent.
    pub scheme: Option<&'static str>,
    /// `hostname`; the request's if absent.
    pub host: Option<Host>,
    /// `port`.
    pub port: Option<u16>,
    /// `path`; the request's if absent.
    pub path: Option<PathChange>,
    /// `statusCode`, 302 if absent.
    pub status: StatusCode,
}

/// `timeouts`, in milliseconds; `None` is none of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// `request`: from the head of the request to the end of the answer, all attempts together.
    pub request_ms: Option<u64>,
    /// `backendRequest`: one attempt.
    pub backend_request_ms: Option<u64>,
    /// `idle`: nothing moves.
    pub idle_ms: Option<u64>,
    /// `stream`: an exchange, also one whose answer goes on.
    pub stream_ms: Option<u64>,
}

/// `retry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// `codes`: answers after which there is another attempt.
    pub codes: Vec<StatusCode>,
    /// `attempts`: beside the first one.
    pub attempts: u32,
    /// `backoff`, in milliseconds: the least before the second attempt.
    pub backoff_ms: u64,
    /// `dangerous_anyMethod`.
    pub any_method: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_of_so_many_are_mirrored() {
        let backend = Backend {
            service: 0,
            port: 80,
        };
        for (share, want) in [
            ((100, 100), 100),
            ((0, 7), 0),
            ((1, 4), 25),
            ((50, 100), 50),
        ] {
            let mirror = Mirror { backend, share };
            let taken = (0..100).filter(|chance| mirror.takes(*chance)).count();
            assert_eq!(taken, want, "{share:?}");
        }
    }
}
