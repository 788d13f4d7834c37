//! The talk's story, step by step, with both drivers of the data cores.

use std::process::Command;

use ringgate::cli::drill::steps::STORY;
use serde_json::Value;

/// Drills once and asserts every step, so that one failure tells all that is wrong.
fn check(io: &str) {
    let output = Command::new(crate::PROGRAM)
        .args(["drill", "--output", "json", "--io", io])
        .output()
        .expect("the drill can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    let steps = report["steps"].as_array().expect("the report has steps");
    assert_eq!(steps.len(), STORY.len(), "a step is missing: {report}");
    let mut wrong = Vec::new();
    for (step, plan) in steps.iter().zip(&STORY) {
        assert_eq!(step["step"], plan.number);
        let checks = step["checks"].as_array().expect("a step has checks");
        assert!(!checks.is_empty(), "{}: nothing was checked", plan.title);
        for check in checks.iter().filter(|check| check["result"] != "PASS") {
            wrong.push(format!(
                "{io}, step {} ({}): {}: expected {}, seen {}",
                plan.number, plan.title, check["name"], check["expected"], check["seen"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}\n{errors}", wrong.join("\n"));
    assert_eq!(report["result"], "PASS");
    assert!(
        output.status.success(),
        "all steps passed, yet: {}",
        output.status
    );
}

#[test]
fn the_breach_is_stopped_with_epoll() {
    check("epoll");
}

#[test]
fn the_breach_is_stopped_with_io_uring() {
    check("io_uring");
}
