//! Copies of requests (`requestMirror`): each is judged for the service that it goes to, as it is sent, goes its own way, and
//! its answer is read and forgotten.
//!
//! A copy holds up nothing and fails nothing: whatever becomes of it stands in a record of its own. It goes once the body was
//! read for the request itself, so that a body is never waited for on its behalf.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::others::First;
use super::refusal::Refusal;
use super::{going, own_fields, planned};
use crate::config::checked::route::Mirror;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::extauthz::Call;
use crate::http::forward::outgoing;
use crate::io::body::{Kept, Source};
use crate::io::upstream::{Manner, Target};
use crate::io::{call, random, rt};
use crate::policy::{Permit, Request};
use crate::role::endpoints::{Leg, Pick};
use crate::telemetry::record::Kind;
use crate::upstream::load::Place;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker::attempt::Attempt;
use crate::worker::core::Core;
use crate::worker::custom::Asked;
use crate::worker::forward::dial_reason;
use crate::worker::judge::{self, Opened, Routed};
use crate::worker::open::{Entry, Rejudge};
use crate::worker::site::{Site, Story};

/// A copy that may be sent.
pub(super) struct Copy {
    permit: Permit,
    target: Target,
    manner: Manner,
    request: Arc<Request>,
    headers: HeaderMap,
    opened: Rc<Opened>,
    place: Option<Place>,
    story: Story,
}

/// What was asked for, and how it was judged.
pub(super) struct Original<'a> {
    pub(super) request: &'a Arc<Request>,
    pub(super) first: &'a First<'a>,
    pub(super) asked: &'a Asked,
    pub(super) told: &'a [HeaderValue],
}

/// The copies of a permitted request that may be sent; those that may not are recorded.
pub(super) fn judged(
    here: (&Rc<Core>, &Rc<Site>, &Arc<Snapshot>),
    original: &Original<'_>,
) -> Vec<Copy> {
    let Some(rule) = original.first.rule else {
        return Vec::new();
    };
    let due = rule.mirrors.iter().filter_map(|mirror| {
        let [chance, turn] = random::bytes().map_or([0; 2], |bytes: [u8; 16]| {
            let whole = u128::from_le_bytes(bytes);
            [whole, whole >> 64].map(|n| u64::try_from(n & u128::from(u64::MAX)).unwrap_or(0))
        });
        mirror.takes(chance).then_some((mirror, turn))
    });
    due.filter_map(|(mirror, turn)| one(here, original, mirror, turn))
        .collect()
}

fn one(
    (core, site, snapshot): (&Rc<Core>, &Rc<Site>, &Arc<Snapshot>),
    original: &Original<'_>,
    mirror: &Mirror,
    turn: u64,
) -> Option<Copy> {
    let Original {
        request,
        first,
        asked,
        told,
    } = original;
    let sent = first.routed.sent.as_ref().unwrap_or(request);
    let mut story = Story::begin(core, site, Kind::Request, snapshot);
    story.edit(|r| {
        r.mirror = true;
        r.request = Some(Arc::clone(sent));
    });
    // As if a route had changed it: whatever the service is, it has not judged this yet.
    let leg = Leg {
        service: mirror.backend.service,
        port: mirror.backend.port,
        edited: true,
    };
    // A turn of its own, so that requests take theirs as if there were no copies.
    let attempt = Attempt::at_turn(core, usize::try_from(turn).unwrap_or_default());
    attempt.stays_with(Some(leg));
    let pick = Pick {
        host: Some(&sent.host),
        ..attempt.pick(snapshot)
    };
    let plan = match judge::plan(snapshot, site, Some(request), pick) {
        Ok(plan) => plan,
        Err(why) => return refused(story, Refusal::unplanned(why)),
    };
    planned(&mut story, &plan, snapshot);
    story.edit(|r| r.route = first.rule.map(|rule| Arc::clone(&rule.label)));
    let same = |e: &&_| first.enforcements.iter().any(|f| std::ptr::eq(*f, *e));
    // Tokens are verified, and providers asked, for the request itself alone.
    let unverified = plan
        .enforcements
        .iter()
        .any(|e| !e.tokens.is_empty() && !same(e));
    let unasked = !asked.covers(&plan, &site.connection, Some(request))
        || plan.unasked(&site.connection, sent).is_some();
    if unverified || unasked {
        let why = if unverified {
            "token rules of its own hold at the mirror"
        } else {
            "a provider would have to be asked about the copy"
        };
        story.fail(CloseReason::Denied, why);
        return None;
    }
    let permit = match plan.judge_sent(&site.connection, Some(request), Some(sent)) {
        Ok(permit) => permit,
        Err(denied) => return refused(story, Refusal::denied(denied)),
    };
    story.judged(permit.verdict());
    let going = match going(core, snapshot, site, &plan, sent, (&attempt, &pick)) {
        Ok(going) => going,
        Err(refusal) => {
            let verdict = permit.verdict();
            return refused(story, *refusal.behind(verdict));
        }
    };
    let extra = own_fields(site, request, &going, (snapshot, told.to_vec()));
    let mut headers = HeaderMap::new();
    for (name, value) in outgoing(&sent.headers, &extra) {
        if *name != header::TE {
            headers.append(name.clone(), value.clone());
        }
    }
    let name = snapshot.mesh.services.get(leg.service)?.name.clone();
    let routed = Routed {
        leg: Some((name, leg)),
        sent: Some(Arc::clone(sent)),
    };
    let goes = (Some(*request), routed);
    let opened = Opened::routed(
        Rc::clone(site),
        goes,
        (*asked).clone(),
        snapshot,
        plan.workload,
    );
    Some(Copy {
        permit,
        target: going.target,
        manner: going.manner,
        request: Arc::clone(sent),
        headers,
        opened,
        place: going.place,
        story,
    })
}

