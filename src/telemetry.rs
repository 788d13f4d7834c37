//! Decision records and diagnostics.

pub mod record;
pub mod writer;
