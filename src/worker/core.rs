//! One data core: its view of the snapshot, its pools, its records.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use http::HeaderValue;
use tokio::sync::{Semaphore, watch};

use crate::config::checked::Process;
use crate::control::ask::Asker;
use crate::control::snapshot::Snapshot;
use crate::http::request_id;
use crate::io::rt::Tcp;
use crate::io::upstream::Upstreams;
use crate::io::{clock, rt};
use crate::jwt::TokenCache;
use crate::telemetry::metrics::Meters;
use crate::telemetry::record::{Kind, Record};
use crate::telemetry::writer::Sender;
use crate::upstream::hash::mix;
use crate::upstream::retry::Budget;
use crate::vocab::limits;
use crate::worker::limited::Rates;
use crate::worker::names::Names;
use crate::worker::open::Open;
use crate::worker::owner::Owners;
use crate::worker::places::{Full, Places};
use crate::worker::relaying::{self, Setup};
use crate::worker::site::Story;

/// What the tasks of a core share.
#[derive(Debug)]
pub struct Core {
    /// This process as configured.
    pub process: Arc<Process>,
    snapshot: RefCell<Latest>,
    /// Upstream connections.
    pub upstreams: Upstreams,
    /// How many requests are sent more than once.
    pub retries: Budget,
    /// Buckets of local rate limits.
    pub rates: Rates,
    /// Verified tokens.
    pub tokens: RefCell<TokenCache>,
    /// Metrics.
    pub meters: Meters,
    /// Open exchanges.
    pub open: Rc<Open>,
    /// Owners of local connections.
    pub owners: Owners,
    /// The control thread.
    pub asks: Asker,
    /// Room for questions to external authorizers.
    pub questions: Semaphore,
    /// Bytes of request bodies that are held for them.
    pub held: Rc<Cell<usize>>,
    /// Copies of requests that are under way.
    pub copies: Rc<Cell<usize>>,
    /// Where the names of requests begin, and how many there were.
    names: ([u64; 2], Cell<u64>),
    /// Names of services and workloads.
    pub labels: Names,
    records: RefCell<Sender>,
    recorded: Cell<u64>,
    turn: Cell<usize>,
    connections: Cell<usize>,
    /// How many there may be.
    pub places: Arc<Places>,
    drain: watch::Sender<bool>,
    /// Another process accepts in the place of this one.
    is_replaced: Cell<bool>,
    /// The time to drain is over.
    drained: watch::Sender<bool>,
}

/// The snapshot as this core has seen it last. What exchanges hold is counted on this core alone: a count that the cores
/// share would be fetched from the other one for every request.
#[derive(Debug)]
#[expect(
    clippy::redundant_allocation,
    reason = "the outer count is this core's alone"
)]
struct Latest {
    cache: Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>,
    held: Rc<Arc<Snapshot>>,
}

/// Where the names of this core's requests begin.
fn random() -> [u64; 2] {
    let mut bytes = [0; 16];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        tracing::error!("no randomness");
    }
    let whole = u128::from_ne_bytes(bytes);
    [whole, whole >> 64].map(|part| u64::try_from(part & u128::from(u64::MAX)).unwrap_or(0))
}

/// Between two looks at whether all connections have ended, in milliseconds.
const DRAIN_LOOK_MS: u64 = 20;

impl Core {
    /// A core's state.
    #[must_use]
    pub fn new(
        process: Arc<Process>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        asks: Asker,
        records: Sender,
        meters: Meters,
        places: Arc<Places>,
    ) -> Self {
        let rates = Rates::new(&process);
        let mut cache = Cache::new(snapshot);
        let held = Rc::new(Arc::clone(cache.load()));
        Self {
            process,
            snapshot: RefCell::new(Latest { cache, held }),
            upstreams: Upstreams::default(),
            retries: Budget::default(),
            rates,
            tokens: RefCell::new(TokenCache::with_capacity(limits::TOKENS_PER_CORE)),
            meters,
            open: Rc::new(Open::default()),
            owners: Owners::default(),
            asks,
            questions: Semaphore::new(limits::AUTHORIZER_ASKS_PER_CORE),
            held: Rc::default(),
            copies: Rc::default(),
            names: (random(), Cell::new(0)),
            labels: Names::default(),
            records: RefCell::new(records),
            recorded: Cell::new(0),
            turn: Cell::new(0),
            connections: Cell::new(0),
            places,
            drain: watch::Sender::new(false),
            is_replaced: Cell::new(false),
            drained: watch::Sender::new(false),
        }
    }

    /// Whether the process is about to end: no connection is kept for another request.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// While the process ends: waits until nothing of it needs its own listeners any more. What has come to its ingress may
    /// go on to nodes and waypoints that are in this process, too; unless another one accepts for them.
    pub async fn unneeded(&self) {
        while !self.is_replaced.get() && self.places.has_entered() {
            rt::sleep(DRAIN_LOOK_MS).await;
        }
    }

    /// Waits until the process is about to end.
    pub async fn draining(&self) {
        // The sender is in `self`, so it does not go before the answer.
        drop(self.drain.subscribe().wait_for(|drain| *drain).await);
    }

    /// Waits until the process ends: what is idle until then may still be used once.
    pub async fn drained(&self) {
        drop(self.drained.subscribe().wait_for(|over| *over).await);
    }

