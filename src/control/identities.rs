//! The identities of the process as the operator is shown them.

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::control::svid::SvidSet;
use crate::identity::tls;

/// How long all identities last if no new one comes, in seconds; 0 if there is none.
#[must_use]
pub fn seconds_left(set: &SvidSet, now: UnixTime) -> u64 {
    let ends = set.by_id.values().map(|svid| svid.not_after.as_secs());
    ends.min()
        .map_or(0, |first| first.saturating_sub(now.as_secs()))
}

/// Every identity with serial number, validity and source; times in Unix seconds.
#[must_use]
pub fn to_json(set: &SvidSet, source: &str, now: UnixTime) -> Value {
    let identities: Vec<Value> = set
        .by_id
        .values()
        .map(|svid| {
            let leaf = tls::peer_leaf(&svid.chain);
            json!({
                "id": svid.id.as_str(),
                "serial": leaf.as_ref().map(|leaf| leaf.serial.to_string()),
                "node": leaf.as_ref().and_then(|leaf| leaf.node.as_ref()).map(|n| n.as_str()),
                "notBefore": svid.not_before.as_secs(),
                "notAfter": svid.not_after.as_secs(),
                "secondsLeft": svid.not_after.as_secs().saturating_sub(now.as_secs()),
                "source": source,
            })
        })
        .collect();
    json!({ "secondsLeft": seconds_left(set, now), "identities": identities })
}
