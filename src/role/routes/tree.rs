//! Which of many rules of one host and path a request may take, by what it must bring for each: a method, a value of a
//! header field or query parameter, a segment of the path, how the path begins or ends.
//!
//! The tree only proposes: every rule is looked at in full afterwards. Each stands in one leaf, below keys without which it
//! cannot match, so that the tree is never larger than the list, and no request looks at a rule twice.

use std::collections::BTreeMap;

use http::{HeaderName, Method};
use rustc_hash::FxHashMap;

use crate::policy::{Radix, Request};
use crate::vocab::path::CanonicalPath;

/// What a request must bring for a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'c> {
    Method(&'c Method),
    /// A value of a header field, or any.
    Header(&'c HeaderName, Option<&'c [u8]>),
    /// A value of a query parameter, or any.
    Query(&'c [u8], Option<&'c [u8]>),
    /// A segment of the path, counted from 0.
    Segment(usize, &'c [u8]),
    Prefix(&'c [u8]),
    Suffix(&'c [u8]),
}

/// Up to this many rules are looked at one by one.
const FEW: usize = 4;
/// Values of one field, and parameters of one query, that are followed; of more, all that asks for any is looked at.
const FOLLOWED: usize = 32;

/// Places of rules in their list.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    /// In order.
    Few(Box<[u32]>),
    Split(Box<Split>),
}

/// Rules by what they ask for: each below one of its keys, the one that fewest share.
#[derive(Clone, Debug, Default)]
pub(super) struct Split {
    methods: FxHashMap<Method, Tree>,
    headers: Headers,
    query: BTreeMap<Box<[u8]>, Values>,
    segments: BTreeMap<usize, FxHashMap<Box<[u8]>, Tree>>,
    prefixes: Affixes,
    /// Of reversed keys.
    suffixes: Affixes,
    /// Rules that ask for nothing of all this.
    rest: Tree,
}

/// Rules by header fields.
#[derive(Clone, Debug, Default)]
struct Headers {
    all: Vec<(HeaderName, Values)>,
    /// Where a name stands in `all`.
    at: FxHashMap<HeaderName, usize>,
}

/// Rules by the values of one field.
#[derive(Clone, Debug, Default)]
struct Values {
    exact: FxHashMap<Box<[u8]>, Tree>,
    /// Whatever the value is, as long as there is one.
    any: Tree,
}

#[derive(Clone, Debug, Default)]
struct Affixes {
    radix: Radix,
    /// What its numbers name.
    below: Box<[Tree]>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl Tree {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Few(places) if places.is_empty())
    }

    /// Of rules by their keys, in the order of the list.
    pub(super) fn new(keys: &[Vec<Key<'_>>]) -> Self {
        let places = (0..).take(keys.len()).collect();
        Self::below(places, keys)
    }

    fn below(places: Vec<u32>, keys: &[Vec<Key<'_>>]) -> Self {
        if places.len() <= FEW {
            return Self::Few(places.into());
        }
        let keys_of = |place: u32| usize::try_from(place).ok().and_then(|at| keys.get(at));
        let mut shared: FxHashMap<Key<'_>, usize> = FxHashMap::default();
        for key in places.iter().filter_map(|p| keys_of(*p)).flatten() {
            *shared.entry(*key).or_default() += 1;
        }
        let count = |key: &&Key<'_>| shared.get(key).copied().unwrap_or_default();
        let mut rest = Vec::new();
        // In the order of the first of each, so that the tree is the same each time.
        let mut kept: Vec<(Key<'_>, Vec<u32>)> = Vec::new();
        let mut known: FxHashMap<Key<'_>, usize> = FxHashMap::default();
        for place in &places {
            let Some(key) = keys_of(*place).and_then(|all| all.iter().min_by_key(count)) else {
                rest.push(*place);
                continue;
            };
            let at = *known.entry(*key).or_insert(kept.len());
            match kept.get_mut(at) {
                Some((_, below)) => below.push(*place),
                None => kept.push((*key, vec![*place])),
            }
        }
        if kept.is_empty() {
            return Self::Few(places.into());
        }
        let mut split = Split {
            rest: Self::Few(rest.into()),
            ..Split::default()
        };
        let (mut prefixes, mut suffixes) = (Vec::new(), Vec::new());
        for (key, below) in kept {
            // What all share tells nothing apart, but many a request does not bring it.
            let tree = if below.len() == places.len() {
                Self::Few(below.into())
            } else {
                Self::below(below, keys)
            };
            match key {
                Key::Prefix(text) => prefixes.push((text.to_vec(), tree)),
                Key::Suffix(text) => suffixes.push((text.iter().rev().copied().collect(), tree)),
                Key::Method(_) | Key::Header(..) | Key::Query(..) | Key::Segment(..) => {
                    split.put(key, tree);
                }
            }
        }
        split.prefixes = Affixes::new(prefixes);
        split.suffixes = Affixes::new(suffixes);
        Self::Split(Box::new(split))
    }

    /// The first rule of the list that `matches`, of those that may match such a request.
    pub(super) fn first(
        &self,
        (request, path): (&Request, &CanonicalPath),
        matches: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let mut search = Search {
            request,
            path,
            matches,
            first: None,
        };
        search.tree(self);
        search.first
    }
}

impl Split {
    fn put(&mut self, key: Key<'_>, tree: Tree) {
        let slot = match key {
            Key::Method(method) => self.methods.entry(method.clone()).or_default(),
            Key::Header(name, value) => match self.headers.of(name) {
                Some(values) => values.of(value),
                None => return,
            },
            Key::Query(name, value) => self.query.entry(name.into()).or_default().of(value),
            Key::Segment(at, text) => {
                let texts = self.segments.entry(at).or_default();
                texts.entry(text.into()).or_default()
            }
            Key::Prefix(_) | Key::Suffix(_) => return,
        };
        *slot = tree;
    }
}

impl Headers {
    fn of(&mut self, name: &HeaderName) -> Option<&mut Values> {
        let next = self.all.len();
        let at = *self.at.entry(name.clone()).or_insert(next);
        if at == next {
            self.all.push((name.clone(), Values::default()));
        }
        self.all.get_mut(at).map(|(_, values)| values)
    }

    fn get(&self, name: &HeaderName) -> Option<&Values> {
        self.all.get(*self.at.get(name)?).map(|(_, values)| values)
    }
}

impl Values {
    fn of(&mut self, value: Option<&[u8]>) -> &mut Tree {
        match value {
            Some(value) => self.exact.entry(value.into()).or_default(),
            None => &mut self.any,
        }
    }
}

impl Affixes {
    fn new(keys: Vec<(Vec<u8>, Tree)>) -> Self {
        let (keys, below): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
        Self {
            radix: Radix::new(keys.into_iter().zip(0..).collect()),
            below: below.into(),
        }
    }
}

/// The trees that the values of a field led to.
#[derive(Default)]
struct Followed<'t> {
    trees: [Option<&'t Tree>; FOLLOWED],
}

impl<'t> Followed<'t> {
    /// Whether there is place for more.
    fn add(&mut self, tree: &'t Tree) -> bool {
        let mut slots = self.trees.iter_mut();
        match slots.find(|slot| slot.is_none_or(|known| std::ptr::eq(known, tree))) {
            Some(slot) => {
                *slot = Some(tree);
                true
            }
            None => false,
        }
    }

    fn trees(&self) -> impl Iterator<Item = &'t Tree> {
        self.trees.iter().map_while(|tree| *tree)
    }
}

struct Search<'r, F> {
    request: &'r Request,
    path: &'r CanonicalPath,
    matches: F,
    /// So far.
    first: Option<u32>,
}

impl<F: Fn(u32) -> bool> Search<'_, F> {
    fn tree(&mut self, tree: &Tree) {
        match tree {
            Tree::Few(places) => {
                for place in places {
                    if self.first.is_some_and(|first| first <= *place) {
                        return;
                    }
                    if (self.matches)(*place) {
                        self.first = Some(*place);
                        return;
                    }
                }
            }
            Tree::Split(split) => self.split(split),
        }
    }

    fn split(&mut self, split: &Split) {
        if let Some(tree) = split.methods.get(&self.request.method) {
            self.tree(tree);
        }
        self.headers(&split.headers);
        if !split.query.is_empty() {
            self.query(&split.query);
        }
        let plain = self.path.path().as_bytes();
        for (at, texts) in &split.segments {
            let segment = plain.split(|b| *b == b'/').nth(at + 1);
            if let Some(tree) = segment.and_then(|text| texts.get(text)) {
                self.tree(tree);
            }
        }
        self.affixes(&split.prefixes, plain.iter().copied());
        self.affixes(&split.suffixes, plain.iter().rev().copied());
        self.tree(&split.rest);
    }

    fn affixes(&mut self, affixes: &Affixes, value: impl Iterator<Item = u8>) {
        affixes.radix.any(value, |number| {
            let at = usize::try_from(number).ok();
            if let Some(tree) = at.and_then(|at| affixes.below.get(at)) {
                self.tree(tree);
            }
            false
        });
    }

    /// By the names of whichever are fewer.
    fn headers(&mut self, headers: &Headers) {
        let brought = &self.request.headers;
        if headers.all.len() <= brought.keys_len() {
            for (name, values) in &headers.all {
                self.header(name, values);
            }
        } else {
            for name in brought.keys() {
                if let Some(values) = headers.get(name) {
                    self.header(name, values);
                }
            }
        }
    }

    fn header(&mut self, name: &HeaderName, values: &Values) {
        let mut followed = Followed::default();
        let mut present = false;
        for value in self.request.headers.get_all(name) {
            present = true;
            if let Some(tree) = values.exact.get(value.as_bytes())
                && !followed.add(tree)
            {
                break;
            }
        }
        followed.trees().for_each(|tree| self.tree(tree));
        if present {
            self.tree(&values.any);
        }
    }

    fn query(&mut self, query: &BTreeMap<Box<[u8]>, Values>) {
        let mut followed = Followed::default();
        self.path.any_query_pair(|name, value| {
            let Some(values) = query.get(name) else {
                return false;
            };
            let exact = values.exact.get(value);
            !exact
                .into_iter()
                .chain((!values.any.is_empty()).then_some(&values.any))
                .all(|tree| followed.add(tree))
        });
        followed.trees().for_each(|tree| self.tree(tree));
    }
}
