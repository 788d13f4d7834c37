//! Reading a configuration from disk. Everything but the reading is in `parse`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::checked::Config;
use crate::config::document::Document;
use crate::config::parse;
use crate::config::place::Problems;
use crate::config::problem::{ConfigErrors, Problem};

/// Largest configuration file, in bytes.
const FILE_BYTES: u64 = 16 << 20;
/// Most mesh files.
const FILES: usize = 4096;

/// Reads and checks the main file and every `*.toml` of its `process.meshDir`.
///
/// # Errors
/// Every problem of every file at once; a file that cannot be read is one.
pub fn load(main: &Path) -> Result<Config, ConfigErrors> {
    let text = read(main).map_err(|problem| ConfigErrors::new(vec![problem]))?;
    let mut files = vec![(main.to_owned(), text)];
    let mut problems = Vec::new();
    if let Some(dir) = files.first().and_then(|(path, text)| mesh_dir(path, text)) {
        match list(&dir) {
            Ok(paths) => {
                for path in paths {
                    match read(&path) {
                        Ok(text) => files.push((path, text)),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    match parse(&files, Path::new("")) {
        Ok(config) if problems.is_empty() => Ok(config),
        Ok(_) => Err(ConfigErrors::new(problems)),
        Err(errors) => {
            problems.extend_from_slice(errors.problems());
            Err(ConfigErrors::new(problems))
        }
    }
}

/// What to watch for changes: the main file, and the mesh directory with each file that is in it now.
#[must_use]
pub fn load_files(main: &Path) -> Vec<PathBuf> {
    let mut paths = vec![main.to_owned()];
    if let Some(dir) = read(main).ok().and_then(|text| mesh_dir(main, &text)) {
        paths.extend(list(&dir).unwrap_or_default());
        paths.push(dir);
    }
    paths
}

/// `process.meshDir` of the main file, whatever else is wrong with it.
fn mesh_dir(main: &Path, text: &str) -> Option<PathBuf> {
    let document = Document::toml(0, text, &mut Problems::default());
    let dir = document
        .root
        .entry("process")?
        .value
        .entry("meshDir")?
        .value
        .text()?
        .to_owned();
    (!dir.is_empty()).then(|| main.parent().unwrap_or_else(|| Path::new("")).join(dir))
}

/// The `*.toml` files of a directory by name; a YAML file is a problem, as it may hold a policy that would be missed.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let failed = |e: std::io::Error| whole_file(dir, &format!("cannot be read: {e}"));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        match path.extension().and_then(|e| e.to_str()) {
            Some("toml") if !hidden => paths.push(path),
            Some("yaml" | "yml") if !hidden => {
                return Err(whole_file(
                    &path,
                    "Istio YAML is not supported yet; nothing in it would be enforced",
                ));
            }
            Some(_) | None => {}
        }
        if paths.len() > FILES {
            return Err(whole_file(dir, &format!("more than {FILES} files")));
        }
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, Problem> {
    let failed = |e: std::io::Error| whole_file(path, &format!("cannot be read: {e}"));
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(failed)?
        .take(FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|n| n > FILE_BYTES) {
        return Err(whole_file(path, "larger than 16 MiB"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        whole_file(path, &format!("not UTF-8 at byte {at}"))
    })
}

fn whole_file(path: &Path, message: &str) -> Problem {
    Problem {
        file: path.to_owned(),
        position: None,
        key: String::new(),
        message: message.to_owned(),
    }
}
