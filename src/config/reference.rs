//! The reference of the configuration: every key with its type, its default and a sentence, as TOML in comments.

use crate::config::raw::File;
use crate::config::read::{Read, TABLE};
use crate::config::shape::{Header, KeyShape, Shape, TableShape};

const HEAD: &str = "\
# Reference of the configuration of ringgate: every key that is read. `ringgate config reference` prints it.
#
# Lines that begin with `#` alone are settings, with their default where they have one; lines that begin with `# ` say what
# they are for. A key that is not here is refused. What describes the mesh may also stand in files of `process.meshDir`.
";

/// Where a paragraph is broken.
const WIDTH: usize = 118;

/// A key or table on its way through the configuration.
pub(crate) enum Item<'s> {
    /// A table begins, and its keys follow.
    Table {
        header: Header,
        /// `node.capture`
        path: &'s str,
        /// The key that it is the value of.
        key: &'s KeyShape,
    },
    /// A key of the table that began last.
    Key(&'s KeyShape),
}

/// The reference, as text.
#[must_use]
pub fn reference() -> String {
    let mut out = HEAD.to_owned();
    walk(&mut |item| match item {
        Item::Table { header, path, key } => {
            out.push('\n');
            paragraph(&mut out, &key.sentence());
            let line = header_line(header, path);
            out.push_str(&format!("#{line}\n"));
        }
        Item::Key(key) => {
            out.push('\n');
            paragraph(&mut out, &key.sentence());
            paragraph(&mut out, &terms(key));
            out.push_str(&format!("#{} = {}\n", key.key, key.sample()));
        }
    });
    out
}

/// The header of the table at `path`.
pub(crate) fn header_line(header: Header, path: &str) -> String {
    match header {
        Header::Single => format!("[{path}]"),
        Header::List => format!("[[{path}]]"),
        Header::Named => format!("[{path}.NAME]"),
    }
}

/// Type and default of a key.
pub(crate) fn terms(key: &KeyShape) -> String {
    let mut text = match &key.shape {
        Shape::List { item, .. } => format!("A list, each element {}", expected(item)),
        Shape::Map(value) => format!("A table of names, each value {}", expected(value)),
        Shape::Text { .. }
        | Shape::Integer { .. }
        | Shape::Boolean
        | Shape::Words(_)
        | Shape::Either(_)
        | Shape::Table(_)
        | Shape::Any => capitalized(key.expected),
    };
    match key.default_value().or_else(|| key.default()) {
        _ if key.required => text.push_str("; required"),
        Some(default) => text.push_str(&format!("; default {default}")),
        None => {}
    }
    text.push('.');
    text
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Words(words) => format!("one of {}", words.join(", ")),
        Shape::Integer { min, max } => format!("an integer from {min} to {max}"),
        Shape::Either(shapes) => {
            let all: Vec<String> = shapes.iter().map(expected).collect();
            all.join(" or ")
        }
        Shape::Text { sample: "", .. } => "a string".to_owned(),
        Shape::Text { sample, .. } => format!("a string such as \"{sample}\""),
        Shape::Boolean => "true or false".to_owned(),
        Shape::List { .. } => "a list".to_owned(),
        Shape::Map(_) | Shape::Table(_) | Shape::Any => TABLE.to_owned(),
    }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn paragraph(out: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.len().saturating_add(word.len()) >= WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        out.push_str(&line);
        out.push('\n');
    }
}

/// Goes through every table and key, a table's own keys before the tables in it.
pub(crate) fn walk(see: &mut dyn FnMut(Item<'_>)) {
    if let Shape::Table(file) = File::shape() {
        inside(&file, "", see);
    }
}

fn inside(table: &TableShape, path: &str, see: &mut dyn FnMut(Item<'_>)) {
    for key in table.keys.iter().filter(|key| key.shape.table().is_none()) {
        see(Item::Key(key));
    }
    for key in &table.keys {
        let Some((header, inner)) = key.shape.table() else {
            continue;
        };
        let path = if path.is_empty() {
            key.key.to_owned()
        } else {
            format!("{path}.{}", key.key)
        };
        see(Item::Table {
            header,
            path: &path,
            key,
        });
        let below = match header {
            Header::Single | Header::List => path,
            Header::Named => format!("{path}.NAME"),
        };
        inside(inner, &below, see);
    }
}

/// The manual page ringgate.toml(5), as roff.
#[must_use]
pub fn manual() -> String {
    let mut out = String::from(MANUAL_HEAD);
    walk(&mut |item| match item {
        Item::Table { header, path, key } => {
            let line = roff(&header_line(header, path));
            out.push_str(&format!(".SH \"{line}\"\n{}\n", roff(&key.sentence())));
        }
        Item::Key(key) => {
            let (name, sentence) = (roff(key.key), roff(&key.sentence()));
            let terms = roff(&terms(key));
            out.push_str(&format!(".TP\n.B {name}\n{sentence}\n.br\n{terms}\n"));
        }
    });
    out.push_str(MANUAL_TAIL);
    out
}

const MANUAL_HEAD: &str = r#".TH ringgate.toml 5 "" "" "ringgate"
.SH NAME
ringgate.toml \- configuration of ringgate
.SH DESCRIPTION
One TOML file describes a process, its roles and the mesh. The tables
.BR process ", " records ", " admin ", " metrics ", " readiness ", " limits ", " tcp ", " authority ,
.BR identity ", " identityFiles ", " workloadApi ", " node ", " waypoint ", " ingress " and " egress
are of the process and read when it starts; all others are of the mesh, may also stand in the directory that
.B process.meshDir
names, and are read again whenever a file changes. A key that is not here is refused.
.B ringgate check
reports every problem with file, line and key.
.PP
A secret is written as
.BR file: PATH,
.BR env: NAME
or
.BR cred: NAME
(a credential of the systemd unit). A relative path starts at the directory of the file that it stands in.
"#;

const MANUAL_TAIL: &str = "\
.SH FILES
.TP
.I /etc/ringgate/ringgate.toml
The configuration that commands read without
.BR \\-\\-config .
.SH \"SEE ALSO\"
.BR ringgate (1),
.BR ringgate\\-check (1)
";

/// Text that roff takes as it is.
fn roff(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('"', "\\(dq")
        .replace('\'', "\\(aq");
    if text.starts_with('.') {
        format!("\\&{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests;
