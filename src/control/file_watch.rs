//! Tells that files may have changed: any event in their directories, and now and then without one.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between two looks where nothing was told: some file systems tell nothing.
const LOOK: Duration = Duration::from_secs(10);
/// Writers replace several files one after the other.
const SETTLE: Duration = Duration::from_millis(50);

/// A watch over files.
#[derive(Debug)]
pub struct FileWatch {
    _watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    // Keeps `events` open where nothing is watched.
    _told: mpsc::Sender<()>,
    /// Something was told, and more of it may follow until then.
    settles: Option<Instant>,
    /// When to look without having been told.
    due: Instant,
}

impl FileWatch {
    /// Watches directories, and the directories of files: what is there is replaced by renames and by links that are
    /// swapped.
    #[must_use]
    pub fn start(paths: &[PathBuf]) -> Self {
        let (told, events) = mpsc::channel(1);
        let tell = told.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| !matches!(event.kind, EventKind::Access(_))) {
                // One that waits already stands for this one, too.
                tell.try_send(()).ok();
            }
        });
        let mut watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "files are looked at every {} s", LOOK.as_secs());
                None
            }
        };
        let directories: BTreeSet<PathBuf> = paths
            .iter()
            .map(|path| match path.parent() {
                Some(parent) if !path.is_dir() && !parent.as_os_str().is_empty() => {
                    parent.to_owned()
                }
                Some(_) | None if path.is_dir() => path.clone(),
                Some(_) | None => PathBuf::from("."),
            })
            .collect();
        for directory in directories {
            if let Some(Err(error)) = watcher
                .as_mut()
                .map(|w| w.watch(&directory, RecursiveMode::NonRecursive))
            {
                tracing::warn!(%error, directory = %directory.display(), "not watched");
            }
        }
        Self {
            _watcher: watcher,
            events,
            _told: told,
            settles: None,
            due: Instant::now() + LOOK,
        }
    }

    /// Ends when something may have changed. Nothing is lost where the future is dropped.
    pub async fn changed(&mut self) {
        let at = match self.settles {
            Some(at) => at,
            None => {
                let told = tokio::time::timeout_at(self.due, self.events.recv()).await;
                self.due = Instant::now() + LOOK;
                if told != Ok(Some(())) {
                    return;
                }
                *self.settles.insert(Instant::now() + SETTLE)
            }
        };
        tokio::time::sleep_until(at).await;
        while self.events.try_recv().is_ok() {}
        self.settles = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_dropped_again_and_again_ends_all_the_same() {
        let (told, events) = mpsc::channel(1);
        let mut watch = FileWatch {
            _watcher: None,
            events,
            _told: told.clone(),
            settles: None,
            due: Instant::now() + LOOK,
        };
        told.send(()).await.unwrap();
        let often = SETTLE / 5;
        let mut ended = 0;
        for _ in 0..10 {
            ended += usize::from(tokio::time::timeout(often, watch.changed()).await.is_ok());
        }
        assert_eq!(ended, 1);
    }
}
