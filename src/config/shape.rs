//! What a configuration may hold, as data: every table, its keys, their types, defaults and sentences. `table!` makes it
//! from the tables themselves, so that what is described is what is read.

/// What stands where a value is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A string. `pattern` is a regular expression of ECMA-262, `sample` a value.
    Text {
        pattern: Option<&'static str>,
        sample: &'static str,
    },
    /// An integer from `min` to `max`.
    Integer { min: i64, max: i64 },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Words(Vec<&'static str>),
    /// One of several.
    Either(Vec<Self>),
    /// A list of `item`.
    List { item: Box<Self>, may_be_empty: bool },
    /// A table whose keys are the operator's own.
    Map(Box<Self>),
    /// A table with the keys that it names.
    Table(Box<TableShape>),
    /// Nothing is known of it: of types that no configuration holds.
    Any,
}

/// A table with a fixed set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableShape {
    /// Name of its type, which no other table has.
    pub(crate) name: &'static str,
    /// Its keys, in their order.
    pub(crate) keys: Vec<KeyShape>,
}

/// A key of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyShape {
    /// As it is written.
    pub(crate) key: &'static str,
    /// Lines of the comment at its field; `Default:` and `Example:` begin lines of their own.
    pub(crate) comment: &'static str,
    /// Whether the table is refused without it.
    pub(crate) required: bool,
    /// What a value is, as in "expected a string".
    pub(crate) expected: &'static str,
    /// What a value is.
    pub(crate) shape: Shape,
}

/// Lines of a comment that say what holds without the key, and what a value looks like.
const DEFAULT: &str = "Default: ";
const EXAMPLE: &str = "Example: ";

impl Shape {
    /// A string that is not empty.
    pub(crate) fn text() -> Self {
        Self::Text {
            pattern: Some(r"^[^\x00-\x1f\x7f-\x9f]+$"),
            sample: "",
        }
    }

    /// Those of `words` that `expected` names: others are Istio's, taken in to be refused by a better message.
    pub(crate) fn words(expected: &str, words: &[&'static str]) -> Self {
        let named = |word: &&'static str| {
            let mut all = expected.split([' ', ',']);
            all.any(|part| part == *word)
        };
        Self::Words(words.iter().copied().filter(named).collect())
    }

    /// The table that this is, or a list or map of; and how a header for it begins.
    pub(crate) fn table(&self) -> Option<(Header, &TableShape)> {
        let (header, inner) = match self {
            Self::Table(_) => (Header::Single, self),
            Self::List { item, .. } => (Header::List, item.as_ref()),
            Self::Map(value) => (Header::Named, value.as_ref()),
            Self::Text { .. }
            | Self::Integer { .. }
            | Self::Boolean
            | Self::Words(_)
            | Self::Either(_)
            | Self::Any => return None,
        };
        if let Self::Table(table) = inner {
            Some((header, table))
        } else {
            None
        }
    }

    /// A value in TOML.
    pub(crate) fn sample(&self) -> String {
        match self {
            Self::Text { sample, .. } => format!("\"{sample}\""),
            Self::Integer { min, .. } => (*min).max(1).to_string(),
            Self::Boolean => "true".to_owned(),
            Self::Words(words) => format!("\"{}\"", words.first().copied().unwrap_or_default()),
            Self::Either(shapes) => shapes.first().map(Self::sample).unwrap_or_default(),
            Self::List { item, .. } => format!("[{}]", item.sample()),
            Self::Map(value) => format!("{{ app = {} }}", value.sample()),
            Self::Table(_) | Self::Any => String::new(),
        }
    }
}

/// How the header of a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Header {
    /// `[a]`
    Single,
    /// `[[a]]`
    List,
    /// `[a.NAME]`
    Named,
}

impl KeyShape {
    fn lines(&self) -> impl Iterator<Item = &'static str> {
        self.comment
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    }

    /// What the key is for, in one line.
    pub(crate) fn sentence(&self) -> String {
        let lines = self
            .lines()
            .filter(|line| !line.starts_with(DEFAULT) && !line.starts_with(EXAMPLE));
        lines.collect::<Vec<_>>().join(" ")
    }

    fn labelled(&self, label: &str) -> Option<&'static str> {
        self.lines().find_map(|line| line.strip_prefix(label))
    }

    /// What holds without it: TOML in backticks, or words.
    pub(crate) fn default(&self) -> Option<&'static str> {
        self.labelled(DEFAULT)
    }

    /// The default, if it is a value that can be written.
    pub(crate) fn default_value(&self) -> Option<&'static str> {
        let inner = self.default()?.strip_prefix('`')?.strip_suffix('`')?;
        (!inner.contains('`')).then_some(inner)
    }

    /// A value to write, in TOML.
    pub(crate) fn sample(&self) -> String {
        let written = self.labelled(EXAMPLE).map(|text| text.trim_matches('`'));
        written
            .or_else(|| self.default_value())
            .map_or_else(|| self.shape.sample(), str::to_owned)
    }
}
