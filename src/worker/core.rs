//! One data core: its view of the snapshot, its pools, its records.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use crate::config::checked::Process;
use crate::control::ask::Asker;
use crate::control::snapshot::Snapshot;
use crate::io::rt;
use crate::io::upstream::Upstreams;
use crate::jwt::TokenCache;
use crate::telemetry::record::Record;
use crate::telemetry::writer::Sender;
use crate::vocab::limits;
use crate::worker::open::Open;

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
    /// Open exchanges.
    pub open: Rc<Open>,
    /// The control thread.
    pub asks: Asker,
    records: RefCell<Sender>,
    turn: Cell<usize>,
    connections: Cell<usize>,
}

impl Core {
    /// A core's state.
    #[must_use]
    pub fn new(
        process: Arc<Process>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        asks: Asker,
        records: Sender,
    ) -> Self {
        Self {
            process,
            snapshot: RefCell::new(Cache::new(snapshot)),
            upstreams: Upstreams::default(),
            tokens: RefCell::new(TokenCache::with_capacity(limits::TOKENS_PER_CORE)),
            open: Rc::new(Open::default()),
            asks,
            records: RefCell::new(records),
            turn: Cell::new(0),
            connections: Cell::new(0),
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
        self.records.borrow_mut().send(record);
    }

    /// Serves a connection in a task of its own, unless the core is full.
    pub fn spawn_connection(self: &Rc<Self>, serve: impl Future<Output = ()> + 'static) {
        if self.connections.get() >= limits::CONNECTIONS_PER_CORE {
            tracing::warn!("connection limit of the core reached, one is shed");
            return;
        }
        self.connections
            .set(self.connections.get().saturating_add(1));
        let core = Rc::clone(self);
        rt::spawn(async move {
            Box::pin(serve).await;
            core.connections
                .set(core.connections.get().saturating_sub(1));
        });
    }
}
