//! Identity files for programs that want them (off by default): Istio's sidecar names, swapped as Kubernetes does.
//!
//! Below `dir`:
//! ```text
//! istio/cert-chain.pem -> ..data/cert-chain.pem     istio/..data -> ..1764000000.9f3a
//! istio/key.pem        -> ..data/key.pem            istio/..1764000000.9f3a/{cert-chain.pem,key.pem,root-ca.crt}
//! istio/root-ca.crt    -> ..data/root-ca.crt
//! tokens/istio-token   -> ..data/istio-token        tokens/..data -> ..1764000000.9f3a
//! ```
//! One rename of `..data` replaces all files of a directory together, so a reader never sees the key of one rotation
//! beside the certificate of another if it resolves `..data` once.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use thiserror::Error;
use tokio::sync::watch;

use super::authority::{Authority, IssueError, TTL_MAX};
use super::svid::{Clock, SvidSet};
use crate::identity::bundle::TrustBundles;
use crate::identity::pem;
use crate::identity::svid::Svid;
use crate::vocab::spiffe::SpiffeId;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";
/// How long a reader that has resolved `..data` may take to open the file.
const GRACE: Duration = Duration::from_secs(1);
/// Wait after a failed write.
const RETRY: Duration = Duration::from_secs(5);

/// Why identity files were not written.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The file system refused.
    #[error("cannot write `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The reason of the operating system.
        #[source]
        source: io::Error,
    },
    /// There is no randomness for the name of the new directory.
    #[error("no randomness")]
    Random,
    /// There are no roots for the identity's trust domain.
    #[error("no roots for `{0}`")]
    NoRoots(SpiffeId),
    /// The authority gave no token.
    #[error("no token")]
    Token(#[source] IssueError),
}

/// One set of files to keep.
#[derive(Clone, Debug)]
pub struct FilesJob {
    /// Whose identity.
    pub id: SpiffeId,
    /// Directory that gets `istio/` and `tokens/`.
    pub dir: PathBuf,
    /// `aud` of the token.
    pub audience: String,
}

/// A file of a directory that is swapped whole.
#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    text: &'a str,
}

/// Directories that a swap has replaced. They stay until [`Replaced::remove`], for readers on their way.
#[derive(Debug, Default)]
#[must_use]
pub struct Replaced(Vec<PathBuf>);

impl Replaced {
    /// Removes them.
    ///
    /// # Errors
    /// `FilesError::Io` for the first that stays.
    pub fn remove(self) -> Result<(), FilesError> {
        self.0
            .into_iter()
            .try_for_each(|path| match fs::remove_dir_all(&path) {
                Ok(()) => Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(source) => Err(FilesError::Io { path, source }),
            })
    }
}

/// Writes certificate chain, key and roots below `dir/istio` and, if there is one, the token below `dir/tokens`.
/// Directories have mode 700, key and token 400, certificates 444.
///
/// # Errors
/// `FilesError`; what was there before is still there.
pub fn write(
    dir: &Path,
    svid: &Svid,
    bundles: &TrustBundles,
    token: Option<&str>,
    now: UnixTime,
) -> Result<Replaced, FilesError> {
    let roots = bundles
        .bundle(svid.id.trust_domain())
        .map(|bundle| pem::encode_certificates(bundle.roots()))
        .ok_or_else(|| FilesError::NoRoots(svid.id.clone()))?;
    let chain = pem::encode_certificates(&svid.chain);
    let key = pem::encode_key(svid.key.secret_der());
    let entries = [
        Entry {
            name: "cert-chain.pem",
            mode: 0o444,
            text: &chain,
        },
        Entry {
            name: "key.pem",
            mode: 0o400,
            text: &key,
        },
        Entry {
            name: "root-ca.crt",
            mode: 0o444,
            text: &roots,
        },
    ];
    let mut replaced = swap(&dir.join("istio"), &entries, now)?;
    if let Some(token) = token {
        let entries = [Entry {
            name: "istio-token",
            mode: 0o400,
            text: token,
        }];
        replaced
            .0
            .extend(swap(&dir.join("tokens"), &entries, now)?.0);
    }
    Ok(replaced)
}

