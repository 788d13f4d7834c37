//! What a running node does for its capture: the rules follow the control groups of its workloads, which are made anew
//! with every restart of a unit, and the kernel hears that the node lives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};

use crate::config::checked::capture::{CaptureScope, OnFailure};
use crate::config::checked::{Node, Process};
use crate::control::capture::cgroup::{Mount, mounts};
use crate::control::capture::system::{is_loaded, nft, set_up, turn};
use crate::control::capture::{CaptureError, Machine, Wanted, capturing, want};
use crate::control::phase::Phase;
use crate::control::snapshot::Snapshot;
use crate::io::listener::own_uid;
use crate::role::capture::{Running, TABLE};
use crate::vocab::text::chain;

/// Between two signs of life, and between two looks at the control groups beside what the kernel tells of them.
const BEAT: Duration = Duration::from_secs(1);
/// Without a sign of life for this long the node counts as dead, in seconds.
pub(super) const ALIVE_S: u32 = 3;

/// Keeps the capture of this process's node true until the future is dropped; after `stop` the kernel counts the node
/// as gone. Without capture it does nothing.
pub async fn keep(
    process: Arc<Process>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    mut stop: watch::Receiver<Phase>,
) {
    let Some(node) = capturing(&process) else {
        return std::future::pending().await;
    };
    let open = node
        .capture
        .as_ref()
        .is_some_and(|c| c.on_failure == OnFailure::Open);
    let signs = open || running(node).uid.is_some();
    let mut keeper = Keeper {
        running: running(node),
        needs_groups: needs_groups(node),
        process: Arc::clone(&process),
        loaded: None,
        failing: false,
        watcher: None,
    };
    let (wake, mut wakes) = mpsc::channel(1);
    let mut beat = tokio::time::interval(BEAT);
    loop {
        tokio::select! {
            _ = stop.wait_for(|phase| phase.stops()) => break,
            _ = beat.tick() => if signs && keeper.loaded.is_some() { keeper.sign_of_life(open).await },
            Some(()) = wakes.recv() => {}
        }
        keeper.watch(&wake);
        keeper.follow(&snapshot).await;
    }
    // After a hand-over the signs of life are the other process's.
    if open && *stop.borrow() != Phase::HandedOver {
        let flush = format!("flush set inet {TABLE} alive\n");
        keeper.told(
            "cannot take back the sign of life",
            blocking(move || nft(&flush)).await,
        );
    }
    std::future::pending::<()>().await;
}

fn running(node: &Node) -> Running {
    // Where only workloads are captured the node's user is none of them: its start was refused otherwise.
    let all = node
        .capture
        .as_ref()
        .is_some_and(|c| c.outbound == CaptureScope::All);
    Running {
        uid: Some(own_uid()).filter(|uid| all && *uid != 0),
        for_s: ALIVE_S,
    }
}

fn needs_groups(node: &Node) -> bool {
    let owners = node.workloads.iter().filter_map(|w| w.owner.as_ref());
    owners
        .into_iter()
        .any(|o| o.unit.is_some() || o.cgroup.is_some())
}

struct Keeper {
    process: Arc<Process>,
    running: Running,
    needs_groups: bool,
    /// What this process loaded last.
    loaded: Option<Wanted>,
    /// The last attempt failed, which was told.
    failing: bool,
    watcher: Option<(RecommendedWatcher, BTreeSet<PathBuf>)>,
}

