//! What is told of the process while it runs, beside what it serves: that it stops, that its launcher has ended.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::checked::Process;
use crate::control::admin::Status;
use crate::control::capture;
use crate::control::launcher::{self, Lost};
use crate::control::phase::Phase;

/// Is not ready any more once the process stops; never ends.
pub(super) async fn unready(mut stop: watch::Receiver<Phase>, status: watch::Sender<Status>) {
    let told = stop.wait_for(|phase| phase.stops()).await;
    // Who asks after a hand-over is answered by the other process.
    if told.is_ok_and(|phase| *phase != Phase::HandedOver) {
        status.send_modify(|s| s.ready = false);
    }
    std::future::pending::<()>().await;
}

/// Says so if the launcher ends before this process is told to: it cannot be started again by a process that starts
/// no programs. Never ends.
pub(super) async fn end_of_launcher(
    process: Arc<Process>,
    status: watch::Sender<Status>,
    mut stop: watch::Receiver<Phase>,
) {
    if let Some(launcher) = launcher::launcher() {
        tokio::select! {
            biased;
            _ = stop.wait_for(|phase| phase.stops()) => {}
            () = launcher.ended() => {
                let lost = Lost {
                    upgrades: process.handover.is_some(),
                    captures: capture::capturing(&process).is_some(),
                };
                tracing::error!("{lost}");
                status.send_modify(|status| status.lost = Some(lost));
            }
        }
    }
    std::future::pending::<()>().await;
}
