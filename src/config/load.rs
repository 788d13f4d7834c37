//! Reading a configuration from disk. Everything but the reading is in `parse`.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::checked::Config;
use crate::config::document::Document;
use crate::config::place::{Problems, position};
use crate::config::problem::{ConfigErrors, Problem};
use crate::config::{Options, parse_with};

/// Largest configuration file, in bytes.
const FILE_BYTES: u64 = 16 << 20;
/// Files of the mesh directory that are read: our own dialect, and Istio's resources.
pub const EXTENSIONS: [&str; 4] = ["toml", "yaml", "yml", "json"];
/// Most mesh files.
const FILES: usize = 4096;

/// Reads and checks the main file and every mesh file of its `process.meshDir`: `*.toml`, and `*.yaml`, `*.yml` and
/// `*.json` with Istio's resources.
///
/// # Errors
/// Every problem of every file at once; a file that cannot be read is one.
pub fn load(main: &Path) -> Result<Config, ConfigErrors> {
    load_with(main, &[], Options::default())
}

/// As `load`, with more mesh files (or directories of them) and `options`.
///
/// # Errors
/// As `load`.
pub fn load_with(main: &Path, more: &[PathBuf], options: Options) -> Result<Config, ConfigErrors> {
    let text = read(main).map_err(|problem| ConfigErrors::new(vec![problem]))?;
    let mut files = vec![(main.to_owned(), text)];
    let mut problems = Vec::new();
    if let Some((dir, offset)) = files.first().and_then(|(path, text)| mesh_dir(path, text)) {
        match (list(&dir), files.first()) {
            (Ok(paths), _) => read_into(paths, &mut files, &mut problems),
            (Err(problem), Some((path, text))) if problem.file == dir => problems.push(Problem {
                file: path.clone(),
                position: Some(position(text, offset)),
                key: "process.meshDir".to_owned(),
                message: format!("`{}` {}", dir.display(), problem.message),
            }),
            (Err(problem), _) => problems.push(problem),
        }
    }
    add(more, &mut files, &mut problems);
    match parse_with(&files, Path::new(""), options) {
        Ok(config) if problems.is_empty() => Ok(config),
        Ok(_) => Err(ConfigErrors::new(problems)),
        Err(errors) => {
            problems.extend_from_slice(errors.problems());
            Err(ConfigErrors::new(problems))
        }
    }
}

/// `admin.listen` of a file whose other settings may be refused; nothing where it cannot be found.
#[must_use]
pub fn admin_listen(main: &Path) -> Option<SocketAddr> {
    let text = read(main).ok()?;
    let document = Document::toml(0, &text, &mut Problems::default());
    let listen = document.root.entry("admin")?.value.entry("listen")?;
    listen.value.text()?.parse().ok()
}

/// The texts of mesh files; of a directory, of those in it that are read.
///
/// # Errors
/// Every file that cannot be read.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, ConfigErrors> {
    let (mut files, mut problems) = (Vec::new(), Vec::new());
    add(paths, &mut files, &mut problems);
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(ConfigErrors::new(problems))
    }
}

fn add(paths: &[PathBuf], files: &mut Vec<(PathBuf, String)>, problems: &mut Vec<Problem>) {
    for path in paths {
        if !path.is_dir() {
            read_into(vec![path.clone()], files, problems);
            continue;
        }
        match list(path) {
            Ok(found) => read_into(found, files, problems),
            Err(problem) => problems.push(problem),
        }
    }
}

fn read_into(paths: Vec<PathBuf>, files: &mut Vec<(PathBuf, String)>, problems: &mut Vec<Problem>) {
    for path in paths {
        match read(&path) {
            Ok(text) => files.push((path, text)),
            Err(problem) => problems.push(problem),
        }
    }
}

/// What to watch for changes: the main file, and the mesh directory with each file that is in it now.
#[must_use]
pub fn load_files(main: &Path) -> Vec<PathBuf> {
    let mut paths = vec![main.to_owned()];
    let dir = read(main).ok().and_then(|text| mesh_dir(main, &text));
    if let Some((dir, _offset)) = dir {
        paths.extend(list(&dir).unwrap_or_default());
        paths.push(dir);
    }
    paths
}

/// `process.meshDir` of the main file, whatever else is wrong with it, and the byte where it is written.
fn mesh_dir(main: &Path, text: &str) -> Option<(PathBuf, usize)> {
    let document = Document::toml(0, text, &mut Problems::default());
    let entry = document.root.entry("process")?.value.entry("meshDir")?;
    let dir = entry.value.text()?;
    let base = main.parent().unwrap_or_else(|| Path::new(""));
    (!dir.is_empty()).then(|| (base.join(dir), entry.offset))
}

/// The files of a directory that are read, by name.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let failed = |e: std::io::Error| whole_file(dir, &unread(dir, &e));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
        match path.extension().and_then(|e| e.to_str()) {
            Some(extension) if !hidden && EXTENSIONS.contains(&extension) => paths.push(path),
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
    let failed = |e: std::io::Error| whole_file(path, &unread(path, &e));
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

/// Why a file or directory cannot be read, to go on after its name. Where that is not permitted: as whom this process runs,
/// and whose the file is, or the directory that does not let it through.
#[must_use]
pub fn unread(path: &Path, error: &std::io::Error) -> String {
    let mut told = format!("cannot be read: {error}");
    if error.kind() == ErrorKind::PermissionDenied {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        told.push_str(&format!(", as uid {uid} and gid {gid}"));
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // The deepest of which anything is known: what is below it is out of reach.
        if let Some((deepest, found)) = absolute
            .ancestors()
            .find_map(|path| Some((path, path.metadata().ok()?)))
        {
            let (uid, gid, mode) = (found.uid(), found.gid(), found.mode() & 0o7777);
            let what = if deepest == absolute {
                "it".to_owned()
            } else {
                format!("`{}`", deepest.display())
            };
            told.push_str(&format!(
                "; {what} is of uid {uid} and gid {gid}, mode {mode:03o}"
            ));
        }
    }
    told
}

fn whole_file(path: &Path, message: &str) -> Problem {
    Problem {
        file: path.to_owned(),
        position: None,
        key: String::new(),
        message: message.to_owned(),
    }
}
