//! Axes of the index, and the keys by which a rule stands on one.

use std::hash::Hasher as _;
use std::net::IpAddr;

use rustc_hash::FxHasher;

use crate::policy::attribute::Attribute;
use crate::policy::field::Test;
use crate::policy::index::Source;
use crate::policy::matcher::Matcher;
use crate::policy::pattern::{Template, TextForm};
use crate::policy::regex::WholeRegex;
use crate::policy::rule::{Clause, Form};
use crate::vocab::cidr::Cidr;

/// Which axes an index may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Axes {
    /// All.
    All,
    /// All but the caller's identity.
    ButIdentity,
}

/// What a tree is split by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis<'t> {
    /// Principal, service account, namespace or trust domain: whichever a clause of `from` names.
    Identity,
    /// One attribute.
    One(&'t Attribute),
    /// A segment of the path, counted from 0.
    Segment(usize),
}

/// Where a rule stands on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key<'t> {
    /// The value has this hash.
    Exact(u64),
    /// The value begins with it.
    Prefix(&'t [u8]),
    /// The value ends with it.
    Suffix(&'t [u8]),
    /// There is a value.
    Any,
}

/// Attributes of the caller's identity, the narrowest first.
static IDENTITY: [Attribute; 4] = [
    Attribute::Principal,
    Attribute::ServiceAccount,
    Attribute::Namespace,
    Attribute::TrustDomain,
];
/// Other attributes of `from`.
static FROM: [Attribute; 3] = [
    Attribute::RequestPrincipal,
    Attribute::SourceIp,
    Attribute::RemoteIp,
];
/// Attributes of `to`.
static TO: [Attribute; 4] = [
    Attribute::Path,
    Attribute::Host,
    Attribute::DestinationPort,
    Attribute::Method,
];

/// Hash of a value. Values may share one: a candidate is evaluated.
pub(super) fn hash(value: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(value);
    hasher.finish()
}

/// Hash of an IP block.
pub(super) fn hash_block(block: Cidr) -> u64 {
    let mut hasher = FxHasher::default();
    let (base, length) = block.parts();
    match base {
        IpAddr::V4(ip) => hasher.write_u32(ip.to_bits()),
        IpAddr::V6(ip) => hasher.write_u128(ip.to_bits()),
    }
    hasher.write_u8(length);
    hasher.finish()
}

/// A segment of a path.
pub(super) fn segment(path: &[u8], at: usize) -> Option<&[u8]> {
    path.split(|b| *b == b'/').nth(at + 1)
}

impl Axis<'_> {
    /// Whether a caller chooses how many values there are. Two such axes on one way would multiply them.
    pub(super) fn is_many(&self) -> bool {
        matches!(self, Self::One(Attribute::Header(_) | Attribute::Query(_)))
    }

    /// Where the values are, for a test of this axis.
    pub(super) fn source(self, test: &Test) -> Source {
        match self {
            Self::Identity | Self::One(_) => Source::Attribute(test.attribute.clone()),
            Self::Segment(at) => Source::Segment(at),
        }
    }
}

/// The axes of a form and, for each, tests of which one must hold for the form to match. An axis may come twice.
pub(super) fn choices<'t>(form: &'t Form, mut each: impl FnMut(Axis<'t>, &[&'t Test])) {
    let mut tests = Vec::new();
    if !form.from.is_empty() {
        let narrowest = |clause: &'t Clause| {
            let of = |a: &Attribute| keyed(clause).find(|t| t.attribute == *a);
            IDENTITY.iter().find_map(of)
        };
        if all(&form.from, narrowest, &mut tests) {
            each(Axis::Identity, &tests);
        }
    }
    for (clauses, attributes) in [(&form.from, &FROM[..]), (&form.to, &TO[..])] {
        for attribute in attributes {
            let of = |clause: &'t Clause| keyed(clause).find(|t| t.attribute == *attribute);
            if !clauses.is_empty()
                && all(clauses, of, &mut tests)
                && let Some(test) = tests.first()
            {
                each(Axis::One(&test.attribute), &tests);
            }
        }
    }
    for test in keyed(&form.when) {
        let axis = if IDENTITY.contains(&test.attribute) {
            Axis::Identity
        } else {
            Axis::One(&test.attribute)
        };
        each(axis, &[test]);
    }
}

fn keyed(clause: &Clause) -> impl Iterator<Item = &Test> {
    clause.iter().map(|t| &**t).filter(|t| is_key(t))
}

/// One test of every clause; `false` if a clause has none.
fn all<'t>(
    clauses: &'t [Clause],
    mut of: impl FnMut(&'t Clause) -> Option<&'t Test>,
    out: &mut Vec<&'t Test>,
) -> bool {
    out.clear();
    out.extend(clauses.iter().map_while(&mut of));
    out.len() == clauses.len()
}

