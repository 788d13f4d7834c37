//! The mesh of a case: its settings and Istio resources, read by the very reader of configurations.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use toml::Table;

use crate::cli::cases::json::{Broken, flag_or, integer_or, member, text_or, texts};
use crate::config::checked::Mesh;
use crate::config::{self, ConfigErrors, Depth, Options};

/// What a case refers to, such as a service, need not be in it.
const PARTIAL: Options = Options {
    strict_import: true,
    partial: true,
    lints: Depth::Single,
};

/// Reads the `mesh` of a case and these resources. An error is a resource that would be refused at load.
pub(super) fn read(case: &Value, resources: &[Value]) -> Broken<Mesh> {
    let mut items: Vec<Value> = resources.iter().map(with_version).collect();
    if case.get("kind") != Some(&json!("validate")) {
        possible_names(&mut items);
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let files = [
        (PathBuf::from("mesh.toml"), settings(case)?.to_string()),
        (PathBuf::from("policies.json"), list.to_string()),
    ];
    let read = config::parse_resources(&files, Path::new(""), PARTIAL);
    read.map(|resources| resources.mesh)
        .map_err(|errors| told(&errors))
}

/// Every problem, without its place in the text that was made of the case.
fn told(errors: &ConfigErrors) -> String {
    let problems = errors.problems().iter();
    let told: Vec<String> = problems
        .map(|p| format!("{}: {}", p.key, p.message))
        .collect();
    told.join("; ")
}

/// Cases leave `apiVersion` out.
fn with_version(resource: &Value) -> Value {
    let mut resource = resource.clone();
    if let Some(map) = resource.as_object_mut() {
        let version = || json!("security.istio.io/v1");
        map.entry("apiVersion").or_insert_with(version);
    }
    resource
}

/// Cases are free with names, where these are not what is judged: what no resource can be called gets a name of its own.
fn possible_names(items: &mut [Value]) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for item in items {
        let kind = item.get("kind").map_or_else(String::new, Value::to_string);
        let Some(metadata) = item.get_mut("metadata").and_then(Value::as_object_mut) else {
            continue;
        };
        let namespace = metadata
            .get("namespace")
            .map_or_else(String::new, Value::to_string);
        let Some(name) = metadata.get("name").and_then(Value::as_str) else {
            continue;
        };
        let possible = |c: char| match c.to_ascii_lowercase() {
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') => c,
            _ => '-',
        };
        let mut name: String = name.chars().map(possible).collect();
        while !taken.insert(format!("{kind} {namespace} {name}")) {
            name.push_str("-x");
        }
        metadata.insert("name".to_owned(), json!(name));
    }
}

/// `mesh` and `dialect` of a case as a mesh file.
fn settings(case: &Value) -> Broken<Table> {
    let none = Value::Object(Map::new());
    let given = member(case, "mesh").unwrap_or(&none);
    let mut mesh = Table::new();
    for key in [
        "trustDomain",
        "rootNamespace",
        "pathNormalization",
        "outboundTrafficPolicy",
    ] {
        let text = text_or(given, key, "")?;
        if !text.is_empty() {
            mesh.insert(key.to_owned(), text.into());
        }
    }
    let aliases = texts(given, "trustDomainAliases")?;
    if !aliases.is_empty() {
        mesh.insert("trustDomainAliases".to_owned(), aliases.into());
    }
    let proxies = integer_or(given, "numTrustedProxies", 0)?;
    mesh.insert("numTrustedProxies".to_owned(), proxies.into());
    let l4_deny = match text_or(case, "dialect", "envoy-tcp")? {
        "envoy-tcp" => "api",
        "ztunnel" => "ztunnel",
        other => return Err(format!("`{}` is no dialect", other.escape_debug())),
    };
    let selectors = flag_or(given, "gatewaySelectorPolicies", true)?;
    let mut compat = Table::new();
    compat.insert("l4Deny".to_owned(), l4_deny.into());
    compat.insert("gatewaySelectors".to_owned(), selectors.into());
    // A case tells what Istio's resources mean where Istio runs them.
    compat.insert("audienceStripping".to_owned(), true.into());
    mesh.insert("compat".to_owned(), compat.into());
    let mut file = Table::new();
    file.insert("mesh".to_owned(), mesh.into());
    Ok(file)
}
