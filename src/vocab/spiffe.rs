//! SPIFFE IDs, byte for byte by the standard (SPIFFE-ID sections 2.1 to 2.4).

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::vocab::limits;

/// A trust domain: 1 to 255 of `a-z 0-9 . - _`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// A SPIFFE ID such as `spiffe://cluster.local/ns/default/sa/frontend-service`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: Arc<str>,
    trust_domain_len: u16,
}

/// What is wrong with a SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpiffeIdError {
    /// Longer than 2,048 bytes.
    #[error("longer than 2048 bytes")]
    TooLong,
    /// Does not begin with `spiffe://`.
    #[error("does not begin with spiffe://")]
    Scheme,
    /// The trust domain is empty, longer than 255 bytes or holds another character than `a-z 0-9 . - _`.
    #[error("trust domain is not 1 to 255 of a-z 0-9 . - _")]
    TrustDomain,
    /// A path segment is empty, `.`, `..` or holds another character than `A-Z a-z 0-9 . - _`.
    #[error("path segment is empty, a dot segment, or holds more than A-Z a-z 0-9 . - _")]
    Path,
}

impl TrustDomain {
    /// Parses a trust domain name.
    ///
    /// # Errors
    /// `SpiffeIdError::TrustDomain`.
    pub fn parse(text: &str) -> Result<Self, SpiffeIdError> {
        let valid =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > limits::TRUST_DOMAIN_BYTES || !text.bytes().all(valid) {
            return Err(SpiffeIdError::TrustDomain);
        }
        Ok(Self(text.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Parses a URI. Nothing is folded, decoded or trimmed.
    ///
    /// # Errors
    /// `SpiffeIdError` says which part is wrong.
    pub fn parse(uri: &str) -> Result<Self, SpiffeIdError> {
        if uri.len() > limits::SPIFFE_ID_BYTES {
            return Err(SpiffeIdError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        TrustDomain::parse(domain)?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let segment_ok = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(valid);
        if path.is_some_and(|p| !p.split('/').all(segment_ok)) {
            return Err(SpiffeIdError::Path);
        }
        let trust_domain_len =
            u16::try_from(domain.len()).map_err(|_e| SpiffeIdError::TrustDomain)?;
        Ok(Self {
            uri: uri.into(),
            trust_domain_len,
        })
    }

    /// The ID of a service account: `spiffe://<td>/ns/<namespace>/sa/<service_account>`.
    ///
    /// # Errors
    /// `SpiffeIdError::Path` if namespace or service account cannot be a path segment.
    pub fn service_account(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        if namespace.contains('/') || service_account.contains('/') {
            return Err(SpiffeIdError::Path);
        }
        Self::parse(&format!(
            "{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}"
        ))
    }

    /// The whole URI.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// Istio's principal: the ID without `spiffe://`.
    #[must_use]
    pub fn principal(&self) -> &str {
        self.uri.get(SCHEME.len()..).unwrap_or_default()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.principal()
            .get(..usize::from(self.trust_domain_len))
            .unwrap_or_default()
    }

    /// The path with its leading slash, or the empty string.
    #[must_use]
    pub fn path(&self) -> &str {
        self.principal()
            .get(usize::from(self.trust_domain_len)..)
            .unwrap_or_default()
    }

    /// Namespace and service account if the path is exactly `/ns/<ns>/sa/<sa>`.
    #[must_use]
    pub fn k8s(&self) -> Option<(&str, &str)> {
        let mut parts = self.path().split('/').skip(1);
        let (ns, namespace, sa, account) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        (ns == "ns" && sa == "sa" && parts.next().is_none()).then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/default/sa/frontend-service").unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(
            id.principal(),
            "cluster.local/ns/default/sa/frontend-service"
        );
        assert_eq!(id.k8s(), Some(("default", "frontend-service")));
        assert_eq!(SpiffeId::parse("spiffe://td").unwrap().path(), "");
        assert_eq!(
            SpiffeId::parse("spiffe://td/ns/a/sa/b/c").unwrap().k8s(),
            None
        );
    }
}
