//! Istio resources as Kubernetes writes them, brought into the shape of our own tables: `metadata` and `spec` in one
//! table, resources of a kind in one list. Every value keeps its place and the key path that its author knows, so that
//! the readers of `raw` and the checks of `check` serve both dialects.

use std::sync::Arc;

use crate::config::document::{Document, Entry, Kind, Value};
use crate::config::nearest::hint;
use crate::config::place::{Place, Problems};
use crate::config::yaml;

/// A kind that is read: API group, versions, Istio's name, our key.
type ReadKind = (
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static str,
);

const SECURITY: &str = "security.istio.io";
const NETWORKING: &str = "networking.istio.io";
const GATEWAY_API: &str = "gateway.networking.k8s.io";

const KINDS: [ReadKind; 7] = [
    (
        SECURITY,
        &["v1", "v1beta1"],
        "AuthorizationPolicy",
        "authorizationPolicy",
    ),
    (
        SECURITY,
        &["v1", "v1beta1"],
        "RequestAuthentication",
        "requestAuthentication",
    ),
    (
        SECURITY,
        &["v1", "v1beta1"],
        "PeerAuthentication",
        "peerAuthentication",
    ),
    (
        NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
        "ServiceEntry",
        "serviceEntry",
    ),
    (
        NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
        "WorkloadEntry",
        "workloadEntry",
    ),
    (
        NETWORKING,
        &["v1", "v1beta1", "v1alpha3"],
        "DestinationRule",
        "destinationRule",
    ),
    (GATEWAY_API, &["v1", "v1beta1"], "HTTPRoute", "httpRoute"),
];

/// Kinds of Kubernetes that are read for a waypoint in their labels, and our keys.
const LABELLED: [(&str, &str); 2] = [
    ("Namespace", "namespace"),
    ("ServiceAccount", "serviceAccount"),
];
/// The label that makes them ours.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// Kinds of Istio's groups that have no meaning here; any other word is a mistake in writing.
const OTHER_NETWORKING: [&str; 6] = [
    "VirtualService",
    "Gateway",
    "Sidecar",
    "EnvoyFilter",
    "WorkloadGroup",
    "ProxyConfig",
];

/// Keys beside `metadata` and `spec`.
const TOP: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// Keys of `metadata` that are ours too.
const METADATA: [&str; 5] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
];
/// Keys of `metadata` that the API server keeps for itself.
const IGNORED_METADATA: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];
/// Keys that our tables take beside those of `spec`, and that are something else in `spec`.
const NOT_IN_SPEC: [(&str, &str); 6] = [
    ("name", "belongs in `metadata`"),
    ("namespace", "belongs in `metadata`"),
    ("labels", "belongs in `metadata`"),
    ("annotations", "belongs in `metadata`"),
    ("creationTimestamp", "belongs in `metadata`"),
    (
        "dryRun",
        "unknown key; write the annotation `istio.io/dry-run`",
    ),
];

/// Most names in the warning about other kinds.
const NAMED: usize = 10;

/// How a file in Istio's form is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Yaml,
    Json,
}

/// Reads file number `file`; what is wrong goes to `out`. `strict`: resources of other kinds are an error.
pub(crate) fn document(
    file: usize,
    form: Form,
    text: &str,
    strict: bool,
    out: &mut Problems,
) -> Document {
    out.mark_istio(file);
    let parsed = match form {
        Form::Yaml => yaml::parse(text),
        Form::Json => yaml::parse_json(text),
    };
    let (documents, damaged) = match parsed {
        Ok(documents) => (documents, false),
        Err((offset, reason)) => {
            out.syntax(
                Place {
                    offset,
                    ..Place::top(file)
                },
                reason,
            );
            (Vec::new(), true)
        }
    };
    let mut import = Import {
        file,
        lists: KINDS
            .iter()
            .map(|(_, _, _, key)| *key)
            .chain(LABELLED.map(|(_, key)| key))
            .map(|key| (key, Vec::new()))
            .collect(),
        ignored: Vec::new(),
        incomplete: false,
        out,
    };
    for value in documents {
        import.resource(value, "");
    }
    import.report_ignored(strict);
    let damaged = damaged || import.incomplete;
    let lists = import
        .lists
        .into_iter()
        .filter(|(_, list)| !list.is_empty());
    let entry = |(key, list): (&str, Vec<Value>)| Entry {
        key: key.to_owned(),
        offset: 0,
        value: Value::new(0, Kind::List(list)),
    };
    Document {
        file,
        root: Value::new(0, Kind::Table(lists.map(entry).collect())),
        damaged,
    }
}