impl Keeper {
    /// Loads the rules anew if they would be others now. Only if there are any: whether there is capture is the
    /// operator's word, by `ringgate node setup` and `teardown`.
    async fn follow(&mut self, snapshot: &ArcSwap<Snapshot>) {
        let mesh = Arc::clone(&snapshot.load().mesh);
        let (process, running) = (Arc::clone(&self.process), self.running);
        let wanted = want(&process, &mesh, &Machine::look(), Some(running));
        match &wanted {
            Ok(wanted) if self.loaded.as_ref() == Some(wanted) => return,
            Ok(_) | Err(_) => {}
        }
        drop(wanted);
        let done = blocking(move || {
            // Whoever looks last loads last: never rules of before over newer ones.
            let _turn = turn();
            let wanted = want(&process, &mesh, &Machine::look(), Some(running))?;
            let there = is_loaded()?;
            if there {
                set_up(&wanted)?;
            }
            Ok(there.then_some(wanted))
        })
        .await;
        match done {
            Ok(Some(wanted)) => {
                tracing::info!(missing = ?wanted.missing, "capture rules are loaded");
                self.loaded = Some(wanted);
                self.failing = false;
            }
            Ok(None) => {
                if !self.failing {
                    tracing::warn!("nothing is captured: `ringgate node setup` loads the rules");
                }
                self.failing = true;
                self.loaded = None;
            }
            Err(error) => self.told::<()>("capture rules", Err(error)),
        }
    }

    async fn sign_of_life(&mut self, open: bool) {
        let mut script = String::new();
        let mut renew = |set: &str, keys: &[String]| {
            let timed: Vec<String> = keys
                .iter()
                .map(|key| format!("{key} timeout {ALIVE_S}s"))
                .collect();
            let elements = timed.join(", ");
            script.push_str(&format!(
                "flush set inet {TABLE} {set}\nadd element inet {TABLE} {set} {{ {elements} }}\n"
            ));
        };
        if open {
            renew("alive", &["ipv4".to_owned(), "ipv6".to_owned()]);
        }
        if let Some(uid) = self.running.uid {
            renew("own", &[uid.to_string()]);
        }
        let done = blocking(move || nft(&script)).await;
        if done.is_err() {
            // Perhaps the rules have been taken away.
            self.loaded = None;
        }
        self.told("no sign of life", done);
    }

    /// Says what fails, once until it has worked again.
    fn told<T>(&mut self, what: &str, done: Result<T, CaptureError>) {
        match done {
            Ok(_done) => self.failing = false,
            Err(error) => {
                if !self.failing {
                    let error = chain(&error);
                    tracing::error!(error, what, "capture is as it was");
                }
                self.failing = true;
            }
        }
    }

    /// Has the kernel tell of control groups that come and go. Without that the beat sees them, somewhat later.
    fn watch(&mut self, wake: &mpsc::Sender<()>) {
        if !self.needs_groups {
            return;
        }
        let Some(mount) = Mount::find(&mounts()) else {
            return;
        };
        let mut directories: BTreeSet<PathBuf> = mount.slices().into_iter().collect();
        for path in self.configured_groups() {
            let parents = Path::new(path.trim_start_matches('/')).ancestors().skip(1);
            let there = parents.map(|p| mount.root.join(p)).filter(|p| p.is_dir());
            directories.extend(there);
        }
        if matches!(&self.watcher, Some((_, watched)) if *watched == directories) {
            return;
        }
        let wake = wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // One wake that waits stands for all that happened before it.
            if event.is_ok_and(|e| e.kind.is_create() || e.kind.is_remove()) {
                wake.try_send(()).ok();
            }
        });
        let Ok(mut watcher) = watcher else { return };
        for directory in &directories {
            if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
                tracing::debug!(%error, directory = %directory.display(), "not watched");
            }
        }
        self.watcher = Some((watcher, directories));
    }

    fn configured_groups(&self) -> Vec<String> {
        let workloads = capturing(&self.process).map(|n| n.workloads.as_slice());
        let owners = workloads.unwrap_or_default().iter();
        owners
            .filter_map(|w| w.owner.as_ref()?.cgroup.clone())
            .collect()
    }
}

/// Runs what starts programs and waits for them beside the control thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CaptureError> + Send + 'static,
) -> Result<T, CaptureError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(CaptureError::Refused {
            program: "capture".to_owned(),
            said: error.to_string(),
        }),
    }
}
