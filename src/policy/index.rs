//! The index of a list of rules: a tree that is split by one axis after another (identity, path, host, port, ...), so
//! that a decision looks at a few rules, however many there are.
//!
//! The index only proposes: every candidate is evaluated in full afterwards. What must hold is that it proposes every
//! rule that matches. A rule stands below a key of an axis only if it cannot match without that key; a rule that
//! can stands in `rest`, which is always looked at.

use std::net::IpAddr;

use rustc_hash::FxHashMap;

use crate::policy::attribute::{Attribute, Facts};
use crate::policy::radix::Radix;
use crate::policy::rule::Form;
use crate::vocab::cidr::Cidr;

mod build;
mod key;
#[cfg(test)]
mod tests;

pub(super) use key::Axes;

/// Rules by what they ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    root: Node,
}

/// Places of rules in their list, in order, or a choice.
#[derive(Clone, Debug, Default)]
enum Node {
    #[default]
    Empty,
    One(u32),
    Few(Box<[u32]>),
    Split(Box<Split>),
}

/// Rules by the value of one axis.
#[derive(Clone, Debug)]
struct Split {
    tables: Box<[(Source, Table)]>,
    /// Rules that can match whatever the value is.
    rest: Node,
    /// The first places below, for who looks for something near.
    first: Box<[u32]>,
}

/// Where the values of a table come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Attribute(Attribute),
    /// A segment of the path, counted from 0.
    Segment(usize),
}

/// Rules by the values of one source.
#[derive(Clone, Debug, Default)]
struct Table {
    /// By the hash of the value; two values of one hash share a node.
    exact: FxHashMap<u64, Node>,
    /// Whatever the value is, as long as there is one.
    any: Node,
    prefixes: Radix,
    /// Of reversed keys.
    suffixes: Radix,
    /// What the numbers in `prefixes` and `suffixes` name.
    affixes: Box<[Node]>,
    /// Prefix lengths of the IP blocks in `exact`, for each family.
    lengths: [Box<[u8]>; 2],
}

impl Index {
    /// An index of the forms of a list's rules; `None` is a rule that never matches.
    pub(super) fn new(forms: &[Option<&Form>], axes: Axes) -> Self {
        Self {
            root: build::build(forms, axes),
        }
    }

    /// Calls `each` with the places of rules that may match: several times, each time in order, places perhaps
    /// repeated.
    pub(super) fn candidates(&self, facts: Facts<'_>, each: &mut impl FnMut(&[u32])) {
        self.root.candidates(facts, each);
    }

    /// As `candidates`, and where no rule asks for the value at hand, the first of those that ask for another one.
    pub(super) fn nearby(&self, facts: Facts<'_>, each: &mut impl FnMut(&[u32])) {
        self.root.nearby(facts, each);
    }
}

impl Node {
    fn candidates(&self, facts: Facts<'_>, each: &mut impl FnMut(&[u32])) {
        match self {
            Self::Empty => {}
            Self::One(place) => each(std::slice::from_ref(place)),
            Self::Few(places) => each(places),
            Self::Split(split) => {
                for (source, table) in &split.tables {
                    table.children(source, facts, |child| child.candidates(facts, each));
                }
                split.rest.candidates(facts, each);
            }
        }
    }

    fn nearby(&self, facts: Facts<'_>, each: &mut impl FnMut(&[u32])) {
        match self {
            Self::Empty => {}
            Self::One(place) => each(std::slice::from_ref(place)),
            Self::Few(places) => each(places),
            Self::Split(split) => {
                let mut found = false;
                for (source, table) in &split.tables {
                    table.children(source, facts, |child| {
                        found = true;
                        child.nearby(facts, each);
                    });
                }
                if !found {
                    each(&split.first);
                }
                split.rest.nearby(facts, each);
            }
        }
    }
}

