//! The policy engine against an oracle: an evaluator written from the policy semantics alone, that shares no code with
//! the engine. Random policies and requests, judged by both; properties that hold for any policies; and every case in
//! which the two once disagreed.
//!
//! `cargo xtask property --cases 10000000` runs the same test longer, in a release build.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::unwrap_in_result,
    clippy::string_slice,
    reason = "a test program: it reports by panicking, and the command that starts it says how long it runs"
)]

mod asked;
mod compare;
mod conformance;
mod istio;
mod naive;
mod pools;
mod properties;
mod regressions;
mod tally;
mod values;
mod world;

use std::cell::Cell;
use std::time::Instant;

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use crate::tally::Tally;

/// Cases of an ordinary test run.
const CASES: u64 = 10_000;
/// Most requests that one set of policies is asked about.
const REQUESTS: usize = 200;
/// Sets of policies between two looks at how many cases there were.
const BATCH: u32 = 50;

/// A number from the command that started the test.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs `check` on `worlds` random worlds; panics with the smallest that fails.
fn run<S: Strategy>(
    seed: u64,
    worlds: u32,
    strategy: &S,
    check: impl Fn(&S::Value) -> Result<(), String>,
) {
    let config = Config {
        cases: worlds,
        failure_persistence: None,
        max_shrink_iters: 100_000,
        ..Config::default()
    };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(seed | 1).to_le_bytes());
    bytes[8..].copy_from_slice(&seed.wrapping_mul(0xd6e8_feb8_6659_fd93).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    match runner.run(strategy, |value| check(&value).map_err(TestCaseError::fail)) {
        Ok(()) => {}
        Err(TestError::Fail(why, smallest)) => panic!("seed {seed}: {why}\n{smallest:#?}"),
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}

/// Engine and oracle agree on everything: decision, policy and rule, audit, dry run, providers, mTLS mode.
#[test]
fn engine_and_oracle_agree() {
    let cases = setting("RINGGATE_PROPERTY_CASES", CASES);
    let seed = setting("RINGGATE_PROPERTY_SEED", 1);
    let tally = Tally::default();
    let strategy = world::world(REQUESTS);
    let began = Instant::now();
    let batch = Cell::new(0);
    while tally.count("cases") < cases {
        let of_batch = (seed << 32 | (batch.get() << 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        run(of_batch, BATCH, &strategy, |world| {
            compare::agree(world, &tally)
        });
        batch.set(batch.get() + 1);
    }
    println!(
        "{} cases over {} sets of policies, 0 disagreements, {:.1} s, seed {seed}",
        tally.count("cases"),
        u64::from(BATCH) * batch.get(),
        began.elapsed().as_secs_f64()
    );
    println!("{}", tally.report());
    check_shares(&tally);
}

/// Rules must match often, and each field must hold and fail often: else the agreement says nothing.
fn check_shares(tally: &Tally) {
    for (outcome, least) in [
        ("allowed", 20.0),
        ("denied", 20.0),
        ("denied by a DENY rule", 5.0),
        ("allowed by an ALLOW rule", 8.0),
        ("denied by no ALLOW rule", 8.0),
        ("bare connection", 10.0),
        ("audit", 2.0),
        ("a provider is asked", 5.0),
        ("dry-run DENY matched", 1.0),
        ("dry-run ALLOW matched", 1.0),
        ("closed by STRICT", 1.0),
        ("dry run of the mesh: would be denied", 2.0),
        ("CONNECT", 2.0),
        ("via the waypoint", 2.0),
    ] {
        let share = tally.share(outcome);
        assert!(
            share >= least,
            "`{outcome}` is only {share:.2} % of the cases"
        );
    }
    let fields = tally.fields();
    assert!(
        fields.len() >= 60,
        "only {} fields were judged",
        fields.len()
    );
    for (field, held, evaluated) in fields {
        assert!(
            (2.0..=98.0).contains(&held) && evaluated >= 100,
            "`{field}` held in {held:.2} % of {evaluated}"
        );
    }
}
