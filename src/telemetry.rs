//! Decision records, metrics and diagnostics.

pub mod audit;
pub mod diagnostics;
mod json;
pub mod live;
pub mod metrics;
pub mod record;
mod sink;
pub mod tally;
pub mod writer;
