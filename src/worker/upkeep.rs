//! What a core does beside its connections: judging anew what is open, tidying, resting, and telling of itself.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::control::observe::{LIVE_ASKS, LiveAsk};
use crate::control::supervisor::Beats;
use crate::io::clock;
use crate::io::memory::{self, Text};
use crate::io::rt;
use crate::vocab::limits;
use crate::worker::core::Core;

/// How often a core tidies its pools, in milliseconds.
const SWEEP_MS: u64 = 10_000;
/// How often a core looks whether it is at rest, in milliseconds.
const REST_LOOK_MS: u64 = 500;
/// It is when so many looks in a row found nothing recorded,
const REST_LOOKS: u32 = 5;
/// and the last one no more work than to ask peers whether they are there.
const REST_WORK: Duration = Duration::from_millis(5);
const MINUTE_MS: u128 = 60_000;

/// Starts all of it but `beat`.
pub(super) fn start(
    core: &Rc<Core>,
    text: Arc<Text>,
    changed: watch::Receiver<u64>,
    cores: mpsc::Sender<mpsc::Sender<LiveAsk>>,
) {
    rt::spawn(rejudge(Rc::clone(core), changed));
    rt::spawn(rejudge_by_time(Rc::clone(core)));
    rt::spawn(sweep(Rc::clone(core)));
    rt::spawn(rest(Rc::clone(core), text));
    rt::spawn(tell_open(Rc::clone(core), cores));
}

/// Judges what is open by every new snapshot.
async fn rejudge(core: Rc<Core>, mut changed: watch::Receiver<u64>) {
    while changed.changed().await.is_ok() {
        let snapshot = core.snapshot();
        let ended = core.open.rejudge(&snapshot).await;
        let cut = core.upstreams.cut(&snapshot.revocations);
        if ended > 0 || cut > 0 {
            tracing::info!(
                ended,
                cut,
                "what policy forbids or whose peer is revoked has ended"
            );
        }
    }
}

/// Judges what is open at every full minute, where policies have time windows: none of them ends within a minute.
async fn rejudge_by_time(core: Rc<Core>) {
    loop {
        let into_minute = clock::unix().as_millis() % MINUTE_MS;
        rt::sleep(u64::try_from(MINUTE_MS - into_minute).unwrap_or(1)).await;
        let snapshot = core.snapshot();
        if snapshot.enforcements.timed {
            let ended = core.open.rejudge(&snapshot).await;
            if ended > 0 {
                tracing::info!(ended, "a time window ends what it no longer allows");
            }
        }
    }
}

/// Answers what is open here.
async fn tell_open(core: Rc<Core>, announce: mpsc::Sender<mpsc::Sender<LiveAsk>>) {
    let (line, mut asks) = mpsc::channel(LIVE_ASKS);
    match announce.try_send(line) {
        Ok(()) => {}
        // Nobody asks: the process has no admin endpoint.
        Err(TrySendError::Closed(_)) => return,
        Err(TrySendError::Full(_)) => {
            return tracing::warn!("what is open on this core cannot be told");
        }
    }
    drop(announce);
    while let Some(answer) = asks.recv().await {
        // Whoever asked may have given up.
        drop(answer.send(core.open.live(limits::LIVE_ROWS)));
    }
}

/// Gives back what a start or a burst of connections took, once they are over, and while they are what little is done takes:
/// a page of text that is used brings its neighbours along.
async fn rest(core: Rc<Core>, text: Arc<Text>) {
    let (mut seen, mut worked) = (0, Duration::ZERO);
    let (mut quiet, mut is_due) = (0_u32, true);
    loop {
        rt::sleep(REST_LOOK_MS).await;
        // Refusals are recorded, so whoever goes on asking keeps this core from its rest: what is free has to count as free.
        if core.places.sheds() {
            memory::collect();
        }
        let (recorded, work) = (core.recorded(), clock::thread_cpu());
        let before = std::mem::replace(&mut worked, work);
        if recorded != std::mem::replace(&mut seen, recorded) {
            (quiet, is_due) = (0, true);
            continue;
        }
        quiet = quiet.saturating_add(1);
        if quiet < REST_LOOKS || work.saturating_sub(before) > REST_WORK {
            continue;
        }
        if std::mem::take(&mut is_due) {
            core.forget_buffers();
            memory::collect();
        }
        if let Err(error) = text.release() {
            return tracing::debug!(%error, "text that is not used stays resident");
        }
    }
}

/// Shows that this core moves.
pub(super) async fn beat(index: usize, beats: Arc<Beats>) {
    loop {
        beats.beat(index);
        rt::sleep(beats.period_ms()).await;
    }
}

async fn sweep(core: Rc<Core>) {
    loop {
        rt::sleep(SWEEP_MS).await;
        core.upstreams.sweep();
        core.meters.sweep(clock::now());
    }
}
