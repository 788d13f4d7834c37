//! What a file given to the command is: cases, a key set, trust bundles, or none of these.

use std::path::Path;

use serde_json::Value;

use crate::cli::os;

/// Most bytes of a test file.
const FILE_BYTES: usize = 64 << 20;

/// A file by its content.
#[derive(Debug)]
pub(super) enum TestFile {
    /// JSON lines.
    Lines(Vec<Line>),
    /// TOML tests.
    Toml(String),
    /// A JWKS document, or keys by name.
    KeySet,
    /// PEM roots by trust domain.
    Bundles,
    /// Nothing that holds cases: why.
    Other(String),
}

/// One line that is not empty.
#[derive(Debug)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    /// The case, or why it is none.
    pub(super) case: Result<Value, String>,
}

/// Reads and recognises a file.
pub(super) fn read(path: &Path) -> anyhow::Result<TestFile> {
    if path.is_dir() {
        let why = "a directory, passed over; name its files";
        return Ok(TestFile::Other(why.to_owned()));
    }
    let standard_input = path.as_os_str() == "-";
    let path = if standard_input {
        Path::new("/dev/stdin")
    } else {
        path
    };
    let bytes = os::read(path)?;
    anyhow::ensure!(
        bytes.len() <= FILE_BYTES,
        "`{}` is larger than 64 MiB",
        path.display()
    );
    let text = String::from_utf8(bytes)
        .map_err(|error| anyhow::anyhow!("`{}` is not UTF-8: {error}", path.display()))?;
    Ok(recognise(path, &text))
}

fn recognise(path: &Path, text: &str) -> TestFile {
    if let Ok(whole) = serde_json::from_str::<Value>(text)
        && let Some(kind) = keys_or_bundles(&whole)
    {
        return kind;
    }
    if text.trim_start().starts_with('{') {
        return TestFile::Lines(lines(text));
    }
    let extension = path.extension().and_then(|e| e.to_str());
    match extension {
        Some("toml") => TestFile::Toml(text.to_owned()),
        Some("jsonl" | "json") => TestFile::Lines(lines(text)),
        Some(_) | None => TestFile::Other("neither JSON lines nor TOML, passed over".to_owned()),
    }
}

/// A document that stands beside cases.
fn keys_or_bundles(document: &Value) -> Option<TestFile> {
    let map = document.as_object()?;
    if map.contains_key("kind") || map.contains_key("rule") {
        return None;
    }
    if map
        .get("keys")
        .is_some_and(|keys| keys.is_array() || keys.is_object())
    {
        return Some(TestFile::KeySet);
    }
    let roots = |value: &Value| {
        let pem = |v: &Value| v.as_str().is_some_and(|s| s.starts_with("-----BEGIN"));
        value
            .as_array()
            .is_some_and(|list| !list.is_empty() && list.iter().all(pem))
    };
    (!map.is_empty() && map.values().all(roots)).then_some(TestFile::Bundles)
}

fn lines(text: &str) -> Vec<Line> {
    let numbered = text.lines().enumerate();
    let written = numbered.filter(|(_, line)| !line.trim().is_empty());
    let parse = |(at, line): (usize, &str)| Line {
        number: at + 1,
        case: match serde_json::from_str::<Value>(line) {
            Ok(case @ Value::Object(_)) => Ok(case),
            Ok(_) => Err("not a JSON object".to_owned()),
            Err(error) => Err(format!("not JSON: {error}")),
        },
    };
    written.map(parse).collect()
}
