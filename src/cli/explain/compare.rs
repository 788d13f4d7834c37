//! A record against what this configuration says, and what a record cannot tell.

use serde::Serialize;

use super::question::Asked;
use super::record::Recorded;
use super::report::{Miss, Subject, shown};
use crate::exchange::close::CloseReason;
use crate::policy::Decision;
use crate::role::walk::{Hop, Said, Stop};

/// A record against this configuration.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Compared {
    pub(super) verdict: String,
    pub(super) reason: String,
    /// Status and close reason of a call that policy had allowed and that ended in an error all the same.
    pub(super) failed: Option<(u64, String)>,
    pub(super) generation: Option<u64>,
    /// Generation that the process of this configuration runs, if it was asked.
    pub(super) running: Option<u64>,
    /// This configuration decides otherwise.
    pub(super) differs: bool,
    /// Nobody judged what the record is of, so there is nothing to compare.
    pub(super) unjudged: bool,
    /// Claims were given that the record does not hold.
    pub(super) with_claims: bool,
    /// It may do so only because its policies read what a record does not hold.
    pub(super) uncertain: bool,
}

/// The verdict that a record of this would have: what policies say, also where nothing is there to be reached.
pub(super) fn recorded_as(hops: &[Hop]) -> &'static str {
    let allows = |hop: &Hop| {
        let denied = |s: &Said| s.judged.decision == Decision::Deny;
        let reached = match &hop.stop {
            None | Some(Stop::Close(CloseReason::NoRoute, _)) => true,
            Some(Stop::Close(..) | Stop::Token(_) | Stop::Provider(_)) => false,
        };
        reached && !hop.said.is_empty() && !hop.said.iter().any(denied)
    };
    if !hops.is_empty() && hops.iter().all(allows) {
        "allow"
    } else {
        "deny"
    }
}

/// Whether a text that begins with a `when` key is about the query.
fn of_query(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.starts_with("request.query[") || text.starts_with("request.headers[:path]")
}

impl Subject<'_> {
    /// The keys of conditions.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let policies = self.rules.mesh.authorization_policies.iter();
        let rules = policies.flat_map(|p| &p.rules);
        let conditions = rules.flat_map(|rule| &rule.when);
        conditions.map(|condition| condition.key.as_str())
    }

    /// What a record cannot tell.
    pub(super) fn limits_of(&self, recorded: &Recorded, misses: &[Miss]) -> Vec<String> {
        let mut notes = Vec::new();
        if matches!(self.asked, Asked::Redirected { .. }) {
            return notes;
        }
        let request = recorded.text(&["request", "method"]).is_some();
        if request {
            notes.push(
                "a record holds no header fields and, of a token, issuer and subject alone: rules that ask for more are judged \
                 as if it were absent; give the claims with --claims"
                    .to_owned(),
            );
        }
        let missed = recorded.query_is_gone() && misses.iter().any(|m| of_query(&m.needs));
        if request && (missed || recorded.query_is_veiled() && self.keys().any(of_query)) {
            notes.push(
                "rules ask for values of a query, and `records.query` may have kept them out of the record: they are judged, and edits \
                 are made, as if there were none or `*`"
                    .to_owned(),
            );
        }
        if self.refused.is_some() {
            notes.push(
                "the caller needs another token; no policy was asked. The one that was refused is not in the record and is not verified \
                 again: --claims says what policies say of one that is good"
                    .to_owned(),
            );
        } else if recorded.refused_token().is_some() {
            notes.push(
                "the token of the record was refused; it is not in the record, and the claims given are judged in its place"
                    .to_owned(),
            );
        }
        if recorded.is_misdirected() {
            notes.push(
                "the request of the record came on a connection for another certificate (421) and was judged by nobody; this is what it \
                 is told on one of its own"
                    .to_owned(),
            );
        }
        notes
    }

    pub(super) fn compared(&self, recorded: &Recorded, now: &str) -> Compared {
        let verdict = shown(recorded.text(&["verdict"]).unwrap_or_default());
        let unjudged = recorded.is_misdirected() || recorded.refused_token().is_some();
        let differs = verdict != now && !unjudged;
        let claims = matches!(self.asked, Asked::Point { claims: Some(claims), .. } if claims.map().len() > 2);
        let unknown = |key: &str| {
            let of_token = [
                "request.auth.claims",
                "request.auth.audiences",
                "request.auth.presenter",
            ];
            let header =
                key.starts_with("request.headers[") && !key.starts_with("request.headers[:");
            let lacks_query = recorded.query_is_gone() || recorded.query_is_veiled();
            let query = lacks_query && of_query(key);
            header || query || (!claims && of_token.iter().any(|known| key.starts_with(known)))
        };
        let request = recorded.text(&["request", "method"]).is_some();
        Compared {
            uncertain: differs && request && self.keys().any(unknown),
            differs,
            unjudged,
            with_claims: self.with_claims,
            failed: recorded.failed().filter(|_| verdict == "allow"),
            verdict,
            reason: shown(recorded.text(&["reason"]).unwrap_or_default()),
            generation: recorded.generation(),
            running: self.running,
        }
    }
}
