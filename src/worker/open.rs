//! What is open on this core, so that a policy change can end it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::control::snapshot::Snapshot;

/// Judges an open exchange again; `false` ends it.
pub type Rejudge = Box<dyn Fn(&Snapshot) -> bool>;

/// All open exchanges of a core.
#[derive(Default)]
pub struct Open {
    next: Cell<u64>,
    entries: RefCell<BTreeMap<u64, (Rejudge, Rc<Cancel>)>>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Open({})", self.entries.borrow().len())
    }
}

/// Tells one exchange to end.
#[derive(Debug, Default)]
pub struct Cancel {
    cancelled: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Cancel {
    /// Waits until the exchange has to end.
    pub async fn cancelled(&self) {
        std::future::poll_fn(|cx| {
            if self.cancelled.get() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    fn cancel(&self) {
        self.cancelled.set(true);
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
}

impl Drop for Entry {
    fn drop(&mut self) {
        drop(self.open.entries.borrow_mut().remove(&self.id));
    }
}

impl Open {
    /// Puts an exchange on the list.
    #[must_use]
    pub fn enter(self: &Rc<Self>, rejudge: Rejudge) -> Entry {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let cancel = Rc::new(Cancel::default());
        self.entries
            .borrow_mut()
            .insert(id, (rejudge, Rc::clone(&cancel)));
        Entry {
            open: Rc::clone(self),
            id,
            cancel,
        }
    }

    /// Judges all of it by a new snapshot and ends what is no longer allowed; how many that were.
    pub fn rejudge(&self, snapshot: &Snapshot) -> usize {
        let entries = self.entries.borrow();
        let ended: Vec<&Rc<Cancel>> = entries
            .values()
            .filter(|(rejudge, _)| !rejudge(snapshot))
            .map(|(_, cancel)| cancel)
            .collect();
        for cancel in &ended {
            cancel.cancel();
        }
        ended.len()
    }
}
