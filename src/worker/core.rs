//! One data core: its view of the snapshot, its pools, its records.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use tokio::sync::{Semaphore, watch};

use crate::config::checked::Process;
use crate::control::ask::Asker;
use crate::control::snapshot::Snapshot;
use crate::io::upstream::Upstreams;
use crate::io::{clock, rt};
use crate::jwt::TokenCache;
use crate::telemetry::metrics::Meters;
use crate::telemetry::record::Record;
use crate::telemetry::writer::Sender;
use crate::vocab::limits;
use crate::worker::open::Open;
use crate::worker::owner::Owners;
use crate::worker::relaying::{self, Setup};

/// What the tasks of a core share.
#[derive(Debug)]
pub struct Core {
    /// This process as configured.
    pub process: Arc<Process>,
    snapshot: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    /// Upstream connections.
    pub upstreams: Upstreams,
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
    records: RefCell<Sender>,
    recorded: Cell<u64>,
    turn: Cell<usize>,
    connections: Cell<usize>,
    drain: watch::Sender<bool>,
    shed: Cell<u64>,
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
    ) -> Self {
        Self {
            process,
            snapshot: RefCell::new(Cache::new(snapshot)),
            upstreams: Upstreams::default(),
            tokens: RefCell::new(TokenCache::with_capacity(limits::TOKENS_PER_CORE)),
            meters,
            open: Rc::new(Open::default()),
            owners: Owners::default(),
            asks,
            questions: Semaphore::new(limits::AUTHORIZER_ASKS_PER_CORE),
            held: Rc::default(),
            records: RefCell::new(records),
            recorded: Cell::new(0),
            turn: Cell::new(0),
            connections: Cell::new(0),
            drain: watch::Sender::new(false),
            shed: Cell::new(0),
        }
    }

    /// Whether the process is about to end: no connection is kept for another request.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Waits until the process is about to end.
    pub async fn draining(&self) {
        // The sender is in `self`, so it does not go before the answer.
        drop(self.drain.subscribe().wait_for(|drain| *drain).await);
    }

    /// Runs `work`, which waits for the first bytes of a client, for at most `ms` and not beyond the end of the process.
    ///
    /// # Errors
    /// `Elapsed`.
    pub async fn within<F: Future>(&self, ms: u64, work: F) -> Result<F::Output, rt::Elapsed> {
        tokio::select! {
            biased;
            done = rt::timeout(ms, work) => done,
            () = self.draining() => Err(rt::Elapsed),
        }
    }

    /// Ends this core: what is idle now, what is open by itself within `limits::DRAIN_MS`, the rest then.
    pub async fn end(&self) {
        self.drain.send_replace(true);
        let begun = clock::now();
        let limit = Duration::from_millis(limits::DRAIN_MS);
        // A core without a connection of its own may still hold idle ones to its sister cores, which wait for their end.
        self.upstreams.clear();
        rt::sleep(DRAIN_LOOK_MS).await;
        while self.connections.get() > 0 && begun.elapsed() < limit {
            // Also what became idle since the last look.
            self.upstreams.clear();
            rt::sleep(DRAIN_LOOK_MS).await;
        }
        if self.connections.get() > 0 {
            let ended = self.open.end_all();
            tracing::info!(ended, "time to drain is over");
            // One more turn for them, so that their records say why.
            rt::sleep(DRAIN_LOOK_MS).await;
        }
    }

    /// The snapshot as it is now. Read once per exchange.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(self.snapshot.borrow_mut().load())
    }

    /// Counts up, for choices by turns.
    #[must_use]
    pub fn turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// Hands a record to the writer.
    pub fn record(&self, record: Box<Record>) {
        self.recorded.set(self.recorded.get().wrapping_add(1));
        self.records.borrow_mut().send(record);
    }

    /// How many records there were: at rest there are no more.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.recorded.get()
    }

    /// Counts a task that the end of the process waits for.
    #[must_use]
    pub fn place(self: &Rc<Self>) -> Place {
        let connections = &self.connections;
        connections.set(connections.get().saturating_add(1));
        Place(Rc::clone(self))
    }

    /// Serves a connection in a task of its own, unless the core is full.
    pub fn spawn_connection(self: &Rc<Self>, setup: Setup) {
        if self.connections.get() >= limits::CONNECTIONS_PER_CORE {
            // Said at every power of two: a flood must not become a flood of lines.
            let shed = self.shed.get().saturating_add(1);
            self.shed.set(shed);
            if shed.is_power_of_two() {
                tracing::warn!(
                    shed,
                    "connection limit of the core reached, connections are shed"
                );
            }
            return;
        }
        let place = self.place();
        rt::spawn(async move {
            relaying::run(setup).await;
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
    }
}
