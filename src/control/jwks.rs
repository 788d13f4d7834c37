//! Keeps the key sets of all rules fresh and publishes them whole.
//!
//! Fetched at the start, then every five minutes; the last good set stays when a fetch fails; a token with an unknown `kid`
//! brings the next fetch forward, but never closer than ten seconds to the one before. A set that there is none of yet is
//! asked for after half a second, one, two, four: until it is there its tokens are refused. Rules that name the same source
//! share its fetches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control::http_client::{FetchError, HttpClient};
use crate::control::oidc_client::{self, DiscoveryError};
use crate::jwt::model::{JwtRule, KeySource, Reach};
use crate::jwt::{KeySet, KeySetError, KeySets};

/// A set that is written in the configuration never changes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Early fetches that may wait; more of them would only ask for the same.
const EARLY: usize = 64;

/// What is logged where there is no last good set.
const NONE_YET: &str =
    "key set not obtained, and there is none yet; its tokens are refused until there is";

/// When keys are fetched. Waits are spread a little, so that processes that started together do not ask together.
#[derive(Clone, Copy, Debug)]
pub struct Timetable {
    /// Age at which a set is fetched again.
    pub refresh: Duration,
    /// Least time between two fetches of one source, whoever asks.
    pub at_most_every: Duration,
    /// Wait after a first failure; doubles up to `refresh`.
    pub retry: Duration,
    /// The same, where no set of the source was obtained yet; `at_most_every` does not hold for it.
    pub first_retry: Duration,
}

impl Default for Timetable {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            refresh: seconds(300),
            at_most_every: seconds(10),
            retry: seconds(10),
            first_retry: Duration::from_millis(500),
        }
    }
}