struct Import<'o> {
    file: usize,
    /// Resources by our key.
    lists: Vec<(&'static str, Vec<Value>)>,
    /// Resources of other kinds: place and name.
    ignored: Vec<(Place, String)>,
    /// A resource could not be taken over: what seems to be missing may be it.
    incomplete: bool,
    out: &'o mut Problems,
}

impl Import<'_> {
    fn place(&self, path: &str, offset: usize) -> Place {
        Place {
            file: self.file,
            offset,
            key: path.into(),
        }
    }

    fn refuse(&mut self, path: &str, offset: usize, message: impl Into<String>) {
        let place = self.place(path, offset);
        self.out.error(&place, message);
    }

    /// Refuses a whole resource.
    fn lose(&mut self, path: &str, offset: usize, message: impl Into<String>) {
        self.refuse(path, offset, message);
        self.incomplete = true;
    }

    /// One document or element of a list; `prefix` is the path that leads to it, with a dot at its end.
    fn resource(&mut self, value: Value, prefix: &str) {
        let offset = value.offset;
        let Kind::Table(entries) = value.kind else {
            let found = value.kind.name();
            let path = prefix.trim_end_matches('.');
            return self.lose(path, offset, format!("expected a resource, found {found}"));
        };
        let text = |key: &str| {
            let entry = entries.iter().find(|e| e.key == key);
            entry.and_then(|e| Some((e.value.text()?.to_owned(), e.value.offset)))
        };
        let Some((kind, kind_offset)) = text("kind") else {
            return self.lose(
                &format!("{prefix}kind"),
                offset,
                "missing, expected a string",
            );
        };
        if kind.ends_with("List") && entries.iter().any(|e| e.key == "items") {
            return self.list(entries, prefix);
        }
        let api = text("apiVersion");
        let unreadable = entries.iter().find(|e| e.key == "apiVersion");
        if let Some(entry) = unreadable.filter(|_| api.is_none()) {
            let found = entry.value.kind.name();
            let message = format!("expected a string, found {found}");
            return self.lose(&format!("{prefix}apiVersion"), entry.value.offset, message);
        }
        let (group, version) = match &api {
            Some((api, _)) => match api.split_once('/') {
                Some((group, version)) => (Some(group), version),
                None if KINDS.iter().any(|(group, ..)| group == api) => (Some(api.as_str()), ""),
                None => (Some(""), api.as_str()),
            },
            None => (None, ""),
        };
        if let Some((_, key)) = LABELLED.iter().find(|(name, _)| *name == kind)
            && group == Some("")
            && has_waypoint(&entries)
        {
            return self.labelled(entries, offset, prefix, key);
        }
        let known = KINDS
            .iter()
            .find(|(g, _, name, _)| *name == kind && group.is_none_or(|group| group == *g));
        let Some((group, versions, _, key)) = known else {
            return self.other(&kind, group, &entries, (prefix, kind_offset));
        };
        match &api {
            None => {
                let place = self.place(&format!("{prefix}kind"), kind_offset);
                self.out
                    .warn(&place, format!("no `apiVersion`; read as `{group}/v1`"));
            }
            Some((_, at)) if !versions.contains(&version) => {
                let near = hint(version, versions.iter().copied());
                let text = version.escape_debug();
                let message = format!("`{text}` is not one of {}{near}", versions.join(", "));
                self.refuse(&format!("{prefix}apiVersion"), *at, message);
            }
            Some(_) => {}
        }
        let merged = self.merge(entries, offset, prefix, key);
        if let Some((_, list)) = self.lists.iter_mut().find(|(k, _)| k == key) {
            list.push(merged);
        }
    }

    /// A resource of Kubernetes of which nothing but its labels is ours.
    fn labelled(&mut self, entries: Vec<Entry>, offset: usize, prefix: &str, key: &'static str) {
        let metadata = entries.into_iter().filter(|e| e.key == "metadata");
        let merged = self.merge(metadata.collect(), offset, prefix, key);
        if let Some((_, list)) = self.lists.iter_mut().find(|(k, _)| *k == key) {
            list.push(merged);
        }
    }

    fn list(&mut self, entries: Vec<Entry>, prefix: &str) {
        for entry in entries {
            match (entry.key.as_str(), entry.value.kind) {
                ("items", Kind::List(items)) => {
                    for (i, item) in items.into_iter().enumerate() {
                        self.resource(item, &format!("{prefix}items[{i}]."));
                    }
                }
                ("items", other) => {
                    let message = format!("expected a list, found {}", other.name());
                    self.lose(&format!("{prefix}items"), entry.value.offset, message);
                }
                ("apiVersion" | "kind" | "metadata", _) => {}
                (key, _) => {
                    let near = hint(key, ["apiVersion", "kind", "metadata", "items"]);
                    self.refuse(
                        &format!("{prefix}{}", path_of("", key)),
                        entry.offset,
                        format!("unknown key{near}"),
                    );
                }
            }
        }
    }

    /// A resource of a kind that is not read: a mistake, or nothing to us.
    fn other(
        &mut self,
        kind: &str,
        group: Option<&str>,
        entries: &[Entry],
        (prefix, offset): (&str, usize),
    ) {
        let path = format!("{prefix}kind");
        if let Some((own, versions, ..)) = KINDS.iter().find(|(_, _, name, _)| *name == kind) {
            // A policy whose group is misspelt must not be passed over as somebody else's.
            let expected = versions.first().unwrap_or(&"v1");
            let message = format!(
                "`{}` has no kind `{kind}` that is read, expected `{own}/{expected}`",
                group.unwrap_or_default().escape_debug()
            );
            let api = entries.iter().find(|e| e.key == "apiVersion");
            let offset = api.map_or(offset, |e| e.value.offset);
            return self.lose(&format!("{prefix}apiVersion"), offset, message);
        }
        let of_group = |wanted| {
            KINDS
                .iter()
                .filter(move |(g, ..)| *g == wanted)
                .map(|(_, _, name, _)| *name)
        };
        let (words, mistake): (Vec<&str>, bool) = match group {
            Some(SECURITY) => (of_group(SECURITY).collect(), true),
            Some(NETWORKING) => (
                of_group(NETWORKING).collect(),
                !OTHER_NETWORKING.contains(&kind),
            ),
            Some(_) => (Vec::new(), false),
            None => (KINDS.iter().map(|(_, _, name, _)| *name).collect(), true),
        };
        if mistake {
            let near = hint(kind, words.iter().copied());
            let message = format!(
                "`{}` is not one of {}{near}",
                kind.escape_debug(),
                words.join(", ")
            );
            return self.lose(&path, offset, message);
        }
        let metadata = entries
            .iter()
            .find(|e| e.key == "metadata")
            .map(|e| &e.value);
        let text = |key: &str| metadata.and_then(|m| m.entry(key)?.value.text());
        let name = text("name").unwrap_or("?");
        let name = match text("namespace") {
            Some(namespace) => format!("{kind} `{namespace}/{name}`"),
            None => format!("{kind} `{name}`"),
        };
        let place = self.place(&path, offset);
        self.ignored.push((place, name.escape_debug().to_string()));
    }

    fn report_ignored(&mut self, strict: bool) {
        let Some((first, _)) = self.ignored.first() else {
            return;
        };
        let first = first.clone();
        if strict {
            for (place, name) in std::mem::take(&mut self.ignored) {
                self.out
                    .error(&place, format!("{name} is of a kind that is not read"));
            }
            return;
        }
        let names: Vec<&str> = self
            .ignored
            .iter()
            .take(NAMED)
            .map(|(_, name)| name.as_str())
            .collect();
        let more = self.ignored.len().saturating_sub(names.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        self.out.warn(
            &first,
            format!(
                "not read, and without effect here: {}{more}",
                names.join(", ")
            ),
        );
    }

    /// `metadata` and `spec` as one table.
    fn merge(&mut self, entries: Vec<Entry>, offset: usize, prefix: &str, key: &str) -> Value {
        let mut merged = Vec::new();
        let mut at = (offset, offset);
        for entry in entries {
            match entry.key.as_str() {
                "apiVersion" | "kind" | "status" => {}
                "metadata" => {
                    at.0 = entry.offset;
                    self.metadata(entry, prefix, key, &mut merged);
                }
                "spec" => {
                    at.1 = entry.offset;
                    self.spec(entry, prefix, key, &mut merged);
                }
                other => {
                    let near = hint(other, TOP);
                    self.refuse(
                        &format!("{prefix}{}", path_of("", other)),
                        entry.offset,
                        format!("unknown key{near}"),
                    );
                }
            }
        }
        if !merged.iter().any(|e| e.key == "name") {
            merged.push(Entry {
                key: "name".to_owned(),
                offset: at.0,
                value: Value {
                    offset: at.0,
                    kind: Kind::Missing,
                    path: Some(format!("{prefix}metadata.name").into()),
                },
            });
        }
        Value {
            offset: at.1,
            kind: Kind::Table(merged),
            path: Some(format!("{prefix}spec").into()),
        }
    }

    fn metadata(&mut self, entry: Entry, prefix: &str, kind: &str, merged: &mut Vec<Entry>) {
        let path = format!("{prefix}metadata");
        let Some(entries) = self.table(entry, &path) else {
            return;
        };
        for entry in entries {
            let key = entry.key.as_str();
            // Only among peerAuthentications does age decide.
            let age = key == "creationTimestamp" && kind != "peerAuthentication";
            if IGNORED_METADATA.contains(&key) || age || matches!(entry.value.kind, Kind::Null) {
                continue;
            }
            if METADATA.contains(&key) {
                take(merged, entry, &path);
            } else {
                let near = hint(key, METADATA);
                self.refuse(
                    &path_of(&path, key),
                    entry.offset,
                    format!("unknown key{near}"),
                );
            }
        }
    }

    fn spec(&mut self, entry: Entry, prefix: &str, kind: &str, merged: &mut Vec<Entry>) {
        let path = format!("{prefix}spec");
        let Some(entries) = self.table(entry, &path) else {
            return;
        };
        for entry in entries {
            let key = entry.key.as_str();
            let label = kind == "workloadEntry" && key == "labels";
            match NOT_IN_SPEC.iter().find(|(k, _)| *k == key && !label) {
                Some((_, message)) => self.refuse(&format!("{path}.{key}"), entry.offset, *message),
                None => take(merged, entry, &path),
            }
        }
    }

    /// The entries of a table; null is an empty one.
    fn table(&mut self, entry: Entry, path: &str) -> Option<Vec<Entry>> {
        let found = entry.value.kind.name();
        match entry.value.kind {
            Kind::Table(entries) => Some(entries),
            Kind::Null => Some(Vec::new()),
            Kind::Missing
            | Kind::Text(_)
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::List(_) => {
                let message = format!("expected a table, found {found}");
                self.refuse(path, entry.value.offset, message);
                None
            }
        }
    }
}