/// Keeps the files of all jobs as fresh as the SVIDs and roots, until the future is dropped. A token of the embedded
/// `authority` is written anew with every SVID and lives as long as it; a remote authority issues none.
pub async fn keep(
    jobs: Vec<FilesJob>,
    authority: Option<Arc<Authority>>,
    mut set: watch::Receiver<Arc<SvidSet>>,
    clock: Clock,
) {
    let mut written: Vec<Option<(Arc<Svid>, Arc<TrustBundles>)>> = vec![None; jobs.len()];
    loop {
        let current = Arc::clone(&set.borrow_and_update());
        let mut replaced = Replaced::default();
        let mut failed = false;
        for (job, last) in jobs.iter().zip(&mut written) {
            let Some(svid) = current.by_id.get(&job.id) else {
                continue;
            };
            let same = |(last, roots): &(Arc<Svid>, Arc<TrustBundles>)| {
                Arc::ptr_eq(last, svid) && Arc::ptr_eq(roots, &current.bundles)
            };
            if last.as_ref().is_some_and(same) {
                continue;
            }
            match renew(job, svid, &current.bundles, authority.as_deref(), (clock)()) {
                Ok(old) => {
                    replaced.0.extend(old.0);
                    *last = Some((Arc::clone(svid), Arc::clone(&current.bundles)));
                }
                Err(error) => {
                    failed = true;
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(id = %job.id, error, "identity files not written");
                }
            }
        }
        if !replaced.0.is_empty() {
            tokio::time::sleep(GRACE).await;
            if let Err(error) = replaced.remove() {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old identity files not removed"
                );
            }
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        } else if set.changed().await.is_err() {
            return;
        }
    }
}

fn renew(
    job: &FilesJob,
    svid: &Svid,
    bundles: &TrustBundles,
    authority: Option<&Authority>,
    now: UnixTime,
) -> Result<Replaced, FilesError> {
    let left =
        Duration::from_secs(svid.not_after.as_secs().saturating_sub(now.as_secs())).min(TTL_MAX);
    let token = authority
        .map(|authority| authority.issue_token(&job.id, &job.audience, left, now))
        .transpose()
        .map_err(FilesError::Token)?;
    write(&job.dir, svid, bundles, token.as_deref(), now)
}

/// Replaces all files of `dir` by one rename; returns what can be removed.
fn swap(dir: &Path, entries: &[Entry<'_>], now: UnixTime) -> Result<Replaced, FilesError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| failed(dir, e))?;
    let (name, fresh) = make_version(dir, now)?;
    for entry in entries {
        let path = fresh.join(entry.name);
        write_file(&path, entry).map_err(|e| failed(&path, e))?;
    }
    let (link_new, link) = (dir.join(DATA_NEW), dir.join(DATA));
    remove_if_there(&link_new).map_err(|e| failed(&link_new, e))?;
    symlink(&name, &link_new).map_err(|e| failed(&link_new, e))?;
    fs::rename(&link_new, &link).map_err(|e| failed(&link, e))?;
    for entry in entries {
        let path = dir.join(entry.name);
        match symlink(Path::new(DATA).join(entry.name), &path) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(&path, e)),
        }
    }
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|e| failed(dir, e))?;
    others(dir, &name).map_err(|e| failed(dir, e))
}

/// A new directory: `..<unix seconds>.<random>`. A name never comes back, so that a list of what can be removed
/// stays true.
fn make_version(dir: &Path, now: UnixTime) -> Result<(String, PathBuf), FilesError> {
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_e| FilesError::Random)?;
    let name = format!("..{}.{:016x}", now.as_secs(), u64::from_be_bytes(random));
    let path = dir.join(&name);
    DirBuilder::new()
        .mode(0o700)
        .create(&path)
        .map_err(|e| failed(&path, e))?;
    Ok((name, path))
}

fn write_file(path: &Path, entry: &Entry<'_>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(entry.mode)
        .open(path)?;
    file.write_all(entry.text.as_bytes())?;
    file.sync_all()
}

