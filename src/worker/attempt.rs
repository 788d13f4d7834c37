//! The endpoints that are tried for one connection or request: the next one where a connect failed and nothing of the
//! client's was sent, each with a decision of its own.

use std::cell::Cell;
use std::net::SocketAddr;

use http::{HeaderValue, StatusCode};

use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::io::clock;
use crate::io::hbone::HboneError;
use crate::io::upstream::DialError;
use crate::policy::Request;
use crate::role::endpoints::{Busy, Chosen, Leg, Pick, affinity};
use crate::upstream::load::{Kind, MaxRetries, Overflow, Place, Pool, Waiting};
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::open::Entry;
use crate::worker::site::Story;

/// What was tried so far.
#[derive(Debug)]
pub struct Attempt {
    turn: usize,
    fresh: u64,
    begun_ms: u64,
    tried: Vec<usize>,
    /// Endpoints that it went to, or would have gone to if they could be connected to.
    permitted: Vec<usize>,
    /// It goes to those alone from now on.
    goes_back: bool,
    chosen: Cell<Option<Chosen>>,
    /// The backend of a route, which all attempts go to.
    leg: Cell<Option<Leg>>,
}

impl Attempt {
    /// Nothing yet.
    #[must_use]
    pub fn new(core: &Core) -> Self {
        Self::at_turn(core, core.turn())
    }

