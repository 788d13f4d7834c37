//! When the configuration is read again: a file of it changed, or SIGHUP.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use notify::event::{ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::load::EXTENSIONS;
use crate::control::signals;

/// A file that is put in place by a rename is whole; others of the same change may follow.
const WHOLE: Duration = Duration::from_millis(2);
/// What is written in place, moved away or removed is whole some time after the last of it. Half a file of policies is not
/// the policy.
const WRITTEN: Duration = Duration::from_millis(50);
/// Whoever goes on writing is not waited for any longer than so many times.
const ROUNDS: usize = 20;

/// Tells that the configuration has changed.
#[derive(Clone, Debug)]
pub struct Touch {
    told: mpsc::Sender<()>,
    written: Arc<AtomicBool>,
}

/// Hears that the configuration has changed.
#[derive(Debug)]
pub struct Changes {
    told: mpsc::Receiver<()>,
    written: Arc<AtomicBool>,
}

/// Both ends.
#[must_use]
pub fn channel() -> (Touch, Changes) {
    let (sender, receiver) = mpsc::channel(1);
    let written = Arc::new(AtomicBool::new(false));
    let touch = Touch {
        told: sender,
        written: Arc::clone(&written),
    };
    let changes = Changes {
        told: receiver,
        written,
    };
    (touch, changes)
}

impl Touch {
    /// Whatever it is, it is complete.
    fn whole(&self) {
        // A change that waits already stands for this one, too.
        self.told.try_send(()).ok();
    }

    /// More may follow.
    fn written(&self) {
        self.written.store(true, Ordering::Release);
        self.whole();
    }
}

impl Changes {
    /// Waits for a change; `None` if nobody is left who could tell. Nothing is lost where the future is dropped.
    pub async fn touched(&mut self) -> Option<()> {
        self.told.recv().await
    }

    /// After `touched`: waits until the change is complete.
    pub async fn settle(&mut self) {
        for _ in 0..ROUNDS {
            let written = self.written.swap(false, Ordering::AcqRel);
            tokio::time::sleep(if written { WRITTEN } else { WHOLE }).await;
            if self.told.try_recv().is_err() {
                return;
            }
        }
    }
}

/// Watches the directories of `paths`, since editors replace files instead of writing them. The watcher ends when dropped.
#[must_use]
pub fn start(paths: &[PathBuf], touch: Touch) -> Option<RecommendedWatcher> {
    let directory = |path: &PathBuf| {
        if path.is_dir() {
            return path.clone();
        }
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            Some(_) | None => PathBuf::from("."),
        }
    };
    let directories: BTreeSet<PathBuf> = paths.iter().map(directory).collect();
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Mounted configuration is swapped whole by a link of this name.
        let touched = |path: &PathBuf| {
            let extension = path.extension().and_then(|e| e.to_str());
            extension.is_some_and(|e| EXTENSIONS.contains(&e)) || path.ends_with("..data")
        };
        let Ok(event) = event else { return };
        if !event.paths.iter().any(touched) {
            return;
        }
        match event.kind {
            EventKind::Access(_) => {}
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => touch.whole(),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both))
                if !event.paths.first().is_some_and(touched) =>
            {
                touch.whole();
            }
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(
                ModifyKind::Any
                | ModifyKind::Data(_)
                | ModifyKind::Metadata(_)
                // Editors move a file away before they write it anew. A directory without it is no policy that anybody wrote.
                | ModifyKind::Name(_)
                | ModifyKind::Other,
            )
            | EventKind::Remove(_)
            | EventKind::Other => touch.written(),
        }
    });
    let mut watcher = match watched {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "files are not watched; SIGHUP reloads");
            return None;
        }
    };
    for directory in directories {
        if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, directory = %directory.display(), "not watched; SIGHUP reloads");
        }
    }
    Some(watcher)
}

/// Reloads on SIGHUP, each of which `heard` is called for first.
pub fn on_hangup(touch: Touch, heard: impl Fn() + Send + 'static) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            signals::let_through(&[Signal::SIGHUP]);
            drop(tokio::spawn(async move {
                while hangup.recv().await.is_some() {
                    heard();
                    touch.whole();
                }
            }));
        }
        Err(error) => tracing::warn!(%error, "SIGHUP is not handled"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// What is told of a change in a watched directory: whether more of it may follow.
    async fn told(change: impl FnOnce(&Path)) -> bool {
        told_of(|_| {}, change).await
    }

    /// The same, of a directory in which something is.
    async fn told_of(before: impl FnOnce(&Path), change: impl FnOnce(&Path)) -> bool {
        let dir = tempfile::tempdir().unwrap();
        before(dir.path());
        let (touch, mut changes) = channel();
        let watcher = start(&[dir.path().to_owned()], touch);
        assert!(watcher.is_some());
        change(dir.path());
        let told = tokio::time::timeout(Duration::from_secs(30), changes.touched()).await;
        assert_eq!(told, Ok(Some(())));
        changes.written.load(Ordering::Acquire)
    }

    #[tokio::test]
    async fn every_form_of_resources_is_watched() {
        for name in ["a.toml", "a.yaml", "a.yml", "a.json"] {
            let written = told(|dir| std::fs::write(dir.join(name), "x").unwrap()).await;
            assert!(written, "{name}");
        }
    }

    #[tokio::test]
    async fn what_is_renamed_into_place_is_whole() {
        let renamed = |dir: &Path| {
            std::fs::write(dir.join("new"), "x").unwrap();
            std::fs::rename(dir.join("new"), dir.join("a.toml")).unwrap();
        };
        assert!(!told(renamed).await);
    }

    #[tokio::test]
    async fn what_is_moved_away_may_come_back() {
        for other in ["a.toml~", "b.toml"] {
            let there = |dir: &Path| std::fs::write(dir.join("a.toml"), "x").unwrap();
            let moves = |dir: &Path| std::fs::rename(dir.join("a.toml"), dir.join(other)).unwrap();
            assert!(told_of(there, moves).await, "{other}");
        }
    }

    /// How long it takes until what `touches` tells is settled.
    async fn settled(touches: impl AsyncFnOnce(&Touch)) -> Duration {
        let (touch, mut changes) = channel();
        touch.whole();
        changes.touched().await.unwrap();
        let began = tokio::time::Instant::now();
        let settled = async {
            changes.settle().await;
            began.elapsed()
        };
        let ((), took) = tokio::join!(touches(&touch), settled);
        took
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_is_whole_after_a_while() {
        let pause = tokio::time::sleep;
        let short = Duration::from_millis(1);
        assert_eq!(settled(async |_| {}).await, WHOLE);
        let one = settled(async |touch| touch.written()).await;
        assert_eq!(one, WRITTEN + WHOLE, "and nothing came after it");
        let several = settled(async |touch| {
            pause(short).await;
            touch.whole();
        });
        assert_eq!(several.await, WHOLE * 2);
        let endless = settled(async |touch| {
            for _ in 0..ROUNDS * 60 {
                touch.written();
                pause(short).await;
            }
        });
        let rounds = u32::try_from(ROUNDS).unwrap();
        assert_eq!(endless.await, WRITTEN * rounds);
    }
}
