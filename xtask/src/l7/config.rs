//! The configurations below `benches/load`, with their placeholders filled in.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::pki::{self, Pki};

/// Body of a small answer, in bytes.
pub(crate) const SMALL: usize = 1024;
/// Body of a large one.
pub(crate) const BIG: usize = 102_400;

/// What the placeholders of a peer's files stand for.
#[derive(Debug)]
pub(crate) struct Templates {
    source: PathBuf,
    values: BTreeMap<&'static str, String>,
}

/// Where a peer runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Its own address.
    pub(crate) address: Ipv4Addr,
    /// The upstream's.
    pub(crate) upstream: Ipv4Addr,
    /// Its own directory.
    pub(crate) directory: &'a Path,
    /// Threads or workers.
    pub(crate) cores: usize,
}

impl Templates {
    /// Those of `root`/benches/load for a peer.
    pub(crate) fn new(root: &Path, place: Place<'_>, pki: &Pki) -> Self {
        let Place {
            address,
            upstream,
            directory,
            cores,
        } = place;
        let [a, b, c, _] = address.octets();
        let mut values = BTreeMap::from([
            ("ADDRESS", address.to_string()),
            ("ADDRESS_OF_CALLER", Ipv4Addr::new(a, b, c, 99).to_string()),
            ("UPSTREAM", upstream.to_string()),
            ("DIR", directory.display().to_string()),
            ("LOG", record_file(directory).display().to_string()),
            ("PKI", pki.directory.display().to_string()),
            ("CORES", cores.to_string()),
            ("JWKS", pki.jwks.clone()),
            ("BODY", ".".repeat(SMALL)),
            ("JWT_CACHE", String::new()),
            ("IO", "auto".to_owned()),
            ("SANDBOX", "on".to_owned()),
        ]);
        values.insert("CALLER", String::new());
        let mut this = Self {
            source: root.join("benches/load"),
            values,
        };
        this.allow(pki::CALLER);
        this
    }

    /// Sets one more placeholder.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.values.insert(name, value.to_owned());
    }

    /// Sets the account that the policy lets in.
    pub(crate) fn allow(&mut self, account: &str) {
        self.set("CALLER", account);
        self.set("CALLER_DER", &pki::id_der(account));
    }

    /// A file with its placeholders filled in; those that stand for parts of files first.
    pub(crate) fn render(&self, name: &str) -> Result<String> {
        let mut text = self.read(name)?;
        let kind = name.split('-').next().unwrap_or_default();
        for (placeholder, part) in [
            ("@HEAD@", format!("{kind}-head.inc")),
            ("@TOKEN@", format!("{kind}-token.inc")),
            ("@ACCESS_LOG@", format!("{kind}-log.inc")),
        ] {
            if text.contains(placeholder) {
                text = text.replace(placeholder, self.read(&part)?.trim_end());
            }
        }
        for (name, value) in &self.values {
            text = text.replace(&format!("@{name}@"), value);
        }
        match left_over(&text) {
            Some(placeholder) => bail!("{name}: nothing stands for `{placeholder}`"),
            None => Ok(text),
        }
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.source.join(name);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

/// Where a peer keeps its records.
pub(crate) fn record_file(directory: &Path) -> PathBuf {
    directory.join("records.jsonl")
}

/// A placeholder that is still there: capital letters between two signs.
fn left_over(text: &str) -> Option<String> {
    let name = |part: &&str| {
        let capital = |c: char| c.is_ascii_uppercase() || c == '_';
        !part.is_empty() && part.chars().all(capital)
    };
    text.split('@')
        .skip(1)
        .find(name)
        .map(|name| format!("@{name}@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_can_be_rendered() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let pki = Pki {
            directory: "/pki".into(),
            jwks: "{}".to_owned(),
            rs256: String::new(),
            es256: String::new(),
        };
        let place = Place {
            address: Ipv4Addr::new(127, 70, 1, 10),
            upstream: Ipv4Addr::new(127, 70, 1, 1),
            directory: Path::new("/run"),
            cores: 2,
        };
        let templates = Templates::new(&root, place, &pki);
        let mut seen = 0;
        for entry in std::fs::read_dir(root.join("benches/load")).expect("a directory") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".inc") || name.ends_with(".md") {
                continue;
            }
            let text = templates.render(&name).expect("rendered");
            assert!(!text.contains('@') || name.contains("envoy"), "{name}");
            seen += 1;
        }
        assert!(seen >= 14, "{seen}");
        assert!(templates.render("no-such.conf").is_err());
    }

    #[test]
    fn a_placeholder_that_nothing_stands_for_is_found() {
        assert_eq!(left_over("a @B_C@ d"), Some("@B_C@".to_owned()));
        assert_eq!(left_over("\"@type\": x, y@z"), None);
    }
}
