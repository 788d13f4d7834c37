//! From what the file says (`raw`) to what the program runs on (`checked`), with every problem at once.
//!
//! `load` reads the files, `document` parses TOML and keeps every position, `raw` gives each table its keys and types,
//! `check` judges values and references. All but `load` and `secret` are pure.

mod check;
pub mod checked;
mod document;
pub mod load;
mod nearest;
mod place;
pub mod problem;
mod raw;
mod read;
pub mod secret;

use std::path::{Path, PathBuf};

pub use checked::Config;
pub use load::{load, load_files};
pub use problem::{ConfigErrors, Problem};

use crate::config::document::Document;
use crate::config::place::Problems;

/// Parses and checks a whole configuration that is already in memory; the first file is the main file, the others are
/// mesh files and may hold mesh resources only. A relative path in a file starts at that file's directory, which
/// itself starts at `base`.
///
/// # Errors
/// Every problem of every file, in the order of the files and lines.
pub fn parse(files: &[(PathBuf, String)], base: &Path) -> Result<Config, ConfigErrors> {
    let mut out = Problems::default();
    let documents: Vec<Document> = files
        .iter()
        .enumerate()
        .map(|(index, (_, text))| Document::parse(index, text, &mut out))
        .collect();
    let dirs = files
        .iter()
        .map(|(path, _)| base.join(path.parent().unwrap_or_else(|| Path::new(""))))
        .collect();
    let config = check::check(&documents, dirs, &mut out);
    let places = out.policies(files);
    let (errors, warnings) = out.located(files);
    match config {
        Some((process, mesh)) if errors.is_empty() => Ok(Config {
            process,
            mesh: mesh.into(),
            warnings,
            sources: files.iter().map(|(path, _)| path.clone()).collect(),
            places,
        }),
        Some(_) | None => Err(ConfigErrors::new(errors)),
    }
}
