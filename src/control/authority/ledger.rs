//! What the authority remembers besides keys: join tokens, nodes, revocations, and how far a root rotation is.
//!
//! One file, replaced whole with every change and before the change counts. Of tokens only digests are kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::watch;

use super::AuthorityError;
use super::grant::Grant;
use super::store::Store;
use crate::identity::revocation::{NodeName, RevocationError, Revocations, Serial, Target};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// Format of the file.
const FORMAT: u32 = 1;

/// Why nothing was changed.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// It cannot be kept, so it does not count.
    #[error("cannot be kept")]
    Store(#[source] Box<AuthorityError>),
    /// No randomness.
    #[error("no randomness")]
    Random,
    /// A grant is malformed.
    #[error("`{0}` is neither a SPIFFE ID of a workload nor `dns:` and a name")]
    Grant(String),
    /// A join token or node without an identity could do nothing.
    #[error("no workload is named: a node may ask for nothing by default")]
    NoGrant,
    /// Too many of something.
    #[error("there are {most} {what} already")]
    Full {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: usize,
    },
    /// No such token.
    #[error("there is no join token `{0}`")]
    NoToken(String),
    /// No such node.
    #[error("there is no node `{0}`")]
    NoNode(String),
    /// Not a target of a revocation.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// Not a SPIFFE ID.
    #[error("`{0}` is not a SPIFFE ID")]
    Id(String),
    /// It is not revoked.
    #[error("{0} is not revoked")]
    NotRevoked(Target),
    /// A whole trust domain.
    #[error("`{0}` names no workload: a whole trust domain is not revoked, its root is taken away")]
    Domain(SpiffeId),
    /// More than followers take in one answer.
    #[error(
        "revocations with their reasons would be longer than {} bytes; undo some",
        limits::REVOCATIONS_BYTES
    )]
    Long,
    /// A reason that is longer than it needs to be.
    #[error("a reason has at most {} bytes", limits::REASON_BYTES)]
    Reason,
    /// A token's life.
    #[error("a join token lives from 1 s to 30 days")]
    Ttl,
}

/// A single-use join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Token {
    /// SHA-256 of the token, in hexadecimal.
    pub hash: String,
    /// The node that it makes its holder.
    pub node: String,
    /// What the node may ask for.
    pub grant: Vec<String>,
    /// Unix time.
    pub created: u64,
    /// Unix time; not used from then on.
    pub expires: u64,
    /// The one use.
    pub used: Option<Use>,
    /// Unix time at which it was revoked.
    pub revoked: Option<u64>,
    /// How often it was refused; kept at powers of two only.
    #[serde(default)]
    pub refused: u64,
}

/// The use of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Use {
    /// Unix time.
    pub time: u64,
    /// SHA-256 of the public key that it was used for: an answer that was lost is given again to the same key alone.
    pub key: String,
}

/// A node that has joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeEntry {
    /// What it may ask for.
    pub grant: Vec<String>,
    /// Unix time.
    pub joined: u64,
    /// The token's `id`.
    pub token: String,
}

/// A revocation as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RevocationEntry {
    /// `serial`, `id` or `node`.
    pub kind: String,
    /// Which.
    pub value: String,
    /// Why.
    pub reason: String,
    /// Unix time.
    pub time: u64,
}

/// A root rotation under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Rotation {
    /// Number of the root that leaves.
    pub old: u32,
    /// Number of the root that comes.
    pub next: u32,
    /// Unix time since which both are trusted.
    pub announced: u64,
    /// Unix time from which the new one signs.
    pub activates: u64,
    /// Unix time from which the old one is not trusted.
    pub retires: u64,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Data {
    format: u32,
    /// Number of the root that signs.
    pub active: u32,
    /// Present while two roots are trusted.
    pub rotation: Option<Rotation>,
    /// By the first digits of the hash.
    pub tokens: BTreeMap<String, Token>,
    /// By name.
    pub nodes: BTreeMap<String, NodeEntry>,
    /// Revocations.
    pub revocations: Vec<RevocationEntry>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            format: FORMAT,
            active: 1,
            rotation: None,
            tokens: BTreeMap::new(),
            nodes: BTreeMap::new(),
            revocations: Vec::new(),
        }
    }
}

impl RevocationEntry {
    /// What it is about.
    ///
    /// # Errors
    /// `LedgerError` if kind or value is none.
    pub fn target(&self) -> Result<Target, LedgerError> {
        target(&self.kind, &self.value)
    }
}

/// Reads a target: `serial`, `id` or `node`, and which.
///
/// # Errors
/// `LedgerError`.
pub fn target(kind: &str, value: &str) -> Result<Target, LedgerError> {
    match kind {
        "serial" => Ok(Target::Serial(Serial::parse(value)?)),
        "node" => Ok(Target::Node(NodeName::parse(value)?)),
        _ => SpiffeId::parse(value)
            .map(Target::Id)
            .map_err(|_e| LedgerError::Id(value.to_owned())),
    }
}

/// `target` in two words.
#[must_use]
pub fn words(target: &Target) -> (&'static str, String) {
    match target {
        Target::Serial(serial) => ("serial", serial.to_string()),
        Target::Id(id) => ("id", id.to_string()),
        Target::Node(node) => ("node", node.to_string()),
    }
}

