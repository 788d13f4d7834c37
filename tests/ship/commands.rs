//! Commands as people type them.

use std::fs;
use std::process::Command;

use crate::{PROGRAM, output, ringgate, told};

/// `--config` stands before or behind the words of a command.
#[test]
fn the_configuration_is_named_at_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ringgate.toml");
    fs::write(&file, "[authority]\nstateDir = \"state\"\n").unwrap();
    let file = file.to_str().unwrap();
    let node = dir.path().join("node.toml");
    fs::write(
        &node,
        "[authority]\n[[node]]\nname = \"n\"\noutbound = \"[::]:15001\"\ninbound = [\"[::]:15006\"]\n\
         hbone = \"[::]:15008\"\n[node.capture]\n[[node.workload]]\nname = \"default/a\"\nmatch = { uid = 12345 }\n\
         [[workloadEntry]]\nname = \"a\"\nserviceAccount = \"a\"\naddress = \"10.0.0.1\"\n",
    )
    .unwrap();
    let node = node.to_str().unwrap();
    let tests = dir.path().join("a.tests.toml");
    fs::write(
        &tests,
        "[[test]]\nname = \"nobody\"\nfrom = \"anonymous\"\nworkload = \"default/a\"\nexpect = \"allow\"\n",
    )
    .unwrap();
    let tests = tests.to_str().unwrap();
    for (file, words) in [
        (file, &["authority", "token", "list"][..]),
        (file, &["authority", "node", "list"]),
        (file, &["authority", "revocations"]),
        (file, &["authority", "roots"]),
        (file, &["authority", "status"]),
        (node, &["node", "setup", "--print"]),
    ] {
        let mut said = Vec::new();
        for at in 1..=words.len() {
            let (before, behind) = words.split_at(at);
            said.push(ringgate(&[before, &["--config", file], behind].concat()));
        }
        said.dedup();
        assert_eq!(said.len(), 1, "{words:?}: {said:?}");
    }
    let mut tokens = 0;
    for at in 1..=5 {
        let words = [
            "authority",
            "token",
            "create",
            "--id",
            "spiffe://cluster.local/ns/a/sa/a",
        ];
        let (before, behind) = words.split_at(at);
        if before.ends_with(&["--id"]) {
            continue;
        }
        let node = format!("node-{at}");
        let all = [before, &["--config", file], behind, &["--node", &node]].concat();
        // A subcommand comes before its own options.
        if at >= 3 || !behind.is_empty() {
            ringgate(&all);
            tokens += 1;
        }
    }
    let listed = ringgate(&["authority", "token", "list", "--config", file]);
    assert_eq!(listed.lines().count(), tokens, "{listed}");
    // Of tests, which name a configuration themselves or not.
    for words in [
        ["policy", "--config", node, "test", tests],
        ["policy", "test", "--config", node, tests],
    ] {
        assert!(
            output(Command::new(PROGRAM).args(words)).contains("1 passed"),
            "{words:?}"
        );
    }
}

#[test]
fn a_drill_without_curl_says_what_to_do() {
    let mut drill = Command::new(PROGRAM);
    let out = drill.arg("drill").env("PATH", "/nowhere").output().unwrap();
    let said = told(&out);
    assert_eq!(out.status.code(), Some(1), "{said}");
    for part in [
        "apt-get install curl",
        "ringgate drill --config $D/ringgate.toml",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("PASS") && !said.contains("FAIL"), "{said}");
}
