//! Where records are written: standard output, or a file that log rotation may move away.
//!
//! A file is opened anew when another one, or none, is at its path: what `mv` has moved away is not written on. This is
//! looked at before each round of the writer (one call of the system, at most 200 times a second), and between lines, so that no line is torn and none is lost: what was written stands whole in the old file or
//! in the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::checked::RecordSink;

/// Opens a sink.
///
/// # Errors
/// The file cannot be opened, or its directory not made.
pub(super) fn open(sink: &RecordSink) -> io::Result<Box<dyn Write + Send>> {
    Ok(match sink {
        RecordSink::Stdout => Box::new(io::stdout()),
        RecordSink::File(path) => {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(named)?;
            }
            Box::new(LineFile::open(path).map_err(named)?)
        }
    })
}

/// A file of lines that follows its path.
#[derive(Debug)]
struct LineFile {
    path: PathBuf,
    file: File,
    /// Device and inode of `file`.
    is: (u64, u64),
    /// The last line is not whole.
    torn: bool,
    /// It could not be opened anew, which was told.
    told: bool,
}

impl LineFile {
    fn open(path: &Path) -> io::Result<Self> {
        let (file, is) = append(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            is,
            torn: false,
            told: false,
        })
    }

    /// Opens the path anew if it names another file. Where that fails the old one is written on.
    fn follow(&mut self) {
        let there = std::fs::metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.is) {
            return;
        }
        match append(&self.path) {
            Ok((file, is)) => {
                (self.file, self.is, self.told) = (file, is, false);
                tracing::info!(path = %self.path.display(), "decision records go to a new file");
            }
            Err(error) if !self.told => {
                self.told = true;
                tracing::error!(path = %self.path.display(), %error, "decision records go to the file that was moved away");
            }
            Err(_told_before) => {}
        }
    }
}

fn append(path: &Path) -> io::Result<(File, (u64, u64))> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let is = file.metadata()?;
    Ok((file, (is.dev(), is.ino())))
}

impl Write for LineFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.torn {
            self.follow();
        }
        let written = self.file.write(bytes)?;
        if let Some(last) = bytes.get(..written).and_then(<[u8]>::last) {
            self.torn = *last != b'\n';
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        let mut text = String::new();
        let mut file = File::open(path).unwrap();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        text
    }

    #[test]
    fn what_was_moved_away_is_not_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut file = LineFile::open(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.write_all(b"two\n").unwrap();
        assert_eq!((text(&old), text(&path)), ("one\n".into(), "two\n".into()));
        // Another file may stand there already.
        std::fs::rename(&path, &old).unwrap();
        std::fs::write(&path, "zero\n").unwrap();
        file.write_all(b"three\n").unwrap();
        assert_eq!(
            (text(&old), text(&path)),
            ("two\n".into(), "zero\nthree\n".into())
        );
    }

    #[test]
    fn a_line_is_never_torn_between_two_files() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut file = LineFile::open(&path).unwrap();
        file.write_all(b"half of ").unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.write_all(b"a line\n").unwrap();
        file.write_all(b"another\n").unwrap();
        assert_eq!(
            (text(&old), text(&path)),
            ("half of a line\n".into(), "another\n".into())
        );
    }

    #[test]
    fn where_no_file_can_be_made_the_old_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, moved) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&inside).unwrap();
        let mut file = LineFile::open(&inside.join("log")).unwrap();
        std::fs::rename(&inside, &moved).unwrap();
        file.write_all(b"one\n").unwrap();
        assert_eq!(text(&moved.join("log")), "one\n");
    }
}
