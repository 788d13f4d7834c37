//! YAML 1.2, core schema, as the same tree that TOML gives. JSON is read as the YAML that it also is.
//!
//! Bounded in depth, in nodes and in what aliases may repeat. Refused: duplicate keys, tags, keys that are no scalars.
//! `no`, `on` and `yes` are strings, as YAML 1.2 has it.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use crate::config::document::{Entry, Kind, Value};
use crate::vocab::limits;

/// Why a text is not read: byte offset and reason.
pub(crate) type Refusal = (usize, String);

/// The documents of a file; those that hold nothing are left out.
///
/// # Errors
/// The first place where the text is not YAML, or is more than is read.
pub(crate) fn parse(text: &str) -> Result<Vec<Value>, Refusal> {
    let offsets = Offsets::new(text);
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            (
                offsets.byte(text, e.marker()),
                format!("not valid YAML: {}", e.info()),
            )
        })?;
        let at = offsets.byte(text, &span.start);
        builder.event(event, at).map_err(|reason| (at, reason))?;
    }
    Ok(builder.documents)
}

/// Byte offsets of every `STEP`th character, as the parser counts characters.
struct Offsets {
    marks: Vec<usize>,
}

impl Offsets {
    const STEP: usize = 256;

    fn new(text: &str) -> Self {
        let marks = if text.is_ascii() {
            Vec::new()
        } else {
            text.char_indices()
                .step_by(Self::STEP)
                .map(|(i, _)| i)
                .collect()
        };
        Self { marks }
    }

    fn byte(&self, text: &str, marker: &Marker) -> usize {
        let index = marker.index();
        if self.marks.is_empty() {
            return index.min(text.len());
        }
        let Some(mark) = self.marks.get(index / Self::STEP).copied() else {
            return text.len();
        };
        let rest = text.get(mark..).unwrap_or_default();
        rest.char_indices()
            .nth(index % Self::STEP)
            .map_or(text.len(), |(i, _)| mark + i)
    }
}

/// A list or table that is not closed yet.
struct Open {
    offset: usize,
    anchor: usize,
    /// Nodes before it.
    before: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Value>),
    Table {
        entries: Vec<Entry>,
        keys: BTreeSet<String>,
        /// The key whose value comes next.
        key: Option<(String, usize)>,
    },
}

