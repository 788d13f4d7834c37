//! Local rate limits at a core: whose buckets there are, and what those are told who have no token left.

use std::cell::{Cell, RefCell};
use std::hash::RandomState;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::config::checked::Process;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::reply::Reply;
use crate::io::clock;
use crate::policy::limit::{Buckets, Empty, Limit};
use crate::policy::{Connection, Request};
use crate::role::plan::Plan;
use crate::worker::custom::Stopped;

/// The fields of the IETF's draft-ietf-httpapi-ratelimit-headers.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The buckets of a limit, once it has counted something.
type Held = Option<(Arc<Limit>, Buckets)>;

/// The buckets of a core. They outlive a reload that leaves their limit as it is.
#[derive(Debug)]
pub struct Rates {
    /// This core's own, so that nobody can write requests that fall together.
    keys: [RandomState; 2],
    cores: u64,
    all: RefCell<Vec<Held>>,
    /// The limits of the request at hand that have a token left for it, with its keys: room that is kept.
    takes: RefCell<Vec<(usize, u128)>>,
    /// Of the latest configuration whose limits are in `all`.
    generation: Cell<u64>,
}

impl Rates {
    /// Of one of the cores of this process.
    #[must_use]
    pub fn new(process: &Process) -> Self {
        let cores = match process.cores {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        Self {
            keys: [RandomState::new(), RandomState::new()],
            cores: u64::try_from(cores).unwrap_or(u64::MAX),
            all: RefCell::default(),
            takes: RefCell::default(),
            generation: Cell::new(0),
        }
    }

    /// Takes a token of every limit that holds and counts the request, or none.
    ///
    /// # Errors
    /// The first limit that has none left.
    fn take(
        &self,
        limits: &[Arc<Limit>],
        plan: &Plan<'_>,
        (connection, asked, sent): (&Connection, &Request, Option<&Request>),
        (generation, now_ms): (u64, u64),
    ) -> Result<(), (Arc<Limit>, Empty)> {
        let mut all = self.all.borrow_mut();
        // A request that was held up since before a reload does not bring back the limits of then.
        let is_old = generation < self.generation.get();
        self.generation.set(self.generation.get().max(generation));
        let moved = plan.connection_sent(connection);
        let mut takes = self.takes.borrow_mut();
        takes.clear();
        for (at, as_sent) in plan.limits() {
            let (connection, request) = if as_sent {
                (moved.as_ref(), sent.unwrap_or(asked))
            } else {
                (connection, asked)
            };
            let Some(limit) = limits.get(at) else {
                continue;
            };
            if !limit.counts(connection, request) {
                continue;
            }
            let key = limit.key(&self.keys, connection, request);
            let buckets = match is_old {
                true => of_today(&mut all, limit),
                false => held(&mut all, limits, at, limit, self.cores),
            };
            let Some(buckets) = buckets else { continue };
            if let Err(empty) = buckets.look(key, now_ms) {
                return Err((Arc::clone(limit), empty));
            }
            takes.push((at, key));
        }
        for (at, key) in takes.drain(..) {
            let Some(limit) = limits.get(at) else {
                continue;
            };
            let buckets = match is_old {
                true => of_today(&mut all, limit),
                false => held(&mut all, limits, at, limit, self.cores),
            };
            if let Some(buckets) = buckets {
                buckets.take(key, now_ms);
            }
        }
        Ok(())
    }
}

/// The buckets of a limit of before a reload, if that left it as it was.
fn of_today<'b>(all: &'b mut [Held], limit: &Limit) -> Option<&'b mut Buckets> {
    let mut places = all.iter_mut().flatten();
    let same = places.find(|(held, _)| held.rule() == limit.rule())?;
    Some(&mut same.1)
}

/// The buckets of limit `at`. After a reload those of the same limit go on.
fn held<'b>(
    all: &'b mut Vec<Held>,
    limits: &[Arc<Limit>],
    at: usize,
    limit: &Arc<Limit>,
    cores: u64,
) -> Option<&'b mut Buckets> {
    let is_current = |place: &Held| {
        let held = place.as_ref();
        held.is_some_and(|(held, _)| Arc::ptr_eq(held, limit))
    };
    if !all.get(at).is_some_and(is_current) {
        reload(all, limits);
        let place = all.get_mut(at)?;
        if place.is_none() {
            let rule = limit.rule();
            let buckets = Buckets::new(&rule.bucket, cores, !rule.by.is_empty());
            *place = Some((Arc::clone(limit), buckets));
        }
    }
    all.get_mut(at)?.as_mut().map(|(_, buckets)| buckets)
}

/// Puts what there is in the places of the limits of today.
fn reload(all: &mut Vec<Held>, limits: &[Arc<Limit>]) {
    let mut before = std::mem::take(all);
    for limit in limits {
        let same = |place: &&mut Held| {
            let held = place.as_ref();
            held.is_some_and(|(held, _)| held.rule() == limit.rule())
        };
        let kept = before.iter_mut().find(same).and_then(Option::take);
        all.push(kept.map(|(_, buckets)| (Arc::clone(limit), buckets)));
    }
}

/// Takes the tokens of a request that policy lets pass.
///
/// # Errors
/// The answer in its place: 429.
pub(super) fn check(
    rates: &Rates,
    snapshot: &Snapshot,
    plan: &Plan<'_>,
    counted: (&Connection, &Request, Option<&Request>),
) -> Result<(), Box<Stopped>> {
    let limits = &snapshot.enforcements.limits;
    if limits.is_empty() || snapshot.mesh.dry_run {
        return Ok(());
    }
    let now = (snapshot.generation, clock::millis());
    let taken = rates.take(limits, plan, counted, now);
    taken.map_err(|(limit, empty)| {
        let name = &limit.rule().name;
        Box::new(Stopped {
            reply: too_many(&limit, empty),
            close: CloseReason::Limit,
            detail: Some(format!("rate limit `{name}`")),
            denied: None,
        })
    })
}

fn too_many(limit: &Limit, empty: Empty) -> Reply {
    let rule = limit.rule();
    let wait = empty.wait_ms.div_ceil(1000).max(1);
    let window = rule.bucket.window_ms().div_ceil(1000).max(1);
    let (name, most) = (&rule.name.name, rule.bucket.max_tokens);
    let mut reply = Reply::text(StatusCode::TOO_MANY_REQUESTS, "too many requests");
    let fields = [
        (header::RETRY_AFTER, wait.to_string()),
        (RATELIMIT, format!("\"{name}\";r=0;t={wait}")),
        (RATELIMIT_POLICY, format!("\"{name}\";q={most};w={window}")),
    ];
    for (field, value) in fields {
        if let Ok(value) = HeaderValue::try_from(value) {
            reply.headers.insert(field, value);
        }
    }
    reply
}
