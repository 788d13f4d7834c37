//! An external authorizer as the operator configured it (Istio's `MeshConfig.extensionProviders`), checked.

use http::{HeaderName, HeaderValue, StatusCode};

/// `[[extensionProvider]]` with `envoyExtAuthzHttp` or `envoyExtAuthzGrpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// `name`.
    pub name: String,
    /// `service`, as an index into the services of the mesh.
    pub service: usize,
    /// `service`, its host.
    pub host: String,
    /// `port`.
    pub port: u16,
    /// `timeout`, in milliseconds: connecting, asking and the whole answer together.
    pub timeout_ms: u64,
    /// `failOpen`: what cannot be asked goes on.
    pub fail_open: bool,
    /// `statusOnError`.
    pub status_on_error: StatusCode,
    /// `includeRequestBodyInCheck`.
    pub body: Option<BodyCheck>,
    /// Which contract.
    pub kind: Kind,
}

/// The contract that an authorizer speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `envoyExtAuthzHttp`.
    Http(HttpSettings),
    /// `envoyExtAuthzGrpc`.
    Grpc,
}

/// `includeRequestBodyInCheck`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyCheck {
    /// `maxRequestBytes`.
    pub max_bytes: usize,
    /// `allowPartialMessage`: of a longer body the beginning is shown; else it is answered 413.
    pub allow_partial: bool,
    /// `packAsBytes`: as `raw_body` and not as `body` (gRPC).
    pub pack_as_bytes: bool,
}

/// What `envoyExtAuthzHttp` has beside that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpSettings {
    /// `pathPrefix` without its last slash.
    pub path_prefix: String,
    /// `includeRequestHeadersInCheck`.
    pub request_headers: Names,
    /// `includeAdditionalHeadersInCheck`.
    pub additional: Vec<(HeaderName, HeaderValue)>,
    /// `headersToUpstreamOnAllow`.
    pub to_upstream: Names,
    /// `headersToDownstreamOnAllow`.
    pub to_downstream_on_allow: Names,
    /// `headersToDownstreamOnDeny`; all of them if it is not written.
    pub to_downstream_on_deny: Option<Names>,
}

/// Header names in lower case: `abc`, `abc*` or `*abc`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
}

impl Names {
    /// Adds one; `false` if it is none of the three forms.
    pub fn push(&mut self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        let (pattern, name) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(rest), _) => (Pattern::Suffix(rest.to_owned()), rest),
            (None, Some(rest)) => (Pattern::Prefix(rest.to_owned()), rest),
            (None, None) => (Pattern::Exact(text.clone()), text.as_str()),
        };
        let valid = HeaderName::from_bytes(name.as_bytes()).is_ok() && !name.contains('*');
        if valid {
            self.0.push(pattern);
        }
        valid
    }

    /// Whether one of them is this name, which is in lower case.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Exact(text) => text == name,
            Pattern::Prefix(text) => name.starts_with(text.as_str()),
            Pattern::Suffix(text) => name.ends_with(text.as_str()),
        })
    }
}
