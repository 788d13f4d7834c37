//! What is open on this core, so that a policy change or the end of the process can end it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::identity::revocation::PeerLeaf;
use crate::io::rt;
use crate::role::endpoints::Busy;
use crate::telemetry::live::Live;
use crate::upstream::load::Place;
use crate::worker::judge::Opened;
use crate::worker::site::Sketch;

/// Entries that are judged before the other tasks of the core get their turn.
const JUDGED_PER_TURN: usize = 256;

/// What judges an open exchange again.
pub enum Rejudge {
    /// Nothing: no policy ends it.
    Nothing,
    /// The policies at its site.
    Opened(Rc<Opened>),
    /// Something else; `false` ends it.
    By(Box<dyn Fn(&Snapshot) -> bool>),
}

impl Rejudge {
    fn still_allows(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Nothing => true,
            Self::Opened(opened) => opened.is_still_allowed(snapshot),
            Self::By(judge) => judge(snapshot),
        }
    }
}

impl std::fmt::Debug for Rejudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rejudge")
    }
}

/// All open exchanges of a core.
#[derive(Default)]
pub struct Open {
    next: Cell<u64>,
    entries: RefCell<BTreeMap<u64, Held>>,
}

struct Held {
    rejudge: Rejudge,
    cancel: Rc<Cancel>,
    sketch: Option<Sketch>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Open({})", self.entries.borrow().len())
    }
}

/// Tells one exchange to end.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: Cell<Option<CloseReason>>,
    /// Which time is over, if that is why.
    time: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
    /// Certificates of the peers on either side that this exchange is for or goes to.
    peers: RefCell<Peers>,
}

/// Most exchanges have one or two.
#[derive(Debug, Default)]
struct Peers {
    first: Option<Arc<PeerLeaf>>,
    more: Vec<Arc<PeerLeaf>>,
}

impl Cancel {
    /// Waits until the exchange has to end, and why.
    pub async fn cancelled(&self) -> CloseReason {
        std::future::poll_fn(|cx| self.poll_cancelled(cx)).await
    }

