//! The initramfs: a cpio archive of the kind `newc`, as the kernel's documentation of initramfs buffers has it.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// An archive that grows; everything in it belongs to root and has one time.
pub(crate) struct Archive {
    out: Vec<u8>,
    mtime: u32,
    names: BTreeSet<String>,
}

impl Archive {
    /// `mtime`: seconds since 1970; what does not fit into 32 bits is cut to their largest.
    pub(crate) fn new(mtime: u64) -> Self {
        Self {
            out: Vec::new(),
            mtime: u32::try_from(mtime).unwrap_or(u32::MAX),
            names: BTreeSet::new(),
        }
    }

    /// A directory; those above it come first by themselves.
    pub(crate) fn directory(&mut self, name: &str) -> Result<()> {
        self.parents(name)?;
        if !self.names.contains(name) {
            self.entry(name, DIRECTORY | 0o755, &[], (0, 0))?;
        }
        Ok(())
    }

    /// A plain file.
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(name)?;
        self.entry(name, FILE | mode, content, (0, 0))
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.parents(name)?;
        self.entry(name, LINK | 0o777, to.as_bytes(), (0, 0))
    }

    /// A character device.
    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.parents(name)?;
        self.entry(name, CHARACTERS | 0o600, &[], (major, minor))
    }

    /// The archive with its end.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.mtime = 0;
        // A name that nothing else has, and no content: it cannot fail.
        self.write("TRAILER!!!", 0, &[], (0, 0), 0);
        self.out.resize(self.out.len().next_multiple_of(512), 0);
        self.out
    }

    fn parents(&mut self, name: &str) -> Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) -> Result<()> {
        ensure!(
            !name.starts_with('/') && !name.is_empty(),
            "`{name}`: a name below the root"
        );
        ensure!(self.names.insert(name.to_owned()), "`{name}` stands twice");
        ensure!(
            u32::try_from(content.len()).is_ok(),
            "`{name}` is too large"
        );
        let number = u32::try_from(self.names.len())?;
        self.write(name, mode, content, device, number);
        Ok(())
    }

    fn write(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32), number: u32) {
        let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let fields = [
            number,
            mode,
            0, // user
            0, // group
            links,
            self.mtime,
            size(content.len()),
            0, // device of the file system
            0,
            device.0,
            device.1,
            size(name.len() + 1),
            0, // sum, of another kind of archive
        ];
        self.out.extend(b"070701");
        for field in fields {
            self.out.extend(format!("{field:08X}").as_bytes());
        }
        self.out.extend(name.as_bytes());
        self.out.push(0);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.out.extend(content);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive() -> Vec<u8> {
        let mut archive = Archive::new(1_764_000_000);
        archive.file("a/b/c", 0o444, b"hello").expect("new");
        archive.directory("a").expect("there already");
        archive.link("a/l", "/run/x").expect("new");
        archive.device("dev/console", 5, 1).expect("new");
        assert!(archive.file("a/l", 0o444, b"").is_err(), "it stands twice");
        assert!(archive.file("/a", 0o444, b"").is_err());
        archive.finish()
    }

    /// Names, modes and contents, as the kernel walks through them.
    fn walk(bytes: &[u8]) -> Option<Vec<(String, u32, Vec<u8>)>> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let field = |number: usize| {
                let start = at + 6 + 8 * number;
                let digits = std::str::from_utf8(bytes.get(start..start + 8)?).ok()?;
                u32::from_str_radix(digits, 16).ok()
            };
            let size = |number: usize| usize::try_from(field(number)?).ok();
            if bytes.get(at..at + 6)? != b"070701" || at % 4 != 0 {
                return None;
            }
            let start = at + 110;
            let name = bytes.get(start..start + size(11)?)?.strip_suffix(b"\0")?;
            let content = (start + size(11)?).next_multiple_of(4);
            let end = content + size(6)?;
            let name = String::from_utf8(name.to_vec()).ok()?;
            if name == "TRAILER!!!" {
                return Some(found);
            }
            found.push((name, field(1)?, bytes.get(content..end)?.to_vec()));
            at = end.next_multiple_of(4);
        }
    }

    #[test]
    fn the_same_gives_the_same_in_the_form_that_the_kernel_reads() {
        let bytes = archive();
        assert_eq!(bytes, archive());
        assert_eq!(bytes.len() % 512, 0);
        let entries = walk(&bytes).expect("an archive");
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        // Directories before what is in them.
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/l", "dev", "dev/console"]);
        let modes: Vec<_> = entries.iter().map(|(_, mode, _)| *mode).collect();
        assert_eq!(
            modes,
            [
                0o040_755, 0o040_755, 0o100_444, 0o120_777, 0o040_755, 0o020_600
            ]
        );
        assert_eq!(
            entries.get(2).map(|e| e.2.as_slice()),
            Some(b"hello".as_slice())
        );
    }
}
