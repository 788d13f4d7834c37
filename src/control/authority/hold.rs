//! One process after another holds the state of an authority.
//!
//! The one that takes over reads the state and writes nothing; the one before goes on until it is told that the other one
//! serves. Then it writes nothing any more, and the other one reads what was written meanwhile before it writes itself. So a
//! start that fails has changed nothing, and there is never more than one writer.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::roots::Root;
use super::{Authority, AuthorityError};
use crate::vocab::text::chain;

/// How often a process that has handed over looks for what the other one has written. Revocations end what is open here
/// within a second.
const LOOK: Duration = Duration::from_millis(250);

/// Whether this process holds the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Another one does, until this one takes over.
    Waits,
    /// It does.
    Holds,
    /// Another one does, for good.
    Gone,
}

impl Authority {
    /// Takes the state: what the process before has written is read, and this one writes from here on.
    ///
    /// # Errors
    /// `AuthorityError`: the state cannot be read; then nothing is written, and it may be tried again.
    pub fn take_over(&self) -> Result<(), AuthorityError> {
        if let Some(store) = &self.store {
            store.take_right();
            if let Err(error) = self.read_again() {
                store.give_up_right();
                return Err(error);
            }
        }
        self.hold.send_replace(Hold::Holds);
        Ok(())
    }

    /// Writes nothing from here on, and answers no request that would have to.
    pub fn hand_over(&self) {
        if let Some(store) = &self.store {
            store.give_up_right();
        }
        self.hold.send_replace(Hold::Gone);
    }

    /// Whether this process holds the state, now and whenever that changes.
    #[must_use]
    pub fn holds(&self) -> watch::Receiver<Hold> {
        self.hold.subscribe()
    }

    /// The lock of the state once more, for a process that takes over; `None` without a state directory.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn lock(&self) -> io::Result<Option<OwnedFd>> {
        self.store.as_ref().map(|store| store.lock()).transpose()
    }

    /// Reads ledger and roots as another process has written them.
    fn read_again(&self) -> Result<(), AuthorityError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        self.ledger.reload()?;
        let data = self.ledger.data();
        let before = self.roots.load_full();
        let mut known = BTreeMap::new();
        let rotation = data.rotation.as_ref();
        let named = rotation.map_or_else(|| vec![data.active], |r| vec![r.old, r.next]);
        for number in named {
            let root = match before.known.get(&number) {
                // The operator's: it is not in the state.
                Some(given) if !given.has_key() => Arc::clone(given),
                Some(_) | None => Arc::new(Root::load(store, number, &self.trust_domain)?),
            };
            known.insert(number, root);
        }
        self.renew_roots(known)
    }
}

/// Waits until this process holds the state; for ever, if it does not.
pub(in crate::control) async fn held(hold: &mut watch::Receiver<Hold>) {
    if hold.wait_for(|hold| *hold == Hold::Holds).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until another process holds the state; for ever, if none does.
pub(in crate::control) async fn gone(hold: &mut watch::Receiver<Hold>) {
    if hold.wait_for(|hold| *hold == Hold::Gone).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Keeps to what another process writes, once it has taken over, until the future is dropped: what it revokes is revoked here.
pub(in crate::control) async fn follow(authority: Arc<Authority>) {
    gone(&mut authority.holds()).await;
    let mut seen = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let stamp = authority.store.as_ref().and_then(|s| s.ledger_stamp());
        if stamp == seen {
            continue;
        }
        match authority.read_again() {
            Ok(()) => seen = stamp,
            Err(error) => tracing::error!(
                error = chain(&error),
                "what another process has written of the authority's state cannot be read"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::control::authority::lock_file;
    use crate::identity::revocation::{Serial, Target};
    use crate::vocab::spiffe::{SpiffeId, TrustDomain};

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn serial(text: &str) -> Target {
        Target::Serial(Serial::parse(text).unwrap())
    }

    /// Two processes at one state, as the hand-over has them.
    fn two(dir: &std::path::Path) -> (Authority, Authority) {
        let now = UnixTime::now();
        let old = Authority::open(dir, domain(), now).unwrap();
        let lock = old.lock().unwrap().unwrap().into();
        let new = Authority::start_beside((dir, lock), None, domain(), now).unwrap();
        (old, new)
    }

    #[test]
    fn one_after_the_other_writes() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let now = UnixTime::now();
        assert!(new.revoke(&serial("01"), "", now).is_err(), "it waits");
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let ttl = Duration::from_secs(60);
        assert!(new.issue(&id, &[], ttl, now).is_ok(), "by what it has read");
        old.revoke(&serial("02"), "old", now).unwrap();
        assert_eq!(new.revocations().len(), 0);
        old.hand_over();
        assert!(old.revoke(&serial("03"), "", now).is_err(), "it has gone");
        new.take_over().unwrap();
        assert_eq!(new.revocations().len(), 1, "what was written meanwhile");
        new.revoke(&serial("04"), "new", now).unwrap();
        assert_eq!(new.revocations().len(), 2);
        // Nobody else comes in between, not even once the old one has ended.
        drop(old);
        let third = Authority::open(dir.path(), domain(), now);
        assert!(matches!(third, Err(AuthorityError::Locked(_))));
        drop(new);
        let last = Authority::open(dir.path(), domain(), now).unwrap();
        assert_eq!(last.revocations().len(), 2);
    }

    /// A process that was stopped, and that nobody waited for.
    #[test]
    fn whoever_was_not_told_writes_nothing_either() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let now = UnixTime::now();
        new.take_over().unwrap();
        new.revoke(&serial("01"), "", now).unwrap();
        assert!(old.revoke(&serial("02"), "", now).is_err());
        assert_eq!(old.revocations().len(), 0);
        drop((old, new));
        let last = Authority::open(dir.path(), domain(), now).unwrap();
        assert_eq!(last.revocations().len(), 1);
    }

    #[test]
    fn a_start_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        drop(new);
        old.revoke(&serial("01"), "", UnixTime::now()).unwrap();
        assert!(lock_file(dir.path()).exists());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_follows() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let old = Arc::new(old);
        let mut news = old.subscribe();
        news.mark_unchanged();
        let following = tokio::spawn(follow(Arc::clone(&old)));
        old.hand_over();
        new.take_over().unwrap();
        new.revoke(&serial("01"), "", UnixTime::now()).unwrap();
        news.wait_for(|news| news.revocations.len() == 1)
            .await
            .unwrap();
        let overlap = Duration::from_secs(24 * 3600);
        new.rotate_root(overlap, UnixTime::now()).unwrap();
        news.wait_for(|news| news.roots.len() == 2).await.unwrap();
        following.abort();
    }
}
