//! The steps of a root rotation.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use thiserror::Error;

use super::ledger::{LedgerError, Rotation};
use super::roots::Root;
use super::{Authority, AuthorityError, IssueError};

/// Why a rotation does not start.
#[derive(Debug, Error)]
pub enum RotateError {
    /// The root's key is not here.
    #[error(
        "the root's key is not here: give a new issuing CA and both roots in the configuration"
    )]
    NotHere,
    /// One is under way.
    #[error("a root rotation is under way until {0} (Unix time)")]
    UnderWay(u64),
    /// Something issued before would outlive the trust in the old root.
    #[error("an overlap must be at least {0} s, the longest life of what is issued")]
    Overlap(u64),
    /// Not made, or not kept.
    #[error("new root could not be made")]
    Issue(#[source] IssueError),
    /// Not kept.
    #[error("new root could not be kept")]
    Store(#[source] AuthorityError),
    /// Not kept.
    #[error("rotation could not be kept")]
    Ledger(#[source] LedgerError),
}

impl Authority {
    /// Starts to replace the root: both are trusted from now on, the new one signs after `overlap`, and the old one
    /// leaves after `overlap` more.
    ///
    /// # Errors
    /// `RotateError`; nothing has changed then.
    pub fn rotate_root(&self, overlap: Duration, now: UnixTime) -> Result<Rotation, RotateError> {
        let roots = self.roots.load_full();
        if !roots.active.has_key() {
            return Err(RotateError::NotHere);
        }
        if overlap < self.longest_life {
            return Err(RotateError::Overlap(self.longest_life.as_secs()));
        }
        let data = self.ledger.data();
        if let Some(rotation) = &data.rotation {
            return Err(RotateError::UnderWay(rotation.retires));
        }
        let (old, next) = (data.active, data.active.saturating_add(1));
        let root = Root::generate(next, &self.trust_domain, now).map_err(RotateError::Issue)?;
        if let (Some(store), Some(files)) = (&self.store, root.files()) {
            store.write_root(next, &files).map_err(RotateError::Store)?;
        }
        let (announced, overlap) = (now.as_secs(), overlap.as_secs());
        let rotation = Rotation {
            old,
            next,
            announced,
            activates: announced.saturating_add(overlap),
            retires: announced.saturating_add(overlap.saturating_mul(2)),
        };
        let kept = rotation.clone();
        self.ledger
            .change(|data| {
                data.rotation = Some(kept);
                Ok(())
            })
            .map_err(RotateError::Ledger)?;
        let mut known = roots.known.clone();
        known.insert(next, Arc::new(root));
        self.renew_roots(known).map_err(RotateError::Store)?;
        tracing::info!(
            activates = rotation.activates,
            retires = rotation.retires,
            "a new root is announced"
        );
        Ok(rotation)
    }

    /// Does what is due of a rotation; when the next step is.
    ///
    /// # Errors
    /// `RotateError`: the step is tried again with the next call.
    pub fn step_rotation(&self, now: UnixTime) -> Result<Option<UnixTime>, RotateError> {
        let data = self.ledger.data();
        let Some(rotation) = data.rotation.clone() else {
            return Ok(None);
        };
        let due = |at: u64| now.as_secs() >= at;
        let (activate, retire) = (
            due(rotation.activates) && data.active != rotation.next,
            due(rotation.retires),
        );
        if activate || retire {
            self.ledger
                .change(|data| {
                    data.active = rotation.next;
                    if retire {
                        data.rotation = None;
                    }
                    Ok(())
                })
                .map_err(RotateError::Ledger)?;
            self.renew_roots(self.roots.load().known.clone())
                .map_err(RotateError::Store)?;
            tracing::info!(
                root = rotation.next,
                retired = retire,
                "root rotation goes on"
            );
        }
        if retire {
            if let Some(store) = &self.store {
                store
                    .remove_root(rotation.old)
                    .map_err(RotateError::Store)?;
            }
            return Ok(None);
        }
        let next = if due(rotation.activates) {
            rotation.retires
        } else {
            rotation.activates
        };
        Ok(Some(UnixTime::since_unix_epoch(Duration::from_secs(next))))
    }
}
