//! Names of services and workloads as records have them, made once on each core: what the cores shared would be counted by
//! all of them with every request.

use std::cell::RefCell;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::control::snapshot::Snapshot;
use crate::vocab::resource::ResourceName;

/// A name, whole and in its parts.
#[derive(Clone, Debug)]
pub struct Name {
    /// `namespace/name`.
    pub text: Rc<str>,
    /// In its parts.
    pub parts: Rc<ResourceName>,
}

/// The names that a core has told.
#[derive(Debug, Default)]
pub struct Names(RefCell<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Of which snapshot they are.
    generation: Option<u64>,
    services: FxHashMap<usize, Name>,
    workloads: FxHashMap<usize, Name>,
}

impl Names {
    /// That of a service, by its index into `Mesh::services`.
    #[must_use]
    pub fn service(&self, snapshot: &Snapshot, at: usize) -> Option<Name> {
        let name = &snapshot.mesh.services.get(at)?.name;
        let mut known = self.of(snapshot);
        Some(
            known
                .services
                .entry(at)
                .or_insert_with(|| named(name))
                .clone(),
        )
    }

    /// That of a workload, by its index into `Mesh::workloads`.
    #[must_use]
    pub fn workload(&self, snapshot: &Snapshot, at: usize) -> Option<Name> {
        let name = &snapshot.mesh.workloads.get(at)?.name;
        let mut known = self.of(snapshot);
        Some(
            known
                .workloads
                .entry(at)
                .or_insert_with(|| named(name))
                .clone(),
        )
    }

    fn of(&self, snapshot: &Snapshot) -> std::cell::RefMut<'_, Known> {
        let mut known = self.0.borrow_mut();
        if known.generation != Some(snapshot.generation) {
            *known = Known {
                generation: Some(snapshot.generation),
                ..Known::default()
            };
        }
        known
    }
}

fn named(name: &ResourceName) -> Name {
    Name {
        text: name.joined().into(),
        parts: Rc::new(name.clone()),
    }
}
