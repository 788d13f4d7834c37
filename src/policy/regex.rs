//! Regular expressions over a whole value: literal ends are cut off, the middle is a table of states that is read
//! byte by byte, without scratch, lock or allocation.

use std::cell::RefCell;
use std::sync::Arc;

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson::{self, NFA, WhichCaptures, pikevm};
use regex_automata::util::{primitives::StateID, start};
use regex_automata::{Anchored, Input, MatchKind};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::{Class, Hir, HirKind, Look};
use rustc_hash::FxHashMap;

use crate::vocab::limits;

/// A regular expression that must match a whole value.
#[derive(Clone, Debug)]
pub struct WholeRegex {
    prefix: Arc<[u8]>,
    suffix: Arc<[u8]>,
    /// `None`: the value is the prefix (and the suffix is empty).
    middle: Option<Arc<Middle>>,
    /// Segments of a path, what stands before the first `/` first: the text of those that are the same in every match.
    segments: Arc<[Option<Box<[u8]>>]>,
}

/// What stands between the literal ends.
#[derive(Debug)]
enum Middle {
    /// Any bytes, `.*`.
    Anything,
    /// A table of states.
    Table {
        dfa: Box<dense::DFA<Vec<u32>>>,
        start: StateID,
    },
    /// Too many states for a table: all threads in step, linear in the value as well.
    Threads(Box<pikevm::PikeVM>),
}

thread_local! {
    /// Threads of the expression that is evaluated; grows to the greatest once.
    static THREADS: RefCell<Option<pikevm::Cache>> = const { RefCell::new(None) };
}

impl WholeRegex {
    /// Whether it matches the whole of `value`.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        let Some(rest) = value.strip_prefix(&*self.prefix) else {
            return false;
        };
        let Some(middle) = &self.middle else {
            return rest.is_empty();
        };
        rest.strip_suffix(&*self.suffix)
            .is_some_and(|rest| middle.matches(rest))
    }

    /// What every match begins with, and the whole of it if nothing follows.
    pub(crate) fn prefix(&self) -> (&[u8], bool) {
        (&self.prefix, self.middle.is_none())
    }

    /// The segment of a path, counted from 0, if it is the same in every match.
    pub(crate) fn segment(&self, at: usize) -> Option<&[u8]> {
        self.segments.get(at + 1)?.as_deref()
    }

    /// What every match ends with.
    pub(crate) fn suffix(&self) -> &[u8] {
        &self.suffix
    }
}

impl Middle {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Anything => true,
            Self::Table { dfa, start } => {
                let mut state = *start;
                for byte in value {
                    state = dfa.next_state(state, *byte);
                    if dfa.is_dead_state(state) {
                        return false;
                    }
                }
                dfa.is_match_state(dfa.next_eoi_state(state))
            }
            Self::Threads(vm) => THREADS.with_borrow_mut(|cache| {
                match cache {
                    Some(cache) => cache.reset(vm),
                    None => *cache = Some(vm.create_cache()),
                }
                let input = Input::new(value).anchored(Anchored::Yes).earliest(true);
                cache
                    .as_mut()
                    .is_some_and(|cache| vm.search_slots(cache, &input, &mut []).is_some())
            }),
        }
    }
}

/// Compiles regular expressions; equal ones, and equal middles, once.
#[derive(Debug, Default)]
pub struct Regexes {
    whole: FxHashMap<Box<str>, WholeRegex>,
    middles: FxHashMap<String, Arc<Middle>>,
    literals: FxHashMap<Vec<u8>, Arc<[u8]>>,
}

