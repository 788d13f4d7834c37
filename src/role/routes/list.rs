//! The rules of one host and path, best first, and what else must match there.

use std::cmp::Reverse;

use http::{HeaderName, Method};

use crate::config::checked::route::{FieldMatch, PathMatch, RouteMatch, ValueMatch};
use crate::policy::{Regexes, Request, WholeRegex};
use crate::role::routes::index::RuleAt;
use crate::role::routes::tree::{Key, Tree};
use crate::vocab::path::CanonicalPath;

/// Segments of the path that a rule may be found by.
const SEGMENTS: usize = 8;

/// Rules in the order of their ranks, and a tree that finds the first that matches.
#[derive(Debug, Default)]
pub(super) struct List {
    all: Box<[Candidate]>,
    tree: Tree,
}

impl List {
    /// Of rules in the order of the names of their routes, which tells apart those of one rank.
    pub(super) fn new(mut all: Vec<Candidate>) -> Self {
        all.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let keys: Vec<Vec<Key<'_>>> = all.iter().map(Candidate::keys).collect();
        let tree = Tree::new(&keys);
        Self {
            all: all.into(),
            tree,
        }
    }

    /// The first that matches.
    pub(super) fn first(&self, request: &Request, path: &CanonicalPath) -> Option<RuleAt> {
        let at = |place: u32| self.all.get(usize::try_from(place).ok()?);
        let matches = |place: u32| at(place).is_some_and(|c| c.matches(request, path));
        let place = self.tree.first((request, path), matches)?;
        at(place).map(|c| c.rule)
    }
}

/// A match of a rule, but for its host and for a path that is not a regular expression.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    rule: RuleAt,
    /// Of the path, as it is written and compiled.
    regex: Option<(Box<str>, WholeRegex)>,
    method: Option<Method>,
    headers: Box<[(HeaderName, Value)]>,
    query: Box<[(Box<[u8]>, Value)]>,
}

/// The least is looked at first: the longest regular expression, with a method, most header fields, most query parameters.
type Rank<'c> = (
    Reverse<usize>,
    &'c str,
    bool,
    Reverse<usize>,
    Reverse<usize>,
);

#[derive(Clone, Debug)]
enum Value {
    Exact(Box<[u8]>),
    Regex(WholeRegex),
}

impl Value {
    fn new(value: &ValueMatch, regexes: &mut Regexes) -> Result<Self, String> {
        Ok(match value {
            ValueMatch::Exact(text) => Self::Exact(text.as_bytes().into()),
            ValueMatch::Regex(pattern) => Self::Regex(regexes.whole(pattern)?),
        })
    }

    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => **exact == *value,
            Self::Regex(regex) => regex.matches(value),
        }
    }

    /// The only value that matches, if it is known.
    fn exact(&self) -> Option<&[u8]> {
        match self {
            Self::Exact(exact) => Some(exact),
            Self::Regex(regex) => match regex.prefix() {
                (whole, true) => Some(whole),
                (_, false) => None,
            },
        }
    }
}

impl Candidate {
    /// # Errors
    /// What is wrong with the match; `check` has refused it before.
    pub(super) fn new(
        one: &RouteMatch,
        rule: RuleAt,
        regexes: &mut Regexes,
    ) -> Result<Self, String> {
        let regex = match &one.path {
            PathMatch::Regex(text) => Some((text.as_str().into(), regexes.whole(text)?)),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => None,
        };
        let mut header = |field: &FieldMatch| {
            let name = HeaderName::try_from(field.name.as_str()).map_err(|e| e.to_string())?;
            Ok((name, Value::new(&field.value, regexes)?))
        };
        let headers: Result<_, String> = one.headers.iter().map(&mut header).collect();
        let mut parameter = |field: &FieldMatch| {
            let value = Value::new(&field.value, regexes)?;
            Ok((field.name.as_bytes().into(), value))
        };
        let query: Result<_, String> = one.query.iter().map(&mut parameter).collect();
        Ok(Self {
            rule,
            regex,
            method: one.method.clone(),
            headers: headers?,
            query: query?,
        })
    }

    fn rank(&self) -> Rank<'_> {
        let regex = self.regex.as_ref().map_or("", |(text, _)| text);
        (
            Reverse(regex.len()),
            regex,
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
        )
    }

    /// What a request must bring.
    fn keys(&self) -> Vec<Key<'_>> {
        let mut keys = Vec::new();
        if let Some((_, regex)) = &self.regex {
            let segment = |at| regex.segment(at).map(|text| Key::Segment(at, text));
            keys.extend((0..SEGMENTS).filter_map(segment));
            let ends = [Key::Prefix(regex.prefix().0), Key::Suffix(regex.suffix())];
            keys.extend(ends.into_iter().filter(|key| !is_empty(key)));
        }
        keys.extend(self.method.iter().map(Key::Method));
        let headers = self.headers.iter();
        keys.extend(headers.map(|(name, value)| Key::Header(name, value.exact())));
        let query = self.query.iter();
        keys.extend(query.map(|(name, value)| Key::Query(name, value.exact())));
        keys
    }

    fn matches(&self, request: &Request, path: &CanonicalPath) -> bool {
        let mut headers = self.headers.iter();
        let mut query = self.query.iter();
        let regex = self.regex.as_ref();
        self.method.as_ref().is_none_or(|m| *m == request.method)
            && headers.all(|(name, value)| {
                let mut found = request.headers.get_all(name).iter();
                found.any(|v| value.matches(v.as_bytes()))
            })
            && query.all(|(name, value)| path.any_query_value(name, |v| value.matches(v)))
            && regex.is_none_or(|(_, regex)| regex.matches(path.path().as_bytes()))
    }
}

fn is_empty(key: &Key<'_>) -> bool {
    matches!(key, Key::Prefix([]) | Key::Suffix([]))
}
