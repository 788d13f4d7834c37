//! CUSTOM policies: which providers have to be asked, and the denial when one of them does not say yes.

use std::sync::Arc;

use crate::policy::attribute::Facts;
use crate::policy::facts::{Connection, Request};
use crate::policy::set::PolicySet;
use crate::policy::verdict::{Decision, Denied, Judged, Reason, Shadow};
use crate::vocab::resource::ResourceName;

/// A CUSTOM policy that matches: its provider must say yes.
#[derive(Clone, Debug)]
pub struct CustomMatch<'s> {
    /// `provider.name`.
    pub provider: &'s str,
    /// The policy.
    pub policy: &'s Arc<ResourceName>,
    /// Index of the rule that matches.
    pub rule: usize,
}

impl CustomMatch<'_> {
    /// The denial because of it.
    #[must_use]
    pub fn denied(&self, reason: Reason) -> Denied {
        Denied {
            judged: Judged {
                decision: Decision::Deny,
                policy: Some(Arc::clone(self.policy)),
                rule: Some(self.rule),
                reason,
                audit: false,
                shadow: Shadow::default(),
                would_deny: false,
            },
        }
    }
}

/// The CUSTOM policies that match, by name of their providers and one for each. A CONNECT opens bytes that nobody reads,
/// so its policies count as on a bare connection too.
#[must_use]
pub fn custom_matches<'s>(
    set: &'s PolicySet,
    conn: &Connection,
    request: Option<&Request>,
) -> Vec<CustomMatch<'s>> {
    let whole = Facts { conn, request };
    let bare = Facts {
        conn,
        request: None,
    };
    let opens = request.is_some_and(|r| r.method == http::Method::CONNECT);
    let hits = set.custom.iter().filter_map(|(provider, list)| {
        let bare = list.first(bare).filter(|_| opens);
        let hit = match (list.first(whole), bare) {
            (Some(whole), Some(bare)) if bare.policy.name < whole.policy.name => bare,
            (whole, bare) => whole.or(bare)?,
        };
        Some(CustomMatch {
            provider,
            policy: &hit.policy.name,
            rule: hit.at,
        })
    });
    hits.collect()
}
