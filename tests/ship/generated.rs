//! What is generated into `config/` is what the program says today, and the schema takes every configuration that is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{output, ringgate, root};

/// Where `cargo xtask ci --only tools` puts check-jsonschema.
fn validate(file: &Path) -> std::process::Output {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |set| root().join(set));
    let packages = target.join("python-schema");
    let mut python = Command::new("python3");
    python.args(["-m", "check_jsonschema", "--schemafile"]);
    python
        .arg(root().join("config/ringgate.schema.json"))
        .arg(file);
    let out = python
        .env("PYTHONPATH", packages)
        .output()
        .expect("python3");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(
        !told.contains("No module named"),
        "{told}: `cargo xtask ci --only tools` installs it"
    );
    out
}

/// Configurations of processes and of resources.
fn configurations() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root().join("config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        // Tests of policies are files of another kind.
        .filter(|path| !path.to_string_lossy().ends_with(".tests.toml"))
        .collect();
    all.sort();
    all
}

fn current(file: &str, arguments: &[&str]) {
    let have = std::fs::read_to_string(root().join(file)).unwrap_or_default();
    let line = arguments.join(" ");
    assert!(
        have == ringgate(arguments),
        "{file} is not what the program says: ringgate {line} > {file}"
    );
}

#[test]
fn the_reference_is_current() {
    current("config/reference.toml", &["config", "reference"]);
}

#[test]
fn the_schema_is_current() {
    current("config/ringgate.schema.json", &["config", "schema"]);
}

#[test]
fn examples_of_roles_are_current() {
    current(
        "config/authority.toml",
        &["init", "--print", "--role", "authority"],
    );
    current(
        "config/waypoint.toml",
        &["init", "--print", "--role", "waypoint"],
    );
    current(
        "config/all-in-one.toml",
        &["init", "--print", "--all-in-one"],
    );
}

#[test]
fn the_schema_takes_every_configuration() {
    let all = configurations();
    assert!(all.len() > 6, "{all:?}");
    for file in all {
        let out = validate(&file);
        assert!(
            out.status.success(),
            "{}: {}",
            file.display(),
            crate::told(&out)
        );
    }
}

/// What the program refuses as it reads, the schema refuses.
#[test]
fn the_schema_refuses_what_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    for (text, key) in [
        ("[process]\nnmae = \"x\"\n", "nmae"),
        ("[process]\ndrain = 5\n", "drain"),
        ("[process]\ndrain = \"5\"\n", "drain"),
        ("[process]\nio = \"uring\"\n", "uring"),
        ("[admin]\n", "listen"),
        ("[admin]\nlisten = \"here\"\n", "here"),
        ("[[waypoint]]\ngateway = \"a/b\"\n", "hbone"),
        (
            "[[authorizationPolicy]]\nname = \"a\"\nrules = [{ form = [] }]\n",
            "form",
        ),
        (
            "[[httpRoute]]\nname = \"a\"\nparentRefs = []\nrules = []\n",
            "parentRefs",
        ),
    ] {
        let file = directory.path().join("f.toml");
        std::fs::write(&file, text).unwrap();
        let out = validate(&file);
        assert_eq!(out.status.code(), Some(1), "{text}: {}", crate::told(&out));
        assert!(
            crate::told(&out).contains(key),
            "{text}: {}",
            crate::told(&out)
        );
        let mut check = Command::new(crate::PROGRAM);
        let out = check
            .arg("check")
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{text}: {}", crate::told(&out));
        assert!(
            crate::told(&out).contains(key),
            "{text}: {}",
            crate::told(&out)
        );
    }
    let good = directory.path().join("good.toml");
    std::fs::write(&good, "[authority]\n").unwrap();
    assert!(validate(&good).status.success());
    output(
        Command::new(crate::PROGRAM)
            .arg("check")
            .arg("--config")
            .arg(&good),
    );
}
