//! The authority's state directory: made in one step, held by one process, never repaired by guessing.
//!
//! `ca/` appears by one rename with every file in it, so a crash during the first start leaves no half of it. Later
//! changes replace single files, and `ledger.json` is the one that says which of them count.
//!
//! While one process takes over from another, both hold the lock, and one of them may write: the one whose mark is in the
//! file of the lock. Whoever takes the right to write puts a new mark there, and each write looks for its own before. Between
//! that look and the end of the write it has `write.lock`, which whoever takes the right needs, too: a process that was
//! stopped within a write holds up the other one, and one that was stopped before it writes nothing when it goes on.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use zeroize::Zeroizing;

use super::ledger::{self, Data};
use super::{AuthorityError, PRIVATE_MODE};
use crate::control::durable;
use crate::vocab::limits;
use crate::vocab::text::chain;

pub(super) const ROOT: &str = "root.pem";
pub(super) const ROOT_KEY: &str = "root-key.pem";
pub(super) const ISSUING: &str = "issuing.pem";
pub(super) const TOKEN_KEY: &str = "token-key.pem";
const LEDGER: &str = "ledger.json";
/// Where the command line reaches the running authority.
const SOCKET: &str = "control.sock";

const STATE: &str = "ca";
const STATE_NEW: &str = ".ca.new";
const LOCK: &str = "lock";
/// Held for each write, and to take the right to write.
const WRITE_LOCK: &str = "write.lock";
/// Bytes of a writer's mark.
const MARK_BYTES: usize = 16;
/// No file of the state is longer, but for the ledger.
const FILE_BYTES: u64 = 64 * 1024;

/// An open state directory; the lock lasts as long as the value, or until it is released.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    lock: ArcSwapOption<File>,
    /// Opened by each process for itself: two that hand over share the lock, but never this one.
    write_lock: File,
    /// Looked at by each write; both are the control thread's.
    right: ArcSwap<Right>,
}

/// Whether this process may write.
#[derive(Debug)]
enum Right {
    /// This is in the file of the lock: its mark, or what was there where no mark could be put.
    Held(Vec<u8>),
    /// Another process writes.
    Elsewhere,
}

/// The lock of a write, while it lasts.
struct Turn<'s>(&'s File);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "the lock of the writes stays");
        }
    }
}

/// One root with its issuing CA, as PEM texts.
pub(super) struct RootFiles {
    pub(super) root: String,
    pub(super) root_key: Zeroizing<String>,
    /// Certificate and key.
    pub(super) issuing: Zeroizing<String>,
}

/// Names of a root's files. The first root has names without a number.
pub(super) fn names(number: u32) -> (String, String, String) {
    if number <= 1 {
        return (ROOT.to_owned(), ROOT_KEY.to_owned(), ISSUING.to_owned());
    }
    (
        format!("root-{number}.pem"),
        format!("root-key-{number}.pem"),
        format!("issuing-{number}.pem"),
    )
}

/// The control socket of a state directory.
#[must_use]
pub fn socket(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}

/// The file whose lock the holder of a state directory has.
#[must_use]
pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join(LOCK)
}