fn has_waypoint(entries: &[Entry]) -> bool {
    let metadata = entries.iter().find(|e| e.key == "metadata");
    let labels = metadata.and_then(|e| e.value.entry("labels"));
    labels.is_some_and(|e| e.value.entry(USE_WAYPOINT).is_some())
}

/// Takes an entry over, with the path that its author knows.
fn take(merged: &mut Vec<Entry>, mut entry: Entry, path: &str) {
    // A path that is given keeps the whole below it as its author wrote it; keys of ours alone need no quotes.
    entry.value.path = Some(path_of(path, &entry.key));
    match merged.iter_mut().find(|e| e.key == entry.key) {
        Some(there) => join(there, entry),
        None => merged.push(entry),
    }
}

fn path_of(path: &str, key: &str) -> Arc<str> {
    let parent = Place {
        key: path.into(),
        ..Place::top(0)
    };
    parent.key(key, 0).key
}

/// The labels of a WorkloadEntry from `metadata` and `spec`; `metadata` wins, as in Istio.
fn join(there: &mut Entry, more: Entry) {
    let first = there
        .value
        .path
        .as_deref()
        .is_some_and(|p| p.ends_with("metadata.labels"));
    let mut from_spec = if first {
        more
    } else {
        std::mem::replace(there, more)
    };
    let path = from_spec.value.path.clone().unwrap_or_default();
    let Kind::Table(labels) = &mut there.value.kind else {
        return;
    };
    let Kind::Table(others) = &mut from_spec.value.kind else {
        // What reads it says that it is no table.
        *there = from_spec;
        return;
    };
    for mut other in others.drain(..) {
        if !labels.iter().any(|l| l.key == other.key) {
            other.value.path = Some(path_of(&path, &other.key));
            labels.push(other);
        }
    }
}
