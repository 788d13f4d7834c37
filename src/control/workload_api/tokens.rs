//! JWT-SVIDs for workloads, and the keys that verify them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde_json::Value;
use thiserror::Error;

use super::source::{AgentError, WorkloadApiSource};
use crate::control::authority::{Authority, IssueError};
use crate::control::grpc::{RemoteError, RemoteSigner};
use crate::jwt::KeySetError;
use crate::jwt::svid::JwtBundles;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Who signs.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// The authority in this process.
    Authority(Arc<Authority>),
    /// The authority of another process.
    Remote(Arc<RemoteSigner>),
    /// The Workload API that this process gets its own identities from.
    Agent(Arc<WorkloadApiSource>),
    /// The source of identities signs no tokens.
    Nobody,
}

/// Why there is no token.
#[derive(Debug, Error)]
pub enum MintError {
    /// The authority refused.
    #[error("authority refused")]
    Authority(#[source] IssueError),
    /// The authority of another process refused or could not be reached.
    #[error("authority gave no token")]
    Remote(#[source] RemoteError),
    /// The Workload API refused or could not be reached.
    #[error("Workload API gave no token")]
    Agent(#[source] AgentError),
    /// Nobody signs.
    #[error("the source of identities of this process signs no JWT-SVIDs")]
    Nobody,
}

impl Tokens {
    /// A JWT-SVID. An agent chooses its lifetime itself.
    ///
    /// # Errors
    /// `MintError`.
    pub async fn mint(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, MintError> {
        match self {
            Self::Authority(authority) => authority
                .issue_jwt_svid(id, audiences, ttl, now)
                .map_err(MintError::Authority),
            Self::Remote(remote) => remote
                .sign(id, audiences, ttl, now)
                .await
                .map_err(MintError::Remote),
            Self::Agent(agent) => agent
                .jwt_svid(id, audiences)
                .await
                .map_err(MintError::Agent),
            Self::Nobody => Err(MintError::Nobody),
        }
    }

    /// Key sets (RFC 7517) as JSON, by trust domain; every key has `use: jwt-svid` and a `kid`.
    #[must_use]
    pub fn key_sets(&self) -> BTreeMap<TrustDomain, String> {
        match self {
            Self::Authority(authority) => {
                let set = for_svids(&authority.jwks());
                BTreeMap::from([(authority.trust_domain().clone(), set)])
            }
            Self::Remote(remote) => {
                let set = remote.key_set();
                let domain = remote.trust_domain().clone();
                set.map(|set| (domain, for_svids(&set)))
                    .into_iter()
                    .collect()
            }
            Self::Agent(agent) => agent.jwt_bundles(),
            Self::Nobody => BTreeMap::new(),
        }
    }

    /// The same, ready to verify with.
    ///
    /// # Errors
    /// `KeySetError` if one is no key set.
    pub fn bundles(&self) -> Result<JwtBundles, KeySetError> {
        let mut bundles = JwtBundles::new();
        for (domain, set) in self.key_sets() {
            bundles.set(&domain, &set)?;
        }
        Ok(bundles)
    }
}

/// A key set whose keys are said to sign JWT-SVIDs (SPIFFE Trust Domain and Bundle, section 4.2.2); those that are said
/// to do something else are left out.
pub(super) fn for_svids(jwks: &str) -> String {
    let parsed = serde_json::from_str::<Value>(jwks).unwrap_or_default();
    let keys = parsed.get("keys").and_then(Value::as_array);
    let keys: Vec<Value> = keys
        .into_iter()
        .flatten()
        .filter_map(|key| {
            let mut key = key.as_object()?.clone();
            let fit = matches!(
                key.get("use").map(Value::as_str),
                None | Some(Some("sig" | "jwt-svid"))
            );
            key.insert("use".to_owned(), "jwt-svid".into());
            (fit && key.contains_key("kid")).then_some(Value::Object(key))
        })
        .collect();
    serde_json::json!({ "keys": keys }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_svids() {
        let jwks = r#"{"keys": [{"kid": "a", "use": "sig"}, {"kid": "b"}, {"kid": "c", "use": "x509-svid"},
            {"kid": "d", "use": "jwt-svid"}, {"use": "sig"}, 7], "x": 1}"#;
        let set: Value = serde_json::from_str(&for_svids(jwks)).unwrap();
        let named: Vec<&str> = set["keys"]
            .as_array()
            .unwrap()
            .iter()
            .map(|key| {
                assert_eq!(key["use"], "jwt-svid");
                key["kid"].as_str().unwrap()
            })
            .collect();
        assert_eq!(named, ["a", "b", "d"]);
        assert_eq!(for_svids("no json"), r#"{"keys":[]}"#);
    }
}
