//! One policy engine for every role: rules, compiled sets, decide, verdict, permit.

pub mod attach;
pub mod attribute;
pub mod compile;
pub mod custom;
pub mod decide;
pub mod explain;
pub mod facts;
pub mod limit;
pub mod lint;
pub mod model;
pub mod pattern;
pub mod peer;
pub mod set;
pub mod trust;
pub mod verdict;

mod field;
mod index;
mod intern;
mod matcher;
mod nearest;
mod radix;
mod regex;
mod rule;
mod rules;
mod targets;
mod values;
mod window;

#[cfg(test)]
mod tests;

pub use attach::{Point, PointKind, Scope, ServiceKind, attaches};
pub use compile::{Compiled, L4Deny, MeshPolicies, PolicyProblem, compile, validate};
pub use custom::{CustomMatch, custom_matches};
pub use decide::{
    OutboundTarget, custom_providers, decide, decide_connect, decide_looking_at, decide_outbound,
    decide_plaintext, decide_via_waypoint,
};
pub use facts::{Connection, Request};
pub use nearest::LOOKED_AT;
pub use peer::mtls_mode;
pub(crate) use radix::Radix;
pub use regex::{Regexes, WholeRegex};
pub use set::PolicySet;
pub use verdict::{Decision, Denied, Judged, Permit, Reason, Shadow, Verdict};
