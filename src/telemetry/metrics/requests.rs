//! The series of requests of one core.
//!
//! A request finds its series by numbers: its connection knows the source, a source knows by two numbers where its requests
//! went before, and there the series are told apart by a few bytes. Labels are made when one of them is new.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::histogram::{DURATION_BUCKETS, Histogram, SIZE_BUCKETS};
use super::labels::Labels;
use super::meters::{Ends, Key, News};
use super::outcome::Outcome;
use crate::config::checked::Mesh;
use crate::vocab::limits;

/// Counters of one core for requests of one set of labels. How many there were is what its histograms hold.
#[derive(Debug)]
pub struct RequestSeries {
    /// Who counts, and between whom.
    pub labels: Arc<Labels>,
    /// How they ended.
    pub outcome: Outcome,
    /// From the head of the request to the end of its answer.
    pub durations: Histogram<DURATION_BUCKETS>,
    /// Bodies of requests.
    pub received: Histogram<SIZE_BUCKETS>,
    /// Bodies of answers.
    pub sent: Histogram<SIZE_BUCKETS>,
}

/// What one request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amounts {
    /// From the head of the request to the end of its answer.
    pub duration: Duration,
    /// Bytes of its body.
    pub received: u64,
    /// Bytes of the body of its answer.
    pub sent: u64,
}

impl RequestSeries {
    fn new(labels: &Arc<Labels>, outcome: Outcome) -> Self {
        Self {
            labels: Arc::clone(labels),
            outcome,
            durations: Histogram::default(),
            received: Histogram::default(),
            sent: Histogram::default(),
        }
    }

    fn count(&self, amounts: Amounts) {
        let us = u64::try_from(amounts.duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.duration(us);
        self.received.size(amounts.received);
        self.sent.size(amounts.sent);
    }
}

#[derive(Debug)]
struct Kept {
    series: Arc<RequestSeries>,
    /// It has counted since it was last looked at, and when that was seen.
    touched: bool,
    used: Instant,
    /// Whether the registry has it; a full channel is tried again.
    announced: bool,
}

/// Two ends, and the series of what passes between them. It outlives reloads.
#[derive(Debug)]
pub struct Pair {
    labels: Arc<Labels>,
    series: RefCell<Vec<Kept>>,
}

impl Pair {
    fn new(labels: Labels) -> Rc<Self> {
        Rc::new(Self {
            labels: Arc::new(labels),
            series: RefCell::default(),
        })
    }

    /// Counts, if there is a series for it. Those that are asked for most come to stand before the others.
    fn counted(&self, outcome: Outcome, amounts: Amounts) -> bool {
        let mut all = self.series.borrow_mut();
        let Some(at) = all.iter().position(|kept| kept.series.outcome == outcome) else {
            return false;
        };
        if let Some(kept) = all.get_mut(at) {
            kept.series.count(amounts);
            kept.touched = true;
        }
        if let Some(before) = at.checked_sub(1) {
            all.swap(before, at);
        }
        true
    }
}

/// Whom requests come from, by the numbers of one generation, and where they go.
#[derive(Debug)]
pub struct Source {
    key: Key,
    generation: u64,
    /// Of requests that get nowhere.
    alone: Rc<Pair>,
    pairs: RefCell<FxHashMap<u64, Rc<Pair>>>,
}

impl Source {
    /// Generation of the mesh whose numbers it has.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Of requests for which nobody was found.
    #[must_use]
    pub fn alone(&self) -> &Rc<Pair> {
        &self.alone
    }
}

/// Where a request goes, by its places in a mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// As an index into `Mesh::services`.
    pub service: Option<usize>,
    /// As an index into `Mesh::workloads`.
    pub workload: Option<usize>,
    /// Where no workload is known: as an index into `Mesh::gateways`.
    pub gateway: Option<usize>,
}

impl Destination {
    /// In one number; `None` of a mesh that is too large for that.
    fn packed(self) -> Option<u64> {
        let number = |at: Option<usize>| match at {
            None => Some(0),
            Some(at) => u32::try_from(at).ok()?.checked_add(1),
        };
        const GATEWAY: u32 = 1 << 31;
        let to = match (number(self.workload)?, number(self.gateway)?) {
            (0, 0) => 0,
            (0, gateway) => gateway | GATEWAY,
            (workload, _) if workload < GATEWAY => workload,
            _ => return None,
        };
        Some(u64::from(number(self.service)?) << 32 | u64::from(to))
    }
}

/// The series of requests of one core.
#[derive(Debug)]
pub struct Requests {
    generation: Cell<u64>,
    /// Of this generation.
    sources: RefCell<FxHashMap<Key, Rc<Source>>>,
    /// All there are.
    pairs: RefCell<FxHashMap<Arc<Labels>, Rc<Pair>>>,
    /// How many series they have.
    series: Cell<usize>,
    /// Of what is more than may be kept.
    overflow: Rc<Pair>,
    registry: mpsc::Sender<News>,
}

impl Requests {
    /// None yet. `registry`: where new series are announced.
    #[must_use]
    pub fn new(registry: mpsc::Sender<News>) -> Self {
        Self {
            generation: Cell::new(0),
            sources: RefCell::default(),
            pairs: RefCell::default(),
            series: Cell::new(0),
            overflow: Pair::new(Labels::overflow()),
            registry,
        }
    }

