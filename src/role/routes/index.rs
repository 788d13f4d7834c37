//! The index of the routes of one gateway or service: host, then path, then what else a rule asks for.

use rustc_hash::FxHashMap;

use crate::config::checked::route::{HttpRoute, PathMatch, RouteMatch};
use crate::policy::{Regexes, Request};
use crate::role::routes::list::{Candidate, List};
use crate::vocab::hosts::Hosts;
use crate::vocab::path::CanonicalPath;

/// A rule, as indices of its route in `Mesh::routes` and of the rule.
pub(super) type RuleAt = (usize, usize);

/// The routes of one gateway, or of one port of a service.
#[derive(Debug, Default)]
pub(super) struct Table<L = List> {
    /// Which of `paths`, by host.
    hosts: Hosts<usize>,
    paths: Vec<Paths<L>>,
}

/// No rule matches; `host`: though some route is about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) host: bool,
}

/// A table whose rules are still to come.
#[derive(Debug, Default)]
pub(super) struct Unsorted {
    table: Table<Vec<Candidate>>,
}

impl Unsorted {
    /// Adds a route for the hosts that count here. Routes come in the order of their names.
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
                    if let Some(paths) = self.table.paths.get_mut(of_host) {
                        paths.insert(one, candidate.clone());
                    }
                }
            }
        }
    }

    fn of_host(&mut self, host: &str) -> usize {
        let table = &mut self.table;
        let next = table.paths.len();
        let at = table.hosts.get_or_insert(host, next);
        if at == next {
            table.paths.push(Paths::default());
        }
        at
    }

    /// The table, when all routes are there.
    pub(super) fn sorted(self) -> Table {
        let Table { hosts, paths } = self.table;
        Table {
            hosts,
            paths: paths.into_iter().map(Paths::sorted).collect(),
        }
    }
}

impl Table {
    /// The rule that a request takes.
    pub(super) fn find(&self, request: &Request) -> Result<RuleAt, Missed> {
        let Some(path) = &request.path else {
            return Err(Missed { host: false });
        };
        let mut missed = Missed { host: false };
        for at in self.hosts.matching(request.host.name()) {
            missed.host = true;
            let paths = self.paths.get(at);
            if let Some(found) = paths.and_then(|paths| paths.find(request, path)) {
                return Ok(found);
            }
        }
        Err(missed)
    }
}

/// The paths of one host.
#[derive(Debug)]
struct Paths<L> {
    exact: FxHashMap<Box<str>, L>,
    regexes: L,
    /// Prefixes by segment; the first is `/`.
    nodes: Vec<Node<L>>,
}

/// One segment of a prefix.
#[derive(Debug, Default)]
struct Node<L> {
    parent: usize,
    children: FxHashMap<Box<str>, usize>,
    candidates: L,
}

impl<L: Default> Default for Paths<L> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            regexes: L::default(),
            nodes: vec![Node::default()],
        }
    }
}

impl Paths<Vec<Candidate>> {
    fn insert(&mut self, one: &RouteMatch, candidate: Candidate) {
        match &one.path {
            PathMatch::Exact(path) => {
                let list = self.exact.entry(path.as_str().into());
                list.or_default().push(candidate);
            }
            PathMatch::Regex(_) => self.regexes.push(candidate),
            PathMatch::Prefix(prefix) => {
                let at = self.node(prefix);
                if let Some(node) = self.nodes.get_mut(at) {
                    node.candidates.push(candidate);
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

    fn sorted(self) -> Paths<List> {
        let node = |node: Node<Vec<Candidate>>| Node {
            parent: node.parent,
            children: node.children,
            candidates: List::new(node.candidates),
        };
        let exact = self.exact.into_iter();
        Paths {
            exact: exact.map(|(path, list)| (path, List::new(list))).collect(),
            regexes: List::new(self.regexes),
            nodes: self.nodes.into_iter().map(node).collect(),
        }
    }
}

impl Paths<List> {
    fn find(&self, request: &Request, path: &CanonicalPath) -> Option<RuleAt> {
        let plain = path.path();
        let exact = self.exact.get(plain);
        if let Some(found) = exact.and_then(|list| list.first(request, path)) {
            return Some(found);
        }
        if let Some(found) = self.regexes.first(request, path) {
            return Some(found);
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
            if let Some(found) = node.candidates.first(request, path) {
                return Some(found);
            }
            if at == 0 {
                return None;
            }
            at = node.parent;
        }
    }
}
