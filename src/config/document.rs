//! A file as a tree that keeps the place of every key and value, in the order of the file.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::config::place::{Place, Problems};

/// One parsed file.
#[derive(Debug)]
pub(crate) struct Document {
    /// Index of the file.
    pub(crate) file: usize,
    /// Top-level entries.
    pub(crate) root: Value,
    /// The file has syntax errors; what is missing in the tree may be written in the file.
    pub(crate) damaged: bool,
}

/// A value.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// Byte offset of the value; of the key or header for a table that is opened by one.
    pub(crate) offset: usize,
    pub(crate) kind: Kind,
    /// The key path as its author wrote it, where the value stands elsewhere in the tree (`import`).
    pub(crate) path: Option<Arc<str>>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Not written at all, and asked for by `import` where the author would have written it.
    Missing,
    /// YAML's and JSON's null.
    Null,
    Text(String),
    /// `None` if it does not fit 64 bits.
    Integer(Option<i64>),
    Float,
    Boolean(bool),
    Datetime,
    List(Vec<Value>),
    Table(Vec<Entry>),
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Byte offset of the key.
    pub(crate) offset: usize,
    pub(crate) value: Value,
}

impl Kind {
    /// For messages: "expected a string, found {name}".
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Null => "nothing",
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Float => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Datetime => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Value {
    /// A value that stands where it was written.
    pub(crate) fn new(offset: usize, kind: Kind) -> Self {
        Self {
            offset,
            kind,
            path: None,
        }
    }

    /// Entry `key` if this is a table that has it.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Table(entries) => entries.iter().find(|e| e.key == key),
            Kind::Missing
            | Kind::Null
            | Kind::Text(_)
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::List(_) => None,
        }
    }

    /// The text if this is a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Missing
            | Kind::Null
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::List(_)
            | Kind::Table(_) => None,
        }
    }

    /// The elements if this is a list.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.kind {
            Kind::List(items) => items,
            Kind::Missing
            | Kind::Null
            | Kind::Text(_)
            | Kind::Integer(_)
            | Kind::Float
            | Kind::Boolean(_)
            | Kind::Datetime
            | Kind::Table(_) => &[],
        }
    }
}

impl Document {
    /// Parses the TOML of file number `file`; syntax errors go to `out`.
    pub(crate) fn toml(file: usize, text: &str, out: &mut Problems) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut last = None;
        for error in &errors {
            let offset = error.span().map_or(0, |span| span.start);
            let message = error.message();
            // What follows on the same line is mostly the parser finding its feet again.
            let line = text
                .get(..offset)
                .map(|before| before.matches('\n').count());
            if last.replace(line) == Some(line) {
                continue;
            }
            let place = Place {
                offset,
                ..Place::top(file)
            };
            let name = error.span().and_then(|span| text.get(span));
            match (message, name) {
                ("duplicate key", Some(name)) => out.syntax(
                    place.key(name, offset),
                    "is written already, expected once".to_owned(),
                ),
                _ => out.syntax(place, format!("not valid TOML: {message}")),
            }
        }
        let root = Value::new(0, Kind::Table(entries(table.get_ref())));
        Self {
            file,
            root,
            damaged: !errors.is_empty(),
        }
    }
}

fn entries(table: &DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| {
            let offset = key.span().start;
            let mut value = Value::new(value.span().start, kind(value.get_ref()));
            // Dotted keys and headers make tables that have no place of their own.
            if matches!(value.kind, Kind::Table(_)) {
                value.offset = offset;
            }
            Entry {
                key: key.get_ref().to_string(),
                offset,
                value,
            }
        })
        .collect();
    entries.sort_by_key(|e| e.offset);
    entries
}

fn kind(value: &DeValue<'_>) -> Kind {
    match value {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(n) => Kind::Integer(i64::from_str_radix(n.as_str(), n.radix()).ok()),
        DeValue::Float(_) => Kind::Float,
        DeValue::Boolean(b) => Kind::Boolean(*b),
        DeValue::Datetime(_) => Kind::Datetime,
        DeValue::Array(items) => {
            let item =
                |v: &toml::Spanned<DeValue<'_>>| Value::new(v.span().start, kind(v.get_ref()));
            Kind::List(items.iter().map(item).collect())
        }
        DeValue::Table(table) => Kind::Table(entries(table)),
    }
}
