//! HTTP/2 connections to upstreams, shared by the requests of a core: as many streams on each as the far end takes at a
//! time, and another connection when all are full.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{self, Client};
use crate::h2::Requests;
use crate::io::mux::Mux;
use crate::io::stream::Stream;
use crate::io::tunnel::Lease;
use crate::io::{clock, rt};
use crate::upstream::load::Reuse;
use crate::vocab::limits;

/// A connection that takes no more streams once nobody has this: it carries its streams to their end.
#[derive(Debug)]
pub(super) struct Kept(pub(super) Mux<Requests>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.drain();
    }
}

/// A connection.
#[derive(Debug)]
struct Shared {
    mux: Mux<Requests>,
    /// Those who have the right to a stream and have not opened it have this, too: the pool may forget the connection
    /// meanwhile.
    kept: Rc<Kept>,
    /// Streams, and the rights to one that are not used yet.
    streams: Rc<Cell<usize>>,
    used: Instant,
    /// How it is used again, by its last request.
    reuse: Reuse,
    /// Requests that it has carried.
    carried: u32,
}

impl Shared {
    /// `known`: the limit of an earlier connection to the same far end, which holds until this one has told its own.
    fn has_room(&self, known: usize) -> bool {
        let most = self.mux.peer_max_streams();
        let most = if self.mux.is_settled() {
            most
        } else {
            most.min(known)
        };
        self.mux.is_alive() && self.streams.get() < most
    }

    fn client(&mut self, reused: bool, reuse: Reuse) -> Client {
        self.used = clock::now();
        self.reuse = reuse;
        self.carried = self.carried.saturating_add(1);
        Client::new(Rc::clone(&self.kept), Lease::take(&self.streams), reused)
    }
}

/// The connections of one key.
#[derive(Debug, Default)]
struct Slot {
    shared: RefCell<Vec<Shared>>,
    /// Held while another one is made.
    connecting: tokio::sync::Mutex<()>,
    /// How often that has failed.
    failures: Cell<u64>,
    /// Streams that the far end takes at a time, as it told last.
    most: Cell<Option<usize>>,
}

impl Slot {
    /// A place on one that has room; the first that was made, so that those beyond need run idle.
    fn with_room(&self, reuse: Reuse) -> Option<Client> {
        let mut shared = self.shared.borrow_mut();
        let now = clock::now();
        let idle = reuse.idle_ms.map(Duration::from_millis);
        let old = |s: &Shared| {
            let since = now.saturating_duration_since(s.used);
            s.streams.get() == 0 && idle.is_some_and(|most| since >= most)
        };
        // After GOAWAY, or once it has carried what it may, it carries what it carries, and takes no more.
        shared.retain(|s| s.mux.is_alive() && reuse.takes_more(s.carried) && !old(s));
        if let Some(told) = shared.iter().rev().find(|s| s.mux.is_settled()) {
            self.most.set(Some(told.mux.peer_max_streams()));
        }
        // One stream is always tried, so that a far end that took none for a while is asked again.
        let known = self.most.get().unwrap_or(usize::MAX).max(1);
        let found = shared.iter_mut().find(|s| s.has_room(known))?;
        Some(found.client(true, reuse))
    }
}

/// Why there is no connection.
pub(in crate::io) enum NoClient<E> {
    /// None could be made.
    Dial(E),
    /// Whoever tried just before could make none.
    Waited,
}

/// HTTP/2 connections of this core.
#[derive(Debug)]
pub(in crate::io) struct Pool<K: Ord>(RefCell<BTreeMap<K, Rc<Slot>>>);

impl<K: Ord> Default for Pool<K> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<K: Ord + Clone> Pool<K> {
    /// A place on a connection that there is.
    pub(in crate::io) fn ready(&self, key: &K, reuse: Reuse) -> Option<Client> {
        let slot = self.0.borrow().get(key).map(Rc::clone)?;
        slot.with_room(reuse)
    }

    /// A place on a connection. `dial` makes one where there is none; one at a time for a key.
    pub(in crate::io) async fn client<E>(
        &self,
        key: K,
        reuse: Reuse,
        dial: impl AsyncFnOnce() -> Result<Stream, E>,
    ) -> Result<Client, NoClient<E>> {
        let slot = Rc::clone(self.0.borrow_mut().entry(key.clone()).or_default());
        if let Some(found) = slot.with_room(reuse) {
            return Ok(found);
        }
        let failures = slot.failures.get();
        let _turn = slot.connecting.lock().await;
        if let Some(found) = slot.with_room(reuse) {
            return Ok(found);
        }
        // Who waited for one that failed is not to wait as long once more.
        if slot.failures.get() != failures {
            return Err(NoClient::Waited);
        }
        let stream = dial().await.map_err(|error| {
            slot.failures.set(slot.failures.get().wrapping_add(1));
            NoClient::Dial(error)
        })?;
        Ok(self.begin(key, &slot, stream, reuse))
    }

    fn begin(&self, key: K, slot: &Rc<Slot>, stream: Stream, reuse: Reuse) -> Client {
        self.make_room();
        let (mux, driver) = client::begin(stream);
        rt::spawn(async move {
            if let Err(error) = driver.run().await {
                tracing::debug!(%error, "upstream HTTP/2 connection ended");
            }
        });
        let mut shared = Shared {
            kept: Rc::new(Kept(mux.clone())),
            mux,
            streams: Rc::default(),
            used: clock::now(),
            reuse,
            carried: 0,
        };
        let client = shared.client(false, reuse);
        slot.shared.borrow_mut().push(shared);
        // It may have been swept meanwhile.
        self.0.borrow_mut().insert(key, Rc::clone(slot));
        client
    }

    /// Drops the connections that were used the longest time ago, so that there is room for one more.
    fn make_room(&self) {
        let by_key = self.0.borrow();
        let mut all = 0_usize;
        let mut oldest: Option<(Instant, &Rc<Slot>)> = None;
        for slot in by_key.values() {
            let shared = slot.shared.borrow();
            all = all.saturating_add(shared.len());
            let used = shared.iter().map(|s| s.used).min();
            if let Some(used) = used.filter(|used| oldest.is_none_or(|(at, _)| *used < at)) {
                oldest = Some((used, slot));
            }
        }
        if all >= limits::H2_UPSTREAMS_PER_CORE
            && let Some((_, slot)) = oldest
        {
            slot.shared.borrow_mut().clear();
        }
    }

    /// Forgets connections that have ended or, for `stays`, were not used for long; called now and then.
    pub(in crate::io) fn sweep(&self, stays: impl Fn(Instant, Reuse) -> bool) {
        self.0.borrow_mut().retain(|_key, slot| {
            let mut shared = slot.shared.borrow_mut();
            shared.retain(|s| s.mux.is_alive() && (s.streams.get() > 0 || stays(s.used, s.reuse)));
            !shared.is_empty() || slot.connecting.try_lock().is_err()
        });
    }

    /// Forgets all; each connection ends with its last stream.
    pub(in crate::io) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
