//! Where a value stands in the files, and the list that problems are collected in.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::checked::{NamedFile, NamedHost, NamedListener, PolicyPlace, Subject};
use crate::config::document::{Entry, Value};
use crate::config::problem::{Lint, Problem};
use crate::policy::lint::{Code, Severity};
use crate::vocab::resource::ResourceName;

/// A place in a file, with the key path that leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the file.
    pub(crate) file: usize,
    /// Byte offset.
    pub(crate) offset: usize,
    /// Key path; empty for the whole file.
    pub(crate) key: Arc<str>,
}

impl Place {
    /// The top of a file.
    pub(crate) fn top(file: usize) -> Self {
        Self {
            file,
            offset: 0,
            key: "".into(),
        }
    }

    /// The value of `key` below this place.
    pub(crate) fn key(&self, key: &str, offset: usize) -> Self {
        let bare = !key.is_empty()
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let key = if bare {
            key.to_owned()
        } else {
            format!("\"{}\"", key.escape_default())
        };
        let key = if self.key.is_empty() {
            key
        } else {
            format!("{}.{key}", self.key)
        };
        Self {
            file: self.file,
            offset,
            key: key.into(),
        }
    }

    /// The value of `entry`, a key of the table at this place; `offset` is that of the key or of the value.
    pub(crate) fn entry(&self, entry: &Entry, offset: usize) -> Self {
        match &entry.value.path {
            Some(path) => Self {
                file: self.file,
                offset,
                key: Arc::clone(path),
            },
            None => self.key(&entry.key, offset),
        }
    }

    /// The element `value` with number `index` of the list at this place.
    pub(crate) fn item(&self, index: usize, value: &Value) -> Self {
        match &value.path {
            Some(path) => Self {
                file: self.file,
                offset: value.offset,
                key: Arc::clone(path),
            },
            None => self.index(index, value.offset),
        }
    }

    /// Element `index` of the list at this place.
    pub(crate) fn index(&self, index: usize, offset: usize) -> Self {
        Self {
            file: self.file,
            offset,
            key: format!("{}[{index}]", self.key).into(),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Problems and warnings in the order in which they were found.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// Problems of files that are not TOML; whatever else such a file seems to lack may be written in it.
    syntax: Vec<(Place, String)>,
    errors: Vec<(Place, String)>,
    warnings: Vec<(Place, String)>,
    /// Problems between two places: the second place, what is wrong with it, the first place.
    pairs: Vec<(Place, String, Place)>,
    /// Files in Istio's own form, which Istio may read too.
    istio: BTreeSet<usize>,
    /// Authorization policies, and their rules.
    policies: Vec<(ResourceName, Place, Vec<Place>)>,
    lints: Vec<PlacedLint>,
    /// Files and secrets, and where they are named.
    named: Vec<(Place, Subject)>,
    /// Addresses of listeners.
    listeners: Vec<(Place, SocketAddr)>,
    /// Hosts of routes.
    hosts: Vec<(Place, ResourceName, String)>,
}

/// A finding of `policy::lint` and its places.
#[derive(Debug)]
pub(crate) struct PlacedLint {
    pub(crate) code: Code,
    pub(crate) severity: Severity,
    pub(crate) place: Place,
    pub(crate) other: Option<Place>,
    pub(crate) message: String,
}

/// What was found, with line and column.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) errors: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
    pub(crate) lints: Vec<Lint>,
}

impl Problems {
    /// Records that a file is in Istio's own form.
    pub(crate) fn mark_istio(&mut self, file: usize) {
        self.istio.insert(file);
    }

    /// Whether a place is in a file in Istio's own form.
    pub(crate) fn is_istio(&self, place: &Place) -> bool {
        self.istio.contains(&place.file)
    }

    /// Records that a file is not TOML; its other problems are not reported.
    pub(crate) fn syntax(&mut self, place: Place, message: String) {
        self.syntax.push((place, message));
    }

    /// Records a problem.
    pub(crate) fn error(&mut self, place: &Place, message: impl Into<String>) {
        self.errors.push((place.clone(), message.into()));
    }

