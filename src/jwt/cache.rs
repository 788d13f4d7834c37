//! Verified tokens of one core: a signature is checked once, its meaning on every request.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::jwt::model::KeySource;
use crate::jwt::token::{LEEWAY_S, Verified};
use crate::vocab::limits;

/// Remembers which tokens verified under which key source. Keyed by the whole token and compared in full, bounded by
/// `limits::TOKENS_PER_CORE`. Issuer, dates and audience are not remembered: rules check them each time, so one cache
/// serves all enforcement points of a core.
#[derive(Debug)]
pub struct TokenCache {
    /// Nobody chooses its keys: they are tokens whose signature verified, and a token is hashed signature and all.
    entries: FxHashMap<Arc<str>, Entry>,
    /// Second-chance order: the front is looked at when room is needed.
    order: VecDeque<Arc<str>>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    source: Arc<KeySource>,
    generation: u64,
    verified: Verified,
    used: bool,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::with_capacity(limits::TOKENS_PER_CORE)
    }
}

impl TokenCache {
    /// An empty cache that holds at most `capacity` tokens.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            entries: FxHashMap::default(),
            order: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    /// Tokens held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no token is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The token, and the source under whose keys it verified, if the key sets have not changed and it has not expired since.
    pub(crate) fn find(
        &mut self,
        token: &str,
        generation: u64,
        now_unix_s: i64,
    ) -> Option<(Arc<KeySource>, Verified)> {
        let entry = self.entries.get_mut(token)?;
        let alive = entry
            .verified
            .expires_unix_s()
            .is_none_or(|exp| now_unix_s <= exp.saturating_add(LEEWAY_S));
        if entry.generation != generation || !alive {
            return None;
        }
        entry.used = true;
        Some((Arc::clone(&entry.source), entry.verified.clone()))
    }

    /// Remembers a token whose signature verified just now.
    pub(crate) fn insert(
        &mut self,
        token: &str,
        source: &Arc<KeySource>,
        generation: u64,
        verified: Verified,
    ) {
        if token.len() > limits::CACHED_TOKEN_BYTES {
            return;
        }
        let entry = Entry {
            source: Arc::clone(source),
            generation,
            verified,
            used: false,
        };
        if let Some(known) = self.entries.get_mut(token) {
            *known = entry;
            return;
        }
        self.make_room();
        let key: Arc<str> = token.into();
        self.order.push_back(Arc::clone(&key));
        self.entries.insert(key, entry);
    }

    /// Drops the oldest token that was not used since it was last looked at.
    fn make_room(&mut self) {
        while self.entries.len() >= self.capacity {
            let Some(oldest) = self.order.pop_front() else {
                self.entries.clear();
                return;
            };
            match self.entries.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    self.order.push_back(oldest);
                }
                Some(_) | None => {
                    self.entries.remove(&oldest);
                }
            }
        }
    }
}
