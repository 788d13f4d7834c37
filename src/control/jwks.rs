//! Keeps the key sets of all rules fresh and publishes them whole.
//!
//! Fetched at the start, then every five minutes; the last good set stays when a fetch fails; a token with an unknown `kid`
//! brings the next fetch forward, but never closer than ten seconds to the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::control::http_client::{FetchError, HttpClient};
use crate::control::oidc_client::{self, DiscoveryError};
use crate::jwt::model::KeySource;
use crate::jwt::{KeySet, KeySetError, KeySets};

/// A set that is written in the configuration never changes.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Early fetches that may wait; more of them would only ask for the same.
const EARLY: usize = 64;

/// When keys are fetched.
#[derive(Clone, Copy, Debug)]
pub struct Timetable {
    /// Age at which a set is fetched again.
    pub refresh: Duration,
    /// Least time between two fetches of one source, whoever asks.
    pub at_most_every: Duration,
    /// Wait after a first failure; doubles up to `refresh`.
    pub retry: Duration,
}

impl Default for Timetable {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            refresh: seconds(300),
            at_most_every: seconds(10),
            retry: seconds(10),
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

/// The sources to keep, with the timeout of a fetch in milliseconds.
pub type Sources = BTreeMap<KeySource, u64>;

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
}

/// One source's place in the timetable.
#[derive(Debug)]
struct State {
    started: Option<Instant>,
    due: Instant,
    fetching: bool,
    failures: u32,
}