    /// Records a problem of `place` with what stands at `first`, whose file and line the message will end with.
    pub(crate) fn clash(&mut self, place: &Place, message: impl Into<String>, first: &Place) {
        self.pairs
            .push((place.clone(), message.into(), first.clone()));
    }

    /// Records a warning.
    pub(crate) fn warn(&mut self, place: &Place, message: impl Into<String>) {
        self.warnings.push((place.clone(), message.into()));
    }

    /// Keeps where an authorization policy and its rules are written.
    pub(crate) fn policy(&mut self, name: &ResourceName, place: &Place, rules: Vec<Place>) {
        self.policies.push((name.clone(), place.clone(), rules));
    }

    /// Where the authorization policies are written.
    pub(crate) fn policies(&self, files: &[(PathBuf, String)]) -> Vec<PolicyPlace> {
        let lines: Vec<Lines> = files.iter().map(|(_, text)| Lines::of(text)).collect();
        let line = |place: &Place| lines.get(place.file).map_or(0, |l| l.number(place.offset));
        let one = |(name, place, rules): &(ResourceName, Place, Vec<Place>)| {
            let (file, _) = files.get(place.file)?;
            Some(PolicyPlace {
                name: name.clone(),
                file: file.clone(),
                line: line(place),
                rules: rules.iter().map(line).collect(),
            })
        };
        self.policies.iter().filter_map(one).collect()
    }

    /// Keeps where a file or secret is named.
    pub(crate) fn name_file(&mut self, place: &Place, subject: Subject) {
        self.named.push((place.clone(), subject));
    }

    /// Where files and secrets are named.
    pub(crate) fn named_files(&self, files: &[(PathBuf, String)]) -> Vec<NamedFile> {
        let mut texts = Texts::new(files);
        let named = self.named.iter().filter_map(|(place, subject)| {
            Some(NamedFile {
                subject: subject.clone(),
                place: texts.problem(place, String::new())?,
            })
        });
        named.collect()
    }

    /// Keeps where the address of a listener is written.
    pub(crate) fn name_listener(&mut self, place: &Place, address: SocketAddr) {
        self.listeners.push((place.clone(), address));
    }

    /// Where the addresses of listeners are written.
    pub(crate) fn named_listeners(&self, files: &[(PathBuf, String)]) -> Vec<NamedListener> {
        let mut texts = Texts::new(files);
        let named = self.listeners.iter().filter_map(|(place, address)| {
            Some(NamedListener {
                address: *address,
                place: texts.problem(place, String::new())?,
            })
        });
        named.collect()
    }

    /// Keeps where a host of a route is written.
    pub(crate) fn name_host(&mut self, place: &Place, route: &ResourceName, host: &str) {
        self.hosts
            .push((place.clone(), route.clone(), host.to_owned()));
    }

    /// Where the hosts of routes are written.
    pub(crate) fn named_hosts(&self, files: &[(PathBuf, String)]) -> Vec<NamedHost> {
        let mut texts = Texts::new(files);
        let named = self.hosts.iter().filter_map(|(place, route, host)| {
            Some(NamedHost {
                route: route.clone(),
                host: host.clone(),
                place: texts.problem(place, String::new())?,
            })
        });
        named.collect()
    }

    /// Records a finding.
    pub(crate) fn lint(&mut self, lint: PlacedLint) {
        self.lints.push(lint);
    }

    /// Whether there is no problem so far.
    pub(crate) fn is_good(&self) -> bool {
        self.errors.is_empty() && self.syntax.is_empty() && self.pairs.is_empty()
    }

    /// Problems so far.
    pub(crate) fn count(&self) -> usize {
        self.errors.len() + self.pairs.len()
    }