/// Makes a tree of events.
#[derive(Default)]
struct Builder {
    documents: Vec<Value>,
    open: Vec<Open>,
    /// What an alias may repeat, with its number of nodes and its depth.
    anchors: BTreeMap<usize, (Value, usize)>,
    nodes: usize,
    repeated: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, at: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some())?;
                self.scalar(&text, style, anchor, at)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some())?;
                self.begin(Inside::List(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some())?;
                let inside = Inside::Table {
                    entries: Vec::new(),
                    keys: BTreeSet::new(),
                    key: None,
                };
                self.begin(inside, anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentEnd => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {
                Ok(())
            }
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        at: usize,
    ) -> Result<(), String> {
        self.count(1)?;
        if let Some(Open {
            inside:
                Inside::Table {
                    keys,
                    key: key @ None,
                    ..
                },
            ..
        }) = self.open.last_mut()
        {
            if anchor != 0 {
                return Err("a key cannot be an anchor".to_owned());
            }
            if !keys.insert(text.to_owned()) {
                return Err(format!("a second key `{}`", text.escape_debug()));
            }
            *key = Some((text.to_owned(), at));
            return Ok(());
        }
        let plain = matches!(style, ScalarStyle::Plain);
        let kind = if plain {
            core_schema(text)
        } else {
            Kind::Text(text.to_owned())
        };
        self.add(Value::new(at, kind), anchor, 1)
    }

    fn begin(&mut self, inside: Inside, anchor: usize, at: usize) -> Result<(), String> {
        self.count(1)?;
        self.value_expected()?;
        if self.open.len() >= limits::DOCUMENT_DEPTH {
            return Err(format!("nested deeper than {}", limits::DOCUMENT_DEPTH));
        }
        self.open.push(Open {
            offset: at,
            anchor,
            before: self.nodes,
            inside,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(open) = self.open.pop() else {
            return Err("not valid YAML: an end without a beginning".to_owned());
        };
        let nodes = self.nodes.saturating_sub(open.before).saturating_add(1);
        let kind = match open.inside {
            Inside::List(items) => Kind::List(items),
            Inside::Table { entries, .. } => Kind::Table(entries),
        };
        self.add(Value::new(open.offset, kind), open.anchor, nodes)
    }

    fn alias(&mut self, anchor: usize, at: usize) -> Result<(), String> {
        self.value_expected()?;
        let Some((value, nodes)) = self.anchors.get(&anchor).cloned() else {
            return Err("an alias to what is not complete before it in this document".to_owned());
        };
        self.repeat(nodes)?;
        if self.open.len().saturating_add(depth(&value)) > limits::DOCUMENT_DEPTH {
            return Err(format!("nested deeper than {}", limits::DOCUMENT_DEPTH));
        }
        self.count(nodes)?;
        // What is wrong with it is wrong where it is used.
        self.add(
            Value {
                offset: at,
                ..value
            },
            0,
            nodes,
        )
    }

    /// What an anchor keeps counts like what an alias repeats.
    fn repeat(&mut self, nodes: usize) -> Result<(), String> {
        self.repeated = self.repeated.saturating_add(nodes);
        if self.repeated > limits::ALIASED_NODES {
            return Err(format!(
                "anchors and aliases stand for more than {} values",
                limits::ALIASED_NODES
            ));
        }
        Ok(())
    }

    fn value_expected(&self) -> Result<(), String> {
        match self.open.last().map(|open| &open.inside) {
            Some(Inside::Table { key: None, .. }) => {
                Err("a key is one word, not a list, table or alias".to_owned())
            }
            Some(Inside::Table { key: Some(_), .. } | Inside::List(_)) | None => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > limits::DOCUMENT_NODES {
            return Err(format!("more than {} values", limits::DOCUMENT_NODES));
        }
        Ok(())
    }

    fn add(&mut self, value: Value, anchor: usize, nodes: usize) -> Result<(), String> {
        if anchor != 0 {
            self.repeat(nodes)?;
            self.anchors.insert(anchor, (value.clone(), nodes));
        }
        match self.open.last_mut().map(|open| &mut open.inside) {
            Some(Inside::List(items)) => items.push(value),
            Some(Inside::Table { entries, key, .. }) => {
                if let Some((key, offset)) = key.take() {
                    entries.push(Entry { key, offset, value });
                }
            }
            None if matches!(value.kind, Kind::Null) => {}
            None => self.documents.push(value),
        }
        Ok(())
    }
}

fn refuse_tag(tagged: bool) -> Result<(), String> {
    if tagged {
        return Err(
            "tags are not read; write the value as it is meant, in quotes if it is a string"
                .to_owned(),
        );
    }
    Ok(())
}

/// Levels of lists and tables. The tree is no deeper than `limits::DOCUMENT_DEPTH`.
fn depth(value: &Value) -> usize {
    let deepest =
        |values: &mut dyn Iterator<Item = &Value>| values.map(depth).max().unwrap_or(0) + 1;
    match &value.kind {
        Kind::List(items) => deepest(&mut items.iter()),
        Kind::Table(entries) => deepest(&mut entries.iter().map(|e| &e.value)),
        Kind::Missing
        | Kind::Null
        | Kind::Text(_)
        | Kind::Integer(_)
        | Kind::Float
        | Kind::Boolean(_)
        | Kind::Datetime => 0,
    }
}

/// What a plain scalar is (YAML 1.2.2, section 10.3.2).
fn core_schema(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Boolean(true),
        "false" | "False" | "FALSE" => return Kind::Boolean(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if let Some(integer) = integer(text, unsigned) {
        return Kind::Integer(integer);
    }
    if float(unsigned) || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Kind::Float;
    }
    Kind::Text(text.to_owned())
}

/// The outer `None`: not an integer. The inner: one that does not fit 64 bits.
#[expect(
    clippy::option_option,
    reason = "not an integer, or one that does not fit"
)]
fn integer(text: &str, unsigned: &str) -> Option<Option<i64>> {
    let all = |digits: &str, radix| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix));
    if let Some(digits) = text.strip_prefix("0o").filter(|d| all(d, 8)) {
        return Some(i64::from_str_radix(digits, 8).ok());
    }
    if let Some(digits) = text.strip_prefix("0x").filter(|d| all(d, 16)) {
        return Some(i64::from_str_radix(digits, 16).ok());
    }
    all(unsigned, 10).then(|| text.parse().ok())
}

fn float(unsigned: &str) -> bool {
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let some = !whole.is_empty() || !fraction.is_empty();
    exponent_ok && some && digits(whole) && digits(fraction)
}

/// As `parse`, of a text that must be JSON (RFC 8259).
///
/// # Errors
/// As `parse`.
pub(crate) fn parse_json(text: &str) -> Result<Vec<Value>, Refusal> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let lines = text
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1));
        let offset = lines.map(str::len).sum::<usize>() + error.column().saturating_sub(1);
        let message = error.to_string();
        let reason = message.split(" at line ").next().unwrap_or_default();
        return Err((offset.min(text.len()), format!("not valid JSON: {reason}")));
    }
    parse(text).map_err(|(offset, reason)| (offset, reason.replace("not valid YAML", "not read")))
}

#[cfg(test)]
mod tests;
