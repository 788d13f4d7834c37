//! SIGINT and SIGTERM, for the life of the process and for commands that must clean up before they end.

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::os;
use crate::control::phase::Phase;
use crate::control::sandbox::never_binds;
use crate::control::signals;

/// Set once the process was told to stop; the second signal means at once.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<Phase>);

impl Stop {
    /// Starts to listen for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn on_signals() -> anyhow::Result<Self> {
        let phase = watch::Sender::new(Phase::Serve);
        let told = phase.clone();
        os::thread("signals", move || {
            never_binds();
            if let Err(error) = block_on_signals(&told) {
                os::complain(&format!("ringgate: {error:#}"));
                told.send_replace(Phase::Drain);
            }
        })?;
        Ok(Self(phase))
    }

    /// Whether the process was told to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.borrow().stops()
    }

    /// The phase that signals change.
    #[must_use]
    pub fn phase(&self) -> &watch::Sender<Phase> {
        &self.0
    }
}

/// Returns only with an error.
fn block_on_signals(phase: &watch::Sender<Phase>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the signal handler cannot be started")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        signals::let_through(&[Signal::SIGINT, Signal::SIGTERM]);
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            phase.send_modify(|phase| *phase = phase.told_to_stop());
        }
    })
}
