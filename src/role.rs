//! What each role decides, pure: where traffic goes, which policies judge it.

pub mod directory;
pub mod egress;
pub mod ingress;
pub mod outbound;
pub mod waypoint;
