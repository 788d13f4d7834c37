//! A tree as our TOML dialect: one `[[kind]]` a resource, its long lists of tables as tables of their own.

use std::fmt::Write as _;

use crate::config::document::{Document, Entry, Kind, Value};

/// Lists of tables that stand as `[[kind.key]]`.
const OWN_TABLES: [&str; 2] = ["rules", "jwtRules"];
/// Tables whose keys are the operator's own; they are never joined to a dotted key.
const MAPS: [&str; 4] = ["labels", "annotations", "matchLabels", "portLevelMtls"];
/// A longer list has an element a line.
const LINE: usize = 110;

/// The resources of a document, in the order in which they stand there.
pub(crate) fn toml(document: &Document) -> String {
    let mut out = String::new();
    let Kind::Table(kinds) = &document.root.kind else {
        return out;
    };
    let mut resources: Vec<(&Value, &str)> = Vec::new();
    for kind in kinds {
        resources.extend(kind.value.items().iter().map(|r| (r, kind.key.as_str())));
    }
    resources.sort_by_key(|(resource, _)| resource.offset);
    for (resource, kind) in resources {
        if !out.is_empty() {
            out.push('\n');
        }
        header(&mut out, &[kind]);
        table(&mut out, resource, kind);
    }
    out
}

fn header(out: &mut String, keys: &[&str]) {
    let keys: Vec<String> = keys.iter().map(|k| key(k)).collect();
    line(out, &format!("[[{}]]", keys.join(".")));
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn table(out: &mut String, resource: &Value, kind: &str) {
    let Kind::Table(entries) = &resource.kind else {
        return;
    };
    // What follows a header of its own belongs to it.
    let (own, plain): (Vec<&Entry>, Vec<&Entry>) = entries.iter().partition(|e| stands_alone(e));
    for entry in plain {
        let (key, value) = dotted(entry);
        let inline = format!("{key} = {}", inline(value));
        match &value.kind {
            Kind::List(items) if inline.len() > LINE => {
                line(out, &format!("{key} = ["));
                for item in items {
                    line(out, &format!("  {},", self::inline(item)));
                }
                line(out, "]");
            }
            Kind::List(_)
            | Kind::Missing
            | Kind::Null
            | Kind::Text(_)
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::Table(_) => line(out, &inline),
        }
    }
    for entry in own {
        for item in entry.value.items() {
            out.push('\n');
            header(out, &[kind, &entry.key]);
            table(out, item, kind);
        }
    }
}

/// A list that holds something, all of it tables.
fn stands_alone(entry: &Entry) -> bool {
    let items = entry.value.items();
    let tables = items.iter().all(|v| matches!(v.kind, Kind::Table(_)));
    OWN_TABLES.contains(&entry.key.as_str()) && tables && !items.is_empty()
}

/// Key and value of an entry; tables of one key are joined to it: `source.principals`.
fn dotted(entry: &Entry) -> (String, &Value) {
    let mut path = key(&entry.key);
    let mut entry = entry;
    while let Kind::Table(inner) = &entry.value.kind
        && let [only] = inner.as_slice()
        && !MAPS.contains(&entry.key.as_str())
    {
        path.push('.');
        path.push_str(&key(&only.key));
        entry = only;
    }
    (path, &entry.value)
}

fn inline(value: &Value) -> String {
    match &value.kind {
        Kind::Text(text) => quoted(text),
        Kind::Integer(Some(n)) => n.to_string(),
        Kind::Boolean(b) => b.to_string(),
        Kind::List(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Kind::Table(entries) if entries.is_empty() => "{}".to_owned(),
        Kind::Table(entries) => {
            let mut out = String::from("{ ");
            for (i, entry) in entries.iter().enumerate() {
                let (key, value) = dotted(entry);
                let comma = if i > 0 { ", " } else { "" };
                write!(out, "{comma}{key} = {}", inline(value)).ok();
            }
            out.push_str(" }");
            out
        }
        // None of these is valid in a resource; what has them is refused before it comes here.
        Kind::Missing | Kind::Null | Kind::Integer(None) | Kind::Float | Kind::Datetime => {
            "\"\"".to_owned()
        }
    }
}

fn key(key: &str) -> String {
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if !key.is_empty() && key.bytes().all(bare) {
        return key.to_owned();
    }
    quoted(key)
}

/// A string of JSON is one of TOML, but for DEL, which TOML wants escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007F")
}
