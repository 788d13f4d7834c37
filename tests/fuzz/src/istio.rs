//! Istio's resources as YAML and JSON: read like our own files, and the same mesh when they are written as those.

use std::path::{Path, PathBuf};

use ringgate::config::{ConfigErrors, Depth, Options, Resources, parse_resources, to_toml};
use ringgate::policy::validate;

use super::config::places;

/// What resources refer to may stand elsewhere.
const PARTIAL: Options = Options {
    strict_import: false,
    partial: true,
    lints: Depth::Single,
};

/// A file in YAML.
pub fn yaml(data: &[u8]) {
    run("fuzz.yaml", data);
}

/// A file in JSON.
pub fn json(data: &[u8]) {
    run("fuzz.json", data);
}

fn run(name: &str, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let files = [(PathBuf::from(name), text.to_owned())];
    let read = read(&files);
    let problems = match &read {
        Ok(resources) => resources.warnings.as_slice(),
        Err(errors) => errors.problems(),
    };
    places(problems, &files);
    let Ok(resources) = read else {
        assert!(!problems.is_empty(), "refused without a reason");
        return;
    };
    for policy in &resources.mesh.authorization_policies {
        assert_eq!(validate(policy), [], "accepted, but cannot be enforced");
    }
    let toml = to_toml(&files, PARTIAL).expect("what is accepted can be written as TOML");
    match self::read(&[(PathBuf::from("fuzz.toml"), toml.clone())]) {
        Ok(again) => assert_eq!(again.mesh, resources.mesh, "as TOML:\n{toml}"),
        Err(errors) => panic!("as TOML it is refused:\n{errors}\n{toml}"),
    }
}

fn read(files: &[(PathBuf, String)]) -> Result<Resources, ConfigErrors> {
    parse_resources(files, Path::new("/nowhere"), PARTIAL)
}