impl Data {
    /// Reads the file's content.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let data: Self = serde_json::from_slice(bytes).ok()?;
        let known = data.format == FORMAT && data.active > 0;
        let grants = data
            .nodes
            .values()
            .map(|n| &n.grant)
            .chain(data.tokens.values().map(|t| &t.grant));
        let sound = grants.into_iter().all(|g| grant(g).is_ok())
            && data.revocations.iter().all(|r| r.target().is_ok());
        (known && sound).then_some(data)
    }

    /// Bytes of the revocations in what followers are told, at most.
    pub(super) fn revocation_bytes(&self) -> usize {
        /// Lengths and field numbers of one entry.
        const FRAMING: usize = 16;
        let each = |r: &RevocationEntry| r.kind.len() + r.value.len() + r.reason.len() + FRAMING;
        self.revocations.iter().map(each).sum()
    }

    /// The revocations in the form that is looked up.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn revoked(&self) -> Result<Revocations, LedgerError> {
        let mut all = Revocations::default();
        for entry in &self.revocations {
            all.add(entry.target()?, &entry.reason)?;
        }
        Ok(all)
    }
}

/// Reads what a node may ask for: SPIFFE IDs of workloads, and `dns:` names. No prefixes: a node is never granted what is
/// not named.
///
/// # Errors
/// `LedgerError::Grant`, `NoGrant`, `Full`.
pub fn grant(words: &[String]) -> Result<Grant, LedgerError> {
    if words.len() > limits::NODE_GRANTS {
        return Err(LedgerError::Full {
            what: "grants of a node",
            most: limits::NODE_GRANTS,
        });
    }
    let mut grant = Grant::default();
    for word in words {
        let own = SpiffeId::parse(word).is_ok_and(|id| NodeName::of(&id).is_some());
        if own || word.ends_with("/*") || grant.add(word).is_err() {
            return Err(LedgerError::Grant(word.clone()));
        }
    }
    if grant.is_empty() {
        return Err(LedgerError::NoGrant);
    }
    Ok(grant)
}

/// The data and where it is kept. Changes are made one at a time.
pub(super) struct Ledger {
    data: watch::Sender<Arc<Data>>,
    store: Option<Arc<Store>>,
}

impl Ledger {
    pub(super) fn open(store: Option<Arc<Store>>) -> Result<Self, AuthorityError> {
        let data = match &store {
            Some(store) => store.load_ledger()?,
            None => Data::default(),
        };
        Ok(Self {
            data: watch::Sender::new(Arc::new(data)),
            store,
        })
    }

    pub(super) fn data(&self) -> Arc<Data> {
        Arc::clone(&self.data.borrow())
    }

    /// Takes what another process has written.
    pub(super) fn reload(&self) -> Result<(), AuthorityError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let found = store.load_ledger()?;
        self.data.send_if_modified(|data| {
            let differs = **data != found;
            if differs {
                *data = Arc::new(found);
            }
            differs
        });
        Ok(())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Data>> {
        self.data.subscribe()
    }

    /// Makes a change that counts only once it is kept.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Data) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut outcome = Err(LedgerError::Random);
        self.data.send_if_modified(|current| {
            let mut next = Data::clone(current);
            outcome = change(&mut next);
            if outcome.is_err() || next == **current {
                return false;
            }
            if let Some(store) = &self.store
                && let Err(error) = store.write_ledger(&next)
            {
                outcome = Err(LedgerError::Store(Box::new(error)));
                return false;
            }
            *current = Arc::new(next);
            true
        });
        outcome
    }
}

/// Makes an empty ledger where it was lost and cannot be restored: nothing is revoked then, and every node has to join
/// again. A root rotation that was under way begins again, with halves of `life`, so that neither root is forgotten.
///
/// # Errors
/// `AuthorityError`: there is a ledger, or the directory is in use or cannot be written.
pub fn make_anew(dir: &Path, life: Duration, now: UnixTime) -> Result<(), AuthorityError> {
    let store = Store::open(dir)?;
    match store.load_ledger() {
        Err(AuthorityError::NoLedger(_)) => {}
        Err(error) => return Err(error),
        Ok(_there) => return Err(AuthorityError::LedgerThere(dir.to_owned())),
    }
    let mut data = Data::default();
    match *store.roots_there()?.as_slice() {
        [.., old, next] => {
            let (announced, life) = (unix(now), life.as_secs());
            data.active = old;
            data.rotation = Some(Rotation {
                old,
                next,
                announced,
                activates: announced.saturating_add(life),
                retires: announced.saturating_add(life.saturating_mul(2)),
            });
        }
        [only] => data.active = only,
        // The issuing CA is the operator's.
        [] => {}
    }
    store.write_ledger(&data)?;
    tracing::warn!(dir = %dir.display(), "the ledger is empty: nothing is revoked, and nodes have to join again");
    Ok(())
}

/// What a ledger file that cannot be read is called.
pub(super) fn unreadable(path: PathBuf) -> AuthorityError {
    AuthorityError::Ledger(path)
}

/// Seconds since 1970.
pub(super) fn unix(now: UnixTime) -> u64 {
    now.as_secs()
}
