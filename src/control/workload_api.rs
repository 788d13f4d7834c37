//! The SPIFFE Workload API on a unix socket: [`server`] gives identities to local processes, [`source`] takes them from
//! another's server, SPIRE's for one.
//!
//! Who asks is known by what the kernel says of the process ([`attest`]); nothing that it says of itself counts.

pub mod attest;
mod heads;
mod message;
pub mod server;
mod session;
pub mod socket;
pub mod source;
pub(super) mod start;
pub mod tokens;

use std::future::Future;
use std::task::{Context, Poll};

use tonic::{Request, Status};

/// Header that every request must carry, so that no browser or proxy can be made to ask (SPIFFE Workload Endpoint,
/// section 6.1).
const SECURITY_HEADER: &str = "workload.spiffe.io";

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    FetchX509Svid,
    FetchX509Bundles,
    FetchJwtSvid,
    FetchJwtBundles,
    ValidateJwtSvid,
}

impl Method {
    const ALL: [Self; 5] = [
        Self::FetchX509Svid,
        Self::FetchX509Bundles,
        Self::FetchJwtSvid,
        Self::FetchJwtBundles,
        Self::ValidateJwtSvid,
    ];

    /// Path of its requests.
    fn path(self) -> &'static str {
        match self {
            Self::FetchX509Svid => "/SpiffeWorkloadAPI/FetchX509SVID",
            Self::FetchX509Bundles => "/SpiffeWorkloadAPI/FetchX509Bundles",
            Self::FetchJwtSvid => "/SpiffeWorkloadAPI/FetchJWTSVID",
            Self::FetchJwtBundles => "/SpiffeWorkloadAPI/FetchJWTBundles",
            Self::ValidateJwtSvid => "/SpiffeWorkloadAPI/ValidateJWTSVID",
        }
    }

    fn label(self) -> &'static str {
        self.path().rsplit('/').next().unwrap_or_default()
    }

    fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.path() == path)
    }
}

/// An async function as tonic calls it.
struct Call<F>(F);

impl<F, T, R, A> tower_service::Service<Request<T>> for Call<F>
where
    F: FnMut(T) -> A,
    A: Future<Output = Result<R, Status>>,
{
    type Response = R;
    type Error = Status;
    type Future = A;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<T>) -> A {
        (self.0)(request.into_inner())
    }
}
