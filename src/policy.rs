//! One policy engine for every role: rules, compiled sets, decide, verdict, permit.

pub mod facts;
pub mod model;
