//! Builds the tree: at each node the axis that tells the rules apart best.

use rustc_hash::FxHashMap;

use crate::policy::attribute::Attribute;
use crate::policy::field::Test;
use crate::policy::index::key::{Axes, Axis, Key, choices, keys, segment_keys};
use crate::policy::index::{Node, Source, Split, Table};
use crate::policy::matcher::Matcher;
use crate::policy::radix::Radix;
use crate::policy::rule::Form;

/// Up to this many rules are looked at one by one.
const FEW: usize = 12;
/// Rules of a node that are looked at to choose its axis.
const SAMPLE: usize = 512;
/// Rules side by side that are looked at together.
const RUN: usize = 16;
/// Axes that are compared at a node.
const COMPARED: usize = 12;
/// Segments of a path that may be an axis.
const SEGMENTS: usize = 8;
/// Axes on the way to a leaf.
const DEPTH: usize = 12;
/// First places that a node keeps.
const FIRST: usize = 4;

/// A rule on an axis: which of its tests stand there.
#[derive(Clone, Debug)]
struct Choice<'t> {
    axis: Axis<'t>,
    tests: Vec<&'t Test>,
}

struct Builder<'t> {
    /// By place.
    choices: Vec<Vec<Choice<'t>>>,
    axes: Axes,
    /// Places that may still stand below a second key.
    budget: usize,
}

/// A place below a key of one of the tables.
type Entry<'t> = (usize, Key<'t>, u32);

/// The index of these rules.
pub(super) fn build(forms: &[Option<&Form>], axes: Axes) -> Node {
    let places = forms.iter().zip(0..).filter(|(form, _)| form.is_some());
    let places: Vec<u32> = places.map(|(_, place)| place).collect();
    if places.len() <= FEW {
        return leaf(&places);
    }
    let mut builder = Builder {
        choices: Vec::with_capacity(forms.len()),
        axes,
        budget: 0,
    };
    for form in forms {
        builder.add(*form);
    }
    builder.node(&places, &mut Vec::new())
}

fn leaf(places: &[u32]) -> Node {
    match places {
        [] => Node::Empty,
        [one] => Node::One(*one),
        few => Node::Few(few.into()),
    }
}

impl<'t> Builder<'t> {
    fn add(&mut self, form: Option<&'t Form>) {
        let mut all = Vec::new();
        if let Some(form) = form {
            choices(form, |axis, tests| {
                if axis == Axis::Identity && self.axes == Axes::ButIdentity {
                    return;
                }
                self.budget += 4;
                for test in tests {
                    keys(test, &mut |_| self.budget += 2);
                }
                all.push(Choice {
                    axis,
                    tests: tests.to_vec(),
                });
            });
        }
        self.choices.push(all);
    }

    /// A node of these places; `used` are the axes above it.
    fn node(&mut self, places: &[u32], used: &mut Vec<Axis<'t>>) -> Node {
        if places.len() <= FEW || used.len() >= DEPTH {
            return leaf(places);
        }
        let Some(axis) = self.best(places, used) else {
            return leaf(places);
        };
        let mut sources: Vec<Source> = Vec::new();
        let mut entries: Vec<Entry<'t>> = Vec::new();
        let mut lengths: Vec<(usize, usize, u8)> = Vec::new();
        let mut rest = Vec::new();
        for place in places {
            let Some(choice) = self.choice(*place, axis) else {
                rest.push(*place);
                continue;
            };
            for test in &choice.tests {
                let source = axis.source(test);
                let known = sources.iter().position(|s| *s == source);
                let table = known.unwrap_or_else(|| {
                    sources.push(source);
                    sources.len() - 1
                });
                each_key(axis, test, &mut |key| entries.push((table, key, *place)));
                if let Some(Matcher::Blocks(blocks)) = test.wanted() {
                    let parts = blocks.written.iter().map(|b| b.parts());
                    lengths.extend(parts.map(|(ip, n)| (table, usize::from(ip.is_ipv6()), n)));
                }
            }
        }
        entries.sort_unstable();
        entries.dedup();
        let more = (entries.len() + rest.len()).saturating_sub(places.len());
        if more > self.budget {
            return leaf(places);
        }
        self.budget -= more;
        used.push(axis);
        let mut tables: Vec<(Source, Table)> =
            sources.into_iter().map(|s| (s, Table::default())).collect();
        for (at, (_, table)) in tables.iter_mut().enumerate() {
            let from = entries.partition_point(|(t, ..)| *t < at);
            let to = entries.partition_point(|(t, ..)| *t <= at);
            self.fill(table, entries.get(from..to).unwrap_or_default(), used);
            lengths.sort_unstable();
            lengths.dedup();
            for (family, out) in table.lengths.iter_mut().enumerate() {
                let of = |l: &&(usize, usize, u8)| (l.0, l.1) == (at, family);
                *out = lengths.iter().filter(of).map(|(_, _, n)| *n).collect();
            }
        }
        let rest = self.node(&rest, used);
        used.pop();
        Node::Split(Box::new(Split {
            tables: tables.into(),
            rest,
            first: places.iter().take(FIRST).copied().collect(),
        }))
    }

