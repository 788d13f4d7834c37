//! What each role decides, pure: where traffic goes, which policies judge it.

pub mod attached;
pub mod authenticate;
pub mod capture;
pub mod checks;
pub mod directory;
pub mod egress;
pub mod endpoints;
pub mod enforcement;
pub mod lookup;
pub mod metadata;
pub mod names;
pub mod outbound;
pub mod owner;
pub mod plan;
pub mod remedy;
pub mod rewrite;
pub mod routes;
pub mod walk;
pub mod waypoint;
