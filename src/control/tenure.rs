//! Whether this process is the one that holds what there is one of: the state of an authority, the file of a socket.
//!
//! A process that takes over holds nothing until the one before has told that it goes; from then on that one holds nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::control::phase::Phase;

/// The time in which this process holds it.
#[derive(Clone, Debug)]
pub struct Tenure {
    begun: watch::Receiver<bool>,
    phase: watch::Receiver<Phase>,
    /// Another process has the descriptors, and may take over without this one hearing of it.
    given: Arc<AtomicBool>,
}

impl Tenure {
    /// It begins when `begun` says so, and ends when another process has taken over.
    #[must_use]
    pub fn new(begun: watch::Receiver<bool>, phase: watch::Receiver<Phase>) -> Self {
        let given = Arc::default();
        Self {
            begun,
            phase,
            given,
        }
    }

    /// Of a process that neither takes over nor is taken over.
    #[must_use]
    pub fn whole_life() -> Self {
        let (begun, phase) = (watch::Sender::new(true), watch::Sender::new(Phase::Serve));
        Self::new(begun.subscribe(), phase.subscribe())
    }

    /// Whether it is now, and no other process may have taken over unheard.
    #[must_use]
    pub fn is_now(&self) -> bool {
        *self.begun.borrow()
            && *self.phase.borrow() != Phase::HandedOver
            && !self.given.load(Ordering::Relaxed)
    }

    /// Whether another process has been given what it needs to take over, and was not turned away. All clones know it.
    pub fn give(&self, given: bool) {
        self.given.store(given, Ordering::Relaxed);
    }

    /// Returns when it has begun; never, if it does not.
    pub async fn begins(&mut self) {
        if self.begun.wait_for(|begun| *begun).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when it is over; never, if nobody takes over.
    pub async fn ends(&mut self) {
        let over = self.phase.wait_for(|phase| *phase == Phase::HandedOver);
        if over.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Does `work` from its begin to its end, and nothing from then on.
    pub async fn during(mut self, work: impl Future<Output = ()>) {
        self.begins().await;
        tokio::select! {
            biased;
            () = self.ends() => std::future::pending().await,
            () = work => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_begins_once_and_ends_once() {
        let (begun, phase) = (watch::Sender::new(false), watch::Sender::new(Phase::Serve));
        let mut tenure = Tenure::new(begun.subscribe(), phase.subscribe());
        assert!(!tenure.is_now());
        let soon = Duration::from_secs(1);
        assert!(timeout(soon, tenure.begins()).await.is_err());
        begun.send_replace(true);
        tenure.begins().await;
        assert!(tenure.is_now());
        // What another process was given may be its own by now.
        tenure.clone().give(true);
        assert!(!tenure.is_now());
        tenure.give(false);
        // To stop is not to hand over.
        phase.send_replace(Phase::Drain);
        assert!(tenure.is_now());
        assert!(timeout(soon, tenure.ends()).await.is_err());
        phase.send_replace(Phase::HandedOver);
        tenure.ends().await;
        assert!(!tenure.is_now());
        assert!(timeout(soon, tenure.during(async {})).await.is_err());
        Tenure::whole_life().during(async {}).await;
    }
}
