//! Istio resources as YAML and JSON: the same checked model as TOML, the same problems.
#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of a test"
)]

use std::path::{Path, PathBuf};

use ringgate::config::{self, ConfigErrors, Options, Resources};

const PARTIAL: Options = Options {
    strict_import: false,
    partial: true,
};

fn files(all: &[(&str, &str)]) -> Vec<(PathBuf, String)> {
    let file = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
    all.iter().map(file).collect()
}

fn resources(all: &[(&str, &str)], options: Options) -> Result<Resources, ConfigErrors> {
    config::parse_resources(&files(all), Path::new(""), options)
}

#[test]
fn every_case_of_validation_is_judged_by_the_loader() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for line in include_str!("data/conformance/policy.jsonl").lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        if case["kind"] != "validate" {
            continue;
        }
        tried += 1;
        let text = case["policy"].to_string();
        let got = resources(&[("case.json", &text)], PARTIAL);
        let (got, why) = match &got {
            Ok(_) => ("accept", String::new()),
            Err(errors) => ("reject", errors.to_string()),
        };
        if case["expect"] != got {
            wrong.push(format!("{}: {got} {why}", case["id"]));
        }
    }
    assert!(tried > 40, "only {tried}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
