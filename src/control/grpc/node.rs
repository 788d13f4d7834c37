//! A process that joined as a node: its own SVID, renewed by itself, and what it keeps over a restart.
//!
//! Files below `[identity] stateDir`, all of mode 400: `node.pem` (chain and key), `join-key.pem` (the key that a join token is
//! used for, so that an answer that got lost can be asked for again), `trust.json` (roots and revocations that the
//! authority told last).

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;
use tonic::Code;
use zeroize::Zeroizing;

use super::client::{RemoteAuthority, RemoteError};
use crate::control::authority::ledger::RevocationEntry;
use crate::control::durable;
use crate::identity::leaf;
use crate::identity::pem;
use crate::identity::revocation::NodeName;
use crate::identity::rotation::next_rotation;
use crate::identity::svid::{Svid, WantedSvid};
use crate::vocab::limits;

const SVID: &str = "node.pem";
const JOIN_KEY: &str = "join-key.pem";
const TRUST: &str = "trust.json";
const LOCK: &str = "lock";
const PRIVATE_MODE: u32 = 0o400;
/// No file is longer, but for the one with the revocations.
const FILE_BYTES: u64 = 64 * 1024;

/// Why a node has no identity of its own.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The file system refused.
    #[error("cannot use `{}`", path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// The reason of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another process holds the state directory.
    #[error("state directory `{}` is in use by another process", .0.display())]
    Locked(PathBuf),
    /// A private key can be read by others than its owner.
    #[error("`{}` has mode {mode:03o}; a private key must be 400", path.display())]
    Exposed {
        /// The key file.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
    /// Not what this program wrote.
    #[error("`{}` cannot be read; remove it and join with a new token", .0.display())]
    Unreadable(PathBuf),
    /// The state belongs to another node.
    #[error("state directory is of `{found}`, configured is node `{configured}`")]
    OtherNode {
        /// In the certificate.
        found: String,
        /// In the configuration.
        configured: NodeName,
    },
    /// No key.
    #[error("key could not be made")]
    Key(#[source] rcgen::Error),
    /// The name does not make an identity of the trust domain.
    #[error("node `{0}` has no identity in this trust domain")]
    Name(NodeName),
}

/// Where a node keeps its identity.
#[derive(Debug)]
pub struct NodeState {
    dir: PathBuf,
    lock: File,
}

/// What is kept of the authority's news.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Told {
    /// SHA-256 of the file of roots that this is newer than.
    pub(super) file: String,
    /// PEM.
    pub(super) roots: String,
    /// Revocations.
    pub(super) revocations: Vec<RevocationEntry>,
}

/// A node and the SVID that it has now.
pub(super) struct Node {
    pub(super) name: NodeName,
    wanted: WantedSvid,
    pub(super) state: Option<NodeState>,
    svid: Mutex<Option<Arc<Svid>>>,
    join_key: KeyPair,
}

fn io_error(path: &Path, source: io::Error) -> NodeError {
    NodeError::Io {
        path: path.to_owned(),
        source,
    }
}

impl NodeState {
    /// Makes the directory (mode 700) if need be and takes its lock.
    ///
    /// # Errors
    /// `NodeError`.
    pub fn open(dir: &Path) -> Result<Self, NodeError> {
        Self::open_with(dir, |_path| None)
    }

    /// As `open`; the lock may be held already, which `held` tells by the path of its file.
    ///
    /// # Errors
    /// `NodeError`.
    pub fn open_with(
        dir: &Path,
        held: impl FnOnce(&Path) -> Option<File>,
    ) -> Result<Self, NodeError> {
        durable::make_dir(dir).map_err(|e| io_error(dir, e))?;
        let path = dir.join(LOCK);
        if let Some(lock) = held(&path) {
            let dir = dir.to_owned();
            return Ok(Self { dir, lock });
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| io_error(&path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                dir: dir.to_owned(),
                lock,
            }),
            Err(TryLockError::WouldBlock) => Err(NodeError::Locked(dir.to_owned())),
            Err(TryLockError::Error(e)) => Err(io_error(&path, e)),
        }
    }

    /// Whether the node whose state is in this directory has joined, as far as this process can see: it needs no token then.
    #[must_use]
    pub fn has_joined(dir: &Path) -> bool {
        matches!(dir.join(SVID).try_exists(), Ok(true))
    }

    /// The lock once more, for a process that takes over: it is held as long as either descriptor is open.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone().map(OwnedFd::from)
    }

    fn read(&self, name: &str, most: u64) -> Result<Option<Zeroizing<Vec<u8>>>, NodeError> {
        let path = self.dir.join(name);
        let content = match durable::read(&path, most) {
            Ok(content) => Zeroizing::new(content),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&path, e)),
        };
        let mode = durable::mode(&path).map_err(|e| io_error(&path, e))?;
        if mode & !PRIVATE_MODE == 0 {
            Ok(Some(content))
        } else {
            Err(NodeError::Exposed { path, mode })
        }
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), NodeError> {
        let path = self.dir.join(name);
        durable::replace(&path, content, PRIVATE_MODE).map_err(|e| io_error(&path, e))
    }

    /// The authority's news as they were kept.
    pub(super) fn told(&self) -> Result<Option<Told>, NodeError> {
        let Some(content) = self.read(TRUST, limits::TRUST_BYTES)? else {
            return Ok(None);
        };
        let told = serde_json::from_slice(&content);
        told.map(Some)
            .map_err(|_e| NodeError::Unreadable(self.dir.join(TRUST)))
    }

    /// Keeps the authority's news.
    pub(super) fn keep_told(&self, told: &Told) -> Result<(), NodeError> {
        let text =
            serde_json::to_vec(told).map_err(|e| io_error(&self.dir.join(TRUST), e.into()))?;
        self.write(TRUST, &text)
    }

    fn svid(&self) -> Result<Option<Svid>, NodeError> {
        let Some(content) = self.read(SVID, FILE_BYTES)? else {
            return Ok(None);
        };
        let bad = || NodeError::Unreadable(self.dir.join(SVID));
        let chain = pem::certificates(&content).map_err(|_e| bad())?;
        let key = pem::private_key(&content).map_err(|_e| bad())?;
        let found = chain.first().and_then(|der| leaf::check(der).ok());
        let found = found.ok_or_else(bad)?;
        Ok(Some(Svid {
            id: found.id,
            key,
            not_before: found.not_before,
            not_after: found.not_after,
            chain,
        }))
    }

    fn keep_svid(&self, svid: &Svid) -> Result<(), NodeError> {
        let chain = pem::encode_certificates(&svid.chain);
        let key = pem::encode_key(svid.key.secret_der());
        let both = Zeroizing::new([chain.as_bytes(), key.as_bytes()].concat());
        self.write(SVID, &both)
    }

    /// The key that a token is used for; made once and kept before it is used.
    fn join_key(&self) -> Result<KeyPair, NodeError> {
        if let Some(content) = self.read(JOIN_KEY, FILE_BYTES)? {
            let text = std::str::from_utf8(&content).ok();
            let key = text.and_then(|text| KeyPair::from_pem(text).ok());
            return key.ok_or_else(|| NodeError::Unreadable(self.dir.join(JOIN_KEY)));
        }
        let key = KeyPair::generate().map_err(NodeError::Key)?;
        self.write(JOIN_KEY, pem::encode_key(key.serialized_der()).as_bytes())?;
        Ok(key)
    }
}

