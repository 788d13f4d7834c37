//! Reading a tar archive as plain files: POSIX ustar and what GNU tar writes for short names.
//!
//! It comes from outside of the machine, so that it is bounded, and everything that is no plain file below one directory is
//! refused rather than left out.

use thiserror::Error;

use crate::vocab::limits;

/// A header, and what contents are filled up to.
const BLOCK: usize = 512;

/// A file of the archive.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: parts joined by `/`, none of which is empty, `.` or `..`.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.content.len())
    }
}

/// Why an archive is refused. Offsets are in bytes.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TarError {
    /// The header at this place is none, or its sum is wrong.
    #[error("no tar header at byte {0}")]
    Header(usize),
    /// It ends within a file, or without its end.
    #[error("ends at byte {0} without the end of the archive")]
    Short(usize),
    /// A link, a device, a long name, ..
    #[error("`{name}` is of kind `{kind}`: only plain files and directories are taken")]
    Kind {
        /// Its name.
        name: String,
        /// Its kind in the header.
        kind: char,
    },
    /// A name that leads elsewhere.
    #[error("`{0}` is no name below one directory")]
    Name(String),
    /// It stands twice.
    #[error("`{0}` stands twice")]
    Twice(String),
    /// More files than are taken.
    #[error("more than {} files", limits::APPLIANCE_CONFIG_FILES)]
    Files,
}

/// Whether `bytes` begin with the header of an archive.
#[must_use]
pub fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// The files of an archive; what follows its end is not looked at.
///
/// # Errors
/// `TarError`
pub fn read(bytes: &[u8]) -> Result<Vec<Entry>, TarError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut offset = 0;
    loop {
        let header = block(bytes, offset).ok_or(TarError::Short(offset))?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(entries);
        }
        let (name, size) = head(header).ok_or(TarError::Header(offset))?;
        let start = offset + BLOCK;
        let content = start
            .checked_add(size)
            .and_then(|end| bytes.get(start..end));
        let content = content.ok_or(TarError::Short(bytes.len()))?;
        offset = start + size.next_multiple_of(BLOCK);
        match header.get(156).copied().unwrap_or_default() {
            b'0' | 0 => {
                let name = clean(&name).filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| TarError::Name(text(header)))?;
                if entries.iter().any(|entry| entry.name == name) {
                    return Err(TarError::Twice(name));
                }
                if entries.len() == limits::APPLIANCE_CONFIG_FILES {
                    return Err(TarError::Files);
                }
                let content = content.to_vec();
                entries.push(Entry { name, content });
            }
            b'5' => {
                clean(&name).ok_or(TarError::Name(name))?;
            }
            // Times and owners, which are not taken; names and sizes would be those of the next file.
            b'x' | b'g' if !changes_the_next(content) => {}
            kind => {
                let kind = char::from(kind);
                return Err(TarError::Kind { name, kind });
            }
        }
    }
}

/// Whether a pax record has a key that says what the next header means.
fn changes_the_next(records: &[u8]) -> bool {
    let text = String::from_utf8_lossy(records);
    let is_harmless = |line: &str| {
        let key = line
            .split_once(' ')
            .and_then(|(_, rest)| rest.split_once('='));
        let harmless = [
            "mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment",
        ];
        key.is_some_and(|(key, _)| harmless.contains(&key) || key.starts_with("LIBARCHIVE."))
    };
    !text.lines().all(is_harmless)
}

fn block(bytes: &[u8], offset: usize) -> Option<&[u8; BLOCK]> {
    bytes.get(offset..)?.first_chunk()
}

/// Name and size.
fn head(header: &[u8; BLOCK]) -> Option<(String, usize)> {
    if !is_tar(header) {
        return None;
    }
    let (before, rest) = header.split_at_checked(148)?;
    let (sum, after) = rest.split_at_checked(8)?;
    let bytes = before.iter().chain(after).map(|byte| u64::from(*byte));
    if octal(sum)? != bytes.sum::<u64>() + 8 * u64::from(b' ') {
        return None;
    }
    let size = usize::try_from(octal(header.get(124..136)?)?).ok()?;
    // GNU has times there.
    let is_posix = header.get(257..263) == Some(b"ustar\0");
    let prefix = header.get(345..500).filter(|_| is_posix);
    let prefix = field(prefix.unwrap_or_default())?;
    let name = field(header.get(..100)?)?;
    let name = if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}/{name}")
    };
    Some((name, size))
}