    /// Ready when the exchange has to end; one task waits at a time.
    pub fn poll_cancelled(&self, cx: &Context<'_>) -> Poll<CloseReason> {
        if let Some(why) = self.cancelled.get() {
            return Poll::Ready(why);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Why the exchange has to end, if it has to.
    #[must_use]
    pub fn why(&self) -> Option<CloseReason> {
        self.cancelled.get()
    }

    /// Ends the exchange as soon as this certificate is revoked.
    pub fn depends_on(&self, peer: Option<Arc<PeerLeaf>>) {
        if let Some(peer) = peer {
            let mut peers = self.peers.borrow_mut();
            if peers.first.is_none() {
                peers.first = Some(peer);
            } else {
                peers.more.reserve_exact(1);
                peers.more.push(peer);
            }
        }
    }

    /// Whether one of the peers is revoked.
    #[must_use]
    pub fn is_revoked(&self, snapshot: &Snapshot) -> bool {
        let peers = self.peers.borrow();
        let mut all = peers.first.iter().chain(&peers.more);
        all.any(|peer| snapshot.revocations.of(peer).is_some())
    }

    /// Ends the exchange because a time of its route is over.
    pub(super) fn time_is_over(&self, why: CloseReason, what: &'static str) {
        if self.cancelled.get().is_none() {
            self.time.set(Some(what));
            self.cancel(why);
        }
    }

    /// Which time was over.
    #[must_use]
    pub fn time(&self) -> Option<&'static str> {
        self.time.get()
    }

    fn cancel(&self, why: CloseReason) {
        self.cancelled.set(Some(why));
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// An entry; dropping it takes it off the list.
#[derive(Debug)]
pub struct Entry {
    open: Rc<Open>,
    id: u64,
    /// Tells the exchange to end.
    pub cancel: Rc<Cancel>,
    /// What it takes of the service that it goes to; most take nothing.
    at_service: Option<Box<AtService>>,
}

/// What an exchange takes of the service that it goes to, until it ends.
#[derive(Debug, Default)]
struct AtService {
    place: Option<Place>,
    busy: Option<Busy>,
}

impl Entry {
    /// It has this place at its service.
    pub(super) fn takes(&mut self, place: Option<Place>) {
        if place.is_some() {
            self.at_service.get_or_insert_default().place = place;
        }
    }

    /// The endpoint that it goes to has this with it.
    pub(super) fn keeps(&mut self, busy: Option<Busy>) {
        if busy.is_some() {
            self.at_service.get_or_insert_default().busy = busy;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        drop(self.open.entries.borrow_mut().remove(&self.id));
    }
}

impl Open {
    /// Puts an exchange on the list.
    #[must_use]
    pub fn enter(self: &Rc<Self>, rejudge: Rejudge, sketch: Option<Sketch>) -> Entry {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let cancel = Rc::new(Cancel::default());
        let held = Held {
            rejudge,
            cancel: Rc::clone(&cancel),
            sketch,
        };
        self.entries.borrow_mut().insert(id, held);
        Entry {
            open: Rc::clone(self),
            id,
            cancel,
            at_service: None,
        }
    }

    /// Serves a connection of `peer` until it has ended or the peer's certificate is revoked; `None` if it was. What it
    /// leaves to do must depend on that certificate itself. `snapshot` is that of this moment, not the one that the
    /// handshake began with; it is not held while the connection is served.
    pub fn while_trusted<T>(
        self: &Rc<Self>,
        peer: Option<Arc<PeerLeaf>>,
        snapshot: &Snapshot,
        serve: Pin<Box<dyn Future<Output = T>>>,
    ) -> impl Future<Output = Option<T>> + use<T> {
        let entry = self.enter(Rejudge::Nothing, None);
        entry.cancel.depends_on(peer);
        let trusted = !entry.cancel.is_revoked(snapshot);
        let serve = trusted.then_some(serve);
        async move {
            let mut serve = serve?;
            // What is served goes first: it hears of the same revocation, and its record is to say so.
            let why = tokio::select! {
                biased;
                served = &mut serve => return Some(served),
                why = entry.cancel.cancelled() => why,
            };
            if why == CloseReason::Revoked {
                return None;
            }
            // At the end of the process what is served ends by itself.
            Some(serve.await)
        }
    }

    /// Judges all of it by a new snapshot and ends what is no longer allowed; how many that were. What is entered
    /// meanwhile was judged by it already.
    pub async fn rejudge(&self, snapshot: &Snapshot) -> usize {
        let (mut ended, mut from) = (0_usize, Some(0));
        while let Some(at) = from {
            let (more, next) = self.rejudge_some(snapshot, at);
            ended = ended.saturating_add(more);
            from = next;
            rt::yield_turn().await;
        }
        ended
    }

    /// Judges `JUDGED_PER_TURN` entries from `from` on: how many it ended, and where to go on.
    fn rejudge_some(&self, snapshot: &Snapshot, from: u64) -> (usize, Option<u64>) {
        let entries = self.entries.borrow();
        let mut some = entries.range(from..);
        let mut ended = 0_usize;
        for held in some.by_ref().take(JUDGED_PER_TURN).map(|(_, held)| held) {
            let why = if held.cancel.is_revoked(snapshot) {
                CloseReason::Revoked
            } else if held.rejudge.still_allows(snapshot) {
                continue;
            } else {
                CloseReason::PolicyChanged
            };
            held.cancel.cancel(why);
            ended = ended.saturating_add(1);
        }
        (ended, some.next().map(|(id, _)| *id))
    }

    /// Ends all of it, because the process ends; how many that were.
    pub fn end_all(&self) -> usize {
        let entries = self.entries.borrow();
        for held in entries.values() {
            held.cancel.cancel(CloseReason::Drain);
        }
        entries.len()
    }

    /// What is open, the oldest first, up to `most`.
    #[must_use]
    pub fn live(&self, most: usize) -> Vec<Live> {
        let entries = self.entries.borrow();
        let known = entries.values().filter_map(|held| held.sketch.as_ref());
        known.filter_map(Sketch::live).take(most).collect()
    }
}
