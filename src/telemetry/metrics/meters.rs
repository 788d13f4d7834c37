//! The series of one core.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::labels::{Flag, Labels, Reporter};
use super::requests::{RequestSeries, Requests};
use crate::config::checked::Mesh;
use crate::vocab::counter::{Counter, Traffic};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// Both ends of a connection, by their places in the mesh of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Identity that the source has proved, or that a captured source has.
    pub principal: Option<SpiffeId>,
    /// Source, as an index into `Mesh::workloads`.
    pub source: Option<usize>,
    /// Source, as an index into `Mesh::gateways`.
    pub source_gateway: Option<usize>,
    /// Destination, as an index into `Mesh::workloads`.
    pub destination: Option<usize>,
    /// Destination, as an index into `Mesh::gateways`.
    pub gateway: Option<usize>,
    /// As an index into `Mesh::services`.
    pub service: Option<usize>,
}

/// What tells the series of one generation apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Who counts.
    pub reporter: Reporter,
    /// From and to.
    pub ends: Ends,
    /// Whether the connection is one of mutual TLS.
    pub mutual_tls: bool,
}

/// Counters of one core for one set of labels.
#[derive(Debug)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Connections that were permitted and have an upstream.
    pub opened: Counter,
    /// Of these, those that have ended.
    pub closed: Counter,
    /// Connections that never opened.
    pub failed: Counter,
    /// Bytes.
    pub traffic: Arc<Traffic>,
}

impl Series {
    fn new(labels: Labels) -> Self {
        Self {
            labels,
            opened: Counter::default(),
            closed: Counter::default(),
            failed: Counter::default(),
            traffic: Arc::default(),
        }
    }
}

/// A series that the registry does not have yet.
#[derive(Debug)]
pub enum News {
    /// Of connections.
    Connections(Arc<Series>),
    /// Of requests.
    Requests(Arc<RequestSeries>),
}

#[derive(Debug)]
struct Kept {
    series: Arc<Series>,
    used: Instant,
    /// Whether the registry has it; a full channel is tried again.
    announced: bool,
}

/// The series of one core.
#[derive(Debug)]
pub struct Meters {
    generation: Cell<u64>,
    by_key: RefCell<FxHashMap<Key, Kept>>,
    /// Series of connections that did not end well, and those of an older mesh until they are used again.
    by_labels: RefCell<FxHashMap<Labels, Kept>>,
    overflow: RefCell<Option<Arc<Series>>>,
    /// Those of requests, if they are counted.
    requests: Option<Requests>,
    registry: mpsc::Sender<News>,
}

impl Meters {
    /// None yet. `registry`: where new series are announced; requests are counted with `of_requests`.
    #[must_use]
    pub fn new(registry: mpsc::Sender<News>, of_requests: bool) -> Self {
        Self {
            requests: of_requests.then(|| Requests::new(registry.clone())),
            generation: Cell::new(0),
            by_key: RefCell::default(),
            by_labels: RefCell::default(),
            overflow: RefCell::default(),
            registry,
        }
    }

    /// Those of requests; `None` if they are not counted.
    #[must_use]
    pub fn requests(&self) -> Option<&Requests> {
        self.requests.as_ref()
    }

    /// The series of `key`, whose numbers are of `mesh` with `generation`.
    pub fn series(&self, key: &Key, generation: u64, mesh: &Mesh, now: Instant) -> Arc<Series> {
        let mut by_key = self.by_key.borrow_mut();
        let mut by_labels = self.by_labels.borrow_mut();
        if self.generation.get() != generation {
            // The numbers of a key are of one mesh only; what was counted, and what is open, keeps its series.
            self.generation.set(generation);
            by_key.drain().for_each(|(_key, kept)| {
                if by_labels.len() < limits::SERIES_PER_CORE {
                    let labels = kept.series.labels.clone();
                    by_labels.entry(labels).or_insert(kept);
                }
            });
        }
        if let Some(kept) = by_key.get_mut(key) {
            kept.used = now;
            return Arc::clone(&kept.series);
        }
        if by_key.len() >= limits::SERIES_PER_CORE {
            return self.overflow();
        }
        let labels = Labels::of(key, mesh);
        let (series, kept) = match by_labels.remove(&labels) {
            Some(kept) => (Arc::clone(&kept.series), Kept { used: now, ..kept }),
            None => self.make(labels, now),
        };
        by_key.insert(key.clone(), kept);
        series
    }

    /// The series beside `series` that counts what ended with `flag`.
    pub fn flagged(&self, series: &Arc<Series>, flag: Flag, now: Instant) -> Arc<Series> {
        if series.labels.flag == flag {
            return Arc::clone(series);
        }
        let labels = Labels {
            flag,
            ..series.labels.clone()
        };
        let mut by_labels = self.by_labels.borrow_mut();
        if let Some(kept) = by_labels.get_mut(&labels) {
            kept.used = now;
            return Arc::clone(&kept.series);
        }
        if by_labels.len() >= limits::SERIES_PER_CORE {
            return self.overflow();
        }
        let (series, kept) = self.make(labels.clone(), now);
        by_labels.insert(labels, kept);
        series
    }

    /// Whether it is with the registry, or there is none: nobody reads the metrics of a process without an endpoint for them.
    fn announce(&self, series: &Arc<Series>) -> bool {
        let sent = self
            .registry
            .try_send(News::Connections(Arc::clone(series)));
        !matches!(sent, Err(TrySendError::Full(_)))
    }

    fn make(&self, labels: Labels, now: Instant) -> (Arc<Series>, Kept) {
        let series = Arc::new(Series::new(labels));
        let kept = Kept {
            announced: self.announce(&series),
            series: Arc::clone(&series),
            used: now,
        };
        (series, kept)
    }

    fn overflow(&self) -> Arc<Series> {
        let mut overflow = self.overflow.borrow_mut();
        let made = overflow.get_or_insert_with(|| Arc::new(Series::new(Labels::overflow())));
        // Announced until the registry has it: it holds the third reference then.
        if Arc::strong_count(made) == 1 && !self.announce(made) {
            tracing::debug!("the registry of metrics is busy");
        }
        Arc::clone(made)
    }

    /// How many it keeps.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.by_key.borrow().len() + self.by_labels.borrow().len()
    }

    /// Announces what could not be announced and forgets what was not used for long; called now and then.
    pub fn sweep(&self, now: Instant) {
        let limit = Duration::from_millis(limits::SERIES_IDLE_MS);
        let stays = |kept: &mut Kept| {
            kept.announced = kept.announced || self.announce(&kept.series);
            // Held by the registry and by us alone: nothing open counts in it.
            let in_use = Arc::strong_count(&kept.series) > 2 || !kept.announced;
            in_use || now.saturating_duration_since(kept.used) < limit
        };
        self.by_key.borrow_mut().retain(|_key, kept| stays(kept));
        self.by_labels
            .borrow_mut()
            .retain(|_labels, kept| stays(kept));
        if let Some(requests) = &self.requests {
            requests.sweep(now);
        }
    }
}