    /// Runs `work`, which waits for the first bytes of a client, for at most `ms`, and while the process ends for at most
    /// [`limits::DRAIN_FIRST_MS`] more.
    ///
    /// # Errors
    /// `Elapsed`.
    pub async fn within<F: Future>(&self, ms: u64, work: F) -> Result<F::Output, rt::Elapsed> {
        let mut work = pin!(rt::timeout(ms, work));
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = self.draining() => {}
        }
        // Who was accepted a moment ago has its first bytes under way: it is served, or a hand-over would lose it.
        rt::timeout(limits::DRAIN_FIRST_MS, work).await?
    }

    /// Ends this core: idle connections to upstreams now, what is open by itself within `process.drain`, the rest then or when
    /// `at_once` is over. A client of HTTP/1 hears of the end with its next answer, not in the middle of its next request.
    /// Whether another process accepts from now on is told by `is_replaced`.
    pub async fn end(&self, is_replaced: bool, at_once: impl Future<Output = ()>) {
        let mut at_once = pin!(at_once);
        self.is_replaced.set(is_replaced);
        self.drain.send_replace(true);
        let begun = clock::now();
        let limit = Duration::from_millis(self.process.drain_ms);
        // A core without a connection of its own may still hold idle ones to its sister cores, which wait for their end.
        self.upstreams.clear();
        rt::sleep(DRAIN_LOOK_MS).await;
        let is_needed = || !is_replaced && self.places.has_entered();
        while (self.connections.get() > 0 || is_needed()) && begun.elapsed() < limit {
            // Also what became idle since the last look.
            self.upstreams.clear();
            tokio::select! {
                biased;
                () = &mut at_once => break,
                () = rt::sleep(DRAIN_LOOK_MS) => {}
            }
        }
        if self.connections.get() > 0 {
            self.drained.send_replace(true);
            let ended = self.open.end_all();
            tracing::info!(ended, "time to drain is over");
            // One more turn for them, so that their records say why.
            rt::sleep(DRAIN_LOOK_MS).await;
        }
    }

    /// The snapshot as it is now. Read once per exchange.
    #[must_use]
    #[expect(
        clippy::redundant_allocation,
        reason = "the outer count is this core's alone"
    )]
    pub fn snapshot(&self) -> Rc<Arc<Snapshot>> {
        let mut latest = self.snapshot.borrow_mut();
        let Latest { cache, held } = &mut *latest;
        let now = cache.load();
        if !Arc::ptr_eq(now, held) {
            *held = Rc::new(Arc::clone(now));
        }
        Rc::clone(held)
    }

    /// Counts up, for choices by turns.
    #[must_use]
    pub fn turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// A number that looks random, another one for each turn.
    #[must_use]
    pub fn chance(&self, turn: usize) -> u64 {
        let ([beginning, _], _) = &self.names;
        mix(beginning.wrapping_add(mix(u64::try_from(turn).unwrap_or(0))))
    }

    /// A name for a request that has none (`x-request-id`).
    #[must_use]
    pub fn request_name(&self) -> HeaderValue {
        let (beginning, nth) = &self.names;
        nth.set(nth.get().wrapping_add(1));
        request_id::name(*beginning, nth.get())
    }

    /// Hands a record to the writer.
    pub fn record(&self, record: &Record) {
        self.recorded.set(self.recorded.get().wrapping_add(1));
        self.records.borrow_mut().send(record);
    }

    /// Frees what records are made in, at rest.
    pub fn forget_buffers(&self) {
        self.records.borrow_mut().rest();
    }

    /// How many records there were: at rest there are no more.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.recorded.get()
    }

    /// Counts a connection or stream, which the end of the process waits for.
    #[must_use]
    pub fn place(self: &Rc<Self>) -> Place {
        let connections = &self.connections;
        connections.set(connections.get().saturating_add(1));
        self.places.enter();
        Place(Rc::clone(self))
    }

    /// Why there is no room for a stream which has its `place` already, if there is none.
    #[must_use]
    pub fn refuses_stream(&self) -> Option<Full> {
        self.places.refuses(true)
    }

    /// Serves a connection of a listener of `who` (role and instance) in a task of its own. Without room it is reset, and
    /// recorded.
    pub fn spawn_connection(
        self: &Rc<Self>,
        tcp: Tcp,
        who: (&'static str, &str),
        serve: impl FnOnce(Rc<Self>, Tcp) -> Setup,
    ) {
        if let Some(full) = self.places.refuses(false) {
            tcp.reset_on_close();
            let Ok(peer) = tcp.peer() else { return };
            let generation = self.snapshot().generation;
            return Story::about(self, who, peer, Kind::Connection, generation)
                .fail(full.close(), full);
        }
        let place = self.place();
        let serving = serve(Rc::clone(self), tcp);
        rt::spawn(async move {
            relaying::run(serving).await;
            drop(place);
        });
    }
}

/// A connection or stream that counts until this is dropped.
#[derive(Debug)]
pub struct Place(Rc<Core>);

impl Drop for Place {
    fn drop(&mut self) {
        let connections = &self.0.connections;
        connections.set(connections.get().saturating_sub(1));
        self.0.places.leave();
    }
}
