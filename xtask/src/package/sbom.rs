//! The components of the program, as CycloneDX 1.5 in JSON (ECMA-424): what Cargo links into it, with licences and the
//! checksums of the lock file.

#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not have is null"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

/// A crate that is linked in.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Where its source is.
    pub(crate) directory: PathBuf,
    /// SHA-256 of its package.
    checksum: Option<String>,
    id: String,
    /// Identifiers of those that it needs.
    needs: Vec<String>,
}

impl Component {
    /// Its package URL, also its name within the list.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }
}

/// All of them, the program itself first.
#[derive(Debug)]
pub(crate) struct Components(pub(crate) Vec<Component>);

impl Components {
    /// Asks Cargo what the program of `root` is made of on `target`: what is linked, not what only builds or tests it.
    pub(crate) fn of(root: &Path, target: &str) -> Result<Self> {
        let output = Command::new("cargo")
            .args(["metadata", "--format-version=1", "--locked"])
            .arg(format!("--filter-platform={target}"))
            .current_dir(root)
            .output()
            .context("cargo cannot be started")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata = serde_json::from_slice(&output.stdout)?;
        let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
        Self::read(&metadata, &checksums(&lock))
    }

    fn read(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Self> {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let packages: BTreeMap<String, Value> = list(&metadata["packages"])
            .into_iter()
            .map(|package| (text(&package["id"]), package))
            .collect();
        let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
            .into_iter()
            .map(|node| (text(&node["id"]), node))
            .collect();
        let own = packages
            .values()
            .find(|package| package["name"] == "ringgate" && package["source"].is_null());
        let first = text(&own.context("no package `ringgate`")?["id"]);
        let mut found = Vec::new();
        let mut seen = BTreeSet::from([first.clone()]);
        let mut open = vec![first];
        while let Some(id) = open.pop() {
            let package = packages.get(&id).context("a node without a package")?;
            let node = nodes.get(&id).context("a package without a node")?;
            let needs = linked(node, &packages);
            open.extend(
                needs
                    .iter()
                    .filter(|id| seen.insert((*id).clone()))
                    .cloned(),
            );
            found.push(component(id, package, needs, checksums)?);
        }
        let own = found.remove(0);
        found.sort_by_key(Component::purl);
        found.insert(0, own);
        Ok(Self(found))
    }

    /// The list. `time` is in seconds since 1970.
    pub(crate) fn cyclonedx(&self, commit: &str, time: u64) -> Result<Vec<u8>> {
        let (own, others) = self.0.split_first().context("no components")?;
        let names: BTreeMap<&str, String> =
            self.0.iter().map(|c| (c.id.as_str(), c.purl())).collect();
        let dependencies = self.0.iter().map(|component| {
            let mut on: Vec<&String> = component
                .needs
                .iter()
                .filter_map(|id| names.get(id.as_str()))
                .collect();
            on.sort();
            json!({ "ref": component.purl(), "dependsOn": on })
        });
        let mut main = entry(own, "application");
        main["properties"] = json!([{ "name": "ringgate:commit", "value": commit }]);
        let list = json!({
            "bomFormat": "CycloneDX",
            "specVersion": "1.5",
            "version": 1,
            "metadata": { "timestamp": super::material::rfc3339(time), "component": main },
            "components": others.iter().map(|c| entry(c, "library")).collect::<Vec<_>>(),
            "dependencies": dependencies.collect::<Vec<_>>(),
        });
        let mut bytes = serde_json::to_vec_pretty(&list)?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

fn entry(component: &Component, kind: &str) -> Value {
    let mut entry = json!({
        "type": kind,
        "bom-ref": component.purl(),
        "name": component.name,
        "version": component.version,
        "purl": component.purl(),
    });
    if let Some(license) = &component.license {
        // Some write an alternative the old way.
        let expression = license.replace('/', " OR ");
        entry["licenses"] = json!([{ "expression": expression }]);
    }
    if let Some(checksum) = &component.checksum {
        entry["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    entry
}

fn component(
    id: String,
    package: &Value,
    needs: Vec<String>,
    checksums: &BTreeMap<(String, String), String>,
) -> Result<Component> {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let manifest = PathBuf::from(text(&package["manifest_path"]));
    Ok(Component {
        license: package["license"].as_str().map(str::to_owned),
        directory: manifest
            .parent()
            .context("a manifest is in a directory")?
            .to_owned(),
        checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
        name,
        version,
        id,
        needs,
    })
}

/// Whom a package is linked with. Macros run in the compiler and are no part of the program.
fn linked(node: &Value, packages: &BTreeMap<String, Value>) -> Vec<String> {
    let dependencies = node["deps"].as_array().into_iter().flatten();
    let normal = dependencies.filter(|dependency| {
        let mut kinds = dependency["dep_kinds"].as_array().into_iter().flatten();
        kinds.any(|kind| kind["kind"].is_null())
    });
    let ids = normal.map(|dependency| text(&dependency["pkg"]));
    ids.filter(|id| packages.get(id).is_some_and(|package| !is_macro(package)))
        .collect()
}

fn is_macro(package: &Value) -> bool {
    let targets = package["targets"].as_array().into_iter().flatten();
    let mut kinds = targets.flat_map(|target| target["kind"].as_array().into_iter().flatten());
    kinds.any(|kind| kind == "proc-macro")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Checksums of the lock file by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let quoted = |block: &str, key: &str| {
        let mut values = block.lines().filter_map(|line| line.strip_prefix(key));
        let value = values.next()?.strip_prefix(" = \"")?.strip_suffix('"')?;
        Some(value.to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let key = (quoted(block, "name")?, quoted(block, "version")?);
            Some((key, quoted(block, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Components {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Components::of(&root, "x86_64-unknown-linux-gnu").expect("cargo metadata")
    }

    #[test]
    fn what_is_linked_is_listed_with_its_checksum() {
        let all = here();
        let own = all.0.first().expect("the program");
        assert_eq!(
            (own.name.as_str(), own.checksum.as_ref()),
            ("ringgate", None)
        );
        let named = |name: &str| all.0.iter().find(|c| c.name == name);
        for linked in ["rustls", "aws-lc-sys", "monoio", "mimalloc", "ring"] {
            let component = named(linked).expect(linked);
            assert_eq!(
                component.checksum.as_deref().map(str::len),
                Some(64),
                "{linked}"
            );
            assert!(component.license.is_some(), "{linked}");
        }
        // A macro, what builds C code, what tests, what is for another system, and this program.
        for not in [
            "serde_derive",
            "cc",
            "criterion",
            "windows-sys",
            "xtask",
            "tar",
        ] {
            assert!(named(not).is_none(), "{not}");
        }
        let refs: BTreeSet<String> = all.0.iter().map(Component::purl).collect();
        assert_eq!(refs.len(), all.0.len(), "each has a name of its own");
    }

    #[test]
    fn the_list_names_only_what_it_holds() {
        let bytes = here().cyclonedx("0123", 0).expect("JSON");
        let list: Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(list["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
        let components = list["components"].as_array().expect("components");
        let mut refs: BTreeSet<&str> = components
            .iter()
            .filter_map(|c| c["bom-ref"].as_str())
            .collect();
        refs.extend(list["metadata"]["component"]["bom-ref"].as_str());
        let edges = list["dependencies"].as_array().expect("dependencies");
        assert_eq!(edges.len(), refs.len());
        for edge in edges {
            for on in edge["dependsOn"].as_array().expect("a list") {
                assert!(refs.contains(on.as_str().expect("text")), "{on}");
            }
        }
    }
}
