//! What the files may say: one struct per table, Istio's names, nothing judged yet beyond keys and types.

pub(crate) mod authn;
pub(crate) mod authorizer;
pub(crate) mod capture;
pub(crate) mod life;
pub(crate) mod mesh;
pub(crate) mod policy;
pub(crate) mod process;
pub(crate) mod rate_limit;
pub(crate) mod revocation;
pub(crate) mod route;
pub(crate) mod traffic;
pub(crate) mod workload_api;

use crate::config::raw::authn::{PeerAuthentication, RequestAuthentication};
use crate::config::raw::life::{Limits, Tcp};
use crate::config::raw::mesh::{
    DestinationRule, ExtensionProvider, Gateway, MeshSettings, Namespace, ServiceAccount,
    ServiceEntry, WorkloadEntry,
};
use crate::config::raw::policy::AuthorizationPolicy;
use crate::config::raw::process::{
    Admin, Authority, Egress, Identity, IdentityFiles, Ingress, Metrics, Node, ProcessSettings,
    Readiness, Records, Waypoint,
};
use crate::config::raw::rate_limit::RateLimit;
use crate::config::raw::revocation::Revocation;
use crate::config::raw::route::HttpRoute;
use crate::config::raw::workload_api::WorkloadApi;
use crate::config::read::table;

table! {
    /// One file.
    File {
        process: Option<ProcessSettings> = "process",
        records: Option<Records> = "records",
        admin: Option<Admin> = "admin",
        metrics: Option<Metrics> = "metrics",
        readiness: Option<Readiness> = "readiness",
        limits: Option<Limits> = "limits",
        tcp: Option<Tcp> = "tcp",
        authority: Option<Authority> = "authority",
        identity: Option<Identity> = "identity",
        identity_files: Option<Vec<IdentityFiles>> = "identityFiles",
        workload_api: Option<WorkloadApi> = "workloadApi",
        node: Option<Vec<Node>> = "node",
        waypoint: Option<Vec<Waypoint>> = "waypoint",
        ingress: Option<Vec<Ingress>> = "ingress",
        egress: Option<Vec<Egress>> = "egress",
        mesh: Option<MeshSettings> = "mesh",
        gateway: Option<Vec<Gateway>> = "gateway",
        namespace: Option<Vec<Namespace>> = "namespace",
        service_account: Option<Vec<ServiceAccount>> = "serviceAccount",
        workload_entry: Option<Vec<WorkloadEntry>> = "workloadEntry",
        service_entry: Option<Vec<ServiceEntry>> = "serviceEntry",
        destination_rule: Option<Vec<DestinationRule>> = "destinationRule",
        http_route: Option<Vec<HttpRoute>> = "httpRoute",
        rate_limit: Option<Vec<RateLimit>> = "rateLimit",
        peer_authentication: Option<Vec<PeerAuthentication>> = "peerAuthentication",
        request_authentication: Option<Vec<RequestAuthentication>> = "requestAuthentication",
        authorization_policy: Option<Vec<AuthorizationPolicy>> = "authorizationPolicy",
        extension_provider: Option<Vec<ExtensionProvider>> = "extensionProvider",
        revocation: Option<Vec<Revocation>> = "revocation",
    }
}

/// Keys that only the main file may have: they describe the process, not the mesh.
pub(crate) const PROCESS_KEYS: [&str; 15] = [
    "process",
    "records",
    "admin",
    "metrics",
    "readiness",
    "limits",
    "tcp",
    "authority",
    "identity",
    "identityFiles",
    "workloadApi",
    "node",
    "waypoint",
    "ingress",
    "egress",
];
