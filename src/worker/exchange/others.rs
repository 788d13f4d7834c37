//! The endpoints that a request may go to besides the one that was chosen first.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::target;
use crate::control::snapshot::Snapshot;
use crate::io::upstream::{DialError, Target};
use crate::policy::{Permit, Request};
use crate::role::endpoints::Busy;
use crate::role::enforcement::Enforcement;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::forward::Onward;
use crate::worker::judge::{self, Opened};

/// What a request was judged by first, and where it was to go.
pub(super) struct First<'s> {
    pub(super) attempt: Attempt,
    pub(super) enforcements: Vec<&'s Enforcement>,
    pub(super) workload: Option<usize>,
}

/// The other endpoints that a request may go to.
pub(super) struct Others<'a> {
    core: &'a Rc<Core>,
    opened: Rc<Opened>,
    snapshot: &'a Arc<Snapshot>,
    request: &'a Request,
    first: Vec<&'a Enforcement>,
    attempt: RefCell<Attempt>,
    /// What the endpoint that it goes to has with it.
    busy: RefCell<Option<Busy>>,
    moved: RefCell<Option<String>>,
}

impl<'a> Others<'a> {
    pub(super) fn new(
        core: &'a Rc<Core>,
        opened: &Rc<Opened>,
        snapshot: &'a Arc<Snapshot>,
        request: &'a Request,
        first: First<'a>,
    ) -> Self {
        Self {
            core,
            opened: Rc::clone(opened),
            snapshot,
            request,
            first: first.enforcements,
            busy: RefCell::new(first.attempt.begins(snapshot)),
            attempt: RefCell::new(first.attempt),
            moved: RefCell::default(),
        }
    }
}

impl Onward for Others<'_> {
    fn reached(&self) {
        self.attempt.borrow().succeeded(self.snapshot);
    }

    fn answered(&self, status: u16) {
        self.attempt.borrow().answered(self.snapshot, status);
    }

    fn next(&self, error: &DialError) -> Option<(Permit, Target)> {
        let Self {
            core,
            opened,
            snapshot,
            first,
            attempt,
            ..
        } = self;
        let (site, request) = (&opened.site, Some(self.request));
        let mut attempt = attempt.borrow_mut();
        if !attempt.failed(snapshot, error) {
            return None;
        }
        let plan = judge::elsewhere(&mut attempt, snapshot, site, request, first)?;
        let permit = plan.judge(&site.connection, request).ok()?;
        let pick = attempt.again(snapshot);
        let target = target(core, snapshot, site, &plan, request, &pick).ok()?;
        opened.moves(core, snapshot, plan.workload)?;
        *self.busy.borrow_mut() = attempt.begins(snapshot);
        let workload = plan.workload.and_then(|at| snapshot.mesh.workloads.get(at));
        *self.moved.borrow_mut() = workload.map(|w| w.name.to_string());
        Some((permit, target))
    }

    fn moved(&self) -> Option<String> {
        self.moved.borrow_mut().take()
    }
}
