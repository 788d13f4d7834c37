//! The endpoints that are tried for one connection or request: the next one where a connect failed and nothing of the
//! client's was sent, each with a decision of its own.

use std::cell::Cell;

use http::StatusCode;

use crate::control::snapshot::Snapshot;
use crate::io::clock;
use crate::io::hbone::HboneError;
use crate::io::upstream::DialError;
use crate::role::endpoints::{Chosen, Leg, Pick};
use crate::vocab::limits;
use crate::worker::core::Core;

/// What was tried so far.
#[derive(Debug)]
pub struct Attempt {
    turn: usize,
    begun_ms: u64,
    tried: Vec<usize>,
    chosen: Cell<Option<Chosen>>,
    /// The backend of a route, which all attempts go to.
    leg: Cell<Option<Leg>>,
}

impl Attempt {
    /// Nothing yet.
    #[must_use]
    pub fn new(core: &Core) -> Self {
        Self {
            turn: core.turn(),
            begun_ms: clock::millis(),
            tried: Vec::new(),
            chosen: Cell::new(None),
            leg: Cell::new(None),
        }
    }

    /// The next choice. What is chosen is remembered here.
    #[must_use]
    pub fn pick<'a>(&'a self, snapshot: &'a Snapshot) -> Pick<'a> {
        self.chosen.set(None);
        Pick {
            turn: self.turn,
            now_ms: clock::millis(),
            endpoints: Some(&snapshot.endpoints),
            tried: &self.tried,
            chosen: Some(&self.chosen),
            only: None,
            leg: self.leg.get(),
        }
    }

    /// A route has chosen this backend.
    pub fn stays_with(&self, leg: Option<Leg>) {
        self.leg.set(leg);
    }

    /// The same choice once more, where what was chosen before is not forgotten.
    #[must_use]
    pub fn again<'a>(&'a self, snapshot: &'a Snapshot) -> Pick<'a> {
        let before = self.chosen.get();
        let pick = self.pick(snapshot);
        self.chosen.set(before);
        pick
    }

    /// What was chosen is not for this one. `true`: another one may be tried.
    pub fn passes_over(&mut self) -> bool {
        let Some(chosen) = self.chosen.get() else {
            return false;
        };
        self.tried.push(chosen.endpoint);
        self.tried.len() < limits::ENDPOINTS_TRIED
    }

    /// Another attempt follows one that was answered or broke: at another endpoint, if there is one.
    pub fn repeats(&mut self, snapshot: &Snapshot) {
        let Some(chosen) = self.chosen.get() else {
            return;
        };
        if !self.tried.contains(&chosen.endpoint) {
            self.tried.push(chosen.endpoint);
        }
        let all = snapshot.endpoints.of(chosen.service).len();
        if self.tried.len() >= all.min(limits::ENDPOINTS_TRIED) {
            self.tried.clear();
        }
    }

    /// What was chosen could be connected to.
    pub fn succeeded(&self, snapshot: &Snapshot) {
        if let Some(chosen) = self.chosen.get() {
            let now_ms = clock::millis();
            snapshot.endpoints.succeeded(&snapshot.mesh, chosen, now_ms);
        }
    }

    /// What was chosen could not be connected to. `true`: another one may be tried.
    pub fn failed(&mut self, snapshot: &Snapshot, error: &DialError) -> bool {
        let Some(chosen) = self.chosen.get().filter(|_| is_endpoints_fault(error)) else {
            return false;
        };
        let now_ms = clock::millis();
        if snapshot.endpoints.failed(&snapshot.mesh, chosen, now_ms) {
            let service = snapshot.mesh.services.get(chosen.service);
            let service = service.map(|s| s.name.to_string()).unwrap_or_default();
            let endpoint = snapshot.endpoints.of(chosen.service).get(chosen.endpoint);
            let place = endpoint.map(|e| e.place);
            tracing::warn!(%service, ?place, "endpoint is left out for a time: connects fail");
        }
        self.tried.push(chosen.endpoint);
        self.tried.len() < limits::ENDPOINTS_TRIED
            && now_ms.saturating_sub(self.begun_ms) < limits::CONNECT_ALL_MS
    }
}

/// Whether another endpoint might do better. An answer of the far end's policy is an answer.
fn is_endpoints_fault(error: &DialError) -> bool {
    match error {
        DialError::Hbone(HboneError::Refused(status)) => matches!(
            *status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
        ),
        DialError::Hbone(HboneError::Authority { .. }) => false,
        DialError::Hbone(
            HboneError::Connect { .. }
            | HboneError::Identity { .. }
            | HboneError::Revoked { .. }
            | HboneError::Framing { .. }
            | HboneError::Timeout,
        )
        | DialError::Connect(_)
        | DialError::Busy
        | DialError::Timeout => true,
    }
}
