//! Identities from files that something else keeps fresh: Istio's names or cert-manager's, one identity per directory.
//!
//! | names | chain | key | roots |
//! |---|---|---|---|
//! | Istio | `cert-chain.pem` | `key.pem` | `root-cert.pem` or `root-ca.crt` |
//! | cert-manager | `tls.crt` | `tls.key` | `ca.crt` |
//!
//! What is bad or half written changes nothing: the last good SVID is used until it expires.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::file_watch::FileWatch;
use super::svid::Issued;
use crate::control::durable;
use crate::identity::bundle::{BundleError, TrustBundles};
use crate::identity::leaf::{self, LeafError};
use crate::identity::pem::{self, PemError};
use crate::identity::svid::{Svid, WantedSvid};
use crate::identity::tls::{self, TlsError};
use crate::identity::verify::{SvidError, Usage, verify_svid};
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// No file is longer.
const FILE_BYTES: u64 = 1 << 20;
/// Names of chain, key and roots.
const NAMES: [[&str; 3]; 3] = [
    ["cert-chain.pem", "key.pem", "root-cert.pem"],
    ["cert-chain.pem", "key.pem", "root-ca.crt"],
    ["tls.crt", "tls.key", "ca.crt"],
];

/// Why files are no identity.
#[derive(Debug, Error)]
pub enum FileSourceError {
    /// No directory holds it.
    #[error("no directory holds an SVID of `{0}`")]
    NotThere(SpiffeId),
    /// None of the sets of names is complete.
    #[error("`{}` has neither cert-chain.pem, key.pem and root-cert.pem, nor tls.crt, tls.key and ca.crt", .0.display())]
    Incomplete(PathBuf),
    /// The file system refused.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason of the operating system.
        #[source]
        source: io::Error,
    },
    /// Not PEM.
    #[error("`{}`", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: PemError,
    },
    /// Not a private key.
    #[error("`{}` holds no private key", .0.display())]
    Key(PathBuf),
    /// The key is another certificate's.
    #[error("key in `{}` does not fit", path.display())]
    OtherKey {
        /// The directory.
        path: PathBuf,
        /// rustls's reason.
        #[source]
        source: TlsError,
    },
    /// The leaf is no SVID.
    #[error("certificate in `{}`", path.display())]
    Leaf {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: LeafError,
    },
    /// The roots are none.
    #[error("roots in `{}`", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: BundleError,
    },
    /// The chain does not verify.
    #[error("chain in `{}` does not verify by the roots beside it", path.display())]
    Verify {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: SvidError,
    },
}

/// Directories with an identity each.
#[derive(Debug)]
pub struct FileSource {
    dirs: Vec<PathBuf>,
    domain: TrustDomain,
    /// As they were read last, by directory.
    roots: ArcSwap<BTreeMap<PathBuf, Vec<CertificateDer<'static>>>>,
    bundles: watch::Sender<Arc<TrustBundles>>,
    changes: watch::Sender<u64>,
}

impl FileSource {
    /// Reads the roots of all directories, so that peers are verified before the first SVID is good.
    #[must_use]
    pub fn new(dirs: Vec<PathBuf>, domain: TrustDomain) -> Self {
        let source = Self {
            dirs,
            domain,
            roots: ArcSwap::default(),
            bundles: watch::Sender::new(Arc::default()),
            changes: watch::Sender::new(0),
        };
        source.take_roots();
        source
    }

