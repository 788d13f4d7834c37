//! The canonical path: what policy judges, routes match and the upstream receives.

use thiserror::Error;

/// How much of a path is normalized (Istio's `pathNormalization.normalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathNormalization {
    /// Only the fragment is removed.
    None,
    /// Dot segments, backslashes, unreserved percent-encodings (RFC 3986 section 6.2.2).
    #[default]
    Base,
    /// `Base`, then runs of slashes become one.
    MergeSlashes,
    /// `%2f` and `%5c` are decoded first, then `MergeSlashes`.
    DecodeAndMergeSlashes,
}

/// A normalized path and the untouched query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalPath {
    /// Path, then `?query` if there was a `?`.
    text: String,
    path_len: usize,
}

/// Why a request target is refused (answered 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("request target is not a valid path")]
pub struct PathError;

impl CanonicalPath {
    /// Path and query, as sent upstream.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Path without query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_len).unwrap_or_default()
    }

    /// Query without `?`; `None` if the target has no `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_len..).and_then(|q| q.strip_prefix('?'))
    }
}
