//! The SPIFFE Workload API, both sides of it: `[workloadApi]` and `[identity] workloadApi`.

use std::path::PathBuf;

use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::TrustDomain;

/// `[workloadApi]`: this process serves the Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApi {
    /// `socket`.
    pub socket: PathBuf,
    /// `socketMode`: permission bits.
    pub socket_mode: u32,
    /// `socketUid`; absent: that of this process.
    pub socket_uid: Option<u32>,
    /// `socketGid`; absent: that of this process.
    pub socket_gid: Option<u32>,
    /// `jwtSvidTtl`, in seconds.
    pub jwt_svid_ttl_s: u64,
    /// `[[workloadApi.entry]]`; the first is a peer's default identity. A reload may change them.
    pub entries: Vec<WorkloadApiEntry>,
}

/// `[[workloadApi.entry]]`: which local processes are a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiEntry {
    /// `workload`.
    pub workload: ResourceName,
    /// `hint`; empty if there is none.
    pub hint: String,
    /// `match`.
    pub selector: PeerSelector,
}

/// `match`: what the kernel has to say of a process. All that is given must hold; something always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSelector {
    /// `uid`: effective user when it connected, and still.
    pub uid: Option<u32>,
    /// `gid`: effective group when it connected, and still.
    pub gid: Option<u32>,
    /// `exe`: it runs the very file at this path.
    pub exe: Option<PathBuf>,
    /// `unit`: systemd's system unit that it belongs to.
    pub unit: Option<String>,
    /// `cgroup`: it is in this control group or below it.
    pub cgroup: Option<String>,
}

/// `[identity] workloadApi`: this process gets its SVIDs from another's Workload API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiSource {
    /// Where its socket is.
    pub endpoint: Endpoint,
    /// Trust domains whose bundles are taken besides the mesh's own: `mesh.trustDomainAliases` and `federatesWith`.
    pub federated: Vec<TrustDomain>,
}

/// Where the socket of a Workload API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///path`.
    Socket(PathBuf),
    /// `env:NAME`: the variable holds `unix:///path`.
    Variable(String),
}

impl Endpoint {
    /// The path in `unix:///path` or `unix:/path`, if it is one (SPIFFE Workload Endpoint, section 4).
    #[must_use]
    pub fn path(uri: &str) -> Option<PathBuf> {
        let rest = uri.strip_prefix("unix:")?;
        let path = match rest.strip_prefix("//") {
            // An authority has no place in it.
            Some(path) => path,
            None => rest,
        };
        let plain = path.starts_with('/') && path.len() > 1 && !path.contains(['?', '#', '\0']);
        plain.then(|| PathBuf::from(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (uri, want) in [
            ("unix:///run/a.sock", Some("/run/a.sock")),
            ("unix:/run/a.sock", Some("/run/a.sock")),
            ("unix://host/run/a.sock", None),
            ("unix:run/a.sock", None),
            ("unix:///run/a.sock?x=1", None),
            ("unix:///run/a.sock#x", None),
            ("unix:///", None),
            ("tcp://127.0.0.1:8000", None),
            ("/run/a.sock", None),
            ("", None),
        ] {
            assert_eq!(Endpoint::path(uri), want.map(PathBuf::from), "{uri}");
        }
    }
}
