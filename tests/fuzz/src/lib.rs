//! Fuzz targets: each takes any bytes and panics where something does not hold that always must. `tests/corpus.rs` runs
//! them over the corpora and small changes of them, `cargo xtask fuzz` under libFuzzer for as long as one likes.

pub mod certificate;
pub mod config;
mod connection;
pub mod diag;
pub mod dns;
pub mod h2;
pub mod hbone;
pub mod head;
pub mod host;
pub mod istio;
pub mod path;
pub mod query;
pub mod record;
pub mod spiffe;
pub mod token;

/// A target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also of its corpus in `tests/data/corpus`.
    pub name: &'static str,
    /// The target itself.
    pub run: fn(&[u8]),
    /// Changed inputs that an ordinary test run tries: fewer where one takes long.
    pub changed: u32,
}

/// Every target there is.
pub const ALL: &[Target] = &[
    target("path", path::run, 20_000),
    target("host", host::run, 20_000),
    target("query", query::run, 20_000),
    target("spiffe", spiffe::run, 20_000),
    target("certificate", certificate::run, 2_000),
    target("token", token::run, 2_000),
    target("head", head::run, 10_000),
    target("record", record::run, 1_000),
    target("config", config::run, 1_000),
    target("diag", diag::run, 20_000),
    target("yaml", istio::yaml, 4_000),
    target("json", istio::json, 2_000),
    target("hbone", hbone::run, 4_000),
    target("hpack", hbone::hpack, 4_000),
    target("h2", h2::run, 4_000),
    target("dns", dns::run, 10_000),
];

const fn target(name: &'static str, run: fn(&[u8]), changed: u32) -> Target {
    Target { name, run, changed }
}