/// The nodes that the values at hand led to. A caller may send a field or a parameter as often as it fits, and what it
/// leads to is looked at once: where it leads to more than are kept here, to all of the table.
#[derive(Default)]
struct Seen<'t> {
    nodes: [Option<&'t Node>; KEPT],
    /// Values so far.
    values: usize,
    /// There are more: all that are not in `nodes` are still to be looked at.
    over: bool,
}

/// Nodes that are kept.
const KEPT: usize = 16;

impl<'t> Seen<'t> {
    /// Whether a node is to be looked at now. One value leads to no node twice.
    fn is_new(&mut self, node: &'t Node) -> bool {
        if self.over || self.holds(node) {
            return false;
        }
        match self.nodes.iter_mut().find(|n| n.is_none()) {
            Some(free) => *free = Some(node),
            None => self.over = self.values > 0,
        }
        !self.over
    }

    fn holds(&self, node: &Node) -> bool {
        let mut kept = self.nodes.iter().map_while(|n| *n);
        kept.any(|n| std::ptr::eq(n, node))
    }
}

impl Table {
    /// Calls `each` with the nodes of the values at hand.
    fn children<'t>(&'t self, source: &Source, facts: Facts<'_>, mut each: impl FnMut(&'t Node)) {
        let conn = facts.conn;
        let mut seen = Seen::default();
        let mut value = |value: &[u8]| {
            self.below(value, &mut |child| {
                if seen.is_new(child) {
                    each(child);
                }
            });
            seen.values += 1;
            seen.over
        };
        match source {
            Source::Attribute(Attribute::DestinationPort) => {
                value(&conn.port.to_be_bytes());
            }
            Source::Attribute(Attribute::RequestPrincipal) => {
                let claims = facts.claims().filter(|c| c.issuer().is_some());
                if let Some(subject) = claims.and_then(|c| c.subject()) {
                    value(subject.as_bytes());
                }
            }
            Source::Attribute(Attribute::SourceIp) => self.blocks(conn.peer, &mut each),
            Source::Attribute(Attribute::RemoteIp) => self.blocks(conn.remote, &mut each),
            Source::Attribute(Attribute::DestinationIp) => {
                self.blocks(conn.destination, &mut each);
            }
            Source::Attribute(attribute) => {
                attribute.any_text(facts, value);
            }
            Source::Segment(at) => {
                let path = facts.request.and_then(|r| r.path.as_ref());
                if let Some(segment) = path.and_then(|p| key::segment(p.path().as_bytes(), *at)) {
                    value(segment);
                }
            }
        }
        if seen.over {
            let all = self.all().filter(|child| !seen.holds(child));
            all.for_each(&mut each);
        }
        if seen.values > 0 {
            each(&self.any);
        }
    }

    /// The nodes of all values and beginnings and ends of values.
    #[expect(
        clippy::disallowed_methods,
        reason = "the hash has no seed, and the first rule of all is found in any order"
    )]
    fn all(&self) -> impl Iterator<Item = &Node> {
        self.exact.values().chain(&self.affixes)
    }

    fn below<'t>(&'t self, value: &[u8], each: &mut impl FnMut(&'t Node)) {
        if let Some(node) = self.exact.get(&key::hash(value)) {
            each(node);
        }
        let mut affix = |number: u32| {
            let at = usize::try_from(number).ok();
            at.and_then(|at| self.affixes.get(at))
                .into_iter()
                .for_each(&mut *each);
            false
        };
        if !self.prefixes.is_empty() {
            self.prefixes.any(value.iter().copied(), &mut affix);
        }
        if !self.suffixes.is_empty() {
            self.suffixes.any(value.iter().rev().copied(), &mut affix);
        }
    }

    fn blocks<'t>(&'t self, ip: IpAddr, each: &mut impl FnMut(&'t Node)) {
        let [v4, v6] = &self.lengths;
        let lengths = if ip.to_canonical().is_ipv4() { v4 } else { v6 };
        for length in lengths {
            let block = key::hash_block(Cidr::of(ip, *length));
            self.exact.get(&block).into_iter().for_each(&mut *each);
        }
    }
}