/// Whether a test cannot hold without one of its keys.
fn is_key(test: &Test) -> bool {
    by_keys(test).is_some()
}

/// The values that are keys: the test holds only if one of them matches.
fn by_keys(test: &Test) -> Option<&Matcher> {
    test.wanted()
        .filter(|matcher| match (&test.attribute, matcher) {
            // They are compared with another text than exact values are.
            (Attribute::ServiceAccount | Attribute::RequestPrincipal, Matcher::Regexes(_)) => false,
            (_, Matcher::Windows(_)) => false,
            (
                _,
                Matcher::Text(_)
                | Matcher::Paths(_)
                | Matcher::Regexes(_)
                | Matcher::Blocks(_)
                | Matcher::Ports(_)
                | Matcher::RequestPrincipals(_),
            ) => true,
        })
}

/// Calls `each` with the keys of a test: it holds only if one of them fits. `false` if it can hold without.
pub(super) fn keys<'t>(test: &'t Test, each: &mut impl FnMut(Key<'t>)) -> bool {
    let Some(matcher) = by_keys(test) else {
        return false;
    };
    match matcher {
        Matcher::Text(set) => {
            set.patterns().iter().for_each(|p| each(text(p.parts())));
        }
        Matcher::Paths(paths) => {
            let (set, templates) = &**paths;
            set.patterns().iter().for_each(|p| each(text(p.parts())));
            templates.iter().for_each(|t| each(template(t)));
        }
        Matcher::Regexes(regexes) => regexes.iter().for_each(|r| each(regex(r))),
        Matcher::Blocks(blocks) => {
            let blocks = blocks.written.iter();
            blocks.for_each(|b| each(Key::Exact(hash_block(*b))));
        }
        Matcher::Ports(ports) => {
            let ports = ports.iter();
            ports.for_each(|p| each(Key::Exact(hash(&p.to_be_bytes()))));
        }
        Matcher::Windows(_) => return false,
        Matcher::RequestPrincipals(all) => all.iter().for_each(|p| each(text(p.subject()))),
    }
    true
}

fn text((form, text): (TextForm, &[u8])) -> Key<'_> {
    match form {
        TextForm::Exact => Key::Exact(hash(text)),
        TextForm::Prefix => Key::Prefix(text),
        TextForm::Suffix => Key::Suffix(text),
        TextForm::NotEmpty | TextForm::Present => Key::Any,
    }
}

/// The end that says more.
fn affix<'t>(prefix: &'t [u8], suffix: &'t [u8]) -> Key<'t> {
    match (prefix.len(), suffix.len()) {
        (0, 0) => Key::Any,
        (p, s) if s > p => Key::Suffix(suffix),
        _ => Key::Prefix(prefix),
    }
}

fn template(template: &Template) -> Key<'_> {
    affix(template.prefix(), template.suffix())
}

fn regex(regex: &WholeRegex) -> Key<'_> {
    match regex.prefix() {
        (whole, true) => Key::Exact(hash(whole)),
        (prefix, false) => affix(prefix, regex.suffix()),
    }
}

/// As `keys`, by one segment of the path: `false` if not every value names it.
pub(super) fn segment_keys<'t>(test: &'t Test, at: usize, each: &mut impl FnMut(Key<'t>)) -> bool {
    let mut named = |segment: Option<&[u8]>| segment.map(|s| each(Key::Exact(hash(s)))).is_some();
    match test.wanted() {
        // The values of a path stand as written: nothing is folded or expanded.
        Some(Matcher::Text(_) | Matcher::Paths(_)) => test
            .written
            .iter()
            .all(|v| named(written_segment(v.as_bytes(), at))),
        Some(Matcher::Regexes(regexes)) => regexes.iter().all(|r| named(r.segment(at))),
        Some(
            Matcher::Blocks(_)
            | Matcher::Ports(_)
            | Matcher::RequestPrincipals(_)
            | Matcher::Windows(_),
        )
        | None => false,
    }
}

/// The segment that a value of `paths` names; `None` if paths match that have another one there.
fn written_segment(value: &[u8], at: usize) -> Option<&[u8]> {
    if value.starts_with(b"*") {
        None
    } else if Template::is_one(std::str::from_utf8(value).ok()?) {
        let mut before = value.split(|b| *b == b'/').take(at + 2);
        let found = segment(value, at)?;
        let fixed = !before.any(|s| s == b"{**}") && found != b"{*}";
        fixed.then_some(found)
    } else if let Some(prefix) = value.strip_suffix(b"*") {
        complete_segment(prefix, at)
    } else {
        segment(value, at)
    }
}

/// The segment of a literal beginning, if it ends there too.
fn complete_segment(prefix: &[u8], at: usize) -> Option<&[u8]> {
    let mut rest = prefix.split(|b| *b == b'/').skip(at + 1);
    let found = rest.next()?;
    rest.next().map(|_| found)
}
