//! `ringgate status`, what it prints and how it ends.

use std::process::Command;

use crate::PROGRAM;
use crate::namespaces::{ip, isolated};
use crate::system::System;

#[test]
fn it_tells_how_a_process_is() {
    let system = System::start("sandbox = \"off\"\n", "");
    let told = system.status();
    assert_eq!(told["name"], "boxed");
    assert_eq!(told["ready"], true);
    assert_eq!(told["generation"], 1);
    assert_eq!(told["roles"], serde_json::json!(["ingress", "authority"]));
    assert_eq!(told["sandbox"]["mode"], "off");
    let listeners = told["listeners"].to_string();
    assert!(
        listeners.contains(&format!("{}.1:443", system.net)),
        "{listeners}"
    );
    let identity = &told["identities"]["identities"][0];
    assert_eq!(identity["id"], "spiffe://cluster.local/ns/edge/sa/public");
    let output = system.ask("text");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "boxed serves",
        "ingress, authority",
        "generation   1",
        "seccomp      not active",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // By the configuration, too.
    let status = |config| {
        let mut command = Command::new(PROGRAM);
        command.args(["status", "--config"]).arg(config);
        command.output().unwrap().status.code()
    };
    assert_eq!(status(system.file("ringgate.toml")), Some(0));
    assert_eq!(status(system.file("not-there.toml")), Some(2));
    // A reload that is refused is a problem.
    system.add("[[nonsense]]\n");
    system.until("a problem", |status| !status["refusedAt"].is_null());
    assert_eq!(system.ask("text").status.code(), Some(1));
    // Its file is refused, and says all the same whom to ask.
    assert_eq!(status(system.file("ringgate.toml")), Some(1));
    system.add("not TOML\n");
    assert_eq!(status(system.file("ringgate.toml")), Some(1));
}

#[test]
fn a_listener_that_others_reach_is_asked() {
    isolated(|| {
        ip("address add 10.99.7.1/32 dev lo");
        let system = System::start_in("10.99.7".to_owned(), "sandbox = \"off\"\n", "");
        let mut command = Command::new(PROGRAM);
        command.args(["status", "--config"]);
        let output = command.arg(system.file("ringgate.toml")).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{error}");
        assert_eq!(system.status()["name"], "boxed");
    });
}

#[test]
fn where_nobody_answers_it_says_so() {
    let output = Command::new(PROGRAM)
        .args(["status", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("http://127.0.0.1:1/status"), "{error}");
}
