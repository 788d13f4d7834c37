//! Archives and digests that come out the same from the same files: sorted, owned by root, with one time for all.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest;
use flate2::{Compression, GzBuilder};

/// One file or directory.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Permission bits.
    pub(crate) mode: u32,
    /// User and group.
    pub(crate) owner: u64,
    /// Content; a directory has none.
    pub(crate) content: Option<Vec<u8>>,
}

/// Files and directories by their path, relative to what they will stand in. Directories that nobody names have mode 755.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(pub(crate) BTreeMap<String, Entry>);

impl Tree {
    /// A file that everyone may read.
    pub(crate) fn file(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.insert(path.into(), 0o644, 0, Some(content.into()));
    }

    /// A program.
    pub(crate) fn program(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.insert(path.into(), 0o755, 0, Some(content.into()));
    }

    /// A directory.
    pub(crate) fn directory(&mut self, path: impl Into<String>, mode: u32, owner: u64) {
        self.insert(path.into(), mode, owner, None);
    }

    fn insert(&mut self, path: String, mode: u32, owner: u64, content: Option<Vec<u8>>) {
        let mut parent = path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            parent = above;
            self.0.entry(parent.to_owned()).or_insert(Entry {
                mode: 0o755,
                owner: 0,
                content: None,
            });
        }
        let entry = Entry {
            mode,
            owner,
            content,
        };
        self.0.insert(path, entry);
    }

    /// As tar, with one time for all: seconds since 1970.
    pub(crate) fn tar(&self, time: u64) -> Result<Vec<u8>> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = tar::Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(entry.owner);
            header.set_gid(entry.owner);
            header.set_mtime(time);
            let content = entry.content.as_deref().unwrap_or_default();
            header.set_size(u64::try_from(content.len())?);
            if entry.content.is_none() {
                header.set_entry_type(tar::EntryType::Directory);
                builder.append_data(&mut header, format!("{path}/"), content)?;
            } else {
                header.set_entry_type(tar::EntryType::Regular);
                builder.append_data(&mut header, path, content)?;
            }
        }
        builder.into_inner().context("a tar of memory")
    }
}

/// As `gzip -9n`.
pub(crate) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .operating_system(255) // unknown, whichever it is
        .write(Vec::new(), Compression::best());
    writer.write_all(bytes)?;
    Ok(writer.finish()?)
}

/// SHA-256 in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_making_is_not_seen() {
        let mut one = Tree::default();
        one.file("a/b/c", "text");
        one.program("a/z", "program");
        one.directory("a/private", 0o700, 65532);
        let mut other = Tree::default();
        other.directory("a/private", 0o700, 65532);
        other.program("a/z", "program");
        other.file("a/b/c", "text");
        let packed = gzip(&one.tar(7).expect("tar")).expect("gzip");
        assert_eq!(packed, gzip(&other.tar(7).expect("tar")).expect("gzip"));
        assert_ne!(packed, gzip(&one.tar(8).expect("tar")).expect("gzip"));
        let names: Vec<&str> = one.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "a/b", "a/b/c", "a/private", "a/z"]);
    }

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-4's own example.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
    }
}
