//! What a route makes of one request: what is sent, what is answered here, what becomes of the answer.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::config::checked::route::RouteRule;
use crate::control::snapshot::Snapshot;
use crate::exchange::close::CloseReason;
use crate::http::reply::Reply;
use crate::policy::Request;
use crate::role::plan::Plan;
use crate::role::rewrite;
use crate::worker::core::Core;
use crate::worker::custom::Stopped;
use crate::worker::exchange::scheme;
use crate::worker::forward::OnAnswer;
use crate::worker::judge::Routed;
use crate::worker::site::Site;

/// The request as a route sends it; `None` if that is as it was asked for.
///
/// # Errors
/// The answer in its place.
pub(super) fn sent(
    plan: &Plan<'_>,
    site: &Site,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<Option<Request>, Box<Stopped>> {
    let Some(rule) = plan.rule else {
        return Ok(None);
    };
    let mode = snapshot.mesh.path_normalization;
    let sent = rewrite::sent(rule, request, mode).map_err(|error| {
        let text = "what a route makes of it is no path";
        Box::new(Stopped {
            reply: Reply::text(StatusCode::BAD_REQUEST, "bad request"),
            close: CloseReason::BadRequest,
            detail: Some(format!("{text}: {error}")),
            denied: None,
        })
    })?;
    let asked = sent.as_ref();
    match asked.and_then(|sent| plan.unasked(&site.connection, sent)) {
        // In dry run nobody is refused for it, and nothing is asked either.
        Some(provider) if !snapshot.mesh.dry_run => Err(Box::new(Stopped {
            reply: Reply::denied(),
            close: CloseReason::Denied,
            detail: Some(format!(
                "`{provider}` would have to be asked about what a route makes of it"
            )),
            denied: None,
        })),
        Some(_) | None => Ok(sent),
    }
}

/// The answer of a rule that redirects.
pub(super) fn answer(plan: &Plan<'_>, site: &Site, request: &Request) -> Option<Reply> {
    let rule = plan.rule?;
    let redirect = rule.redirect.as_ref()?;
    // A route may change any of its fields.
    let mut reply = rewrite::redirect(redirect, request, scheme(site, request)).spelled_out();
    rewrite::change(&rule.response_headers, &mut reply.headers);
    Some(reply)
}

/// What becomes of the answer; `added` are the fields that authorizers add.
pub(super) fn on_answer(
    rule: Option<&RouteRule>,
    at_edge: bool,
    added: Vec<(HeaderName, HeaderValue)>,
) -> OnAnswer {
    let changed = rule.map(|rule| &rule.response_headers);
    OnAnswer {
        at_edge,
        added,
        changed: changed.filter(|change| !change.is_empty()).cloned(),
    }
}

/// What is remembered of it while it is open.
pub(super) fn remembered(
    core: &Core,
    plan: &Plan<'_>,
    snapshot: &Snapshot,
    sent: Option<Request>,
) -> Routed {
    let named = plan
        .leg
        .and_then(|leg| Some((core.labels.service(snapshot, leg.service)?.parts, leg)));
    Routed {
        leg: named,
        sent: sent.map(Arc::new),
    }
}

/// The name of the rule in records.
pub(super) fn label(plan: &Plan<'_>) -> Option<Arc<str>> {
    plan.rule.map(|rule: &RouteRule| Arc::clone(&rule.label))
}
