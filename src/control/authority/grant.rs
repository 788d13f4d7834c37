//! What a holder of a join token may become.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use thiserror::Error;

use super::IssueError;
use super::ca::Request;
use crate::vocab::spiffe::{SpiffeId, SpiffeIdError};

/// Shorter tokens can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Identities and DNS names that may be asked for. Empty means none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    ids: Vec<SpiffeId>,
    prefixes: Vec<SpiffeId>,
    dns_names: Vec<String>,
}

/// What is wrong with a file of join tokens.
#[derive(Debug, Error)]
pub enum JoinTokenError {
    /// A token that can be guessed.
    #[error("line {line}: token is shorter than {TOKEN_BYTES_MIN} bytes")]
    Short {
        /// From 1.
        line: usize,
    },
    /// The same token on two lines.
    #[error("line {line}: token occurs twice")]
    Twice {
        /// The second of the two, from 1.
        line: usize,
    },
    /// A word after the token is neither an ID nor a DNS name.
    #[error(
        "line {line}: `{word}` is neither a SPIFFE ID, a SPIFFE ID followed by `/*`, nor `dns:` and a name"
    )]
    Word {
        /// From 1.
        line: usize,
        /// As written.
        word: String,
        /// What is wrong with the ID, if it looks like one.
        #[source]
        source: Option<SpiffeIdError>,
    },
}

/// Join tokens and what each grants; of the tokens only digests are kept.
#[derive(Clone, Default)]
pub struct JoinTokens {
    entries: Vec<(Digest, Grant)>,
}

impl PartialEq for JoinTokens {
    fn eq(&self, other: &Self) -> bool {
        let pairs = self.entries.iter().zip(&other.entries);
        self.entries.len() == other.entries.len()
            && pairs.into_iter().all(|((a, for_a), (b, for_b))| {
                verify_slices_are_equal(a.as_ref(), b.as_ref()).is_ok() && for_a == for_b
            })
    }
}

impl std::fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.entries.iter().map(|(_digest, grant)| grant))
            .finish()
    }
}

impl Grant {
    /// Adds one word: `spiffe://td/path`, `spiffe://td/prefix/*` or `dns:name`.
    pub(super) fn add(&mut self, word: &str) -> Result<(), Option<SpiffeIdError>> {
        if let Some(name) = word.strip_prefix("dns:") {
            rustls::pki_types::DnsName::try_from(name).map_err(|_e| None)?;
            self.dns_names.push(name.to_owned());
        } else if let Some(prefix) = word.strip_suffix("/*") {
            self.prefixes.push(SpiffeId::parse(prefix).map_err(Some)?);
        } else {
            let id = SpiffeId::parse(word).map_err(Some)?;
            if id.path().is_empty() {
                return Err(Some(SpiffeIdError::Path));
            }
            self.ids.push(id);
        }
        Ok(())
    }

    /// Whether there is no identity in it.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.prefixes.is_empty()
    }

    /// Refuses a request that asks for more.
    pub(super) fn check(&self, request: &Request) -> Result<(), IssueError> {
        if !self.allows_id(&request.id) {
            return Err(IssueError::NotGranted(request.id.to_string()));
        }
        match request.dns_names.iter().find(|name| !self.allows_dns(name)) {
            Some(name) => Err(IssueError::NotGranted(name.clone())),
            None => Ok(()),
        }
    }

    /// Whether the identity may be asked for.
    #[must_use]
    pub fn allows_id(&self, id: &SpiffeId) -> bool {
        let below = |prefix: &SpiffeId| {
            id.as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|r| r.starts_with('/'))
        };
        self.ids.contains(id) || self.prefixes.iter().any(below)
    }

    /// Whether the DNS name may stand beside the identity.
    #[must_use]
    pub fn allows_dns(&self, name: &str) -> bool {
        self.dns_names.iter().any(|granted| granted == name)
    }
}

impl JoinTokens {
    /// Whether any of them lets its holder ask for the identity.
    #[must_use]
    pub fn allows_id(&self, id: &SpiffeId) -> bool {
        self.entries
            .iter()
            .any(|(_token, grant)| grant.allows_id(id))
    }

    /// Reads one token per line, followed by what it grants, separated by blanks: SPIFFE IDs, SPIFFE IDs followed by
    /// `/*` for all below, `dns:` and a name. A token without an ID grants nothing. `#` begins a comment line.
    ///
    /// # Errors
    /// `JoinTokenError` for the first bad line.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let mut tokens = Self::default();
        for (index, line) in text.lines().enumerate() {
            let number = index.saturating_add(1);
            let mut words = line.split_ascii_whitespace();
            let Some(token) = words.next().filter(|word| !word.starts_with('#')) else {
                continue;
            };
            if token.len() < TOKEN_BYTES_MIN {
                return Err(JoinTokenError::Short { line: number });
            }
            if tokens.grant(token).is_some() {
                return Err(JoinTokenError::Twice { line: number });
            }
            let mut grant = Grant::default();
            for word in words {
                grant.add(word).map_err(|source| JoinTokenError::Word {
                    line: number,
                    word: word.to_owned(),
                    source,
                })?;
            }
            tokens
                .entries
                .push((digest(&SHA256, token.as_bytes()), grant));
        }
        Ok(tokens)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a token grants; `None` if it is unknown. The time taken does not depend on the token.
    #[must_use]
    pub fn grant(&self, token: &str) -> Option<&Grant> {
        let presented = digest(&SHA256, token.as_bytes());
        let mut found = None;
        for (known, grant) in &self.entries {
            if verify_slices_are_equal(known.as_ref(), presented.as_ref()).is_ok() {
                found = Some(grant);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    #[test]
    fn grants() {
        let tokens = JoinTokens::parse(
            "# comment\n\n0123456789abcdef spiffe://td/ns/a/sa/x dns:x.test\n  fedcba9876543210 spiffe://td/ns/b/*\n\
             aaaaaaaaaaaaaaaa\n",
        )
        .unwrap();
        let first = tokens.grant("0123456789abcdef").unwrap();
        assert!(first.allows_id(&id("spiffe://td/ns/a/sa/x")));
        assert!(!first.allows_id(&id("spiffe://td/ns/a/sa/xy")));
        assert!(!first.allows_id(&id("spiffe://td/ns/a/sa/x/y")));
        assert!(first.allows_dns("x.test") && !first.allows_dns("y.test"));
        let second = tokens.grant("fedcba9876543210").unwrap();
        assert!(second.allows_id(&id("spiffe://td/ns/b/sa/z")));
        assert!(!second.allows_id(&id("spiffe://td/ns/bb/sa/z")));
        assert!(!second.allows_id(&id("spiffe://td/ns/b")));
        assert!(!second.allows_dns("x.test"));
        let third = tokens.grant("aaaaaaaaaaaaaaaa").unwrap();
        assert!(!third.allows_id(&id("spiffe://td/ns/a/sa/x")));
        for unknown in ["", "0123456789abcde", "0123456789abcdeF", "#", "# comment"] {
            assert_eq!(tokens.grant(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn bad_lines() {
        for (text, line) in [
            ("short", 1),
            ("# c\n0123456789abcdef\n0123456789abcdef", 3),
            ("0123456789abcdef *", 1),
            ("0123456789abcdef spiffe://td", 1),
            ("0123456789abcdef spiffe://td/ns/*/sa/x", 1),
            ("0123456789abcdef dns:", 1),
            ("\n0123456789abcdef td/ns/a/sa/x", 2),
        ] {
            let message = JoinTokens::parse(text).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("line {line}: ")),
                "{text}: {message}"
            );
        }
    }
}
