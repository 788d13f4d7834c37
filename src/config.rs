//! From what the file says (`raw`) to what the program runs on (`checked`), with every problem at once.
//!
//! `load` reads the files, `document` parses TOML and keeps every position, `yaml` and `import` bring Istio's own
//! resources into the same shape, `raw` gives each table its keys and types, `check` judges values and references. All
//! but `load` and `secret` are pure.

mod check;
pub mod checked;
pub(crate) mod document;
mod emit;
mod import;
mod lints;
pub mod load;
pub(crate) mod nearest;
pub(crate) mod place;
pub mod problem;
mod raw;
pub(crate) mod read;
pub mod reference;
pub mod schema;
pub mod secret;
pub(crate) mod shape;
mod yaml;

use std::path::{Path, PathBuf};

pub use checked::Config;
pub use lints::Depth;
pub use load::{admin_listen, load, load_files, load_with, read_files};
pub use problem::{ConfigErrors, Lint, Problem};

use crate::config::checked::{Mesh, Process};
use crate::config::document::Document;
use crate::config::import::Form;
use crate::config::place::Problems;

/// How files are taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A resource of a kind that is not read is a problem; otherwise all of them are listed in one warning a file.
    pub strict_import: bool,
    /// The files are a part of a mesh: what they refer to may stand elsewhere, so that a gateway, service or provider
    /// that is not in them is no problem, and neither is a policy that attaches to none of theirs.
    pub partial: bool,
    /// How much the lints of policies look at.
    pub lints: Depth,
}

/// Mesh resources without a process.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Everything that was read, with defaults where `[mesh]` is not in the files.
    pub mesh: Mesh,
    /// Accepted, but probably not meant.
    pub warnings: Vec<Problem>,
    /// What the policies say that is probably not meant.
    pub lints: Vec<Lint>,
}

/// Parses and checks a whole configuration that is already in memory; the first file is the main file, the others are
/// mesh files and may hold mesh resources only. A file named `*.yaml`, `*.yml` or `*.json` holds Istio resources, any
/// other one is TOML. A relative path in a file starts at that file's directory, which itself starts at `base`.
///
/// # Errors
/// Every problem of every file, in the order of the files and lines.
pub fn parse(files: &[(PathBuf, String)], base: &Path) -> Result<Config, ConfigErrors> {
    parse_with(files, base, Options::default())
}

/// As `parse`, with `options`.
///
/// # Errors
/// As `parse`.
pub fn parse_with(
    files: &[(PathBuf, String)],
    base: &Path,
    options: Options,
) -> Result<Config, ConfigErrors> {
    let mut out = Problems::default();
    let documents = documents(files, options, &mut out);
    let config: Option<(Process, Mesh)> =
        check::check(&documents, dirs(files, base), options, &mut out);
    if let Some((_, mesh)) = &config {
        lints::mesh(mesh, &documents, options.lints, &mut out);
    }
    let places = out.policies(files);
    let named = out.named_files(files);
    let listeners = out.named_listeners(files);
    let hosts = match options.lints {
        Depth::Full => out.named_hosts(files),
        Depth::None | Depth::Single => Vec::new(),
    };
    let found = out.located(files);
    match config {
        Some((process, mesh)) if found.errors.is_empty() => Ok(Config {
            process,
            mesh: mesh.into(),
            warnings: found.warnings,
            lints: found.lints,
            sources: files.iter().map(|(path, _)| path.clone()).collect(),
            places,
            files: named,
            listeners,
            hosts,
        }),
        Some(_) | None => Err(ConfigErrors::new(found.errors)),
    }
}

/// Parses and checks mesh resources alone, of every form that `parse` knows; no file may hold a process.
///
/// # Errors
/// As `parse`.
pub fn parse_resources(
    files: &[(PathBuf, String)],
    base: &Path,
    options: Options,
) -> Result<Resources, ConfigErrors> {
    let mut out = Problems::default();
    let documents = documents(files, options, &mut out);
    let mesh = check::check_resources(&documents, dirs(files, base), options, &mut out);
    if let Some(mesh) = &mesh {
        lints::mesh(mesh, &documents, options.lints, &mut out);
    }
    let found = out.located(files);
    match mesh {
        Some(mesh) if found.errors.is_empty() => Ok(Resources {
            mesh,
            warnings: found.warnings,
            lints: found.lints,
        }),
        Some(_) | None => Err(ConfigErrors::new(found.errors)),
    }
}

/// The resources of Istio's files in our TOML dialect, file by file; TOML is left as it is.
///
/// # Errors
/// As `parse_resources`; what is refused is not converted.
pub fn to_toml(files: &[(PathBuf, String)], options: Options) -> Result<String, ConfigErrors> {
    parse_resources(files, Path::new(""), options)?;
    let mut out = Problems::default();
    let converted: Vec<String> = files
        .iter()
        .zip(documents(files, options, &mut out))
        .map(|((path, text), document)| match form(path) {
            Some(_) => emit::toml(&document),
            None => text.clone(),
        })
        .filter(|text| !text.is_empty())
        .collect();
    Ok(converted.join("\n"))
}

/// Whether a file describes a process, so that it can be the main file.
#[must_use]
pub fn is_main(path: &Path, text: &str) -> bool {
    let has = |document: Document| {
        raw::PROCESS_KEYS
            .iter()
            .any(|key| document.root.entry(key).is_some())
    };
    form(path).is_none() && has(Document::toml(0, text, &mut Problems::default()))
}

fn documents(files: &[(PathBuf, String)], options: Options, out: &mut Problems) -> Vec<Document> {
    let document = |(index, (path, text)): (usize, &(PathBuf, String))| match form(path) {
        Some(form) => import::document(index, form, text, options.strict_import, out),
        None => Document::toml(index, text, out),
    };
    files.iter().enumerate().map(document).collect()
}

/// The form of a file in Istio's own words, by its name.
fn form(path: &Path) -> Option<Form> {
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Form::Yaml),
        "json" => Some(Form::Json),
        _ => None,
    }
}

fn dirs(files: &[(PathBuf, String)], base: &Path) -> Vec<PathBuf> {
    files
        .iter()
        .map(|(path, _)| base.join(path.parent().unwrap_or_else(|| Path::new(""))))
        .collect()
}