/// Every version but `current`: the one just replaced, and what a crash may have left.
fn others(dir: &Path, current: &str) -> io::Result<Replaced> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let version = name
            .strip_prefix("..")
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if version && name != current && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(Replaced(found))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn failed(path: &Path, source: io::Error) -> FilesError {
    FilesError::Io {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::control::svid::{Source, SvidManager};
    use crate::identity::svid::WantedSvid;
    use crate::vocab::spiffe::TrustDomain;

    fn text(path: &Path) -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn reviews() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/default/sa/reviews-service").unwrap()
    }

    fn authority() -> Authority {
        Authority::in_memory(
            TrustDomain::parse("cluster.local").unwrap(),
            UnixTime::now(),
        )
        .unwrap()
    }

    fn versions(dir: &Path) -> usize {
        fs::read_dir(dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir())
            .count()
    }

    #[test]
    fn layout() {
        let (dir, authority, now) = (tempfile::tempdir().unwrap(), authority(), UnixTime::now());
        let svid = authority
            .issue(&reviews(), &[], Duration::from_secs(60), now)
            .unwrap();
        write(dir.path(), &svid, &authority.bundles(), Some("token"), now)
            .unwrap()
            .remove()
            .unwrap();
        let istio = dir.path().join("istio");
        for (name, mode) in [
            ("cert-chain.pem", 0o444),
            ("key.pem", 0o400),
            ("root-ca.crt", 0o444),
        ] {
            let link = fs::read_link(istio.join(name)).unwrap();
            assert_eq!(link, Path::new("..data").join(name));
            assert_eq!(
                fs::metadata(istio.join(name)).unwrap().permissions().mode() & 0o777,
                mode,
                "{name}"
            );
        }
        assert_eq!(
            text(&dir.path().join("tokens/istio-token")).unwrap(),
            "token"
        );
        assert!(
            fs::read_link(istio.join("..data"))
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("..")
        );
        let chain =
            pem::certificates(text(&istio.join("cert-chain.pem")).unwrap().as_bytes()).unwrap();
        assert_eq!(chain, svid.chain);
        assert_eq!(
            text(&istio.join("key.pem")).unwrap(),
            pem::encode("PRIVATE KEY", svid.key.secret_der())
        );
        let roots =
            pem::certificates(text(&istio.join("root-ca.crt")).unwrap().as_bytes()).unwrap();
        assert_eq!(roots, authority.roots());
    }

    #[test]
    fn readable_at_all_times() {
        let (dir, authority, now) = (tempfile::tempdir().unwrap(), authority(), UnixTime::now());
        let svid = authority
            .issue(&reviews(), &[], Duration::from_secs(60), now)
            .unwrap();
        let put = || write(dir.path(), &svid, &authority.bundles(), Some("token"), now).unwrap();
        let mut held = put();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let names = [
                    "istio/cert-chain.pem",
                    "istio/key.pem",
                    "istio/root-ca.crt",
                    "tokens/istio-token",
                ];
                let mut reads = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    for name in names {
                        let found = text(&dir.path().join(name));
                        assert!(
                            found.as_ref().is_ok_and(|t| !t.is_empty()),
                            "{name} after {reads}: {found:?}"
                        );
                        reads += 1;
                    }
                }
                reads
            });
            for round in 0..100 {
                let replaced = put();
                if round % 10 == 9 {
                    std::mem::replace(&mut held, replaced).remove().unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(reader.join().unwrap() > 100);
        });
        put().remove().unwrap();
        assert_eq!(versions(&dir.path().join("istio")), 1);
        assert_eq!(versions(&dir.path().join("tokens")), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn follow_every_rotation() {
        let (dir, began, start) = (
            tempfile::tempdir().unwrap(),
            tokio::time::Instant::now(),
            UnixTime::now(),
        );
        let clock: Clock = Arc::new(move || {
            UnixTime::since_unix_epoch(Duration::from_secs(start.as_secs()) + began.elapsed())
        });
        let authority = Arc::new(authority());
        let source = Source::Embedded {
            authority: Arc::clone(&authority),
            ttl: Duration::from_secs(1000),
        };
        let wanted = vec![WantedSvid {
            id: reviews(),
            dns_names: Vec::new(),
        }];
        let manager = SvidManager::with_clock(source, wanted, Arc::clone(&clock), Arc::new(|| 0.5));
        let job = FilesJob {
            id: reviews(),
            dir: dir.path().to_owned(),
            audience: "customer-api".to_owned(),
        };
        let set = manager.subscribe();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(keep(
            vec![job],
            Some(Arc::clone(&authority)),
            set.clone(),
            clock,
        ));
        tasks.spawn(manager.run());
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(500)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let chain = text(&dir.path().join("istio/cert-chain.pem")).unwrap();
            let current = Arc::clone(&set.borrow().by_id[&reviews()]);
            assert_eq!(chain, pem::encode_certificates(&current.chain));
            assert!(seen.insert((chain, text(&dir.path().join("tokens/istio-token")).unwrap())));
            assert_eq!(versions(&dir.path().join("istio")), 1);
        }
    }
}
