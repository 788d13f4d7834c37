//! The words that every layer shares: identities, hosts, paths, addresses by meaning, limits.

pub mod addr;
pub mod capture;
pub mod cidr;
pub mod claims;
pub mod counter;
pub mod field;
pub mod host;
pub mod hosts;
pub mod limits;
pub mod locality;
pub mod path;
pub mod resource;
pub mod scope;
pub mod spiffe;
pub mod text;
pub mod trace;
pub mod unit;