    /// Watches the directories until the future is dropped.
    pub async fn watch(self: Arc<Self>) {
        let mut watch = FileWatch::start(&self.dirs);
        loop {
            watch.changed().await;
            self.take_roots();
            self.changes
                .send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    /// The SVID of an identity as it is on disk now.
    ///
    /// # Errors
    /// `FileSourceError`.
    pub fn issue(&self, wanted: &WantedSvid, now: UnixTime) -> Result<Issued, FileSourceError> {
        let mut last = FileSourceError::NotThere(wanted.id.clone());
        for dir in &self.dirs {
            match self.read(dir, now) {
                Ok(svid) if svid.id == wanted.id => {
                    return Ok(Issued {
                        svid,
                        bundles: self.bundles(),
                    });
                }
                Ok(_other) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn read(&self, dir: &Path, now: UnixTime) -> Result<Svid, FileSourceError> {
        let at = || dir.to_owned();
        let [chain_path, key_path, _] = names(dir)?;
        let roots = roots_of(dir)?;
        let chain = certificates(&chain_path)?;
        let bundles = TrustBundles::of(&self.domain, &roots)
            .map_err(|source| FileSourceError::Root { path: at(), source })?;
        let id = verify_svid(&chain, &bundles, now, Usage::Server)
            .map_err(|source| FileSourceError::Verify { path: at(), source })?;
        let key = pem::private_key(&Zeroizing::new(read(&key_path)?))
            .map_err(|_e| FileSourceError::Key(key_path))?;
        let first = chain.first().ok_or_else(|| FileSourceError::Verify {
            path: at(),
            source: SvidError::Empty,
        })?;
        let found =
            leaf::check(first).map_err(|source| FileSourceError::Leaf { path: at(), source })?;
        let svid = Svid {
            id,
            chain,
            key,
            not_before: found.not_before,
            not_after: found.not_after,
        };
        tls::certified_key(&svid)
            .map_err(|source| FileSourceError::OtherKey { path: at(), source })?;
        Ok(svid)
    }

    /// The roots of one directory, if they can be trusted.
    fn checked_roots(&self, dir: &Path) -> Result<Vec<CertificateDer<'static>>, FileSourceError> {
        let roots = roots_of(dir)?;
        let path = dir.to_owned();
        TrustBundles::of(&self.domain, &roots)
            .map_err(|source| FileSourceError::Root { path, source })?;
        Ok(roots)
    }

    /// The roots of all directories; of one that cannot be read, those that were read there last.
    fn take_roots(&self) {
        let before = self.roots.load_full();
        let mut by_dir = BTreeMap::clone(&before);
        for dir in &self.dirs {
            match self.checked_roots(dir) {
                Ok(roots) => drop(by_dir.insert(dir.clone(), roots)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(dir = %dir.display(), error, "roots not read");
                }
            }
        }
        if *before == by_dir {
            return;
        }
        let mut all: Vec<_> = by_dir.values().flatten().cloned().collect();
        all.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        all.dedup();
        match TrustBundles::of(&self.domain, &all) {
            Ok(bundles) => {
                self.roots.store(Arc::new(by_dir));
                self.bundles.send_replace(Arc::new(bundles));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "roots of the identity files are not taken");
            }
        }
    }

    /// The roots of all directories.
    #[must_use]
    pub fn bundles(&self) -> Arc<TrustBundles> {
        Arc::clone(&self.bundles.borrow())
    }

    /// The same, now and after every change.
    #[must_use]
    pub fn subscribe_bundles(&self) -> watch::Receiver<Arc<TrustBundles>> {
        self.bundles.subscribe()
    }

    /// Counts the looks at the files.
    #[must_use]
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn names(dir: &Path) -> Result<[PathBuf; 3], FileSourceError> {
    NAMES
        .iter()
        .map(|set| set.map(|name| dir.join(name)))
        .find(|set| set.iter().all(|path| path.exists()))
        .ok_or_else(|| FileSourceError::Incomplete(dir.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, FileSourceError> {
    durable::read(path, FILE_BYTES).map_err(|source| FileSourceError::Io {
        path: path.to_owned(),
        source,
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileSourceError> {
    pem::certificates(&read(path)?).map_err(|source| FileSourceError::Pem {
        path: path.to_owned(),
        source,
    })
}

fn roots_of(dir: &Path) -> Result<Vec<CertificateDer<'static>>, FileSourceError> {
    let [_, _, roots] = names(dir)?;
    certificates(&roots)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use super::*;
    use crate::control::authority::Authority;

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/default/sa/reviews-service").unwrap()
    }

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    /// Writes one version and swaps `..data` to it, as Kubernetes and cert-manager's driver do.
    fn swap(dir: &Path, version: &str, names: [&str; 3], authority: &Authority, now: UnixTime) {
        let svid = authority
            .issue(&id(), &[], Duration::from_secs(60), now)
            .unwrap();
        let fresh = dir.join(version);
        fs::create_dir(&fresh).unwrap();
        let texts = [
            pem::encode_certificates(&svid.chain),
            pem::encode("PRIVATE KEY", svid.key.secret_der()),
            pem::encode_certificates(&authority.roots()),
        ];
        for (name, text) in names.iter().zip(texts) {
            fs::write(fresh.join(name), text).unwrap();
        }
        symlink(version, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
        for name in names {
            drop(symlink(Path::new("..data").join(name), dir.join(name)));
        }
    }

    #[test]
    fn both_forms_are_read() {
        let now = UnixTime::now();
        let authority = Authority::in_memory(domain(), now).unwrap();
        for names in NAMES {
            let dir = tempfile::tempdir().unwrap();
            swap(dir.path(), "..1", names, &authority, now);
            let source = FileSource::new(vec![dir.path().to_owned()], domain());
            let wanted = WantedSvid {
                id: id(),
                dns_names: Vec::new(),
            };
            let issued = source.issue(&wanted, now).unwrap();
            assert_eq!(issued.svid.id, id());
            assert_eq!(
                issued.bundles.bundle("cluster.local").unwrap().roots(),
                authority.roots()
            );
            let other = WantedSvid {
                id: SpiffeId::parse("spiffe://cluster.local/ns/default/sa/other").unwrap(),
                dns_names: Vec::new(),
            };
            assert!(matches!(
                source.issue(&other, now),
                Err(FileSourceError::NotThere(_))
            ));
        }
    }

    #[test]
    fn bad_files_are_refused() {
        let now = UnixTime::now();
        let authority = Authority::in_memory(domain(), now).unwrap();
        let stranger = Authority::in_memory(domain(), now).unwrap();
        let [chain, key, root] = NAMES[2];
        let wanted = WantedSvid {
            id: id(),
            dns_names: Vec::new(),
        };
        let with = |name: &str, text: &str, late: u64| {
            let dir = tempfile::tempdir().unwrap();
            swap(dir.path(), "..1", NAMES[2], &authority, now);
            let source = FileSource::new(vec![dir.path().to_owned()], domain());
            fs::remove_file(dir.path().join(name)).unwrap();
            if !text.is_empty() {
                fs::write(dir.path().join(name), text).unwrap();
            }
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + late));
            source.issue(&wanted, now).unwrap_err()
        };
        let other = stranger
            .issue(&id(), &[], Duration::from_secs(60), now)
            .unwrap();
        let other_key = pem::encode("PRIVATE KEY", other.key.secret_der());
        let other_root = pem::encode_certificates(&stranger.roots());
        let own_root = pem::encode_certificates(&authority.roots());
        assert!(matches!(with(chain, "x", 0), FileSourceError::Pem { .. }));
        assert!(matches!(with(chain, "", 0), FileSourceError::Incomplete(_)));
        assert!(matches!(with(key, "x", 0), FileSourceError::Key(_)));
        assert!(matches!(
            with(key, &other_key, 0),
            FileSourceError::OtherKey { .. }
        ));
        assert!(matches!(
            with(root, &other_root, 0),
            FileSourceError::Verify { .. }
        ));
        assert!(matches!(
            with(root, &own_root, 61),
            FileSourceError::Verify { .. }
        ));
    }

    /// A directory that is gone or holds nonsense keeps what was read there, and nothing of another one.
    #[test]
    fn a_broken_directory_keeps_no_root_of_another_one() {
        let (a, b, now) = (
            tempfile::tempdir().unwrap(),
            tempfile::tempdir().unwrap(),
            UnixTime::now(),
        );
        let authority = || Authority::in_memory(domain(), now).unwrap();
        let (old, other, new) = (authority(), authority(), authority());
        swap(a.path(), "..1", NAMES[0], &old, now);
        swap(b.path(), "..1", NAMES[0], &other, now);
        let dirs = vec![a.path().to_owned(), b.path().to_owned()];
        let source = FileSource::new(dirs, domain());
        let has = |authority: &Authority| {
            let bundles = source.bundles();
            let bundle = bundles.bundle("cluster.local").unwrap();
            authority
                .roots()
                .iter()
                .all(|root| bundle.roots().contains(root))
        };
        assert!(has(&old) && has(&other));
        let root = b.path().join(NAMES[0][2]);
        fs::remove_file(&root).unwrap();
        source.take_roots();
        assert!(has(&old) && has(&other));
        swap(a.path(), "..2", NAMES[0], &new, now);
        source.take_roots();
        assert!(!has(&old), "it was withdrawn");
        assert!(has(&other) && has(&new));
        // A certificate, but no root.
        let leaf = old.issue(&id(), &[], Duration::from_secs(60), now).unwrap();
        fs::write(&root, pem::encode_certificates(&leaf.chain[..1])).unwrap();
        swap(a.path(), "..3", NAMES[0], &old, now);
        source.take_roots();
        assert!(has(&old) && has(&other) && !has(&new));
    }

    #[tokio::test]
    async fn a_swap_is_seen_and_half_of_one_changes_nothing() {
        let (dir, now) = (tempfile::tempdir().unwrap(), UnixTime::now());
        let authority = Authority::in_memory(domain(), now).unwrap();
        swap(dir.path(), "..1", NAMES[0], &authority, now);
        let source = Arc::new(FileSource::new(vec![dir.path().to_owned()], domain()));
        let (mut told, mut bundles) = (source.renewals(), source.subscribe_bundles());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&source).watch());
        tokio::task::yield_now().await;
        let wanted = WantedSvid {
            id: id(),
            dns_names: Vec::new(),
        };
        let first = source.issue(&wanted, now).unwrap();
        // The roots are gone for a moment: those that were read stay.
        fs::remove_file(dir.path().join(NAMES[0][2])).unwrap();
        tokio::time::timeout(Duration::from_secs(30), told.changed())
            .await
            .unwrap()
            .unwrap();
        assert!(source.issue(&wanted, now).is_err());
        assert_eq!(
            source.bundles().bundle("cluster.local").unwrap().roots(),
            authority.roots()
        );
        let next = Authority::in_memory(domain(), now).unwrap();
        swap(dir.path(), "..2", NAMES[0], &next, now);
        tokio::time::timeout(Duration::from_secs(30), bundles.changed())
            .await
            .unwrap()
            .unwrap();
        let second = source.issue(&wanted, now).unwrap();
        assert_ne!(first.svid.chain, second.svid.chain);
        assert_eq!(
            second.bundles.bundle("cluster.local").unwrap().roots(),
            next.roots()
        );
    }
}