impl RemoteAuthority {
    /// The process is node `name`: the join token is used once, for its own SVID, and by that it asks for all others and
    /// for the next one. With `state` it does so over a restart, too.
    ///
    /// # Errors
    /// `NodeError`.
    pub fn join_as(self, name: NodeName, state: Option<NodeState>) -> Result<Self, NodeError> {
        let id = name
            .id(&self.domain)
            .ok_or_else(|| NodeError::Name(name.clone()))?;
        let held = match &state {
            Some(state) => state.svid()?,
            None => None,
        };
        if let Some(held) = held.as_ref().filter(|held| held.id != id) {
            return Err(NodeError::OtherNode {
                found: held.id.to_string(),
                configured: name,
            });
        }
        let join_key = match &state {
            Some(state) => state.join_key()?,
            None => KeyPair::generate().map_err(NodeError::Key)?,
        };
        Ok(self.with_node(Node {
            wanted: WantedSvid {
                id,
                dns_names: Vec::new(),
            },
            name,
            state,
            svid: Mutex::new(held.map(Arc::new)),
            join_key,
        }))
    }

    /// The SVID of the node that this process is, fresh enough; `None` if it is none.
    pub(super) async fn own_svid(&self, now: UnixTime) -> Result<Option<Arc<Svid>>, RemoteError> {
        let Some(node) = &self.node else {
            return Ok(None);
        };
        let mut held = node.svid.lock().await;
        let valid = held
            .as_ref()
            .filter(|svid| !svid.expired(now) && svid.not_before.as_secs() <= now.as_secs())
            .cloned();
        let due = |svid: &Svid| {
            let at = next_rotation(svid.not_before, svid.not_after, 0.5);
            now.as_secs() >= at.as_secs()
        };
        if let Some(svid) = valid.as_ref().filter(|svid| !due(svid)) {
            return Ok(Some(Arc::clone(svid)));
        }
        let fresh = match self.renew_node(node, valid.as_deref(), now).await {
            Ok(fresh) => fresh,
            Err(error) => {
                let Some(valid) = valid else {
                    return Err(error);
                };
                let left = valid.not_after.as_secs().saturating_sub(now.as_secs());
                tracing::warn!(
                    node = %node.name, seconds_left = left,
                    error = &error as &dyn std::error::Error, "SVID of the node not renewed"
                );
                return Ok(Some(valid));
            }
        };
        if let Some(state) = &node.state
            && let Err(error) = state.keep_svid(&fresh)
        {
            tracing::error!(
                node = %node.name, error = &error as &dyn std::error::Error,
                "SVID of the node not kept: a restart needs a new join token once the one on disk has expired"
            );
        }
        let fresh = Arc::new(fresh);
        *held = Some(Arc::clone(&fresh));
        Ok(Some(fresh))
    }

    /// By its present SVID, or by the token if there is none or it is refused.
    async fn renew_node(
        &self,
        node: &Node,
        present: Option<&Svid>,
        now: UnixTime,
    ) -> Result<Svid, RemoteError> {
        if let Some(present) = present {
            let key = KeyPair::generate().map_err(RemoteError::Request)?;
            match self.certify(&node.wanted, &key, Some(present), now).await {
                // It was removed from the authority, and may have a token to join anew.
                Err(RemoteError::Refused(status)) if status.code() == Code::PermissionDenied => {
                    tracing::warn!(node = %node.name, %status, "node is refused, its token is tried");
                }
                other => return other,
            }
        }
        let joined = self
            .certify(&node.wanted, &node.join_key, None, now)
            .await?;
        tracing::info!(node = %node.name, "node joined");
        Ok(joined)
    }
}
