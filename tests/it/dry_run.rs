//! Dry run of the whole mesh, time windows, and policies for a service account, on the demo mesh.

use std::time::Duration;

use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::layout::Layout;
use ringgate::cli::target::{Target, field, is_from};
use ringgate::cli::{material, os};
use serde_json::Value;

use crate::demo::layout;

const URL: &str = "http://customer-api/api/v1/users/7";

/// Starts the demo with an edited configuration.
fn start(dir: &Scratch, edit: impl FnOnce(&str) -> String) -> (Mesh, Layout, Target) {
    let layout = layout(dir);
    material::write(&layout, "auto").unwrap();
    let text = os::read_text(&layout.config()).unwrap();
    let edited = edit(&text);
    assert_ne!(edited, text);
    os::write(&layout.config(), edited.as_bytes(), 0o644).unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    (mesh, layout, target)
}

/// The records since `mark` once one is as wanted.
fn awaited(target: &Target, mark: &ringgate::cli::target::Mark, wanted: impl Fn(&Value) -> bool) {
    let found = target.records.await_some(mark, 1, wanted);
    assert!(
        !found.is_empty(),
        "not among {:#?}",
        target.records.since(mark)
    );
}

#[test]
fn a_mesh_in_dry_run_denies_nothing_and_tells_all() {
    let dir = Scratch::new(false).unwrap();
    let (_mesh, layout, target) = start(&dir, |text| {
        text.replace("[mesh]\n", "[mesh]\ndangerous_dryRun = true\n")
    });
    // L7, by the waypoint.
    let mark = target.records.mark();
    assert_eq!(target.reviews.call(URL).unwrap().status, 200);
    awaited(&target, &mark, |r| {
        is_from(r, "reviews-service")
            && r["wouldDeny"] == true
            && field(r, "/verdict") == "allow"
            && field(r, "/policy") == "default/customer-api-lockdown"
            && field(r, "/reason").starts_with("needs principal")
    });
    // Plaintext under STRICT.
    let mark = target.records.mark();
    let plain = format!("http://{}/api/v1/users/7", layout.at(3, 8080));
    assert_eq!(target.attacker.call(&plain).unwrap().status, 200);
    awaited(&target, &mark, |r| {
        r["wouldDeny"] == true && field(r, "/reason").contains("STRICT")
    });
    // A token that no rule accepts.
    let mark = target.records.mark();
    let bad = target.frontend.with(&["-H", "Authorization: Bearer x.y.z"]);
    assert_eq!(bad.call(URL).unwrap().status, 200);
    awaited(&target, &mark, |r| {
        r["wouldDeny"] == true && field(r, "/unenforced").starts_with("token: ")
    });
    // What is allowed is not marked.
    let mark = target.records.mark();
    assert_eq!(target.frontend.call(URL).unwrap().status, 200);
    awaited(&target, &mark, |r| is_from(r, "frontend-service"));
    let all = target.records.since(&mark);
    assert!(all.iter().all(|r| r["wouldDeny"].is_null()), "{all:#?}");
    // A destination that is not in the registry is no matter of policy.
    let unknown = target.reviews.call("http://unknown.example.test/").unwrap();
    assert_ne!(unknown.status, 200);
}

/// A window that is open now, and one that is over.
#[test]
fn windows_and_service_accounts() {
    let (open, over) = ("2026-01-01T00:00:00Z/..", "../2026-01-01T00:00:00Z");
    for (window, status) in [(open, 403), (over, 200)] {
        let dir = Scratch::new(false).unwrap();
        let (_mesh, _layout, target) = start(&dir, |text| {
            format!(
                "{text}\n[[authorizationPolicy]]\nname = \"freeze\"\nnamespace = \"default\"\n\
                 targetRefs = [{{ kind = \"ServiceAccount\", name = \"customer-api\" }}]\naction = \"DENY\"\n\
                 rules = [{{ to = [{{ operation.methods = [\"GET\"] }}], when = [{{ key = \"time\", values = [\"{window}\"] }}] }}]\n"
            )
        });
        let mark = target.records.mark();
        assert_eq!(
            target.frontend.call(URL).unwrap().status,
            status,
            "{window}"
        );
        let decided = if status == 403 {
            "default/freeze"
        } else {
            "default/customer-api-lockdown"
        };
        awaited(&target, &mark, |r| field(r, "/policy") == decided);
        // Nobody else's policy.
        let other = target.frontend.call("http://reviews-service/").unwrap();
        assert_ne!(other.status, 403, "{window}");
    }
}