    fn fill(&mut self, table: &mut Table, entries: &[Entry<'t>], used: &mut Vec<Axis<'t>>) {
        let (mut prefixes, mut suffixes, mut affixes) = (Vec::new(), Vec::new(), Vec::new());
        for below in entries.chunk_by(|a, b| a.1 == b.1) {
            let places: Vec<u32> = below.iter().map(|(_, _, place)| *place).collect();
            let node = self.node(&places, used);
            let number = || u32::try_from(affixes.len()).unwrap_or(u32::MAX);
            match below.first().map(|(_, key, _)| *key) {
                Some(Key::Exact(hash)) => {
                    table.exact.insert(hash, node);
                }
                Some(Key::Prefix(text)) => {
                    prefixes.push((text.to_vec(), number()));
                    affixes.push(node);
                }
                Some(Key::Suffix(text)) => {
                    suffixes.push((text.iter().rev().copied().collect(), number()));
                    affixes.push(node);
                }
                Some(Key::Any) => table.any = node,
                None => {}
            }
        }
        table.exact.shrink_to_fit();
        table.prefixes = Radix::new(prefixes);
        table.suffixes = Radix::new(suffixes);
        table.affixes = affixes.into();
    }

    fn choice(&self, place: u32, axis: Axis<'t>) -> Option<&Choice<'t>> {
        let all = self.choices.get(usize::try_from(place).ok()?)?;
        let Axis::Segment(at) = axis else {
            return all.iter().find(|c| c.axis == axis);
        };
        let path = all.iter().find(|c| c.axis == Axis::One(&Attribute::Path))?;
        let named = |t: &&Test| segment_keys(t, at, &mut |_| ());
        path.tests.iter().all(named).then_some(path)
    }

    /// The axis by which the fewest rules stay together; `None` if none helps much.
    fn best(&self, places: &[u32], used: &[Axis<'t>]) -> Option<Axis<'t>> {
        // In runs, so that rules of one policy meet in the sample as they do in the node.
        let step = places.len().div_ceil(SAMPLE).max(1);
        let runs = places.chunks(RUN).step_by(step);
        let sample: Vec<u32> = runs.flatten().copied().collect();
        let mut found: Vec<Axis<'t>> = Vec::new();
        for place in &sample {
            let all = usize::try_from(*place)
                .ok()
                .and_then(|at| self.choices.get(at));
            for choice in all.into_iter().flatten() {
                if found.len() < COMPARED && !found.contains(&choice.axis) {
                    found.push(choice.axis);
                }
            }
        }
        let mut best: Option<(usize, Axis<'t>)> = None;
        let compare = |axis: Axis<'t>, best: &mut Option<(usize, Axis<'t>)>| {
            if used.contains(&axis) || (axis.is_many() && used.iter().any(Axis::is_many)) {
                return;
            }
            let together = self.together(&sample, axis);
            if best.is_none_or(|(least, _)| together < least) {
                *best = Some((together, axis));
            }
        };
        for axis in &found {
            compare(*axis, &mut best);
        }
        // Where paths begin alike, one of their segments may tell them apart.
        let apart =
            |best: Option<(usize, Axis<'t>)>| best.is_some_and(|(n, _)| n * 16 <= sample.len());
        if !apart(best) && found.contains(&Axis::One(&Attribute::Path)) {
            (0..SEGMENTS).for_each(|at| compare(Axis::Segment(at), &mut best));
        }
        let helps = |(together, _): &(usize, Axis<'t>)| together + sample.len() / 32 < sample.len();
        best.filter(helps).map(|(_, axis)| axis)
    }

    /// How many rules a decision meets on this axis at most: those without a key and those of the commonest key.
    fn together(&self, sample: &[u32], axis: Axis<'t>) -> usize {
        let mut counts: FxHashMap<Key<'t>, usize> = FxHashMap::default();
        let mut unkeyed = 0;
        let mut commonest = 0;
        for place in sample {
            let Some(choice) = self.choice(*place, axis) else {
                unkeyed += 1;
                continue;
            };
            for test in &choice.tests {
                each_key(axis, test, &mut |key| {
                    let count = counts.entry(key).or_default();
                    *count += 1;
                    commonest = commonest.max(*count);
                });
            }
        }
        unkeyed + commonest
    }
}

fn each_key<'t>(axis: Axis<'t>, test: &'t Test, each: &mut impl FnMut(Key<'t>)) {
    match axis {
        Axis::Identity | Axis::One(_) => keys(test, each),
        Axis::Segment(at) => segment_keys(test, at, each),
    };
}
