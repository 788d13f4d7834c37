//! What an authorizer may change of a request, and what not.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::vocab::field;

/// Changes of a request's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Fields that go.
    pub remove: Vec<HeaderName>,
    /// Fields that come, in the authorizer's order.
    pub set: Vec<(HeaderName, HeaderValue, How)>,
}

/// What becomes of the values that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// They go, all of them.
    Replace,
    /// They stay, and this one is added.
    Append,
    /// If there is one, this one is not added.
    IfAbsent,
    /// They go; without any, this one is not added.
    IfPresent,
}

impl Edits {
    /// Changes a header. First what goes, then what comes: a field that is named twice keeps both new values, and none of
    /// the client's in any spelling that its server may take for the same.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            clear(headers, name);
        }
        let before: Vec<bool> = self
            .set
            .iter()
            .map(|(name, ..)| headers.contains_key(name))
            .collect();
        for (name, _, how) in &self.set {
            if matches!(how, How::Replace | How::IfPresent) {
                clear(headers, name);
            }
        }
        for ((name, value, how), before) in self.set.iter().zip(before) {
            let comes = match how {
                How::Replace | How::Append => true,
                How::IfAbsent => !before,
                How::IfPresent => before,
            };
            if comes {
                headers.append(name.clone(), value.clone());
            }
        }
    }
}

fn clear(headers: &mut HeaderMap, name: &HeaderName) {
    let name = name.as_str().replace('_', "-");
    field::remove_owned(headers, |other| other == name);
}

/// Fields that say how a message is read, who calls or which way it came: no authorizer sets or removes them.
#[must_use]
pub fn is_protected(name: &str) -> bool {
    const OURS: [&str; 10] = [
        "host",
        "content-length",
        "expect",
        "trailer",
        "via",
        "forwarded",
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    let name = name.replace('_', "-");
    field::is_of_hop(&name)
        || OURS.contains(&name.as_str())
        || name.starts_with("x-envoy-")
        || name.starts_with("x-istio-")
}
