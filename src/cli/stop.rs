//! SIGINT and SIGTERM as a flag, for commands that must clean up before they end.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::os;

/// Set once the process was told to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Starts to listen for SIGINT and SIGTERM.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn on_signals() -> anyhow::Result<Self> {
        let (seen, stop) = watch::channel(false);
        os::thread("signals", move || {
            if let Err(error) = block_until_signal() {
                os::complain(&format!("ringgate: {error:#}"));
            }
            seen.send_replace(true);
        })?;
        Ok(Self(stop))
    }

    /// Whether the process was told to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// For those who wait for it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }
}

fn block_until_signal() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the signal handler cannot be started")?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
