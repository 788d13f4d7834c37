//! From the configuration to a served socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::attest::{self, Entry};
use super::server::{Parts, WorkloadApiServer};
use super::socket::Listening;
use super::tokens::Tokens;
use crate::config::checked::Config;
use crate::control::grpc::RemoteSigner;
use crate::control::plane::{PlaneError, Shared, Tasks};
use crate::control::svid::{Source, SvidSet, system_clock, system_jitter};
use crate::identity::revocation::Revocations;
use crate::telemetry::audit::Audit;

/// Who signs JWT-SVIDs for workloads.
pub(in crate::control) fn signer(source: &Source) -> Tokens {
    match source {
        Source::Embedded { authority, .. } => Tokens::Authority(Arc::clone(authority)),
        Source::Agent(agent) => Tokens::Agent(Arc::clone(agent)),
        Source::Remote(remote) => Tokens::Remote(Arc::new(RemoteSigner::new(Arc::clone(remote)))),
        Source::Files(_) => Tokens::Nobody,
    }
}

/// What is served.
pub(in crate::control) struct Given {
    /// Who signs JWT-SVIDs.
    pub tokens: Tokens,
    /// The SVIDs of this process.
    pub svids: watch::Receiver<Arc<SvidSet>>,
    /// What is revoked.
    pub revoked: watch::Receiver<Arc<Revocations>>,
    /// Where every answer is recorded; without it nothing is served.
    pub audit: Option<Audit>,
}

/// Serves the Workload API, if the configuration asks for it; what is returned changes its entries.
pub(in crate::control) fn serve(
    config: &Config,
    given: Given,
    tasks: &mut Tasks,
    shared: &mut Shared,
) -> Result<watch::Sender<Arc<Vec<Entry>>>, PlaneError> {
    let entries = watch::Sender::new(Arc::new(attest::entries(config)));
    let (Some(settings), Some(audit)) = (&config.process.workload_api, given.audit) else {
        return Ok(entries);
    };
    let tokens = given.tokens;
    let taken = shared.taken.unix_listener(&settings.socket);
    let listening =
        Listening::open(settings, taken, shared.tenure.clone()).map_err(PlaneError::Socket)?;
    shared.keep(listening.descriptor().map_err(PlaneError::Socket)?);
    if let Tokens::Remote(remote) = &tokens {
        let following = Arc::clone(remote).follow_keys(system_clock(), system_jitter());
        tasks.spawn("follower of the keys of JWT-SVIDs", following);
    }
    let parts = Parts {
        entries: entries.subscribe(),
        svids: given.svids,
        revoked: given.revoked,
        tokens,
        jwt_svid_ttl: Duration::from_secs(settings.jwt_svid_ttl_s),
        audit,
    };
    let server = WorkloadApiServer::new(parts, system_clock());
    tasks.spawn("Workload API", server.serve(listening));
    Ok(entries)
}
