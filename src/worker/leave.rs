//! How what leaves a workload, or what the process itself asks, gets to where its route leads.

use std::net::SocketAddr;

use smallvec::smallvec;

use crate::control::snapshot::Snapshot;
use crate::io::rt::ConnectOptions;
use crate::io::upstream::Target;
use crate::role::endpoints::{Caller, Pick};
use crate::role::outbound::{self, Route};
use crate::vocab::spiffe::SpiffeId;
use crate::worker::core::Core;
use crate::worker::exchange::{Beyond, connect_ms, hbone};
use crate::worker::judge::{self, NoTarget};
use crate::worker::origin::Origin;

/// Who leaves, and how.
#[derive(Clone, Debug)]
pub(super) struct Leaving<'a> {
    pub(super) core: &'a Core,
    pub(super) snapshot: &'a Snapshot,
    /// As whom.
    pub(super) own: &'a SpiffeId,
    /// Whose connection it is.
    pub(super) origin: Origin,
    pub(super) from: Caller<'a>,
    pub(super) options: ConnectOptions,
}

impl Leaving<'_> {
    /// The way that a route is taken; outside services in plaintext.
    ///
    /// # Errors
    /// `NoTarget`.
    pub(super) fn target(&self, route: Route, pick: &Pick<'_>) -> Result<Target, NoTarget> {
        let mesh = &self.snapshot.mesh;
        let beyond = match route {
            Route::Gateway {
                gateway,
                service,
                authority,
            } => mesh.gateways.get(gateway).map(|gateway| Beyond {
                connect_ms: None,
                address: gateway.hbone,
                expected: gateway.id.clone(),
                service,
                authority,
            }),
            Route::Workload {
                workload,
                port,
                service,
            } => mesh.workloads.get(workload).map(|workload| Beyond {
                connect_ms: service.and_then(|at| connect_ms(mesh, at)),
                address: SocketAddr::new(workload.address, workload.hbone_port),
                expected: workload.id.clone(),
                service,
                authority: SocketAddr::new(workload.address, port).to_string(),
            }),
            Route::Outside {
                service,
                port,
                address,
            } => {
                let asked = (service, port, address);
                let address = judge::endpoint(self.core, self.snapshot, asked, &self.from, pick)?;
                return Ok(Target::Plain {
                    addresses: smallvec![address],
                    options: ConnectOptions {
                        within_ms: connect_ms(mesh, service),
                        ..self.options
                    },
                    source: None,
                });
            }
            Route::Unknown(Some(address)) => {
                // To ask this process for itself goes in circles, or to what only the operator may ask.
                if judge::is_own(self.core, self.snapshot, address.0) {
                    return Err(NoTarget::SelfCall);
                }
                return Ok(Target::Plain {
                    addresses: smallvec![address],
                    options: self.options,
                    source: None,
                });
            }
            Route::Unreachable { service, port } => {
                let why = outbound::unreachable(mesh, service, port);
                return Err(NoTarget::Unreachable(why));
            }
            Route::Unknown(None) => None,
        };
        let far = |beyond| hbone(self.snapshot, self.own, self.origin.clone(), beyond);
        beyond.and_then(far).ok_or(NoTarget::NoRoute)
    }
}
