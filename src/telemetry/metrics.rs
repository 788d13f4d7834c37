//! Istio's metrics of TCP connections and of requests: counted per core without a lock, summed when they are read.
//!
//! A series is known by names of the mesh, never by what a client wrote, and is forgotten when it was not used for
//! `limits::SERIES_IDLE_MS`: what peers know as unbounded cardinality cannot happen. Names and labels are those of
//! Istio's standard metrics.

pub mod exposition;
pub mod histogram;
pub mod labels;
pub mod meters;
pub mod outcome;
pub mod registry;
pub mod requests;

pub use labels::{Flag, Labels, Party, Reporter, ServiceLabels};
pub use meters::{Ends, Key, Meters, News, Series};
pub use outcome::Outcome;
pub use registry::Registry;
pub use requests::Requests;

#[cfg(test)]
mod tests;
