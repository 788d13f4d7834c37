//! The index of the routes of one gateway or service: host, then path, then the few that are left one by one.

use std::cmp::Reverse;

use http::Method;
use rustc_hash::FxHashMap;

use crate::config::checked::route::{FieldMatch, HttpRoute, PathMatch, RouteMatch, ValueMatch};
use crate::policy::{Regexes, Request, WholeRegex};
use crate::vocab::path::CanonicalPath;

/// A rule, as indices of its route in `Mesh::routes` and of the rule.
pub(super) type RuleAt = (usize, usize);

/// The routes of one gateway, or of one port of a service.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// By host.
    exact: FxHashMap<Box<str>, usize>,
    /// By suffix with its leading dot.
    suffixes: FxHashMap<Box<str>, usize>,
    /// For every host.
    any: Option<usize>,
    paths: Vec<Paths>,
}

/// No rule matches; `host`: though some route is about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) host: bool,
}

impl Table {
    /// Adds a route for the hosts that count here.
    pub(super) fn insert(
        &mut self,
        at: usize,
        route: &HttpRoute,
        hosts: &[String],
        regexes: &mut Regexes,
    ) {
        for (nth, rule) in route.rules.iter().enumerate() {
            for one in &rule.matches {
                // `check` has compiled them all.
                let Ok(candidate) = Candidate::new(one, (at, nth), regexes) else {
                    continue;
                };
                let any = hosts.is_empty().then_some("*");
                for host in any.into_iter().chain(hosts.iter().map(String::as_str)) {
                    let of_host = self.of_host(host);
                    if let Some(paths) = self.paths.get_mut(of_host) {
                        paths.insert(one, candidate.clone(), regexes);
                    }
                }
            }
        }
    }

    fn of_host(&mut self, host: &str) -> usize {
        let next = self.paths.len();
        let at = match host.strip_prefix('*') {
            None => *self.exact.entry(host.into()).or_insert(next),
            Some("") => *self.any.get_or_insert(next),
            Some(suffix) => *self.suffixes.entry(suffix.into()).or_insert(next),
        };
        if at == next {
            self.paths.push(Paths::default());
        }
        at
    }

    /// The rule that a request takes.
    pub(super) fn find(&self, request: &Request) -> Result<RuleAt, Missed> {
        let Some(path) = &request.path else {
            return Err(Missed { host: false });
        };
        let host = request.host.name();
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        let suffixes = dots.filter_map(|(at, _)| self.suffixes.get(host.get(at..)?));
        let exact = self.exact.get(host).into_iter();
        let mut missed = Missed { host: false };
        for at in exact.chain(suffixes).chain(&self.any) {
            missed.host = true;
            let paths = self.paths.get(*at);
            if let Some(found) = paths.and_then(|paths| paths.find(request, path)) {
                return Ok(found);
            }
        }
        Err(missed)
    }
}

/// The paths of one host.
#[derive(Debug)]
struct Paths {
    exact: FxHashMap<Box<str>, Vec<Candidate>>,
    regexes: Vec<(Box<str>, WholeRegex, Vec<Candidate>)>,
    /// Prefixes by segment; the first is `/`.
    nodes: Vec<Node>,
}

/// One segment of a prefix.
#[derive(Debug, Default)]
struct Node {
    parent: usize,
    children: FxHashMap<Box<str>, usize>,
    candidates: Vec<Candidate>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            regexes: Vec::new(),
            nodes: vec![Node::default()],
        }
    }
}

impl Paths {
    fn insert(&mut self, one: &RouteMatch, candidate: Candidate, regexes: &mut Regexes) {
        match &one.path {
            PathMatch::Exact(path) => {
                let list = self.exact.entry(path.as_str().into());
                candidate.into(list.or_default());
            }
            PathMatch::Regex(pattern) => {
                let mut known = self.regexes.iter_mut();
                if let Some((_, _, list)) = known.find(|(text, ..)| **text == **pattern) {
                    candidate.into(list);
                } else if let Ok(regex) = regexes.whole(pattern) {
                    // The longest first.
                    let key = |text: &str| (Reverse(text.len()), text.to_owned());
                    let new = key(pattern);
                    let at = self.regexes.partition_point(|(text, ..)| key(text) < new);
                    let text = pattern.as_str().into();
                    self.regexes.insert(at, (text, regex, vec![candidate]));
                }
            }
            PathMatch::Prefix(prefix) => {
                let at = self.node(prefix);
                if let Some(node) = self.nodes.get_mut(at) {
                    candidate.into(&mut node.candidates);
                }
            }
        }
    }

