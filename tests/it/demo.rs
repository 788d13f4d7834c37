//! The demo and the drill as commands: what they keep, how they fail, how they end.

use std::process::{Command, Output};
use std::time::Duration;

use ringgate::cli::apps::{self, Selection};
use ringgate::cli::curl::Caller;
use ringgate::cli::demo::Io;
use ringgate::cli::drill::{Mesh, Scratch};
use ringgate::cli::layout::{Layout, free_subnet};
use ringgate::cli::target::Target;
use ringgate::cli::{material, os};
use serde_json::Value;

fn drill(config: &std::path::Path, output: &str) -> Output {
    Command::new(crate::PROGRAM)
        .args(["drill", "--output", output, "--config"])
        .arg(config)
        .output()
        .expect("the drill can be started")
}

pub(crate) fn layout(dir: &Scratch) -> Layout {
    Layout::new(&dir.path, &free_subnet().unwrap()).unwrap()
}

#[test]
fn material_and_edits_are_kept() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "epoll").unwrap();
    let key = os::read(&layout.file("state/idp/key.pem")).unwrap();
    let edited = os::read_text(&layout.config()).unwrap() + "\n# edited\n";
    os::write(&layout.config(), edited.as_bytes(), 0o644).unwrap();
    material::write(&layout, "io_uring").unwrap();
    assert_eq!(os::read_text(&layout.config()).unwrap(), edited);
    assert_eq!(os::read(&layout.file("state/idp/key.pem")).unwrap(), key);
    assert_eq!(
        Layout::of_config(&layout.config()).unwrap().subnet,
        layout.subnet
    );
}

#[test]
fn without_a_mesh_only_the_attack_works() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let _apps = apps::start(&layout, Selection::All).unwrap();
    let output = drill(&layout.config(), "json");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results: Vec<&Value> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["result"])
        .collect();
    assert_eq!(
        results,
        [
            "PASS", "FAIL", "FAIL", "FAIL", "FAIL", "FAIL", "FAIL", "FAIL", "FAIL"
        ]
    );
    assert_eq!(report["result"], "FAIL");
}

#[test]
fn apps_count_what_reaches_them() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let _apps = apps::start(&layout, Selection::All).unwrap();
    let target = Target::loopback(&layout);
    for hits in [&target.customer_hits, &target.partner_hits] {
        assert_eq!(hits.read().unwrap(), 0);
        assert_eq!(hits.read().unwrap(), 0, "the counter counts itself");
    }
    let url = format!("http://{}", layout.at(3, 18080));
    let caller = Caller::default();
    assert_eq!(
        caller
            .call(&format!("{url}/api/v1/users/7"))
            .unwrap()
            .status,
        200
    );
    assert_eq!(caller.call(&format!("{url}/nothing")).unwrap().status, 404);
    assert_eq!(target.customer_hits.read().unwrap(), 2);
    // Through the mesh a request has the service's name: it does not see the counter.
    let answer = caller
        .with(&["-H", "Host: customer-api"])
        .call(&format!("{url}/-/hits"))
        .unwrap();
    assert_eq!(answer.status, 404);
}

#[test]
fn an_unreadable_system_fails_every_step_in_every_form() {
    let dir = Scratch::new(false).unwrap();
    let missing = dir.path.join("nothing.toml");
    for (form, word) in [
        ("table", "0 of 9 steps passed"),
        ("json", "\"result\":\"FAIL\""),
        ("junit", "failures=\"9\""),
    ] {
        let output = drill(&missing, form);
        assert_eq!(output.status.code(), Some(1), "{form}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(word), "{form}: {text}");
        assert!(
            text.contains("nothing.toml"),
            "{form} does not say why: {text}"
        );
    }
}

/// A drill that passes whatever the mesh does would be worth nothing: with `hole` in the place of `sound` the steps that look
/// there fail, and no other.
fn fails(sound: &str, hole: &str, wanted: &[u64]) {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    material::write(&layout, "auto").unwrap();
    let text = os::read_text(&layout.config()).unwrap();
    assert!(text.contains(sound), "the demo has no `{sound}`");
    os::write(
        &layout.config(),
        text.replace(sound, hole).as_bytes(),
        0o644,
    )
    .unwrap();
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    Target::loopback(&layout)
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    let output = drill(&layout.config(), "json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let failed: Vec<u64> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["result"] == "FAIL")
        .filter_map(|step| step["step"].as_u64())
        .collect();
    assert_eq!(failed, wanted, "{hole}: {report}");
    assert_eq!(output.status.code(), Some(1), "{hole}");
}

#[test]
fn a_permissive_server_fails_its_step() {
    fails("mtls.mode = \"STRICT\"", "mtls.mode = \"PERMISSIVE\"", &[2]);
}

#[test]
fn a_wide_rule_fails_its_steps() {
    let rule = "principals = [\"cluster.local/ns/default/sa/frontend-service\"]";
    let reviews = "cluster.local/ns/default/sa/reviews-service";
    let wide =
        format!("principals = [\"cluster.local/ns/default/sa/frontend-service\", \"{reviews}\"]");
    // Step 9 edits this rule and does not find it; step 8 looks at the partner's.
    fails(rule, &wide, &[4, 6, 8, 9]);
}

#[test]
fn a_value_that_may_be_any_fails_its_step() {
    fails("values = [\"eur\"]", "values = [\"*\"]", &[8]);
}

#[test]
fn the_demo_serves_until_it_is_told_to_stop() {
    let dir = Scratch::new(false).unwrap();
    let layout = layout(&dir);
    let mut mesh = Mesh::start(crate::PROGRAM.as_ref(), &layout, Io::Auto).unwrap();
    let target = Target::loopback(&layout);
    target
        .await_ready(Duration::from_secs(30), || mesh.alive())
        .unwrap();
    let status = mesh.stop(Duration::from_secs(15)).unwrap();
    assert!(status.success(), "{status}");
    assert!(
        target.customer_hits.read().is_err(),
        "the apps still answer"
    );
}