/// It is not sent.
fn refused(mut story: Story, refusal: Refusal) -> Option<Copy> {
    story.edit(|r| {
        r.judged = refusal.denied.map(|d| d.judged).or(refusal.judged);
        r.detail = refusal.detail;
    });
    story.end(refusal.close);
    None
}

/// One of the copies that a core has under way.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn take(copies: &Rc<Cell<usize>>) -> Option<Self> {
        let before = copies.get();
        (before < limits::MIRRORS_PER_CORE).then(|| {
            copies.set(before.saturating_add(1));
            Self(Rc::clone(copies))
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Sets copies on their way. What comes back is the body of the request, to be read as ever; `length`, if that is announced.
pub(super) fn begin<'b>(
    core: &Rc<Core>,
    copies: Vec<Copy>,
    body: Source<'b>,
    length: Option<u64>,
) -> Source<'b> {
    if copies.is_empty() {
        return body;
    }
    let most = limits::MIRRORED_BODY_BYTES;
    let kept = (!body.is_empty()).then(|| Kept::new(most));
    let too_long = length.is_some_and(|n| usize::try_from(n).map_or(true, |n| n > most));
    let mut under_way = false;
    for copy in copies {
        if too_long {
            copy.story.fail(CloseReason::Limit, TOO_LONG);
            continue;
        }
        let Some(counted) = Counted::take(&core.copies) else {
            let why = "too many copies are under way";
            copy.story.fail(CloseReason::Limit, why);
            continue;
        };
        let mut entry = core.open.enter(
            Rejudge::Opened(Rc::clone(&copy.opened)),
            copy.story.sketch(),
        );
        entry.takes(copy.place);
        entry.cancel.depends_on(copy.opened.site.leaf.clone());
        under_way = true;
        let way = Way {
            permit: copy.permit,
            target: copy.target,
            manner: copy.manner,
            request: copy.request,
            headers: copy.headers,
        };
        rt::spawn(send(
            Rc::clone(core),
            way,
            (copy.story, entry),
            kept.clone(),
            counted,
        ));
    }
    match kept.filter(|_| under_way) {
        Some(kept) => body.copied(kept),
        None => body,
    }
}

const TOO_LONG: &str = "body is too long for a copy of it";

/// What is sent, and where.
struct Way {
    permit: Permit,
    target: Target,
    manner: Manner,
    request: Arc<Request>,
    headers: HeaderMap,
}

async fn send(
    core: Rc<Core>,
    way: Way,
    (mut story, entry): (Story, Entry),
    kept: Option<Rc<Kept>>,
    counted: Counted,
) {
    let told = async {
        let body = match kept {
            None => Bytes::new(),
            Some(kept) => match kept.whole().await {
                Ok(body) => body,
                Err(why) => return Err((CloseReason::Limit, why.to_string())),
            },
        };
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        let path = way.request.path.as_ref();
        let copy = Call {
            method: way.request.method.clone(),
            target: path.map_or("/", |p| p.as_str()).to_owned(),
            authority: way.request.host.as_str().to_owned(),
            headers: way.headers,
            body,
        };
        let told = call::tell(&core.upstreams, way.permit, &way.target, way.manner, &copy);
        match rt::timeout(limits::MIRROR_MS, told).await {
            Ok(Ok(status)) => Ok((status, length)),
            Ok(Err(call::CallError::Dial(error))) => Err((dial_reason(&error), chain(&error))),
            Ok(Err(error)) => Err((CloseReason::UpstreamReset, chain(&error))),
            Err(rt::Elapsed) => {
                let why = "answer to the copy is too slow".to_owned();
                Err((CloseReason::UpstreamTimeout, why))
            }
        }
    };
    let told = tokio::select! {
        biased;
        why = entry.cancel.cancelled() => {
            story.end(why);
            return;
        }
        told = Box::pin(told) => told,
    };
    match told {
        Ok((status, length)) => {
            story.edit(|r| {
                r.status = Some(status.as_u16());
                r.received = length;
            });
            story.end(CloseReason::Done);
        }
        Err((close, why)) => story.fail(close, why),
    }
    drop(counted);
}
