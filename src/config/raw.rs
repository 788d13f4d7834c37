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
        /// This process: its name, its driver, its cores, and how it ends.
        process: Option<ProcessSettings> = "process",
        /// Where decision records go: a JSON line for every exchange, allowed or denied.
        records: Option<Records> = "records",
        /// Operator's listener: readiness, metrics, what is open, the problems of the last reload.
        admin: Option<Admin> = "admin",
        /// A listener for metrics alone, which may be open to others than the operator.
        metrics: Option<Metrics> = "metrics",
        /// A listener for readiness alone, for load balancers and probes.
        readiness: Option<Readiness> = "readiness",
        /// How many connections there may be, and how long they may take; docs/operations.md.
        limits: Option<Limits> = "limits",
        /// What TCP does about silent peers.
        tcp: Option<Tcp> = "tcp",
        /// A root and issuing CA in this process, for itself and for others; excludes `[identity]`.
        authority: Option<Authority> = "authority",
        /// Identities from elsewhere: an authority or istiod (`address`), directories (`files`), or a SPIFFE Workload
        /// API.
        identity: Option<Identity> = "identity",
        /// Writes the identity of a workload to files, for programs that speak mTLS on their own.
        identity_files: Option<Vec<IdentityFiles>> = "identityFiles",
        /// Serves the SPIFFE Workload API to local processes.
        workload_api: Option<WorkloadApi> = "workloadApi",
        /// Role node: mTLS tunnels for the workloads of this machine.
        node: Option<Vec<Node>> = "node",
        /// Role waypoint: tokens and policies of a gateway of class `istio-waypoint`.
        waypoint: Option<Vec<Waypoint>> = "waypoint",
        /// Role ingress: public TLS, logins and routes of a gateway of class `ringgate-ingress`.
        ingress: Option<Vec<Ingress>> = "ingress",
        /// Role egress: the way out, by a gateway of class `ringgate-egress`.
        egress: Option<Vec<Egress>> = "egress",
        /// Settings that hold for the whole mesh (Istio's MeshConfig).
        mesh: Option<MeshSettings> = "mesh",
        /// A waypoint, ingress or egress gateway of the mesh, wherever it runs (Gateway API's Gateway).
        gateway: Option<Vec<Gateway>> = "gateway",
        /// Labels that hold for everything in a namespace.
        namespace: Option<Vec<Namespace>> = "namespace",
        /// Labels that hold for all workloads that run as a service account.
        service_account: Option<Vec<ServiceAccount>> = "serviceAccount",
        /// A workload: its address and its identity (Istio's WorkloadEntry).
        workload_entry: Option<Vec<WorkloadEntry>> = "workloadEntry",
        /// A service, inside the mesh or outside of it (Istio's ServiceEntry).
        service_entry: Option<Vec<ServiceEntry>> = "serviceEntry",
        /// How a service is called: TLS, choice of endpoints, limits (Istio's DestinationRule).
        destination_rule: Option<Vec<DestinationRule>> = "destinationRule",
        /// Where requests go by path, host, header fields and query (Gateway API's HTTPRoute).
        http_route: Option<Vec<HttpRoute>> = "httpRoute",
        /// How many requests a caller may make; docs/rate-limits.md.
        rate_limit: Option<Vec<RateLimit>> = "rateLimit",
        /// Whether plaintext is accepted (Istio's PeerAuthentication).
        peer_authentication: Option<Vec<PeerAuthentication>> = "peerAuthentication",
        /// Which tokens are valid (Istio's RequestAuthentication).
        request_authentication: Option<Vec<RequestAuthentication>> = "requestAuthentication",
        /// Who may call what (Istio's AuthorizationPolicy).
        authorization_policy: Option<Vec<AuthorizationPolicy>> = "authorizationPolicy",
        /// An external authorizer or a login, which policies of action CUSTOM name.
        extension_provider: Option<Vec<ExtensionProvider>> = "extensionProvider",
        /// A certificate, identity or node that is no longer accepted; exactly one of `serial`, `id` and `node`.
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
