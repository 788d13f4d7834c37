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
use crate::role::enforcement::Enforcement;
use crate::role::plan::Plan;
use crate::telemetry::record::Kind;
use crate::upstream::load::Place;
use crate::vocab::limits;
use crate::vocab::text::chain;
use crate::worker;
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

/// What was asked for, how it was judged, and what the one before said of the client.
pub(super) type Original<'a> = (
    &'a Arc<Request>,
    &'a First<'a>,
    &'a Asked,
    &'a [HeaderValue],
);

/// Where copies are made.
type Here<'a> = (&'a Rc<Core>, &'a Rc<Site>, &'a Arc<Snapshot>);

/// The copies of a permitted request that may be sent; those that may not are recorded. Of one that `switches` there are none.
pub(super) fn judged(here: Here<'_>, original: Original<'_>, switches: bool) -> Vec<Copy> {
    let (_, first, ..) = original;
    let Some(rule) = first.rule.filter(|_| !switches) else {
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

fn one(here: Here<'_>, original: Original<'_>, mirror: &Mirror, turn: u64) -> Option<Copy> {
    let (core, site, snapshot) = here;
    let (request, first, asked, told) = original;
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
    let (plan, permit) = match permitted(here, original, pick, &mut story) {
        Ok(permitted) => permitted,
        Err(refusal) => return refused(story, *refusal),
    };
    let going = match going(core, snapshot, site, &plan, sent, (&attempt, &pick)) {
        Ok(going) => going,
        Err(refusal) => return refused(story, *refusal.behind(permit.verdict())),
    };
    let extra = own_fields(site, request, &going, (snapshot, told.to_vec()));
    let mut headers = HeaderMap::new();
    let fields = outgoing(&sent.headers, &extra);
    for (name, value) in fields.filter(|(name, _)| **name != header::TE) {
        headers.append(name.clone(), value.clone());
    }
    let name = core.labels.service(snapshot, leg.service)?.parts;
    let routed = Routed {
        leg: Some((name, leg)),
        sent: Some(Arc::clone(sent)),
    };
    let (goes, asked) = ((Some(request), routed), asked.clone());
    let opened = Opened::routed(Rc::clone(site), goes, asked, snapshot, plan.workload);
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

/// Where a copy goes, if it may.
fn permitted<'s>(
    (core, site, snapshot): (&Rc<Core>, &Rc<Site>, &'s Arc<Snapshot>),
    (request, first, asked, _): Original<'_>,
    pick: Pick<'_>,
    story: &mut Story,
) -> Result<(Plan<'s>, Permit), Box<Refusal>> {
    let sent = first.routed.sent.as_ref().unwrap_or(request);
    let plan = judge::plan(snapshot, site, Some(request), pick)
        .map_err(|why| Box::new(Refusal::unplanned(why)))?;
    planned(core, story, &plan, snapshot);
    story.edit(|r| r.route = first.rule.map(|rule| Arc::clone(&rule.label)));
    // Tokens are verified, and providers asked, for the request itself alone.
    let known = |e: &Enforcement| first.enforcements.iter().any(|f| std::ptr::eq(*f, e));
    let mut others = plan.enforcements.iter().filter(|e| !known(e));
    let unverified = others.any(|e| !e.tokens.is_empty());
    let unasked = !asked.covers(&plan, &site.connection, Some(request))
        || plan.unasked(&site.connection, sent).is_some();
    let why = match (unverified, unasked) {
        (true, _) => "token rules of its own hold at the mirror",
        (false, true) => "a provider would have to be asked about the copy",
        (false, false) => {
            let permit = plan.judge_sent(&site.connection, Some(request), Some(sent));
            let permit = permit.map_err(|denied| Box::new(Refusal::denied(denied)))?;
            story.judged(permit.verdict());
            return Ok((plan, permit));
        }
    };
    Err(Box::new(Refusal {
        detail: Some(why.to_owned()),
        ..Refusal::close(CloseReason::Denied)
    }))
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

/// None of them is sent, because the request that they belong to is refused.
pub(super) fn refused_with(copies: &mut Vec<Copy>, refusal: &Refusal) {
    for copy in copies.drain(..) {
        match &refusal.detail {
            Some(detail) => copy.story.fail(refusal.close, detail),
            None => copy.story.end(refusal.close),
        }
    }
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
    (core, judged_by): (&Rc<Core>, &Arc<Snapshot>),
    copies: Vec<Copy>,
    body: Source<'b>,
    length: Option<u64>,
) -> Source<'b> {
    if copies.is_empty() {
        return body;
    }
    let most = limits::MIRRORED_BODY_BYTES;
    let kept = (!body.is_empty()).then(|| Kept::new(most));
    let too_long = length.is_some_and(|n| n > u64::try_from(most).unwrap_or(u64::MAX));
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
        // A policy that changed while providers were asked was heard by nobody.
        let latest = core.snapshot();
        if !Arc::ptr_eq(&latest, judged_by) && !copy.opened.is_still_allowed(&latest) {
            copy.story.end(CloseReason::PolicyChanged);
            continue;
        }
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
            (counted, core.place()),
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
    counted: (Counted, worker::core::Place),
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
