//! Verified claims of an end-user token. Only `jwt` makes them.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map, Value};

/// The claims of a token, with issuer and subject at hand: rules and records ask for them with every request.
#[derive(Debug, Default, PartialEq)]
pub struct Payload {
    map: Map<String, Value>,
    issuer: Option<Box<str>>,
    subject: Option<Box<str>>,
}

impl From<Map<String, Value>> for Payload {
    fn from(map: Map<String, Value>) -> Self {
        let text = |name: &str| {
            let text = map.get(name)?.as_str()?;
            (!text.is_empty()).then(|| text.into())
        };
        Self {
            issuer: text("iss"),
            subject: text("sub"),
            map,
        }
    }
}

impl Deref for Payload {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl Payload {
    /// `iss`, if it is a non-empty string.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// `sub`, if it is a non-empty string.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}

/// The payload of a verified token (RFC 7519 section 4), one JSON object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    /// Shared with the cache of verified tokens, so that a hit copies no claim.
    payload: Arc<Payload>,
    /// Names of top-level claims whose string is a space-delimited list (`scope`, `permission` and the rule's own).
    space_delimited: Arc<[String]>,
}

/// What `aud` holds: a string, or the strings of a list (RFC 7519 section 4.1.3).
pub fn audiences(map: &Map<String, Value>) -> impl Iterator<Item = &str> + Clone {
    let aud = map.get("aud");
    let list = aud.and_then(Value::as_array).into_iter().flatten();
    aud.into_iter().chain(list).filter_map(Value::as_str)
}

impl Claims {
    /// Wraps a payload that was verified; `space_delimited` are the rule's `spaceDelimitedClaims`.
    #[must_use]
    pub fn new(map: Map<String, Value>, mut space_delimited: Vec<String>) -> Self {
        space_delimited.extend(["scope".to_owned(), "permission".to_owned()]);
        Self {
            payload: Arc::new(map.into()),
            space_delimited: space_delimited.into(),
        }
    }

    /// As `new`, over parts that are shared; `space_delimited` is complete, with `scope` and `permission`.
    #[must_use]
    pub fn shared(payload: Arc<Payload>, space_delimited: Arc<[String]>) -> Self {
        Self {
            payload,
            space_delimited,
        }
    }

    /// A top-level claim.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&Value> {
        self.payload.get(name)
    }

    /// All claims.
    #[must_use]
    pub fn map(&self) -> &Map<String, Value> {
        &self.payload
    }

    /// Whether the top-level claim `name` is split at spaces.
    #[must_use]
    pub fn is_space_delimited(&self, name: &str) -> bool {
        self.space_delimited.iter().any(|n| n == name)
    }

    /// `iss`, if it is a non-empty string.
    #[must_use]
    pub fn issuer(&self) -> Option<&str> {
        self.payload.issuer()
    }

    /// `sub`, if it is a non-empty string.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.payload.subject()
    }

    /// `iss/sub`, Istio's request principal; present only if both are non-empty strings.
    #[must_use]
    pub fn request_principal(&self) -> Option<String> {
        Some(format!("{}/{}", self.issuer()?, self.subject()?))
    }
}
