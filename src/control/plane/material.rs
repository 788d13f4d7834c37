//! Files that the configuration names and that are read again when they change: certificates and keys that are served,
//! roots that are believed. What is wrong with one of them changes nothing else.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;

use super::{Plane, PlaneError, key_sources};
use crate::config::checked::Config;
use crate::control::file_watch::FileWatch;
use crate::control::snapshot::{Snapshot, SnapshotError};
use crate::control::{origination, serving};

/// The watch over them.
#[derive(Debug)]
pub(super) struct Material {
    paths: BTreeSet<PathBuf>,
    watch: Option<FileWatch>,
}

impl Material {
    pub(super) fn of(config: &Config) -> Self {
        let paths = paths(config);
        let all: Vec<PathBuf> = paths.iter().cloned().collect();
        Self {
            watch: (!all.is_empty()).then(|| FileWatch::start(&all)),
            paths,
        }
    }

    /// Watches what a configuration names now.
    pub(super) fn follow(&mut self, config: &Config) {
        if paths(config) != self.paths {
            *self = Self::of(config);
        }
    }

    /// Ends when a file may have changed. Nothing is lost where the future is dropped.
    pub(super) async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => watch.changed().await,
            None => std::future::pending().await,
        }
    }
}

fn paths(config: &Config) -> BTreeSet<PathBuf> {
    let served = serving::paths(&config.process);
    served
        .into_iter()
        .chain(origination::paths(&config.mesh))
        .collect()
}

/// Why a start fails.
pub(super) fn refusal(error: SnapshotError, config: &Config) -> PlaneError {
    match error {
        SnapshotError::File(problem) => PlaneError::File(problem.placed(&config.files)),
        other @ (SnapshotError::Enforcement(_) | SnapshotError::Identity(_)) => {
            PlaneError::Snapshot(other)
        }
    }
}

/// Why a reload is refused.
pub(super) fn refused(error: &SnapshotError, config: &Config) -> String {
    match error {
        SnapshotError::File(problem) => problem.placed(&config.files).to_string(),
        SnapshotError::Enforcement(_) | SnapshotError::Identity(_) => error.to_string(),
    }
}

impl Plane {
    /// Reads the files again. What holds something else is taken; what cannot be used stays as it was.
    pub(super) fn look(&mut self) {
        let now = self.snapshot.load_full();
        let serving = now.serving.renew(&self.config.process);
        let origination = now.origination.renew(&self.config.mesh);
        match (serving, origination) {
            (Ok(serving), Ok(origination)) => {
                if !serving.same(&now.serving) || !origination.same(&now.origination) {
                    self.refresh("files");
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "the last good state stays");
            }
        }
    }

    /// Says what is new since the snapshot `before`, and shows what is there now.
    pub(super) fn show_material(&self, before: &Snapshot, now: &Snapshot) {
        let known = before.serving.by_file();
        for served in now.serving.all() {
            let file = served.certificate.as_path();
            let known = known.get(&(served.listener, file));
            if known.is_some_and(|known| !std::ptr::eq(Arc::as_ptr(known), served)) {
                let days = served.seconds_left(UnixTime::now()) / 86_400;
                let (gateway, file) = (&served.gateway, file.display());
                tracing::info!(%gateway, listener = %served.listener, certificate = %file, days, "certificate replaced; it expires in so many days");
            }
        }
        let problems = |of: &Snapshot| -> Vec<String> {
            let all = of
                .serving
                .problems()
                .iter()
                .chain(of.origination.problems());
            let files = &self.config.files;
            all.map(|problem| problem.placed(files).to_string())
                .collect()
        };
        let (then, problems) = (problems(before), problems(now));
        for problem in problems.iter().filter(|problem| !then.contains(problem)) {
            tracing::error!("what the file held before is used: {problem}");
        }
        if problems.is_empty() && !then.is_empty() {
            tracing::info!("certificates, keys and roots can be used again");
        }
        let sources = key_sources(&self.config.mesh);
        let missing = sources.all().filter(|s| !now.keys.map.contains_key(s));
        let missing = missing.count();
        let serving = Arc::clone(&now.serving);
        self.status.send_modify(|status| {
            status.files = problems;
            status.serving = serving;
            status.key_sets_missing = missing;
        });
    }
}