    /// Everything with line and column, in the order of the files.
    pub(crate) fn located(mut self, files: &[(PathBuf, String)]) -> Located {
        let damaged: BTreeSet<usize> = self.syntax.iter().map(|(place, _)| place.file).collect();
        self.errors
            .retain(|(place, _)| !damaged.contains(&place.file));
        self.pairs.retain(|(place, _, first)| {
            !damaged.contains(&place.file) && !damaged.contains(&first.file)
        });
        self.errors.append(&mut self.syntax);
        let mut texts = Texts::new(files);
        for (place, message, first) in std::mem::take(&mut self.pairs) {
            let Some((file, (line, column))) = texts.position(&first) else {
                continue;
            };
            let message = format!(
                "{message}; the first is at {}:{line}:{column}",
                file.display()
            );
            self.errors.push((place, message));
        }
        let mut locate = |mut list: Vec<(Place, String)>| {
            list.sort_by_key(|(place, _)| (place.file, place.offset));
            let mut seen = BTreeSet::new();
            list.retain(|(place, message)| {
                let key = Arc::clone(&place.key);
                seen.insert((place.file, place.offset, key, message.clone()))
            });
            list.into_iter()
                .filter_map(|(place, message)| texts.problem(&place, message))
                .collect()
        };
        let (errors, warnings) = (locate(self.errors), locate(self.warnings));
        self.lints
            .sort_by_key(|l| (l.severity, l.place.file, l.place.offset));
        let lints = self.lints.into_iter().filter_map(|lint| {
            let other = lint.other.as_ref();
            Some(Lint {
                code: lint.code,
                severity: lint.severity,
                other: other.and_then(|place| texts.problem(place, String::new())),
                problem: texts.problem(&lint.place, lint.message)?,
            })
        });
        Located {
            lints: lints.collect(),
            errors,
            warnings,
        }
    }
}

/// The files, and the lines of those that something was found in.
struct Texts<'f> {
    files: &'f [(PathBuf, String)],
    lines: Vec<Option<Lines>>,
}

impl<'f> Texts<'f> {
    fn new(files: &'f [(PathBuf, String)]) -> Self {
        Self {
            files,
            lines: files.iter().map(|_file| None).collect(),
        }
    }

    fn position(&mut self, place: &Place) -> Option<(&'f PathBuf, (usize, usize))> {
        let (file, text) = self.files.get(place.file)?;
        let lines = self.lines.get_mut(place.file)?;
        let lines = lines.get_or_insert_with(|| Lines::of(text));
        Some((file, lines.position(text, place.offset)))
    }

    fn problem(&mut self, place: &Place, message: String) -> Option<Problem> {
        let (file, position) = self.position(place)?;
        Some(Problem {
            file: file.clone(),
            position: Some(position),
            key: place.key.to_string(),
            message,
        })
    }
}

/// Line and column of a byte offset, from 1; the column counts characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    Lines::of(text).position(text, offset)
}

/// Where the lines of a file begin: a file of ten thousand policies is not counted through for each of them.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        Self(
            std::iter::once(0)
                .chain(ends.map(|(at, _)| at + 1))
                .collect(),
        )
    }

    /// The line of a byte offset, from 1.
    fn number(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset)
    }

    /// Line and column of a byte offset, from 1; the column counts characters.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let offset = offset.min(text.len());
        let line = self.number(offset);
        let start = line.checked_sub(1).and_then(|l| self.0.get(l)).copied();
        let before = text
            .as_bytes()
            .get(start.unwrap_or_default()..offset)
            .unwrap_or_default();
        // A byte that is not a UTF-8 continuation begins a character.
        let column = before.iter().filter(|b| (**b & 0xC0) != 0x80).count();
        (line, column + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        for (text, offset, want) in [
            ("", 0, (1, 1)),
            ("a = 1\nb = 2", 0, (1, 1)),
            ("a = 1\nb = 2", 6, (2, 1)),
            ("a = 1\nb = 2", 10, (2, 5)),
            ("é = 1", 3, (1, 3)),
            ("a\n\n", 3, (3, 1)),
            ("a", 99, (1, 2)),
        ] {
            assert_eq!(
                Lines::of(text).position(text, offset),
                want,
                "{text:?} {offset}"
            );
            assert_eq!(Lines::of(text).number(offset), want.0, "{text:?} {offset}");
        }
    }

    #[test]
    fn key_paths() {
        let top = Place::top(0);
        let place = top
            .key("authorizationPolicy", 1)
            .index(2, 3)
            .key("selector", 4)
            .key("istio.io/x", 5);
        assert_eq!(
            &*place.key,
            "authorizationPolicy[2].selector.\"istio.io/x\""
        );
    }
}
