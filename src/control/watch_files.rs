//! When the configuration is read again: a file of it changed, or SIGHUP.

use std::collections::BTreeSet;
use std::path::PathBuf;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::load::EXTENSIONS;

/// Watches the directories of `paths`, since editors replace files instead of writing them. The watcher ends when dropped.
#[must_use]
pub fn start(paths: &[PathBuf], reload: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
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
        if !matches!(event.kind, EventKind::Access(_)) && event.paths.iter().any(touched) {
            // A reload that waits already reads this change too.
            reload.try_send(()).ok();
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

/// Reloads on SIGHUP.
pub fn on_hangup(reload: mpsc::Sender<()>) {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => drop(tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                reload.try_send(()).ok();
            }
        })),
        Err(error) => tracing::warn!(%error, "SIGHUP is not handled"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn every_form_of_resources_is_watched() {
        for name in ["a.toml", "a.yaml", "a.yml", "a.json"] {
            let dir = tempfile::tempdir().unwrap();
            let (reload, mut reloads) = mpsc::channel(1);
            let watcher = start(&[dir.path().to_owned()], reload);
            assert!(watcher.is_some());
            std::fs::write(dir.path().join(name), "x").unwrap();
            let told = tokio::time::timeout(Duration::from_secs(30), reloads.recv()).await;
            assert_eq!(told, Ok(Some(())), "{name}");
        }
    }
}
