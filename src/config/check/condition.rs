//! `when[]`: how the values of each key are compared, and the nearest key (policy semantics 2.6).

use crate::config::check::values::Reader;
use crate::config::nearest::hint;
use crate::config::raw::policy as raw;
use crate::config::read::Table;
use crate::policy::model::Condition;

/// Keys without a name in brackets.
const PLAIN: [&str; 12] = [
    "source.ip",
    "remote.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "destination.ip",
    "destination.port",
    "connection.sni",
];
/// Keys with a name in brackets.
const MAPS: [&str; 3] = ["request.headers", "request.query", "request.auth.claims"];

impl Reader {
    /// One condition; `field` is its name for the policy engine.
    pub(crate) fn condition(&mut self, raw: &raw::Condition, field: &str) -> Condition {
        self.locator.add(field, raw.place(), raw.whole());
        self.locator
            .add(&format!("{field}.key"), &raw.key.place, true);
        Condition {
            key: raw.key.value.clone(),
            values: self.values(&raw.values, &format!("{field}.values")),
            not_values: self.values(&raw.not_values, &format!("{field}.notValues")),
            regexes: self.values(&raw.regexes, &format!("{field}.regexes")),
            not_regexes: self.values(&raw.not_regexes, &format!("{field}.notRegexes")),
        }
    }
}

/// Keys that Istio had once; the policy engine says what to do instead.
const RETIRED: [&str; 4] = [
    "destination.namespace",
    "destination.labels",
    "destination.name",
    "destination.user",
];

/// `, did you mean ..` for a key that does not exist.
pub(crate) fn key_hint(key: &str) -> String {
    if RETIRED.contains(&key) || PLAIN.contains(&key) {
        return String::new();
    }
    match key.split_once('[') {
        Some((map, _)) if MAPS.contains(&map) => String::new(),
        Some((map, _)) => hint(map, MAPS),
        None if MAPS.contains(&key) => String::new(),
        None => hint(key, PLAIN.into_iter().chain(MAPS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints() {
        for (key, want) in [
            ("source.ips", ", did you mean `source.ip`?"),
            (
                "source.serviceaccount",
                ", did you mean `source.serviceAccount`?",
            ),
            ("request.header[x]", ", did you mean `request.headers`?"),
            ("request.headers[]", ""),
            ("request.headers", ""),
            ("destination.labels", ""),
        ] {
            assert_eq!(key_hint(key), want, "{key}");
        }
    }
}