impl Regexes {
    /// Compiles a regular expression that must match a whole value: bytes, ASCII classes, `.` is any byte.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn whole(&mut self, pattern: &str) -> Result<WholeRegex, String> {
        if let Some(known) = self.whole.get(pattern) {
            return Ok(known.clone());
        }
        if pattern.chars().count() > limits::REGEX_BYTES {
            return Err(format!(
                "regular expression is longer than {} characters",
                limits::REGEX_BYTES
            ));
        }
        let hir = ParserBuilder::new()
            .unicode(false)
            .utf8(false)
            .dot_matches_new_line(true)
            .build()
            .parse(pattern)
            .map_err(|e| syntax_message(&e))?;
        let segments = segments(&hir);
        let (prefix, middle, suffix) = cut(&hir);
        let middle = match middle {
            None => None,
            Some(hir) => Some(self.middle(&hir)?),
        };
        let compiled = WholeRegex {
            prefix: self.literal(prefix),
            suffix: self.literal(suffix),
            middle,
            segments: segments.into(),
        };
        self.whole.insert(pattern.into(), compiled.clone());
        Ok(compiled)
    }

    fn literal(&mut self, bytes: Vec<u8>) -> Arc<[u8]> {
        if let Some(known) = self.literals.get(&bytes) {
            return Arc::clone(known);
        }
        let literal: Arc<[u8]> = bytes.as_slice().into();
        self.literals.insert(bytes, Arc::clone(&literal));
        literal
    }

    fn middle(&mut self, hir: &Hir) -> Result<Arc<Middle>, String> {
        let text = hir.to_string();
        if let Some(known) = self.middles.get(&text) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(match table(hir)? {
            Some(table) => table,
            None => threads(hir)?,
        });
        self.middles.insert(text, Arc::clone(&made));
        Ok(made)
    }
}

fn syntax_message(error: &regex_syntax::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim();
    format!(
        "bad regular expression: {}",
        last.strip_prefix("error: ").unwrap_or(last)
    )
}

fn too_large(limit: usize) -> String {
    format!("bad regular expression: compiled it exceeds {limit} bytes")
}

fn nfa(hir: &Hir, limit: usize) -> Result<NFA, String> {
    let config = thompson::Config::new()
        .utf8(false)
        .nfa_size_limit(Some(limit))
        .which_captures(WhichCaptures::None);
    thompson::Compiler::new()
        .configure(config)
        .build_from_hir(hir)
        .map_err(|e| match e.size_limit() {
            Some(limit) => too_large(limit),
            None => format!("bad regular expression: {e}"),
        })
}

/// The table of an expression, unless it has too many states or asks for Unicode word boundaries.
fn table(hir: &Hir) -> Result<Option<Middle>, String> {
    if *hir == Hir::repetition(any_byte()) {
        return Ok(Some(Middle::Anything));
    }
    let nfa = nfa(hir, limits::REGEX_COMPILED_BYTES)?;
    // All matches, not the leftmost: only one that spans the whole value counts.
    let config = dense::Config::new()
        .start_kind(StartKind::Anchored)
        .match_kind(MatchKind::All)
        .accelerate(false)
        .dfa_size_limit(Some(limits::REGEX_TABLE_BYTES))
        .determinize_size_limit(Some(limits::REGEX_COMPILED_BYTES));
    let Ok(dfa) = dense::Builder::new().configure(config).build_from_nfa(&nfa) else {
        return Ok(None);
    };
    let anchored = start::Config::new().anchored(Anchored::Yes);
    let Ok(start) = dfa.start_state(&anchored) else {
        return Ok(None);
    };
    Ok(Some(Middle::Table {
        dfa: Box::new(dfa),
        start,
    }))
}

fn any_byte() -> regex_syntax::hir::Repetition {
    regex_syntax::hir::Repetition {
        min: 0,
        max: None,
        greedy: true,
        sub: Box::new(Hir::dot(regex_syntax::hir::Dot::AnyByte)),
    }
}

fn threads(hir: &Hir) -> Result<Middle, String> {
    let whole = Hir::concat(vec![hir.clone(), Hir::look(Look::End)]);
    let nfa = nfa(&whole, limits::REGEX_THREADS_BYTES)?;
    let config = pikevm::Config::new().match_kind(MatchKind::All);
    pikevm::PikeVM::builder()
        .configure(config)
        .build_from_nfa(nfa)
        .map(|vm| Middle::Threads(Box::new(vm)))
        .map_err(|e| format!("bad regular expression: {e}"))
}