/// A number with digits up to the first space or zero; the binary form of large ones is not taken.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let digits = text.trim_start().split(['\0', ' ']).next()?;
    u64::from_str_radix(digits, 8).ok()
}

fn field(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0);
    std::str::from_utf8(bytes.get(..end.unwrap_or(bytes.len()))?).ok()
}

fn text(header: &[u8; BLOCK]) -> String {
    String::from_utf8_lossy(header.get(..100).unwrap_or_default())
        .trim_end_matches('\0')
        .to_owned()
}

/// The name without `./`; `None` for one that leads elsewhere.
fn clean(name: &str) -> Option<String> {
    if name.starts_with('/') || name.len() > limits::APPLIANCE_NAME_BYTES {
        return None;
    }
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part if part.chars().any(char::is_control) => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An archive without its end: kind, name, content of each.
    pub(crate) fn archive(files: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, name, content) in files {
            let mut header = [0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
            header[156] = *kind;
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            out.extend(header);
            out.extend(*content);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
        out
    }

    fn ended(files: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut out = archive(files);
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    #[test]
    fn files_are_read() {
        let bytes = ended(&[
            (b'5', "./", b""),
            (b'0', "./ringgate.toml", b"a = 1\n"),
            (b'x', "PaxHeader", b"20 mtime=1764000000\n"),
            (b'0', "keys/key.pem", &[7; 1000]),
        ]);
        assert!(is_tar(&bytes));
        let entries = read(&bytes).unwrap();
        let names: Vec<_> = entries.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["ringgate.toml", "keys/key.pem"]);
        assert_eq!(entries[1].content, [7; 1000]);
        // A device is larger than what was written to it.
        let larger = [bytes.as_slice(), &[9; 4096]].concat();
        assert_eq!(read(&larger).unwrap().len(), 2);
    }

    #[test]
    fn what_leads_elsewhere_is_refused() {
        for name in ["/etc/passwd", "../a", "a/../../b", "a\nb", "./"] {
            let refused = read(&ended(&[(b'0', name, b"x")]));
            assert!(
                matches!(refused, Err(TarError::Name(_))),
                "{name}: {refused:?}"
            );
        }
        for kind in [b'1', b'2', b'3', b'4', b'6', b'7', b'L', b'K', b'S'] {
            let refused = read(&ended(&[(kind, "a", b"x")]));
            assert!(matches!(refused, Err(TarError::Kind { .. })), "{kind}");
        }
        let renamed = read(&ended(&[(b'x', "h", b"12 path=/etc\n"), (b'0', "a", b"x")]));
        assert!(matches!(renamed, Err(TarError::Kind { .. })), "{renamed:?}");
        let twice = read(&ended(&[(b'0', "a", b"x"), (b'0', "./a", b"y")]));
        assert_eq!(twice, Err(TarError::Twice("a".to_owned())));
        let many: Vec<String> = (0..=limits::APPLIANCE_CONFIG_FILES)
            .map(|n| n.to_string())
            .collect();
        let many: Vec<_> = many
            .iter()
            .map(|n| (b'0', n.as_str(), b"x".as_slice()))
            .collect();
        assert_eq!(read(&ended(&many)), Err(TarError::Files));
    }

    #[test]
    fn archives_that_are_cut_or_changed_never_panic() {
        let whole = ended(&[(b'0', "a", b"content"), (b'0', "b", &[1; 600])]);
        for cut in 0..whole.len() - 2 * BLOCK {
            assert!(read(&whole[..cut]).is_err(), "{cut}");
        }
        for place in 0..BLOCK {
            for byte in [0, 1, b'7', b' ', 0x80, 0xff] {
                let mut other = whole.clone();
                other[place] = byte;
                // The sum tells; its own digits may be written in another way.
                let read_again = read(&other);
                assert!(
                    read_again.is_err() || read_again == read(&whole),
                    "{place} {byte}: {read_again:?}"
                );
            }
        }
    }

    #[test]
    fn contents_are_not_printed() {
        let (name, content) = ("key.pem".to_owned(), b"hunter2".to_vec());
        assert_eq!(
            format!("{:?}", Entry { name, content }),
            "key.pem (7 bytes)"
        );
    }
}