    /// The node of a prefix, which is made if it is not there.
    fn node(&mut self, prefix: &str) -> usize {
        let mut at = 0;
        // A prefix is empty or begins with a slash.
        for segment in prefix.split('/').skip(1) {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else {
                return at;
            };
            let child = *node.children.entry(segment.into()).or_insert(next);
            if child == next {
                self.nodes.push(Node {
                    parent: at,
                    ..Node::default()
                });
            }
            at = child;
        }
        at
    }

    fn find(&self, request: &Request, path: &CanonicalPath) -> Option<RuleAt> {
        let first = |list: &[Candidate]| {
            let mut list = list.iter();
            list.find(|c| c.matches(request, path)).map(|c| c.rule)
        };
        let plain = path.path();
        if let Some(found) = self.exact.get(plain).and_then(|list| first(list)) {
            return Some(found);
        }
        let mut regexes = self.regexes.iter();
        let found = regexes.find_map(|(_, regex, list)| {
            let matches = regex.matches(plain.as_bytes());
            matches.then(|| first(list)).flatten()
        });
        if found.is_some() {
            return found;
        }
        let mut at = 0;
        for segment in plain.split('/').skip(1) {
            match self.nodes.get(at).and_then(|n| n.children.get(segment)) {
                Some(child) => at = *child,
                None => break,
            }
        }
        // From the longest prefix back to `/`, whose parent is itself.
        loop {
            let node = self.nodes.get(at)?;
            if let Some(found) = first(&node.candidates) {
                return Some(found);
            }
            if at == 0 {
                return None;
            }
            at = node.parent;
        }
    }
}

/// What else must match where the path does.
#[derive(Clone, Debug)]
struct Candidate {
    rule: RuleAt,
    rank: Rank,
    method: Option<Method>,
    headers: Vec<(Box<str>, Value)>,
    query: Vec<(Box<str>, Value)>,
}

/// The least is looked at first: without a method, fewer header fields, fewer query parameters.
type Rank = (bool, Reverse<usize>, Reverse<usize>);

#[derive(Clone, Debug)]
enum Value {
    Exact(Box<[u8]>),
    Regex(WholeRegex),
}

impl Value {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.matches(value),
        }
    }
}

impl Candidate {
    fn new(one: &RouteMatch, rule: RuleAt, regexes: &mut Regexes) -> Result<Self, String> {
        let (headers, query) = (one.headers.len(), one.query.len());
        Ok(Self {
            rule,
            rank: (one.method.is_none(), Reverse(headers), Reverse(query)),
            method: one.method.clone(),
            headers: values(&one.headers, regexes)?,
            query: values(&one.query, regexes)?,
        })
    }

    /// Takes its place behind those of its rank: routes come in the order of their names.
    fn into(self, list: &mut Vec<Self>) {
        let at = list.partition_point(|other| other.rank <= self.rank);
        list.insert(at, self);
    }

    fn matches(&self, request: &Request, path: &CanonicalPath) -> bool {
        let mut values = self.headers.iter();
        self.method.as_ref().is_none_or(|m| *m == request.method)
            && values.all(|(name, value)| {
                let mut found = request.headers.get_all(&**name).iter();
                found.any(|v| value.matches(v.as_bytes()))
            })
            && self
                .query
                .iter()
                .all(|(name, value)| path.any_query_value(name.as_bytes(), |v| value.matches(v)))
    }
}

fn values(fields: &[FieldMatch], regexes: &mut Regexes) -> Result<Vec<(Box<str>, Value)>, String> {
    let value = |field: &FieldMatch| {
        let value = match &field.value {
            ValueMatch::Exact(text) => Value::Exact(text.as_bytes().into()),
            ValueMatch::Regex(pattern) => Value::Regex(regexes.whole(pattern)?),
        };
        Ok((field.name.as_str().into(), value))
    };
    fields.iter().map(value).collect()
}