/// Cuts an expression into the literal that it begins with, the middle, and the literal that it ends with.
fn cut(hir: &Hir) -> (Vec<u8>, Option<Hir>, Vec<u8>) {
    let mut flat = Vec::new();
    flatten(hir, &mut flat);
    // At the ends of a whole value these always hold.
    while flat.first().is_some_and(|h| is_look(h, Look::Start)) {
        flat.remove(0);
    }
    while flat.last().is_some_and(|h| is_look(h, Look::End)) {
        flat.pop();
    }
    let joined = Hir::concat(flat);
    // An assertion looks at what stands beside it, so that nothing may be cut off.
    if !joined.properties().look_set().is_empty() {
        return (Vec::new(), Some(joined), Vec::new());
    }
    let mut parts = match joined.into_kind() {
        HirKind::Concat(parts) => parts,
        HirKind::Empty => return (Vec::new(), None, Vec::new()),
        HirKind::Literal(literal) => return (literal.0.to_vec(), None, Vec::new()),
        kind @ (HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Capture(_)
        | HirKind::Alternation(_)) => return (Vec::new(), Some(rebuilt(kind)), Vec::new()),
    };
    let mut prefix = Vec::new();
    if let Some(HirKind::Literal(literal)) = parts.first().map(Hir::kind) {
        prefix = literal.0.to_vec();
        parts.remove(0);
    }
    let mut suffix = Vec::new();
    if let Some(HirKind::Literal(literal)) = parts.last().map(Hir::kind) {
        suffix = literal.0.to_vec();
        parts.pop();
    }
    (prefix, Some(Hir::concat(parts)), suffix)
}

/// Segments whose text is told; more are not looked at.
const SEGMENTS: usize = 12;

/// The segments of a path as far as the expression fixes where they begin and end: up to the first part that may match
/// a `/` of its own.
fn segments(hir: &Hir) -> Vec<Option<Box<[u8]>>> {
    let mut flat = Vec::new();
    flatten(hir, &mut flat);
    let mut out = Vec::new();
    let mut open = Some(Vec::new());
    for part in &flat {
        match part.kind() {
            HirKind::Literal(literal) => {
                for byte in &literal.0 {
                    if *byte == b'/' {
                        out.push(open.map(Vec::into_boxed_slice));
                        open = Some(Vec::new());
                    } else if let Some(text) = &mut open {
                        text.push(*byte);
                    }
                }
            }
            HirKind::Empty | HirKind::Look(_) => {}
            _ if may_match_slash(part) => {
                out.truncate(SEGMENTS);
                return out;
            }
            HirKind::Class(_)
            | HirKind::Repetition(_)
            | HirKind::Capture(_)
            | HirKind::Concat(_)
            | HirKind::Alternation(_) => open = None,
        }
    }
    out.push(open.map(Vec::into_boxed_slice));
    out.truncate(SEGMENTS);
    out
}

fn may_match_slash(hir: &Hir) -> bool {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => false,
        HirKind::Literal(literal) => literal.0.contains(&b'/'),
        HirKind::Class(Class::Bytes(class)) => {
            let mut ranges = class.ranges().iter();
            ranges.any(|r| (r.start()..=r.end()).contains(&b'/'))
        }
        HirKind::Class(Class::Unicode(class)) => {
            let mut ranges = class.ranges().iter();
            ranges.any(|r| (r.start()..=r.end()).contains(&'/'))
        }
        HirKind::Repetition(repetition) => may_match_slash(&repetition.sub),
        HirKind::Capture(capture) => may_match_slash(&capture.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().any(may_match_slash),
    }
}

fn rebuilt(kind: HirKind) -> Hir {
    match kind {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(repetition) => Hir::repetition(repetition),
        HirKind::Capture(capture) => Hir::capture(capture),
        HirKind::Concat(parts) => Hir::concat(parts),
        HirKind::Alternation(parts) => Hir::alternation(parts),
    }
}

