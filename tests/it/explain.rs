//! `ringgate explain` on the records of a running mesh: it says of each what the mesh said.

use std::process::Command;
use std::time::Duration;

use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::layout::Layout;
use ringgate::cli::material;
use ringgate::cli::target::{Target, field};
use serde_json::Value;

use crate::demo::layout;

/// The records of calls that are allowed, and of one denied at each place.
fn records(target: &Target, layout: &Layout) -> Vec<Value> {
    let mark = target.records.mark();
    let plain = format!("http://{}/api/v1/users/7", layout.at(3, 8080));
    let calls = [
        (&target.frontend, "http://customer-api/api/v1/users/7"),
        (&target.reviews, "http://customer-api/api/v1/users/7"),
        (&target.reviews, plain.as_str()),
        (&target.attacker, plain.as_str()),
        (
            &target.frontend,
            "http://partner.example.test/v1/rates?currency=eur",
        ),
        (
            &target.frontend,
            "http://partner.example.test/v1/rates?currency=usd",
        ),
        (&target.reviews, "http://unknown.example.test/"),
        (&target.frontend, "http://customer-api:9000/"),
    ];
    for (caller, url) in calls {
        drop(caller.call(url));
    }
    let bad = target.frontend.with(&["-H", "Authorization: Bearer x.y.z"]);
    drop(bad.call("http://customer-api/"));
    let judged = |r: &Value| !field(r, "/kind").is_empty();
    let records = target.records.await_some(&mark, 14, judged);
    assert!(records.len() >= 14, "{records:#?}");
    records
}

#[test]
fn every_record_is_explained_as_it_was_judged() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    let records = records(&target, &layout);
    let (mut denied, mut allowed) = (0, 0);
    for record in &records {
        let output = Command::new(crate::PROGRAM)
            .args(["explain", "--output", "json", "--running", "--config"])
            .arg(layout.config())
            .arg("--log")
            .arg(
                layout
                    .config()
                    .with_file_name("log")
                    .join("decisions.jsonl"),
            )
            .args(["--id", field(record, "/id")])
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_none| panic!("{record:#}\n{error}"));
        assert_eq!(
            report["record"]["running"], record["generation"],
            "{report:#}"
        );
        let told = &report["steps"];
        if field(record, "/close") == "token" {
            // The token is not in the record, and without it the call is allowed.
            assert!(report["notes"].to_string().contains("token of the record"));
            continue;
        }
        assert_eq!(report["record"]["differs"], false, "{record:#}\n{report:#}");
        if field(record, "/verdict") == "deny" && record["steps"].is_array() {
            assert_eq!(*told, record["steps"], "{record:#}");
            denied += 1;
        } else if field(record, "/verdict") == "allow" {
            allowed += 1;
        }
    }
    assert!(
        denied >= 5 && allowed >= 5,
        "{denied} {allowed} {records:#?}"
    );
}
