//! Ways through the mesh on loopback, with real processes: endpoints, waypoints of workloads, SOCKS5 and DNS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking"
)]

mod balance;
mod checks;
mod dns;
mod mirrors;
mod pool;
mod retries;
mod routes;
mod same_node;
mod strict;
mod system;
mod upgrades;
mod waypoints;
mod ways;