    /// Nothing yet, at a turn that the core's others do not miss.
    #[must_use]
    pub fn at_turn(core: &Core, turn: usize) -> Self {
        Self {
            turn,
            fresh: core.chance(turn),
            begun_ms: clock::millis(),
            tried: Vec::new(),
            permitted: Vec::new(),
            goes_back: false,
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
            among: self.goes_back.then_some(&*self.permitted),
            call: None,
            fresh: self.fresh,
            chosen: Some(&self.chosen),
            only: None,
            leg: self.leg.get(),
            host: None,
            settled: false,
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

    fn went(&mut self, chosen: Chosen) {
        for known in [&mut self.tried, &mut self.permitted] {
            if !known.contains(&chosen.endpoint) {
                known.push(chosen.endpoint);
            }
        }
    }

    /// Another attempt follows one that was answered or broke: at another endpoint, if there is one.
    pub fn repeats(&mut self, snapshot: &Snapshot) {
        let Some(chosen) = self.chosen.get() else {
            return;
        };
        self.went(chosen);
        let all = snapshot.endpoints.of(chosen.service).len();
        if self.tried.len() >= all.min(limits::ENDPOINTS_TRIED) {
            self.tried.clear();
        }
    }

    /// No other endpoint may have it, of as many as are looked at: those that it was permitted to go to may have it again, and
    /// nobody else. `false`: there is none of them.
    pub fn goes_back(&mut self) -> bool {
        self.tried.clear();
        self.goes_back = true;
        !self.permitted.is_empty()
    }

    /// Address of what was chosen, and the port that it serves at.
    #[must_use]
    pub fn address(&self, snapshot: &Snapshot) -> Option<SocketAddr> {
        snapshot
            .endpoints
            .address(&snapshot.mesh, self.chosen.get()?)
    }

    /// What was chosen could be connected to.
    pub fn succeeded(&self, snapshot: &Snapshot) {
        if let Some(chosen) = self.chosen.get() {
            let now_ms = clock::millis();
            snapshot.endpoints.succeeded(&snapshot.mesh, chosen, now_ms);
        }
    }

    /// What was chosen answered with this status; 502 and 504 stand for no answer.
    pub fn answered(&self, snapshot: &Snapshot, status: u16) {
        let Some(chosen) = self.chosen.get() else {
            return;
        };
        let now_ms = clock::millis();
        let (endpoints, mesh) = (&snapshot.endpoints, &snapshot.mesh);
        if endpoints.answered(mesh, chosen, status, now_ms) {
            left_out(snapshot, chosen, "answers fail");
        }
    }

    /// Takes a place at the service of what was chosen, if places are counted there.
    ///
    /// # Errors
    /// The limit that is reached, for the record.
    pub fn takes(&self, snapshot: &Snapshot, kind: Kind) -> Result<Option<Place>, String> {
        let Some(chosen) = self.chosen.get() else {
            return Ok(None);
        };
        let mesh = &snapshot.mesh;
        let taken = snapshot.endpoints.take(mesh, chosen, kind);
        taken.map_err(|full| reached(snapshot, chosen, full))
    }

    /// Begins to wait for a connection to what was chosen, if those who wait are counted there.
    ///
    /// # Errors
    /// The limit that is reached, for the record.
    pub fn waits(&self, snapshot: &Snapshot) -> Result<Option<Waiting>, String> {
        let Some(chosen) = self.chosen.get() else {
            return Ok(None);
        };
        let waits = snapshot.endpoints.wait(&snapshot.mesh, chosen);
        waits.map_err(|full| reached(snapshot, chosen, full))
    }

    /// How many requests of the service that was chosen may be sent more than once, if that is limited.
    #[must_use]
    pub fn max_retries(&self, snapshot: &Snapshot) -> Option<MaxRetries> {
        let chosen = self.chosen.get()?;
        snapshot.endpoints.max_retries(&snapshot.mesh, chosen)
    }

    /// `connectionPool` of the service that was chosen.
    #[must_use]
    pub fn pool(&self, snapshot: &Snapshot) -> Pool {
        let service = self.chosen.get().map(|chosen| chosen.service);
        let service = service.and_then(|at| snapshot.mesh.services.get(at));
        service.map(|s| s.balance.pool).unwrap_or_default()
    }

    /// As `takes`, for what is open as a connection of bytes.
    ///
    /// # Errors
    /// There is none; it is recorded.
    pub fn placed(
        &self,
        snapshot: &Snapshot,
        story: Story,
        entry: &mut Entry,
    ) -> Result<Story, CloseReason> {
        match self.takes(snapshot, Kind::Bytes) {
            Ok(place) => {
                entry.takes(place);
                Ok(story)
            }
            Err(detail) => {
                story.fail(CloseReason::Overflow, detail);
                Err(CloseReason::Overflow)
            }
        }
    }

    /// What was chosen gets a request or connection.
    #[must_use]
    pub fn begins(&self, snapshot: &Snapshot) -> Option<Busy> {
        let chosen = self.chosen.get()?;
        snapshot.endpoints.begins(&snapshot.mesh, chosen)
    }

    /// The cookie that the client is given, so that the endpoint which was chosen takes its next request (`set-cookie`).
    #[must_use]
    pub fn cookie(
        &self,
        snapshot: &Snapshot,
        request: &Request,
        secure: impl FnOnce() -> bool,
    ) -> Option<HeaderValue> {
        let service = snapshot.mesh.services.get(self.chosen.get()?.service)?;
        let hash = service.balance.hash.as_ref()?;
        affinity::given(hash, request, self.fresh, secure())
    }

    /// What was chosen could not be connected to. `true`: another one may be tried.
    pub fn failed(&mut self, snapshot: &Snapshot, error: &DialError) -> bool {
        let Some(chosen) = self.chosen.get().filter(|_| is_endpoints_fault(error)) else {
            return false;
        };
        let now_ms = clock::millis();
        // Of those who waited for one connection only one has seen it fail.
        let counts = !matches!(error, DialError::Busy);
        if counts && snapshot.endpoints.failed(&snapshot.mesh, chosen, now_ms) {
            left_out(snapshot, chosen, "connects fail");
        }
        self.went(chosen);
        self.tried.len() < limits::ENDPOINTS_TRIED
            && now_ms.saturating_sub(self.begun_ms) < limits::CONNECT_ALL_MS
    }
}

fn reached(snapshot: &Snapshot, chosen: Chosen, full: Overflow) -> String {
    let service = snapshot.mesh.services.get(chosen.service);
    let name = service.map(|s| s.name.to_string()).unwrap_or_default();
    format!("{full} of {name} is reached")
}

fn left_out(snapshot: &Snapshot, chosen: Chosen, why: &'static str) {
    let service = snapshot.mesh.services.get(chosen.service);
    let service = service.map(|s| s.name.to_string()).unwrap_or_default();
    let endpoint = snapshot.endpoints.address(&snapshot.mesh, chosen);
    let endpoint = endpoint.map(tracing::field::display);
    tracing::warn!(%service, endpoint, why, "endpoint is left out for a time");
}

/// Whether another endpoint might do better. An answer of the far end's policy is an answer.
pub(super) fn is_endpoints_fault(error: &DialError) -> bool {
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