impl Store {
    /// Makes the directory (mode 700) if need be and takes its lock.
    pub(super) fn open(dir: &Path) -> Result<Self, AuthorityError> {
        durable::make_dir(dir).map_err(|e| failed(dir, e))?;
        let lock_path = lock_file(dir);
        let lock = open_lock(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(AuthorityError::Locked(dir.to_owned()));
            }
            Err(fs::TryLockError::Error(e)) => return Err(failed(&lock_path, e)),
        }
        let store = Self::inherited(dir, lock)?;
        let turn = store.turn()?;
        if let Err(error) = store.mark() {
            // As on a full disk: nobody else has the lock, and whoever is given it puts a mark there.
            let error = chain(&error);
            tracing::warn!(error, dir = %dir.display(), "the lock is held without a new mark");
            let found = store.found()?;
            store.right.store(Arc::new(Right::Held(found)));
        }
        drop(turn);
        Ok(store)
    }

    /// A directory whose lock another process has as well: that one writes until this one takes the right.
    pub(super) fn inherited(dir: &Path, lock: File) -> Result<Self, AuthorityError> {
        Ok(Self {
            dir: dir.to_owned(),
            lock: ArcSwapOption::from_pointee(lock),
            write_lock: open_lock(&dir.join(WRITE_LOCK))?,
            right: ArcSwap::from_pointee(Right::Elsewhere),
        })
    }

    /// The lock once more, for a process that takes over: it is held as long as either descriptor is open. `None` once it
    /// is released.
    pub(super) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        let lock = self.lock.load_full();
        lock.map(|lock| lock.try_clone().map(OwnedFd::from))
            .transpose()
    }

    /// From here on this process writes, and no other one.
    ///
    /// # Errors
    /// `AuthorityError`: a write of another process is not over, or the mark cannot be put; the right is where it was.
    pub(super) fn take_right(&self) -> Result<(), AuthorityError> {
        let _turn = self.turn()?;
        self.mark()
    }

    /// Puts a new mark into the file of the lock.
    fn mark(&self) -> Result<(), AuthorityError> {
        let failed = |e| failed(&lock_file(&self.dir), e);
        let mut mark = [0; MARK_BYTES];
        aws_lc_rs::rand::fill(&mut mark).map_err(|_e| failed(io::Error::other("no randomness")))?;
        let lock = self.lock.load_full().ok_or_else(|| self.elsewhere())?;
        lock.write_all_at(&mark, 0).map_err(failed)?;
        self.right.store(Arc::new(Right::Held(mark.to_vec())));
        Ok(())
    }

    /// The mark that is in the file of the lock.
    fn found(&self) -> Result<Vec<u8>, AuthorityError> {
        let mut found = [0; MARK_BYTES];
        let lock = self.lock.load_full().ok_or_else(|| self.elsewhere())?;
        let read = lock.read_at(&mut found, 0);
        let n = read.map_err(|e| failed(&lock_file(&self.dir), e))?;
        Ok(found.into_iter().take(n).collect())
    }

    /// From here on this process writes nothing.
    pub(super) fn give_up_right(&self) {
        self.right.store(Arc::new(Right::Elsewhere));
    }

    /// As [`Self::give_up_right`], for good: the lock is left to whoever has it as well. It is not unlocked, which would
    /// unlock it for that one, too.
    pub(super) fn release(&self) {
        self.give_up_right();
        self.lock.store(None);
    }

    /// Whether this process may write.
    pub(super) fn writes(&self) -> bool {
        self.may_write().is_ok()
    }

    /// Whether another process has the right to write; not where that cannot be read.
    pub(super) fn lost(&self) -> bool {
        matches!(self.may_write(), Err(AuthorityError::Elsewhere(_)))
    }

    /// # Errors
    /// `AuthorityError::Elsewhere`.
    fn may_write(&self) -> Result<(), AuthorityError> {
        let mine = match &**self.right.load() {
            Right::Held(mark) => self.found()? == *mark,
            Right::Elsewhere => false,
        };
        if mine { Ok(()) } else { Err(self.elsewhere()) }
    }

    fn elsewhere(&self) -> AuthorityError {
        AuthorityError::Elsewhere(self.dir.clone())
    }

    /// The lock of the writes. Whoever finds it taken does not wait: the other process may be stopped.
    ///
    /// # Errors
    /// `AuthorityError::Locked`.
    fn turn(&self) -> Result<Turn<'_>, AuthorityError> {
        match self.write_lock.try_lock() {
            Ok(()) => Ok(Turn(&self.write_lock)),
            Err(fs::TryLockError::WouldBlock) => Err(AuthorityError::Locked(self.dir.clone())),
            Err(fs::TryLockError::Error(e)) => Err(failed(&self.dir.join(WRITE_LOCK), e)),
        }
    }

    /// What a write begins with: nobody takes the right before it is over.
    ///
    /// # Errors
    /// `AuthorityError::Elsewhere`, `Locked`.
    fn write_turn(&self) -> Result<Turn<'_>, AuthorityError> {
        let turn = self.turn()?;
        self.may_write()?;
        Ok(turn)
    }

    /// Where a file of the state is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(STATE).join(name)
    }

    /// The directory itself.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the first start is over.
    pub(super) fn exists(&self) -> Result<bool, AuthorityError> {
        let state = self.dir.join(STATE);
        match fs::symlink_metadata(&state) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(failed(&state, e)),
        }
    }

    /// A root and its issuing CA.
    pub(super) fn root(&self, number: u32) -> Result<RootFiles, AuthorityError> {
        let (root, key, issuing) = names(number);
        Ok(RootFiles {
            root: read(&self.path(&root))?,
            root_key: read_private(&self.path(&key))?,
            issuing: read_private(&self.path(&issuing))?,
        })
    }

    /// The key of workload tokens.
    pub(super) fn token_key(&self) -> Result<Zeroizing<String>, AuthorityError> {
        read_private(&self.path(TOKEN_KEY))
    }

    /// Writes the first state; `None` for the root where another CA issues.
    pub(super) fn create(
        &self,
        files: Option<&RootFiles>,
        token_key: &str,
    ) -> Result<(), AuthorityError> {
        let _turn = self.write_turn()?;
        let new = self.dir.join(STATE_NEW);
        // Left by a crash before the rename: nothing was ever issued with it, and the lock says nobody writes it.
        match fs::remove_dir_all(&new) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&new, e)),
        }
        durable::make_dir(&new).map_err(|e| failed(&new, e))?;
        let own = files.map(|files| {
            [
                (ROOT, files.root.as_str()),
                (ROOT_KEY, files.root_key.as_str()),
                (ISSUING, files.issuing.as_str()),
            ]
        });
        for (name, text) in own.iter().flatten() {
            write(&new.join(name), text)?;
        }
        write(&new.join(TOKEN_KEY), token_key)?;
        write(&new.join(LEDGER), &self.ledger_text(&Data::default())?)?;
        durable::sync_dir(&new).map_err(|e| failed(&new, e))?;
        let state = self.dir.join(STATE);
        fs::rename(&new, &state).map_err(|e| failed(&state, e))?;
        durable::sync_dir(&self.dir).map_err(|e| failed(&self.dir, e))
    }

    /// Writes a further root. It does not count before the ledger names it.
    pub(super) fn write_root(&self, number: u32, files: &RootFiles) -> Result<(), AuthorityError> {
        let (root, key, issuing) = names(number);
        for (name, text) in [
            (root, files.root.as_str()),
            (key, files.root_key.as_str()),
            (issuing, files.issuing.as_str()),
        ] {
            self.replace(&name, text.as_bytes())?;
        }
        Ok(())
    }

    /// Removes a root that the ledger names no more.
    pub(super) fn remove_root(&self, number: u32) -> Result<(), AuthorityError> {
        let _turn = self.write_turn()?;
        let (root, key, issuing) = names(number);
        // The keys first: they are what must not stay.
        for name in [key, issuing, root] {
            let path = self.path(&name);
            durable::remove(&path).map_err(|e| failed(&path, e))?;
        }
        Ok(())
    }

    /// Replaces the issuing CA of a root by one rename.
    pub(super) fn replace_issuing(&self, number: u32, text: &str) -> Result<(), AuthorityError> {
        self.replace(&names(number).2, text.as_bytes())
    }

    /// The ledger. One that is missing is never taken for an empty one: everybody would be told that nothing is revoked.
    pub(super) fn load_ledger(&self) -> Result<Data, AuthorityError> {
        let path = self.path(LEDGER);
        match durable::read(&path, limits::LEDGER_BYTES) {
            Ok(bytes) => Data::parse(&bytes).ok_or_else(|| ledger::unreadable(path)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(AuthorityError::NoLedger(path)),
            Err(e) => Err(failed(&path, e)),
        }
    }

    /// Replaces the ledger; one that could not be loaded again is refused.
    pub(super) fn write_ledger(&self, data: &Data) -> Result<(), AuthorityError> {
        self.replace(LEDGER, self.ledger_text(data)?.as_bytes())
    }

    fn ledger_text(&self, data: &Data) -> Result<String, AuthorityError> {
        let path = self.path(LEDGER);
        let text = serde_json::to_string(data).map_err(|e| failed(&path, e.into()))?;
        if u64::try_from(text.len()).is_ok_and(|len| len <= limits::LEDGER_BYTES) {
            Ok(text)
        } else {
            Err(failed(&path, io::ErrorKind::FileTooLarge.into()))
        }
    }

    /// Numbers of the roots whose files are all there, in order.
    pub(super) fn roots_there(&self) -> Result<Vec<u32>, AuthorityError> {
        let state = self.dir.join(STATE);
        let number = |name: &str| match name.strip_prefix("root")?.strip_suffix(".pem")? {
            "" => Some(1),
            number => number.strip_prefix('-')?.parse().ok(),
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&state).map_err(|e| failed(&state, e))? {
            let name = entry.map_err(|e| failed(&state, e))?.file_name();
            let Some(number) = name.to_str().and_then(number) else {
                continue;
            };
            let (_root, key, issuing) = names(number);
            if self.path(&key).exists() && self.path(&issuing).exists() {
                found.push(number);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Tells one state of the ledger's file from another.
    pub(super) fn ledger_stamp(&self) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt as _;
        let file = fs::metadata(self.path(LEDGER)).ok()?;
        let nanos = u64::try_from(file.mtime_nsec()).unwrap_or(0);
        Some((
            file.ino(),
            nanos.wrapping_add(file.mtime().unsigned_abs() << 30),
        ))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), AuthorityError> {
        let _turn = self.write_turn()?;
        let path = self.path(name);
        durable::replace(&path, content, PRIVATE_MODE).map_err(|e| failed(&path, e))
    }
}

/// Opens the file of a lock to read and write, and makes it if need be.
fn open_lock(path: &Path) -> Result<File, AuthorityError> {
    match durable::create_new(path, 0o600) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(path, e)),
        Ok(_) | Err(_) => {}
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map_err(|e| failed(path, e))
}

fn failed(path: &Path, source: io::Error) -> AuthorityError {
    AuthorityError::Io {
        path: path.to_owned(),
        source,
    }
}

fn write(path: &Path, text: &str) -> Result<(), AuthorityError> {
    durable::write_new(path, text.as_bytes(), PRIVATE_MODE).map_err(|e| failed(path, e))
}

fn read(path: &Path) -> Result<String, AuthorityError> {
    let bytes = match durable::read(path, FILE_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(AuthorityError::Incomplete(path.to_owned()));
        }
        Err(e) => return Err(failed(path, e)),
    };
    String::from_utf8(bytes).map_err(|_e| AuthorityError::Unreadable {
        path: path.to_owned(),
        what: "certificate or key",
    })
}

/// A file that was written before keys were 400 is narrowed; one that others may read is refused.
fn read_private(path: &Path) -> Result<Zeroizing<String>, AuthorityError> {
    let text = Zeroizing::new(read(path)?);
    let mode = durable::mode(path).map_err(|e| failed(path, e))?;
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    if mode != PRIVATE_MODE {
        fs::set_permissions(path, Permissions::from_mode(PRIVATE_MODE))
            .map_err(|e| failed(path, e))?;
    }
    Ok(text)
}