/// Why a key set was not obtained.
#[derive(Debug, Error)]
pub enum JwksError {
    /// The fetch failed.
    #[error("key set cannot be fetched")]
    Fetch(#[source] FetchError),
    /// The issuer's discovery document is not usable.
    #[error("issuer cannot be discovered")]
    Discovery(#[source] DiscoveryError),
    /// What came is no key set.
    #[error("key set is not valid")]
    KeySet(#[source] KeySetError),
    /// What came is not UTF-8.
    #[error("key set is not text")]
    Text,
}

/// The sources to keep, and how each is fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<KeySource, Fetching>);

/// How a source is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fetching {
    timeout: Duration,
    reach: Reach,
}

impl Sources {
    /// What the rules need. Rules with the same source have one fetch, with the longest of their timeouts and all that
    /// any of them allows.
    pub fn of<'r>(rules: impl IntoIterator<Item = &'r JwtRule>) -> Self {
        let mut sources = Self::default();
        for rule in rules {
            let timeout = Duration::from_millis(rule.timeout_ms);
            let fetching = sources.0.entry(rule.keys.clone()).or_insert(Fetching {
                timeout,
                reach: rule.reach,
            });
            fetching.timeout = fetching.timeout.max(timeout);
            fetching.reach = fetching.reach.or(rule.reach);
        }
        sources
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &KeySource> {
        self.0.keys()
    }
}

/// Speaks to the running `Keeper`.
#[derive(Clone, Debug)]
pub struct JwksHandle {
    sources: Arc<watch::Sender<Sources>>,
    early: mpsc::Sender<KeySource>,
}

/// Fetches and publishes; `run` it on the control thread.
#[derive(Debug)]
pub struct Keeper {
    client: HttpClient,
    timetable: Timetable,
    sources: watch::Receiver<Sources>,
    early: mpsc::Receiver<KeySource>,
    publish: watch::Sender<Arc<KeySets>>,
    state: BTreeMap<KeySource, State>,
    fetches: u64,
}

/// One source's place in the timetable.
#[derive(Debug)]
struct State {
    settings: Fetching,
    started: Option<Instant>,
    due: Instant,
    /// Number of the fetch under way: one that was started for a source that went and came again does not count.
    fetching: Option<u64>,
    failures: u32,
}

impl State {
    /// When the next fetch may begin, whoever asks.
    fn earliest(&self, at_most_every: Duration) -> Instant {
        self.started
            .map_or_else(Instant::now, |started| started + at_most_every)
    }
}

type Fetched = (KeySource, u64, Result<KeySet, JwksError>);

impl JwksHandle {
    /// Makes a keeper, its handle, and the sets that it publishes (none at first).
    #[must_use]
    pub fn new(
        client: HttpClient,
        timetable: Timetable,
        sources: Sources,
    ) -> (Self, watch::Receiver<Arc<KeySets>>, Keeper) {
        let (source_sender, source_receiver) = watch::channel(sources);
        let (early, asked) = mpsc::channel(EARLY);
        let (publish, published) = watch::channel(Arc::new(KeySets::default()));
        let keeper = Keeper {
            client,
            timetable,
            sources: source_receiver,
            early: asked,
            publish,
            state: BTreeMap::new(),
            fetches: 0,
        };
        (
            Self {
                sources: Arc::new(source_sender),
                early,
            },
            published,
            keeper,
        )
    }

    /// Replaces the sources, after a reload. Sets of sources that stay are kept.
    pub fn set_sources(&self, sources: Sources) {
        self.sources.send_replace(sources);
    }

    /// A token named a `kid` that this source's set does not hold. Never blocks; a full queue means that fetches are
    /// coming anyway.
    pub fn unknown_kid(&self, source: &KeySource) {
        drop(self.early.try_send(source.clone()));
    }
}

impl Keeper {
    /// Runs until every handle is dropped.
    pub async fn run(mut self) {
        let mut fetches: JoinSet<Fetched> = JoinSet::new();
        self.adopt();
        loop {
            self.start_due(&mut fetches);
            let next = self
                .state
                .values()
                .filter(|s| s.fetching.is_none())
                .map(|s| s.due)
                .min();
            tokio::select! {
                changed = self.sources.changed() => match changed {
                    Ok(()) => self.adopt(),
                    Err(_) => return,
                },
                asked = self.early.recv() => match asked {
                    Some(source) => self.bring_forward(&source),
                    None => return,
                },
                Some(done) = fetches.join_next() => match done {
                    Ok((source, number, outcome)) => self.settle(source, number, outcome),
                    Err(error) => tracing::error!(%error, "a key set fetch ended by itself"),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    /// Takes the new list of sources over. A source that may not be fetched as before any more loses what it gave.
    fn adopt(&mut self) {
        let wanted = self.sources.borrow_and_update().0.clone();
        self.state.retain(|source, state| {
            wanted
                .get(source)
                .is_some_and(|fetching| fetching.reach.covers(state.settings.reach))
        });
        let state = &self.state;
        let gone = self
            .publish
            .borrow()
            .map
            .keys()
            .any(|source| !state.contains_key(source));
        if gone {
            self.change(|map| map.retain(|source, _| state.contains_key(source)));
        }
        let now = Instant::now();
        for (source, settings) in wanted {
            let state = self.state.entry(source).or_insert(State {
                settings,
                started: None,
                due: now,
                fetching: None,
                failures: 0,
            });
            if state.settings != settings {
                // What failed may succeed now.
                state.settings = settings;
                if state.failures > 0 {
                    state.due = state.earliest(self.timetable.at_most_every);
                }
            }
        }
    }

    fn start_due(&mut self, fetches: &mut JoinSet<Fetched>) {
        let now = Instant::now();
        for (source, state) in &mut self.state {
            if state.fetching.is_some() || state.due > now {
                continue;
            }
            self.fetches = self.fetches.wrapping_add(1);
            let number = self.fetches;
            state.fetching = Some(number);
            state.started = Some(now);
            let Fetching { timeout, reach } = state.settings;
            let (client, source) = (self.client.for_rule(source, reach), source.clone());
            fetches.spawn(async move {
                let outcome = fetch(&client, &source, timeout).await;
                (source, number, outcome)
            });
        }
    }

    fn bring_forward(&mut self, source: &KeySource) {
        let least = self.timetable.at_most_every;
        let idle = |state: &&mut State| state.fetching.is_none();
        if let Some(state) = self.state.get_mut(source).filter(idle) {
            state.due = state.due.min(state.earliest(least));
        }
    }

    /// Records the outcome of a fetch; a failure leaves the last good set where it is.
    fn settle(&mut self, source: KeySource, number: u64, outcome: Result<KeySet, JwksError>) {
        // The source may be gone since the fetch began.
        let current = |state: &&mut State| state.fetching == Some(number);
        let Some(state) = self.state.get_mut(&source).filter(current) else {
            return;
        };
        state.fetching = None;
        let timetable = self.timetable;
        match outcome {
            Ok(set) => {
                state.failures = 0;
                let refresh = timetable.refresh;
                let wait = match source {
                    KeySource::Inline(_) => NEVER,
                    // Never longer than the age that is allowed.
                    KeySource::Uri(_) | KeySource::Discovery(_) => refresh - share(refresh / 10),
                };
                state.due = Instant::now() + wait;
                self.adopt_set(source, set);
            }
            Err(error) => {
                let known = self.publish.borrow().map.contains_key(&source);
                let (retry, least) = if known {
                    (timetable.retry, timetable.at_most_every)
                } else {
                    (timetable.first_retry, timetable.first_retry)
                };
                let doubled = retry.saturating_mul(1 << state.failures.min(10));
                let wait = doubled.min(timetable.refresh);
                let due = Instant::now() + wait + share(wait / 10);
                state.due = due.max(state.earliest(least));
                state.failures = state.failures.saturating_add(1);
                if known {
                    tracing::warn!(
                        ?source,
                        ?error,
                        "key set not obtained; the last good one stays"
                    );
                } else {
                    tracing::warn!(?source, ?error, retry = ?wait, "{}", NONE_YET);
                }
            }
        }
    }

    /// Publishes a set, if it is not the one that is known.
    fn adopt_set(&self, source: KeySource, set: KeySet) {
        let known = self.publish.borrow().map.get(&source).map(Arc::clone);
        if known.is_some_and(|known| *known == set) {
            return;
        }
        tracing::info!(
            ?source,
            usable = set.len(),
            skipped = set.skipped(),
            "key set is new"
        );
        self.change(|map| drop(map.insert(source, Arc::new(set))));
    }

    fn change(&self, edit: impl FnOnce(&mut BTreeMap<KeySource, Arc<KeySet>>)) {
        self.publish.send_modify(|sets| {
            let mut map = sets.map.clone();
            edit(&mut map);
            *sets = Arc::new(KeySets {
                map,
                generation: sets.generation + 1,
            });
        });
    }
}

/// A random share of `most`; without randomness all of it.
fn share(most: Duration) -> Duration {
    let mut byte = [u8::MAX];
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return most;
    }
    let [byte] = byte;
    most * u32::from(byte) / u32::from(u8::MAX)
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// Obtains one set now.
///
/// # Errors
/// `JwksError`.
pub async fn fetch(
    client: &HttpClient,
    source: &KeySource,
    timeout: Duration,
) -> Result<KeySet, JwksError> {
    let url = match source {
        KeySource::Inline(text) => return KeySet::parse(text).map_err(JwksError::KeySet),
        KeySource::Uri(url) => url.clone(),
        KeySource::Discovery(issuer) => {
            oidc_client::discover(client, issuer, timeout)
                .await
                .map_err(JwksError::Discovery)?
                .jwks_uri
        }
    };
    let body = client.get(&url, timeout).await.map_err(JwksError::Fetch)?;
    let text = String::from_utf8(body).map_err(|_e| JwksError::Text)?;
    KeySet::parse(&text).map_err(JwksError::KeySet)
}

#[cfg(test)]
mod tests;
