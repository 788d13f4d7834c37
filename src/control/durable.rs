//! Small files that survive a crash: written beside, synced, renamed, and the directory synced.
//!
//! What root makes in the directory of another user is that user's: the operator's command line runs as root, and the
//! service whose state it changes does not.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::Path;

use crate::io::listener::own_uid;

/// Makes a directory and its parents, mode 700.
///
/// # Errors
/// The file system's.
pub fn make_dir(dir: &Path) -> io::Result<()> {
    let make = || DirBuilder::new().mode(0o700).create(dir);
    let made = match (make(), dir.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make_dir(parent)?;
            make()
        }
        (made, _) => made,
    };
    match made {
        Ok(()) => {
            let options = libc::O_DIRECTORY | libc::O_NOFOLLOW;
            let opened = OpenOptions::new()
                .read(true)
                .custom_flags(options)
                .open(dir);
            hand_over(&opened?, dir)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a file that is not there.
///
/// # Errors
/// The file system's.
pub fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = create_new(path, mode)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Makes a file that is not there, to be written.
///
/// # Errors
/// The file system's.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    hand_over(&file, path)?;
    Ok(file)
}

/// Gives what this process has just made to the owner of the directory that it is in, if this process is root. Never for
/// what was there before: its directory's owner may have put anything there, for root to give away.
fn hand_over(made: &File, path: &Path) -> io::Result<()> {
    if own_uid() != 0 {
        return Ok(());
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let owner = fs::metadata(dir)?;
    if owner.uid() == made.metadata()?.uid() {
        return Ok(());
    }
    fchown(made, Some(owner.uid()), Some(owner.gid()))
}

/// Replaces a file: after a crash or on a full disk the old content or the new one is there, whole.
///
/// # Errors
/// The file system's; the old content is still there.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(".new");
    let beside = dir.join(beside);
    remove(&beside)?;
    let written = write_new(&beside, content, mode).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // What is left of it would only take the room that is missing.
        remove(&beside).ok();
        return Err(error);
    }
    sync_dir(dir)
}

/// Removes a file if it is there.
///
/// # Errors
/// The file system's.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes renames in a directory last.
///
/// # Errors
/// The file system's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// The file system's; `FileTooLarge`.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if u64::try_from(content.len()).is_ok_and(|len| len <= most) {
        Ok(content)
    } else {
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Permission bits of a file.
///
/// # Errors
/// The file system's.
pub fn mode(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"one", 0o400).unwrap();
        // A crash may have left this behind.
        fs::write(dir.path().join(".file.new"), "half").unwrap();
        replace(&path, b"two", 0o400).unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"two");
        assert_eq!(mode(&path).unwrap(), 0o400);
        assert_eq!(
            read(&path, 2).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_root_makes_is_of_the_owner_of_the_directory() {
        const OWNER: u32 = 31_077;
        assert_eq!(own_uid(), 0, "this test needs root");
        let dir = tempfile::tempdir().unwrap();
        let of = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.uid(), meta.gid())
        };
        std::os::unix::fs::chown(dir.path(), Some(OWNER), Some(OWNER + 1)).unwrap();
        let file = dir.path().join("file");
        replace(&file, b"one", 0o400).unwrap();
        assert_eq!(
            (of(&file), mode(&file).unwrap()),
            ((OWNER, OWNER + 1), 0o400)
        );
        // What an earlier root has left is mended.
        std::os::unix::fs::chown(&file, Some(0), Some(0)).unwrap();
        replace(&file, b"two", 0o400).unwrap();
        assert_eq!(of(&file), (OWNER, OWNER + 1));
        let below = dir.path().join("a/b");
        make_dir(&below).unwrap();
        make_dir(&below).unwrap();
        assert_eq!(of(&below), (OWNER, OWNER + 1));
        write_new(&below.join("file"), b"", 0o400).unwrap();
        assert_eq!(of(&below.join("file")), (OWNER, OWNER + 1));
        // A directory that was there keeps its owner.
        fs::create_dir(dir.path().join("c")).unwrap();
        make_dir(&dir.path().join("c")).unwrap();
        assert_eq!(of(&dir.path().join("c")), (0, 0));
    }

    /// `/dev/full` cannot be renamed onto, a directory that is gone cannot be written into: the old content stays.
    #[test]
    fn failure_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "x").unwrap();
        assert!(replace(&path, b"two", 0o400).is_err());
        assert!(path.join("inside").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
