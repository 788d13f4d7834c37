//! ringgate: zero trust from the edge to the outside, one binary for four roles.
//!
//! The layers and the two walks through them are in ARCHITECTURE.md.

pub mod appliance;
pub mod cli;
pub mod config;
pub mod control;
pub mod exchange;
pub mod extauthz;
pub mod h2;
pub mod hbone;
pub mod http;
pub mod identity;
pub mod io;
pub mod jwt;
pub mod oidc;
pub mod policy;
pub mod record;
pub mod role;
pub mod telemetry;
pub mod upstream;
pub mod vocab;
pub mod worker;
