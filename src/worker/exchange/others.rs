//! The endpoints that a request may go to besides the one that was chosen first, each judged anew.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::target;
use crate::config::checked::route::RouteRule;
use crate::control::snapshot::Snapshot;
use crate::io::upstream::{DialError, Target};
use crate::policy::{Permit, Request};
use crate::role::endpoints::Busy;
use crate::role::plan::Judges;
use crate::upstream::load::Waiting;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::custom::Asked;
use crate::worker::forward::Onward;
use crate::worker::judge::{self, Opened, Routed};
use crate::worker::retry::Retries;
use crate::worker::site::{Site, Story};

/// What a request was judged by first, and where it was to go.
pub(super) struct First<'s> {
    pub(super) attempt: Attempt,
    pub(super) rule: Option<&'s RouteRule>,
    pub(super) routed: Routed,
    pub(super) enforcements: Judges<'s>,
    pub(super) workload: Option<usize>,
}

impl First<'_> {
    /// The request as it is judged again while it is open.
    pub(super) fn opens(
        &self,
        site: Rc<Site>,
        request: &Arc<Request>,
        asked: Asked,
        judged_by: &Snapshot,
    ) -> Rc<Opened> {
        let routed = (Some(request), self.routed.clone());
        Opened::routed(site, routed, asked, judged_by, self.workload)
    }
}

/// The other endpoints that a request may go to.
pub(super) struct Others<'a> {
    core: &'a Rc<Core>,
    opened: Rc<Opened>,
    snapshot: &'a Arc<Snapshot>,
    request: &'a Request,
    first: Judges<'a>,
    sent: Option<Arc<Request>>,
    retries: Retries<'a>,
    attempt: RefCell<Attempt>,
    /// What the endpoint that it goes to has with it.
    busy: RefCell<Option<Busy>>,
    /// Where it was sent last.
    endpoint: Cell<Option<SocketAddr>>,
    /// The workload that it goes to since then, as an index into `Mesh::workloads`.
    moved: Cell<Option<usize>>,
    /// The answer has begun to go to its client.
    begun: Cell<bool>,
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
            sent: first.routed.sent,
            retries: Retries::new(
                first.rule.and_then(|rule| rule.retry.as_ref()),
                &request.method,
                (&core.retries, first.attempt.max_retries(snapshot)),
            ),
            busy: RefCell::new(first.attempt.begins(snapshot)),
            endpoint: Cell::new(first.attempt.address(snapshot)),
            attempt: RefCell::new(first.attempt),
            moved: Cell::new(None),
            begun: Cell::new(false),
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

    fn begins(&self) {
        self.begun.set(true);
    }

    fn next(&self, error: &DialError) -> Option<(Permit, Target)> {
        if !self.attempt.borrow_mut().failed(self.snapshot, error) {
            return None;
        }
        self.chosen()
    }

    fn waits(&self) -> Result<Option<Waiting>, String> {
        self.attempt.borrow().waits(self.snapshot)
    }

    fn retries(&self) -> &Retries<'_> {
        &self.retries
    }

    fn another(&self) -> Option<(Permit, Target)> {
        self.attempt.borrow_mut().repeats(self.snapshot);
        if let Some(next) = self.chosen() {
            return Some(next);
        }
        // Where nobody else may have it, it may go back to who had it.
        let back = self.attempt.borrow_mut().goes_back();
        let next = if back { self.chosen() } else { None };
        if next.is_none() {
            self.retries.stays();
        }
        next
    }

    fn tell(&self, story: &mut Story) {
        if let Some(workload) = self.moved.take() {
            story.moves(&self.opened.site, self.snapshot, workload);
        }
        story.edit(|r| r.endpoint = self.endpoint.get());
    }
}

impl Others<'_> {
    /// What the endpoint that it went to has with it.
    pub(super) fn into_busy(self) -> Option<Busy> {
        self.busy.into_inner()
    }

    /// The request as it is sent.
    pub(super) fn sent(&self) -> &Request {
        self.sent.as_deref().unwrap_or(self.request)
    }

    /// Whether the answer has begun to go to its client.
    pub(super) fn begun(&self) -> &Cell<bool> {
        &self.begun
    }

    /// Whether the client is a gateway of the mesh.
    pub(super) fn is_own_hop(&self, snapshot: &Snapshot) -> bool {
        self.opened.site.is_own_hop(snapshot)
    }

    /// The next choice, judged.
    fn chosen(&self) -> Option<(Permit, Target)> {
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
        let sent = self.sent.as_deref();
        let plan = judge::elsewhere(&mut attempt, snapshot, site, (request, sent), first)?;
        let permit = plan.judge_sent(&site.connection, request, sent).ok()?;
        let pick = attempt.again(snapshot);
        let goes = sent.or(request);
        let target = target(core, snapshot, site, &plan, goes, &pick).ok()?;
        opened.moves(core, snapshot, plan.workload)?;
        *self.busy.borrow_mut() = attempt.begins(snapshot);
        self.endpoint.set(attempt.address(snapshot));
        self.moved.set(plan.workload);
        Some((permit, target))
    }
}
