//! Istio's metrics of TCP connections: counted per core without a lock, summed when they are read.
//!
//! A series is known by names of the mesh, never by what a client wrote, and is forgotten when it was not used for
//! `limits::SERIES_IDLE_MS`: what peers know as unbounded cardinality cannot happen. Names and labels are those of
//! Istio's standard metrics.

pub mod labels;
pub mod meters;
pub mod registry;

pub use labels::{Flag, Labels, Party, Reporter, ServiceLabels};
pub use meters::{Ends, Key, Meters, Series};
pub use registry::Registry;

#[cfg(test)]
mod tests;
