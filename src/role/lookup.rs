//! What DNS answers for a name of the mesh.

use std::net::IpAddr;

use crate::config::checked::{Location, Mesh, Service};
use crate::role::directory::Directory;
use crate::role::endpoints::{Endpoints, Place};
use crate::role::names;
use crate::vocab::limits;

/// Who asks, and what is known.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Mesh resources.
    pub mesh: &'a Mesh,
    /// The mesh by name.
    pub directory: &'a Directory,
    /// Endpoints with their health.
    pub endpoints: &'a Endpoints,
    /// Namespace of those who ask.
    pub namespace: Option<&'a str>,
    /// Suffixes that their resolver may have appended.
    pub search: &'a [String],
    /// Now, on the clock of `Health`.
    pub now_ms: u64,
    /// Counts up; endpoints of a headless service take turns to be first.
    pub turn: usize,
}

/// What is known of a name.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// Nothing of the mesh: other nameservers know.
    Nothing,
    /// A service of the mesh that is reached at these addresses of both families; perhaps none, if nothing of it is there.
    Service(&'a Service, Vec<IpAddr>),
    /// An outside service that has no address of its own in the mesh: the real ones are asked for.
    Outside(&'a Service),
}

/// Looks up a name in lower case, without a dot at its end.
#[must_use]
pub fn lookup<'a>(view: &View<'a>, name: &str) -> Found<'a> {
    let mesh = view.mesh;
    let named = names::find(mesh, view.directory, name, view.namespace, view.search);
    let Some((at, service)) = named.and_then(|n| Some((n.service, mesh.services.get(n.service)?)))
    else {
        return Found::Nothing;
    };
    let addresses = service.virtual_addresses();
    if !addresses.is_empty() {
        return Found::Service(service, addresses.to_vec());
    }
    if service.location == Location::External {
        return Found::Outside(service);
    }
    Found::Service(service, headless(view, at))
}

/// The addresses of the workloads behind a service without one of its own: those in health, all if none is.
fn headless(view: &View<'_>, at: usize) -> Vec<IpAddr> {
    let endpoints = view.endpoints.of(at);
    let address = |place: Place| match place {
        Place::Workload(workload) => view.mesh.workloads.get(workload).map(|w| w.address),
        Place::Outside(ip) => Some(ip),
    };
    let all = || endpoints.iter().filter_map(|e| address(e.place));
    let healthy = endpoints.iter().filter(|e| {
        let mut ports = e.health.iter();
        ports.all(|h| !h.is_ejected(view.now_ms))
    });
    let mut found: Vec<IpAddr> = healthy.filter_map(|e| address(e.place)).collect();
    if found.is_empty() {
        found = all().collect();
    }
    let first = view.turn.checked_rem(found.len()).unwrap_or(0);
    found.rotate_left(first);
    found.truncate(limits::DNS_ADDRESSES);
    found
}