type Fetched = (KeySource, Result<KeySet, JwksError>);

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
                .filter(|s| !s.fetching)
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
                    Ok((source, outcome)) => self.settle(source, outcome),
                    Err(error) => tracing::error!(%error, "a key set fetch ended by itself"),
                },
                () = sleep_until(next) => {}
            }
        }
    }

    /// Takes the new list of sources over.
    fn adopt(&mut self) {
        let wanted = self.sources.borrow_and_update().clone();
        self.state.retain(|source, _| wanted.contains_key(source));
        let gone = self
            .publish
            .borrow()
            .map
            .keys()
            .any(|source| !wanted.contains_key(source));
        if gone {
            self.change(|map| map.retain(|source, _| wanted.contains_key(source)));
        }
        let now = Instant::now();
        for source in wanted.into_keys() {
            self.state.entry(source).or_insert(State {
                started: None,
                due: now,
                fetching: false,
                failures: 0,
            });
        }
    }

    fn start_due(&mut self, fetches: &mut JoinSet<Fetched>) {
        let now = Instant::now();
        for (source, state) in &mut self.state {
            if state.fetching || state.due > now {
                continue;
            }
            state.fetching = true;
            state.started = Some(now);
            let timeout_ms = self.sources.borrow().get(source).copied().unwrap_or(5000);
            let (client, source) = (self.client.clone(), source.clone());
            fetches.spawn(async move {
                let outcome = fetch(&client, &source, Duration::from_millis(timeout_ms)).await;
                (source, outcome)
            });
        }
    }

    fn bring_forward(&mut self, source: &KeySource) {
        let least = self.timetable.at_most_every;
        if let Some(state) = self.state.get_mut(source).filter(|state| !state.fetching) {
            let earliest = state
                .started
                .map_or_else(Instant::now, |started| started + least);
            state.due = state.due.min(earliest);
        }
    }

    /// Records the outcome of a fetch; a failure leaves the last good set where it is.
    fn settle(&mut self, source: KeySource, outcome: Result<KeySet, JwksError>) {
        // The source may be gone since the fetch began.
        let Some(state) = self.state.get_mut(&source) else {
            return;
        };
        state.fetching = false;
        let now = Instant::now();
        match outcome {
            Ok(set) => {
                state.failures = 0;
                let inline = matches!(source, KeySource::Inline(_));
                state.due = now
                    + if inline {
                        NEVER
                    } else {
                        self.timetable.refresh
                    };
                let same = self
                    .publish
                    .borrow()
                    .map
                    .get(&source)
                    .is_some_and(|known| **known == set);
                if !same {
                    tracing::info!(
                        ?source,
                        usable = set.len(),
                        skipped = set.skipped(),
                        "key set is new"
                    );
                    self.change(|map| drop(map.insert(source, Arc::new(set))));
                }
            }
            Err(error) => {
                let wait = self
                    .timetable
                    .retry
                    .saturating_mul(1 << state.failures.min(10));
                state.due = now + wait.min(self.timetable.refresh);
                state.failures = state.failures.saturating_add(1);
                tracing::warn!(
                    ?source,
                    ?error,
                    "key set not obtained; the last good one stays"
                );
            }
        }
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
mod tests {
    use super::*;

    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const ED: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"IBprU49Q7Fh4QnGw3LC_2cIjv3Bf0dEdIKLguMvOzGM"}]}"#;
    const SOON: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_secs(3600);

    /// A key server that answers what `script` says at the time, and counts.
    struct Server {
        source: KeySource,
        body: Rc<RefCell<String>>,
        asked: watch::Receiver<usize>,
    }

    async fn serve() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = KeySource::Uri(format!("http://{}/jwks", listener.local_addr().unwrap()));
        let body = Rc::new(RefCell::new(ED.to_owned()));
        let (count, asked) = watch::channel(0);
        let answers = Rc::clone(&body);
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 2048];
                let _read = stream.read(&mut request).await.unwrap();
                let text = answers.borrow().clone();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                stream
                    .write_all(format!("{head}{text}").as_bytes())
                    .await
                    .unwrap();
                count.send_modify(|n| *n += 1);
            }
        });
        Server {
            source,
            body,
            asked,
        }
    }

    fn run(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test());
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(SOON, future).await.expect("in time")
    }

    fn start(server: &Server, timetable: Timetable) -> (JwksHandle, watch::Receiver<Arc<KeySets>>) {
        let sources = Sources::from([(server.source.clone(), 1000)]);
        let (handle, published, keeper) =
            JwksHandle::new(HttpClient::loopback_only(), timetable, sources);
        tokio::task::spawn_local(keeper.run());
        (handle, published)
    }

    #[test]
    fn an_unknown_kid_brings_new_keys_but_not_more_often_than_allowed() {
        run(async || {
            let mut server = serve().await;
            let least = Duration::from_millis(300);
            let (handle, mut published) = start(
                &server,
                Timetable {
                    refresh: LONG,
                    at_most_every: least,
                    retry: LONG,
                },
            );
            let begun = Instant::now();
            soon(published.changed()).await.unwrap();
            assert_eq!(published.borrow_and_update().map[&server.source].len(), 1);
            *server.body.borrow_mut() = r#"{"keys":[]}"#.to_owned();
            for _ in 0..20 {
                handle.unknown_kid(&server.source);
            }
            handle.unknown_kid(&KeySource::Uri("http://127.0.0.1:1/not-ours".to_owned()));
            soon(published.changed()).await.unwrap();
            assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
            let sets = published.borrow_and_update().clone();
            assert_eq!((sets.map[&server.source].len(), sets.generation), (0, 2));
            assert_eq!(
                *server.asked.borrow_and_update(),
                2,
                "twenty signals make one fetch"
            );
        });
    }

    #[test]
    fn the_last_good_set_stays_and_an_equal_one_changes_nothing() {
        run(async || {
            let mut server = serve().await;
            let often = Duration::from_millis(20);
            let (_handle, mut published) = start(
                &server,
                Timetable {
                    refresh: often,
                    at_most_every: often,
                    retry: often,
                },
            );
            soon(published.changed()).await.unwrap();
            let good = published.borrow_and_update().clone();
            soon(server.asked.wait_for(|n| *n >= 3)).await.unwrap();
            assert!(
                !published.has_changed().unwrap(),
                "equal sets keep the generation"
            );
            *server.body.borrow_mut() = "<html>out of order</html>".to_owned();
            let failing = *server.asked.borrow() + 3;
            soon(server.asked.wait_for(|n| *n >= failing))
                .await
                .unwrap();
            assert!(!published.has_changed().unwrap());
            assert!(Arc::ptr_eq(&good, &published.borrow()));
        });
    }

    #[test]
    fn sources_come_and_go() {
        run(async || {
            let server = serve().await;
            let (handle, mut published) = start(&server, Timetable::default());
            soon(published.changed()).await.unwrap();
            published.borrow_and_update();
            let inline = KeySource::Inline(ED.to_owned());
            handle.set_sources(Sources::from([(inline.clone(), 1000)]));
            let wanted = |sets: &Arc<KeySets>| sets.map.keys().eq([&inline]);
            soon(published.wait_for(wanted)).await.unwrap();
            drop(handle);
            soon(async { while published.changed().await.is_ok() {} }).await;
        });
    }
}
