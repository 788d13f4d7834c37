//! Decision records and diagnostics.

pub mod diagnostics;
pub mod record;
pub mod writer;