    /// The source of `key`, whose numbers are of `mesh` with `generation`; it says nothing of the destination.
    pub fn source(&self, key: &Key, generation: u64, mesh: &Mesh) -> Rc<Source> {
        if self.generation.get() != generation {
            // Numbers are of one mesh only. Who still holds such a source asks for another one with its next request.
            self.generation.set(generation);
            let mut sources = self.sources.borrow_mut();
            let forget = |(_key, source): (Key, Rc<Source>)| source.pairs.borrow_mut().clear();
            sources.drain().for_each(forget);
        }
        if let Some(source) = self.sources.borrow().get(key) {
            return Rc::clone(source);
        }
        let mut sources = self.sources.borrow_mut();
        let room = sources.len() < limits::SERIES_PER_CORE;
        let source = Rc::new(Source {
            key: key.clone(),
            generation,
            alone: match room {
                true => self.pair_of(Labels::of_requests(key, mesh)),
                false => Rc::clone(&self.overflow),
            },
            pairs: RefCell::default(),
        });
        if room {
            sources.insert(key.clone(), Rc::clone(&source));
        }
        source
    }

    /// The pair of a source and where its request goes in `mesh`, which is the one that the source has its numbers of.
    pub fn pair(&self, source: &Source, to: Destination, mesh: &Mesh) -> Rc<Pair> {
        let Some(packed) = to.packed() else {
            return Rc::clone(&self.overflow);
        };
        if let Some(pair) = source.pairs.borrow().get(&packed) {
            return Rc::clone(pair);
        }
        let pair = self.named(&source.key, to, mesh);
        // What there is no room for is not remembered: there would be no bound to that, and there may be room again.
        if !self.is_overflow(&pair) {
            source.pairs.borrow_mut().insert(packed, Rc::clone(&pair));
        }
        pair
    }

    /// The pair of a source, whose numbers are of `mesh`, and where its request goes there. Makes all of its labels.
    #[cold]
    pub fn named(&self, source: &Key, to: Destination, mesh: &Mesh) -> Rc<Pair> {
        let key = Key {
            ends: Ends {
                service: to.service,
                destination: to.workload,
                gateway: to.gateway,
                ..source.ends.clone()
            },
            ..source.clone()
        };
        self.pair_of(Labels::of_requests(&key, mesh))
    }

    fn pair_of(&self, labels: Labels) -> Rc<Pair> {
        let mut pairs = self.pairs.borrow_mut();
        if let Some(pair) = pairs.get(&labels) {
            return Rc::clone(pair);
        }
        if pairs.len() >= limits::SERIES_PER_CORE {
            return Rc::clone(&self.overflow);
        }
        let pair = Pair::new(labels);
        pairs.insert(Arc::clone(&pair.labels), Rc::clone(&pair));
        pair
    }

    fn is_overflow(&self, pair: &Pair) -> bool {
        std::ptr::eq(pair, &raw const *self.overflow)
    }

    /// Counts a request that has ended. `now` is asked for where a series is new.
    pub fn count(&self, pair: &Pair, outcome: Outcome, amounts: Amounts, now: fn() -> Instant) {
        if !pair.counted(outcome, amounts) {
            self.count_first(pair, outcome, amounts, now);
        }
    }

    /// Counts where there is no series yet. What would be too much is counted with others.
    #[cold]
    fn count_first(&self, pair: &Pair, outcome: Outcome, amounts: Amounts, now: fn() -> Instant) {
        if self.series.get() >= limits::SERIES_PER_CORE && !self.is_overflow(pair) {
            return self.count(&self.overflow, Outcome::OTHER, amounts, now);
        }
        let of_pair = pair.series.borrow().len();
        if of_pair >= limits::SERIES_PER_PAIR && outcome != Outcome::OTHER {
            return self.count(pair, Outcome::OTHER, amounts, now);
        }
        let series = Arc::new(RequestSeries::new(&pair.labels, outcome));
        series.count(amounts);
        pair.series.borrow_mut().push(Kept {
            announced: self.announce(&series),
            series,
            touched: false,
            used: now(),
        });
        self.series.set(self.series.get().saturating_add(1));
    }

    /// Whether it is with the registry, or there is none.
    fn announce(&self, series: &Arc<RequestSeries>) -> bool {
        let sent = self.registry.try_send(News::Requests(Arc::clone(series)));
        !matches!(sent, Err(TrySendError::Full(_)))
    }

    /// Announces what could not be announced and forgets what has counted nothing for long; called now and then.
    pub fn sweep(&self, now: Instant) {
        let limit = Duration::from_millis(limits::SERIES_IDLE_MS);
        let mut left = 0_usize;
        let mut look = |pair: &Pair| {
            let mut all = pair.series.borrow_mut();
            all.retain_mut(|kept| {
                kept.announced = kept.announced || self.announce(&kept.series);
                if std::mem::take(&mut kept.touched) {
                    kept.used = now;
                }
                !kept.announced || now.saturating_duration_since(kept.used) < limit
            });
            if all.is_empty() {
                *all = Vec::new();
            }
            left = left.saturating_add(all.len());
        };
        self.pairs.borrow_mut().retain(|_labels, pair| {
            look(pair);
            true
        });
        look(&self.overflow);
        self.series.set(left);
        let is_empty = |pair: &Rc<Pair>| pair.series.borrow().is_empty();
        self.sources.borrow_mut().retain(|_key, source| {
            let mut pairs = source.pairs.borrow_mut();
            pairs.retain(|_to, pair| !is_empty(pair));
            // No connection has it.
            let unused = Rc::strong_count(source) == 1;
            let alone = &source.alone;
            !(unused && pairs.is_empty() && (is_empty(alone) || self.is_overflow(alone)))
        });
        let mut pairs = self.pairs.borrow_mut();
        pairs.retain(|_labels, pair| !is_empty(pair) || Rc::strong_count(pair) > 1);
    }

    /// How many series, pairs and sources it keeps.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize, usize) {
        let (pairs, sources) = (self.pairs.borrow().len(), self.sources.borrow().len());
        (self.series.get(), pairs, sources)
    }
}
