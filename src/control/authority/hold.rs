//! One process after another holds the state of an authority.
//!
//! The one that takes over reads the state and writes nothing; the one before goes on until it is told that the other one
//! serves. Then it writes nothing any more, and the other one reads what was written meanwhile before it writes itself. So a
//! start that fails has changed nothing, and there is never more than one writer. One that was not told finds it out by
//! itself: the state has the mark of the other one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::roots::Root;
use super::store::Store;
use super::{Authority, AuthorityError};
use crate::vocab::text::chain;

/// How often a process looks whether another one has taken the state without a word, and one that has handed over looks for
/// what the other one has written. Revocations end what is open here within a second.
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
    /// `AuthorityError`: the state cannot be read or marked, or is being written; then nothing is written here, and it may
    /// be tried again. `Elsewhere`: this process has handed over in turn, for good.
    pub fn take_over(&self) -> Result<(), AuthorityError> {
        if *self.hold.borrow() == Hold::Gone {
            return Err(AuthorityError::Elsewhere(
                self.state_dir().unwrap_or_default(),
            ));
        }
        if let Some(store) = &self.store {
            store.take_right()?;
            if let Err(error) = self.read_again() {
                store.give_up_right();
                return Err(error);
            }
        }
        self.hold.send_replace(Hold::Holds);
        Ok(())
    }

    /// Writes nothing from here on, and answers no request that would have to. The lock is the other process's alone: should
    /// that one end, a third one may begin while this one drains.
    pub fn hand_over(&self) {
        if let Some(store) = &self.store {
            store.release();
        }
        self.hold.send_replace(Hold::Gone);
    }

    /// Whether another process has taken the state from this one.
    fn has_lost(&self) -> bool {
        *self.hold.borrow() == Hold::Holds && self.store.as_ref().is_some_and(|s| s.lost())
    }

    /// Whether this process holds the state, now and whenever that changes.
    #[must_use]
    pub fn holds(&self) -> watch::Receiver<Hold> {
        self.hold.subscribe()
    }

    /// The lock of the state once more, for a process that takes over; `None` without a state directory, and after that.
    ///
    /// # Errors
    /// As `dup(2)`.
    pub fn lock(&self) -> io::Result<Option<OwnedFd>> {
        self.store.as_ref().map_or(Ok(None), |store| store.lock())
    }

    /// Reads ledger and roots as another process has written them. What is revoked counts even where the roots cannot be read.
    fn read_again(&self) -> Result<(), AuthorityError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        self.ledger.reload()?;
        let read = self.read_roots(store);
        if read.is_err() {
            self.tell();
        }
        read
    }

    fn read_roots(&self, store: &Arc<Store>) -> Result<(), AuthorityError> {
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

/// Waits until another process holds the state, as [`gone`], also if this one is not told of it.
async fn taken(authority: &Authority) {
    let mut hold = authority.holds();
    loop {
        tokio::select! {
            () = gone(&mut hold) => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if authority.has_lost() {
            tracing::warn!("another process has taken the authority's state over");
            authority.hand_over();
        }
    }
}

/// Keeps to what another process writes, once it has taken over, until the future is dropped: what it revokes is revoked here.
pub(in crate::control) async fn follow(authority: Arc<Authority>) {
    taken(&authority).await;
    let (mut seen, mut failures) = (None, 0_u64);
    loop {
        tokio::time::sleep(LOOK).await;
        let stamp = authority.store.as_ref().and_then(|s| s.ledger_stamp());
        if stamp == seen {
            continue;
        }
        match authority.read_again() {
            Ok(()) => (seen, failures) = (stamp, 0),
            Err(error) => {
                failures = failures.saturating_add(1);
                if failures.is_power_of_two() {
                    tracing::error!(
                        error = chain(&error),
                        failures,
                        "what another process has written of the authority's state cannot be read"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;

    use super::*;
    use crate::control::authority::lock_file;
    use crate::control::durable;
    use crate::identity::revocation::{Serial, Target};
    use crate::vocab::spiffe::{SpiffeId, TrustDomain};

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn serial(text: &str) -> Target {
        Target::Serial(Serial::parse(text).unwrap())
    }

    fn mark(dir: &std::path::Path) -> Vec<u8> {
        durable::read(&lock_file(dir), 16).unwrap()
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

    /// A task that tries to take over again and again must not undo that this process was taken over.
    #[test]
    fn who_has_handed_over_takes_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        old.hand_over();
        new.take_over().unwrap();
        let lock = new.lock().unwrap().unwrap().into();
        let now = UnixTime::now();
        let last = Authority::start_beside((dir.path(), lock), None, domain(), now).unwrap();
        new.hand_over();
        last.take_over().unwrap();
        let before = mark(dir.path());
        let again = new.take_over();
        assert!(
            matches!(again, Err(AuthorityError::Elsewhere(_))),
            "{again:?}"
        );
        assert_eq!(*new.holds().borrow(), Hold::Gone);
        assert_eq!(mark(dir.path()), before);
        last.revoke(&serial("01"), "", now).unwrap();
    }

    /// The state of a process that has gone is free once the one that took over has ended.
    #[test]
    fn who_drains_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let now = UnixTime::now();
        old.hand_over();
        new.take_over().unwrap();
        new.revoke(&serial("01"), "", now).unwrap();
        let third = Authority::open(dir.path(), domain(), now);
        assert!(matches!(third, Err(AuthorityError::Locked(_))), "it serves");
        drop(new);
        let third = Authority::open(dir.path(), domain(), now).unwrap();
        third.revoke(&serial("02"), "", now).unwrap();
        assert!(old.revoke(&serial("03"), "", now).is_err());
    }

    /// One that is stopped within a write holds up the one that takes over, which tries again.
    #[test]
    fn nobody_takes_over_within_a_write() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let before = mark(dir.path());
        let writes = std::fs::File::open(dir.path().join("write.lock")).unwrap();
        writes.lock().unwrap();
        let taken = new.take_over();
        assert!(matches!(taken, Err(AuthorityError::Locked(_))), "{taken:?}");
        assert_eq!(*new.holds().borrow(), Hold::Waits);
        assert_eq!(mark(dir.path()), before);
        drop(writes);
        old.revoke(&serial("01"), "", UnixTime::now()).unwrap();
        new.take_over().unwrap();
        assert_eq!(new.revocations().len(), 1);
    }

    /// As after a signal to stop that came before the hand-over was over.
    #[tokio::test(start_paused = true)]
    async fn who_was_not_told_finds_it_out() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        let old = Arc::new(old);
        let mut hold = old.holds();
        let following = tokio::spawn(follow(Arc::clone(&old)));
        tokio::time::sleep(LOOK * 3).await;
        assert_eq!(*hold.borrow(), Hold::Holds);
        new.take_over().unwrap();
        let found = tokio::time::timeout(LOOK * 10, gone(&mut hold)).await;
        assert!(found.is_ok());
        new.revoke(&serial("01"), "", UnixTime::now()).unwrap();
        let mut news = old.subscribe();
        let told = news.wait_for(|news| news.revocations.len() == 1);
        let told = tokio::time::timeout(LOOK * 10, told).await.unwrap();
        assert_eq!(told.unwrap().revocations.len(), 1);
        following.abort();
    }

    /// A root that is not there yet keeps no revocation back.
    #[tokio::test(start_paused = true)]
    async fn what_is_revoked_counts_without_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = two(dir.path());
        old.hand_over();
        new.take_over().unwrap();
        let now = UnixTime::now();
        new.rotate_root(Duration::from_secs(24 * 3600), now)
            .unwrap();
        std::fs::remove_file(dir.path().join("ca/root-2.pem")).unwrap();
        new.revoke(&serial("01"), "", now).unwrap();
        assert!(old.read_again().is_err());
        assert_eq!(old.revocations().len(), 1);
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
