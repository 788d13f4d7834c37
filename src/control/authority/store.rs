//! The authority's state directory: made in one step, held by one process, never repaired by guessing.
//!
//! `ca/` appears by one rename with every file in it, so a crash during the first start leaves no half of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::AuthorityError;

pub(super) const ROOT: &str = "root.pem";
pub(super) const ROOT_KEY: &str = "root-key.pem";
pub(super) const ISSUING: &str = "issuing.pem";
pub(super) const TOKEN_KEY: &str = "token-key.pem";

const STATE: &str = "ca";
const STATE_NEW: &str = ".ca.new";
const LOCK: &str = "lock";
/// No file of the state is longer.
const FILE_BYTES: u64 = 64 * 1024;

/// An open state directory; the lock lasts as long as the value.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

/// The state as PEM texts.
pub(super) struct Files {
    pub(super) root: String,
    pub(super) root_key: String,
    /// Certificate and key.
    pub(super) issuing: String,
    pub(super) token_key: String,
}

impl Store {
    /// Makes the directory (mode 700) if need be and takes its lock.
    pub(super) fn open(dir: &Path) -> Result<Self, AuthorityError> {
        make_dir(dir).map_err(|e| failed(dir, e))?;
        let lock_path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| failed(&lock_path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(AuthorityError::Locked(dir.to_owned())),
            Err(fs::TryLockError::Error(e)) => Err(failed(&lock_path, e)),
        }
    }

    /// Where a file of the state is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(STATE).join(name)
    }

    /// The state, or `None` before the first start.
    pub(super) fn load(&self) -> Result<Option<Files>, AuthorityError> {
        let state = self.dir.join(STATE);
        match fs::symlink_metadata(&state) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(&state, e)),
        }
        Ok(Some(Files {
            root: read(&self.path(ROOT))?,
            root_key: read_private(&self.path(ROOT_KEY))?,
            issuing: read_private(&self.path(ISSUING))?,
            token_key: read_private(&self.path(TOKEN_KEY))?,
        }))
    }

    /// Writes the first state.
    pub(super) fn create(&self, files: &Files) -> Result<(), AuthorityError> {
        let new = self.dir.join(STATE_NEW);
        // Left by a crash before the rename: nothing was ever issued with it, and the lock says nobody writes it.
        match fs::remove_dir_all(&new) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&new, e)),
        }
        make_dir(&new).map_err(|e| failed(&new, e))?;
        for (name, text) in [
            (ROOT, &files.root),
            (ROOT_KEY, &files.root_key),
            (ISSUING, &files.issuing),
            (TOKEN_KEY, &files.token_key),
        ] {
            let path = new.join(name);
            write_new(&path, text).map_err(|e| failed(&path, e))?;
        }
        sync_dir(&new)?;
        let state = self.dir.join(STATE);
        fs::rename(&new, &state).map_err(|e| failed(&state, e))?;
        sync_dir(&self.dir)
    }

    /// Replaces the issuing CA by one rename.
    pub(super) fn replace_issuing(&self, text: &str) -> Result<(), AuthorityError> {
        let path = self.path(ISSUING);
        let new = self.path(".issuing.new");
        match fs::remove_file(&new) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&new, e)),
        }
        write_new(&new, text).map_err(|e| failed(&new, e))?;
        fs::rename(&new, &path).map_err(|e| failed(&path, e))?;
        sync_dir(&self.dir.join(STATE))
    }
}

fn failed(path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::Io {
        path: path.to_owned(),
        source,
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> Result<(), AuthorityError> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|e| failed(dir, e))
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(AuthorityError::Incomplete(path.to_owned()));
        }
        Err(e) => return Err(failed(path, e)),
    };
    let mut text = String::new();
    file.take(FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(|e| failed(path, e))?;
    Ok(text)
}

fn read_private(path: &Path) -> Result<String, AuthorityError> {
    let text = read(path)?;
    let mode = fs::metadata(path)
        .map_err(|e| failed(path, e))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(text)
}