/// Concatenations and groups in one list.
fn flatten(hir: &Hir, out: &mut Vec<Hir>) {
    match hir.kind() {
        HirKind::Concat(parts) => parts.iter().for_each(|part| flatten(part, out)),
        HirKind::Capture(capture) => flatten(&capture.sub, out),
        HirKind::Empty
        | HirKind::Literal(_)
        | HirKind::Class(_)
        | HirKind::Look(_)
        | HirKind::Repetition(_)
        | HirKind::Alternation(_) => out.push(hir.clone()),
    }
}

fn is_look(hir: &Hir, wanted: Look) -> bool {
    matches!(hir.kind(), HirKind::Look(look) if *look == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(pattern: &str, value: &str) -> bool {
        let regex = Regexes::default().whole(pattern).unwrap();
        regex.matches(value.as_bytes())
    }

    #[test]
    fn regexes() {
        assert!(whole("a|ab", "ab") && !whole("a", "ab") && whole("/v[0-9]+/.*", "/v1/\nx"));
        assert!(!whole(r"\d", "\u{663}") && whole("(?i)/A", "/a"));
        for bad in [
            "a)|(b",
            "(",
            r"(a)\1",
            "(?=a)",
            "a{100000}{100000}",
            &"a".repeat(1025),
        ] {
            assert!(Regexes::default().whole(bad).is_err(), "{bad}");
        }
    }

    /// What is cut off changes nothing, whichever way the middle is evaluated.
    #[test]
    fn ends() {
        for (pattern, value, want) in [
            ("", "", true),
            ("", "a", false),
            ("^/a$", "/a", true),
            ("^/a|/b$", "/a", true),
            ("^/a|/b$", "/ax", false),
            ("(/a)(/b)", "/a/b", true),
            ("ab.*ba", "aba", false),
            ("ab.*ba", "abba", true),
            ("/a/[0-9]+/z", "/a/12/z", true),
            ("/a/[0-9]+/z", "/a//z", false),
            (r"/a\b.*", "/a/b", true),
            (r"/a\b.*", "/ab", false),
            (r"/a\B.*", "/ab", true),
            ("(?m)/a$\n^b", "/a\nb", true),
            (r"(?u:\w+)", "\u{e9}", true),
            (r"(?u)\bx\b", "x", true),
            ("(a|b)*a(a|b){16}", "abbbbbbbbbbbbbbbb", true),
            ("(a|b)*a(a|b){16}", "bbbbbbbbbbbbbbbbb", false),
            ("/x(a|b)*a(a|b){16}y", "/xaabbbbbbbbbbbbbbbby", true),
        ] {
            assert_eq!(whole(pattern, value), want, "{pattern} {value}");
        }
        let fixed = |pattern: &str| -> Vec<Option<String>> {
            let regex = Regexes::default().whole(pattern).unwrap();
            let text = |at| {
                regex
                    .segment(at)
                    .map(|s| String::from_utf8(s.to_vec()).unwrap())
            };
            (0..4).map(text).collect()
        };
        let text = |texts: [&str; 4]| texts.map(|t| (t != "?").then(|| t.to_owned()));
        for (pattern, want) in [
            ("/api/v[0-9]+/(team-7)/.*", ["api", "?", "team-7", "?"]),
            ("^/a(/b)/c+/d$", ["a", "b", "?", "d"]),
            ("/a/[^b]/c", ["a", "?", "?", "?"]),
            ("(?u)/a/\\pL/c/", ["a", "?", "c", ""]),
            ("/a|/b", ["?", "?", "?", "?"]),
        ] {
            assert_eq!(fixed(pattern), text(want), "{pattern}");
        }
        let mut regexes = Regexes::default();
        let hard = regexes.whole("(a|b)*a(a|b){16}").unwrap();
        assert!(matches!(hard.middle.as_deref(), Some(Middle::Threads(_))));
        let (a, b) = (regexes.whole("/a/[0-9]+"), regexes.whole("^/b/[0-9]+$"));
        let (a, b) = (a.unwrap().middle.unwrap(), b.unwrap().middle.unwrap());
        assert!(Arc::ptr_eq(&a, &b), "equal middles are one");
        assert!(matches!(*a, Middle::Table { .. }));
    }
}
