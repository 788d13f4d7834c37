//! What the program runs on. Nothing here is read from a file directly; `check` makes it.

mod asker;
pub mod capture;
mod changes;
pub mod life;
mod listeners;
mod named;
mod protocol;
pub mod route;
mod scope;
pub mod serving;
pub mod workload_api;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

pub use named::{NamedFile, NamedHost, NamedListener, Subject};

use crate::config::checked::capture::{Capture, OriginalSource, OwnerMatch, Unowned};
use crate::config::checked::life::{Limits, TcpOptions};
use crate::config::checked::route::HttpRoute;
use crate::config::checked::serving::Ingress;
use crate::config::checked::workload_api::{WorkloadApi, WorkloadApiSource};
use crate::config::problem::{Lint, Problem};
use crate::extauthz::Authorizer;
use crate::http::forward::ForwardClientCert;
use crate::identity::revocation::{NodeName, Revocations};
use crate::jwt::model::RequestAuthentication;
use crate::policy::L4Deny;
use crate::policy::limit::RateLimit;
use crate::policy::model::{AuthorizationPolicy, PeerAuthentication};
use crate::upstream::{
    balance::Simple, check::HealthCheck, hash::ConsistentHash, health::OutlierDetection, load::Pool,
};
use crate::vocab::cidr::Cidr;
use crate::vocab::locality::Locality;
use crate::vocab::path::PathNormalization;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Everything: this process and the mesh it stands in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This process.
    pub process: Process,
    /// The mesh; shared with what is compiled of it.
    pub mesh: Arc<Mesh>,
    /// What is accepted, and is probably not meant.
    pub warnings: Vec<Problem>,
    /// What its policies say that is probably not meant.
    pub lints: Vec<Lint>,
    /// The files it was read from, the main file first.
    pub sources: Vec<PathBuf>,
    /// Where the authorization policies are written, in the order of `Mesh::authorization_policies`.
    pub places: Vec<PolicyPlace>,
    /// Where files and secrets are named.
    pub files: Vec<NamedFile>,
    /// Where the addresses of listeners are written.
    pub listeners: Vec<NamedListener>,
    /// Where the hosts of routes are written, if all lints were asked for.
    pub hosts: Vec<NamedHost>,
}

/// Where an authorization policy is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPlace {
    /// Namespace and name.
    pub name: ResourceName,
    /// File as it was named.
    pub file: PathBuf,
    /// Line of its name, from 1.
    pub line: usize,
    /// Line of each rule.
    pub rules: Vec<usize>,
}

/// `[process]`, `[records]`, `[admin]`, `[authority]`, `[identity]` and the roles. Changing it needs a restart.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Name in records and metrics.
    pub name: String,
    /// Which driver the data cores use.
    pub io: IoDriver,
    /// Data cores; 0 means as many as the machine offers.
    pub cores: usize,
    /// Nameservers for the names of outside services; empty: those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// How long what is open may go on after the process was told to stop, in milliseconds.
    pub drain_ms: u64,
    /// Unix socket by which a new process takes over from this one.
    pub handover: Option<PathBuf>,
    /// What it forbids itself.
    pub sandbox: Sandbox,
    /// User that it becomes if root has started it; a name, `UID` or `UID:GID`.
    pub user: Option<String>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[tcp]`.
    pub tcp: TcpOptions,
    /// Where decision records go.
    pub records: RecordSink,
    /// What records hold of queries.
    pub recorded_query: RecordedQuery,
    /// What is open, generation, problems, key set and metrics.
    pub admin: Option<SocketAddr>,
    /// Metrics alone.
    pub metrics: Option<SocketAddr>,
    /// Whether metrics are to count requests.
    pub request_metrics: bool,
    /// Readiness alone.
    pub readiness: Option<SocketAddr>,
    /// Certificates of this process.
    pub identity: IdentitySource,
    /// Identity files that the operator asked for (off by default).
    pub identity_files: Vec<IdentityFiles>,
    /// `[workloadApi]`.
    pub workload_api: Option<WorkloadApi>,
    /// `[[node]]`.
    pub nodes: Vec<Node>,
    /// `[[waypoint]]`.
    pub waypoints: Vec<Waypoint>,
    /// `[[ingress]]`.
    pub ingresses: Vec<Ingress>,
    /// `[[egress]]`.
    pub egresses: Vec<Egress>,
}

impl Process {
    /// Whether requests are counted: metrics are to count them, and somebody can read them.
    #[must_use]
    pub fn counts_requests(&self) -> bool {
        self.request_metrics && (self.admin.is_some() || self.metrics.is_some())
    }

    /// Keys of the tables in which `other` differs, but for what a reload may change.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let mut other = other.clone();
        if let (Some(now), Some(then)) = (&self.workload_api, &mut other.workload_api) {
            then.entries.clone_from(&now.entries);
        }
        // What workloads do not say themselves is that of all: it has not changed twice.
        let (now, then) = (self.limits, other.limits);
        for (node, mine) in other.nodes.iter_mut().zip(&self.nodes) {
            for (workload, mine) in node.workloads.iter_mut().zip(&mine.workloads) {
                workload.limits = workload.limits.under(then, now, mine.limits);
            }
        }
        // Certificates come and go while their listeners stay.
        serving::leave_certificates(&mut other.ingresses, &self.ingresses);
        let other = &other;
        let settings = |p: &Self| {
            let life = (p.drain_ms, p.handover.clone(), p.sandbox, p.user.clone());
            (p.name.clone(), p.io, p.cores, p.nameservers.clone(), life)
        };
        let compared = [
            ("[process]", settings(self) != settings(other)),
            ("[limits]", self.limits != other.limits),
            ("[tcp]", self.tcp != other.tcp),
            (
                "[records]",
                (&self.records, self.recorded_query) != (&other.records, other.recorded_query),
            ),
            ("[admin]", self.admin != other.admin),
            (
                "[metrics]",
                (self.metrics, self.request_metrics) != (other.metrics, other.request_metrics),
            ),
            ("[readiness]", self.readiness != other.readiness),
            ("[authority] or [identity]", self.identity != other.identity),
            (
                "[[identityFiles]]",
                self.identity_files != other.identity_files,
            ),
            ("[workloadApi]", self.workload_api != other.workload_api),
            ("[[node]]", self.nodes != other.nodes),
            ("[[waypoint]]", self.waypoints != other.waypoints),
            ("[[ingress]]", self.ingresses != other.ingresses),
            ("[[egress]]", self.egresses != other.egresses),
        ];
        let found: Vec<_> = compared
            .into_iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| key)
            .collect();
        // Whatever is added later and not listed above is not passed over.
        if found.is_empty() && self != other {
            return vec!["the process"];
        }
        found
    }

    /// Whether a connection to `address` would reach this process itself.
    #[must_use]
    pub fn listens_on(&self, address: SocketAddr) -> bool {
        self.listens_on_if(address, |_ip| true)
    }
}

/// `process.io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoDriver {
    /// `auto`: `io_uring`, or epoll with one line in the log where the kernel refuses it.
    #[default]
    Auto,
    /// `io_uring`: the start fails without it.
    IoUring,
    /// `epoll`.
    Epoll,
}

/// `process.sandbox`: what the process forbids itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// `on`: as much as the kernel has.
    #[default]
    On,
    /// `required`: the start fails where the kernel lacks something.
    Required,
    /// `log`: nothing is forbidden; the kernel logs the system calls that would be.
    Log,
    /// `off`: nothing is done.
    Off,
}

/// `records.query`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecordedQuery {
    /// `keep`: all of it.
    #[default]
    Keep,
    /// `names`: the names of its parameters.
    Names,
    /// `drop`: nothing.
    Drop,
}

/// `records.path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordSink {
    /// `"stdout"`.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// Where this process gets its SVIDs.
#[derive(Clone, Debug, PartialEq)]
pub enum IdentitySource {
    /// `[authority]`: root and issuing CA are in this process.
    Embedded(Authority),
    /// `[identity]`: another process's authority.
    Remote(RemoteAuthority),
    /// `[identity] files`: directories with an identity each, which something else keeps fresh.
    Files(Vec<PathBuf>),
    /// `[identity] workloadApi`: a SPIFFE Workload API, SPIRE's for one.
    WorkloadApi(WorkloadApiSource),
}

/// `[authority]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Authority {
    /// Root, issuing key and token key live here; without it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Lifetime of an SVID, in seconds; at most 24 h.
    pub svid_ttl_s: u64,
    /// Serves CreateCertificate and the token key set to other processes.
    pub listen: Option<SocketAddr>,
    /// Tokens that others may present with every request; real ztunnels have no other way.
    pub join_tokens: Option<Secret>,
    /// Lifetime of the SVID of a node, in seconds; at most 30 days.
    pub node_ttl_s: u64,
    /// An issuing CA that was made elsewhere.
    pub issuing: Option<IssuingCa>,
}

/// `authority.issuingChain`, `issuingKey` and `rootCa`.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuingCa {
    /// PEM: the issuing certificate, then those up to a root.
    pub chain: PathBuf,
    /// PEM: its key. A file must have mode 400.
    pub key: Secret,
    /// PEM: the roots.
    pub root_ca: PathBuf,
}

/// `[identity]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteAuthority {
    /// `https://host:port`.
    pub address: String,
    /// PEM roots of the authority's own certificate.
    pub root_ca: PathBuf,
    /// Join token; absent only where the node has joined already.
    pub token: Option<Secret>,
    /// The node that this process is; without it the token is presented with every request.
    pub node: Option<NodeName>,
    /// Where the node keeps its own identity over a restart.
    pub state_dir: Option<PathBuf>,
    /// Sent as `clusterid`.
    pub cluster_id: Option<String>,
}

/// A secret by reference: `file:`, `env:` or `cred:`; never inline.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// `file:/path`
    File(PathBuf),
    /// `env:NAME`
    Env(String),
    /// `cred:name` in `$CREDENTIALS_DIRECTORY`.
    Credential(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
            Self::Credential(name) => write!(f, "cred:{name}"),
        }
    }
}

/// `[[identityFiles]]`: Istio's sidecar file names below `dir`.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityFiles {
    /// Workload entry.
    pub workload: ResourceName,
    /// Directory that gets `istio/{cert-chain.pem,key.pem,root-ca.crt}` and `tokens/istio-token`.
    pub dir: PathBuf,
    /// `aud` of the token.
    pub audience: String,
}

/// `[[node]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name in records.
    pub name: String,
    /// Inbound capture: plaintext and direct mTLS; the workload is found by the original destination.
    pub inbound: Vec<SocketAddr>,
    /// Outbound capture; the workload is found by the owner of the connection.
    pub outbound: Option<SocketAddr>,
    /// HBONE; the workload is found by the address that was connected to.
    pub hbone: Option<SocketAddr>,
    /// The workloads of this node.
    pub workloads: Vec<NodeWorkload>,
    /// `SO_MARK` of the node's own connections to apps, so that capture rules let them pass.
    pub mark: Option<u32>,
    /// Whether apps see the client's address.
    pub original_source: OriginalSource,
    /// What becomes of a captured connection that is no workload's.
    pub unowned: Unowned,
    /// What is captured on this machine.
    pub capture: Option<Capture>,
    /// `outboundTrafficPolicy`: whether unknown destinations are let out; `None`: as the mesh says.
    pub outbound_allow_any: Option<bool>,
    /// `dns`: answers for mesh names, for workloads of the namespace that all of this node have in common.
    pub dns: Option<SocketAddr>,
    /// `dnsSearch`: suffixes that clients append to short names; empty: those of `/etc/resolv.conf`.
    pub dns_search: Vec<String>,
    /// `dnsUnknown`.
    pub dns_unknown: DnsUnknown,
}

impl Node {
    /// The DNS listeners, each with the namespace of those who ask there, where that is one.
    pub fn dns_listeners(&self) -> impl Iterator<Item = (SocketAddr, Option<&str>)> {
        let mut namespaces = self.workloads.iter().map(|w| w.workload.namespace.as_str());
        let first = namespaces.next();
        let common = first.filter(|first| namespaces.all(|other| other == *first));
        let own = self.dns.map(|address| (address, common));
        let each = self.workloads.iter().filter_map(|w| {
            let namespace = w.workload.namespace.as_str();
            w.dns.map(|dns| (dns, Some(namespace)))
        });
        own.into_iter().chain(each)
    }
}

/// `node.dnsUnknown`: what becomes of a question for a name that is not in the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsUnknown {
    /// `FORWARD`: to the nameservers.
    #[default]
    Forward,
    /// `REFUSE`: there is no such name, so that nothing leaves by DNS.
    Refuse,
}

/// `[[node.workload]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeWorkload {
    /// Workload entry.
    pub workload: ResourceName,
    /// HBONE listener of its own.
    pub hbone: Option<SocketAddr>,
    /// Which processes of the machine are this workload.
    pub owner: Option<OwnerMatch>,
    /// Outbound capture of its own; only redirected connections are accepted.
    pub outbound: Option<SocketAddr>,
    /// SOCKS5 for clients that are not captured.
    pub socks: Option<SocketAddr>,
    /// DNS for this workload alone.
    pub dns: Option<SocketAddr>,
    /// Where the app really listens, by workload port; absent: the workload's own address.
    pub app: BTreeMap<u16, SocketAddr>,
    /// Connections at a time, from others and to others.
    pub limits: Limits,
}

/// `[[waypoint]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Waypoint {
    /// Gateway resource.
    pub gateway: ResourceName,
    /// HBONE listener.
    pub hbone: SocketAddr,
    /// Direct mTLS listener.
    pub mtls: Option<SocketAddr>,
}

/// `[[egress]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Egress {
    /// Gateway resource.
    pub gateway: ResourceName,
    /// HBONE listener.
    pub hbone: SocketAddr,
    /// Explicit forward proxy: absolute form and CONNECT, plaintext or mTLS.
    pub proxy: Option<SocketAddr>,
}

/// Mesh resources; reloaded while running.
#[derive(Clone, Debug, PartialEq)]
pub struct Mesh {
    /// `mesh.trustDomain`.
    pub trust_domain: TrustDomain,
    /// `mesh.trustDomainAliases`.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// `mesh.rootNamespace`.
    pub root_namespace: String,
    /// `mesh.pathNormalization`.
    pub path_normalization: PathNormalization,
    /// `mesh.outboundTrafficPolicy` is `ALLOW_ANY`.
    pub outbound_allow_any: bool,
    /// `mesh.numTrustedProxies`.
    pub num_trusted_proxies: usize,
    /// `mesh.forwardClientCertDetails`.
    pub forward_client_cert: ForwardClientCert,
    /// `mesh.compat.gatewayNameSelector`.
    pub gateway_name_selector: bool,
    /// `mesh.compat.gatewaySelectors`.
    pub gateway_selectors: bool,
    /// `mesh.compat.audienceStripping`: audiences are compared as Envoy does.
    pub audience_stripping: bool,
    /// `mesh.compat.l4Deny`.
    pub l4_deny: L4Deny,
    /// `mesh.dangerous_dryRun`.
    pub dry_run: bool,
    /// `[[gateway]]`.
    pub gateways: Vec<Gateway>,
    /// `[[workloadEntry]]`.
    pub workloads: Vec<Workload>,
    /// `[[serviceEntry]]`.
    pub services: Vec<Service>,
    /// `[[destinationRule]]`.
    pub destination_rules: Vec<DestinationRule>,
    /// `[[httpRoute]]`.
    pub routes: Vec<HttpRoute>,
    /// `[[rateLimit]]`.
    pub rate_limits: Vec<RateLimit>,
    /// `[[authorizationPolicy]]`.
    pub authorization_policies: Vec<AuthorizationPolicy>,
    /// `[[peerAuthentication]]`.
    pub peer_authentications: Vec<PeerAuthentication>,
    /// `[[requestAuthentication]]`.
    pub request_authentications: Vec<RequestAuthentication>,
    /// `[[extensionProvider]]` of kind `oidc`.
    pub oidc_providers: Vec<OidcProvider>,
    /// `[[extensionProvider]]` of the other kinds.
    pub authorizers: Vec<Authorizer>,
    /// `[[revocation]]`.
    pub revocations: Revocations,
}

/// `[[gateway]]`: where a waypoint, ingress or egress stands and who it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Gateway {
    /// Namespace and name.
    pub name: ResourceName,
    /// `gatewayClassName`.
    pub class: GatewayClass,
    /// Identity.
    pub id: SpiffeId,
    /// Address of its HBONE listener.
    pub hbone: SocketAddr,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Label `istio.io/waypoint-for`: which traffic a waypoint is for.
    pub waypoint_for: WaypointFor,
    /// From the labels `topology.kubernetes.io/region`, `topology.kubernetes.io/zone`, `topology.istio.io/subzone`.
    pub locality: Locality,
}

/// Label `istio.io/waypoint-for` of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaypointFor {
    /// What is addressed to a service.
    pub service: bool,
    /// What is addressed to a workload itself.
    pub workload: bool,
}

/// `gatewayClassName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayClass {
    /// `istio-waypoint`.
    Waypoint,
    /// `ringgate-ingress`.
    Ingress,
    /// `ringgate-egress`.
    Egress,
}

/// `[[workloadEntry]]` (networking.istio.io WorkloadEntry).
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace and name.
    pub name: ResourceName,
    /// Identity from `serviceAccount`.
    pub id: SpiffeId,
    /// `address`.
    pub address: IpAddr,
    /// Port of its node's HBONE listener (15008).
    pub hbone_port: u16,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
    /// `weight`; 1 if absent.
    pub weight: u32,
    /// `locality`, or the topology labels.
    pub locality: Locality,
    /// Waypoint for what is addressed to the workload itself, as an index into `Mesh::gateways`.
    pub waypoint: Option<usize>,
}

/// `[[serviceEntry]]` (networking.istio.io ServiceEntry).
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub name: ResourceName,
    /// `hosts`, lower case; exact names or `*.suffix`.
    pub hosts: Vec<String>,
    /// `addresses`: virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// `addresses` that are blocks.
    pub blocks: Vec<Cidr>,
    /// Virtual addresses that were allocated by its name, because it has none of its own.
    pub allocated: Vec<IpAddr>,
    /// `resolution = "NONE"`: what is dialled is the address that the client asked for.
    pub passthrough: bool,
    /// `exportTo`: namespaces that see it; `None` means all.
    pub export_to: Option<Vec<String>>,
    /// `ports`.
    pub ports: Vec<ServicePort>,
    /// `location`.
    pub location: Location,
    /// Workloads that match `workloadSelector`, as indices into `Mesh::workloads`.
    pub workloads: Vec<usize>,
    /// `endpoints` of an external service, or its host where `resolution = "DNS"`.
    pub endpoints: Vec<ServiceEndpoint>,
    /// How one of its endpoints is chosen.
    pub balance: Balance,
    /// `subjectAltNames` of an outside service: DNS names in lower case or IP addresses, one of which the server's certificate must hold.
    pub subject_alt_names: Vec<String>,
    /// `subjectAltNames` of an internal service: SPIFFE IDs that may answer for its workloads beside their own.
    pub spiffe_names: Option<Arc<[SpiffeId]>>,
    /// `dangerous_allowPrivateAddresses`: what DNS answers for `endpoints` may be inside.
    pub allow_private: bool,
    /// `forwardClientAddress`: an ingress tells this outside service who calls.
    pub forward_client: bool,
    /// Gateway that traffic to it passes (label `istio.io/use-waypoint`, `-namespace`), as an index into `Mesh::gateways`.
    pub waypoint: Option<usize>,
    /// `labels`.
    pub labels: BTreeMap<String, String>,
}

/// `serviceEntry.endpoints[]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEndpoint {
    /// `address`: an IP address or a name.
    pub address: String,
    /// `weight`; 1 if absent.
    pub weight: u32,
    /// `locality`.
    pub locality: Locality,
}

impl ServiceEndpoint {
    /// An address of weight 1, nobody knows where.
    #[must_use]
    pub fn new(address: String) -> Self {
        Self {
            address,
            weight: 1,
            locality: Locality::default(),
        }
    }
}

/// How an endpoint of a service is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// `destinationRule.trafficPolicy.outlierDetection`.
    pub outlier: OutlierDetection,
    /// `trafficPolicy.connectionPool`.
    pub pool: Pool,
    /// `trafficPolicy.healthCheck`.
    pub check: Option<Arc<HealthCheck>>,
    /// `trafficPolicy.loadBalancer.simple`.
    pub simple: Simple,
    /// `trafficPolicy.loadBalancer.consistentHash`.
    pub hash: Option<ConsistentHash>,
    /// `trafficDistribution` or `loadBalancer.localityLbSetting`.
    pub preference: Preference,
    /// `localityLbSetting.failover`: of a region, the region that takes over.
    pub failover: Vec<(String, String)>,
}

/// Which endpoints are preferred; the others take over where none of those is in health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// All alike.
    #[default]
    Any,
    /// `localityLbSetting`: the same subzone, then zone, then region.
    Locality,
    /// `PreferClose`, `PreferSameZone`: the same zone, then region.
    Zone,
    /// `PreferSameNode`: the same node (label `kubernetes.io/hostname`), then as `Locality`.
    Node,
}

impl Service {
    /// Whether the workloads of a namespace see it.
    #[must_use]
    pub fn is_visible_in(&self, namespace: &str) -> bool {
        match &self.export_to {
            None => true,
            Some(namespaces) => namespaces.iter().any(|n| n == namespace),
        }
    }

    /// Its virtual addresses: its own, else those that were allocated.
    #[must_use]
    pub fn virtual_addresses(&self) -> &[IpAddr] {
        if self.addresses.is_empty() {
            &self.allocated
        } else {
            &self.addresses
        }
    }
}

/// `serviceEntry.location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Location {
    /// Outside: no mesh mTLS towards it.
    External,
    /// Inside.
    Internal,
}

/// One `ports` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `number`.
    pub number: u16,
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `targetPort`; `number` if absent.
    pub target_port: u16,
}

/// `ports[].protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, recognised by the first bytes.
    Http,
    /// HTTP/2 with prior knowledge upstream.
    Http2,
    /// gRPC: as `Http2`.
    Grpc,
    /// TLS that carries HTTP; inside the mesh it ends at the workload's node with the workload's SVID.
    Https,
    /// TLS that is passed through.
    Tls,
    /// Bytes.
    Tcp,
}

/// `[[destinationRule]]` (networking.istio.io DestinationRule).
#[derive(Clone, Debug, PartialEq)]
pub struct DestinationRule {
    /// Namespace and name.
    pub name: ResourceName,
    /// `host`, lower case.
    pub host: String,
    /// `trafficPolicy.tls`.
    pub tls: Option<UpstreamTls>,
    /// `trafficPolicy.outlierDetection`.
    pub outlier: Option<OutlierDetection>,
    /// `trafficPolicy.connectionPool`.
    pub pool: Option<Pool>,
    /// `trafficPolicy.healthCheck`.
    pub check: Option<Arc<HealthCheck>>,
    /// `trafficPolicy.loadBalancer.simple` and `.consistentHash`; `Some` if one is written.
    pub choice: Option<(Simple, Option<ConsistentHash>)>,
    /// `trafficPolicy.loadBalancer.localityLbSetting.failover`; `Some` if locality counts.
    pub locality: Option<Vec<(String, String)>>,
}

/// `trafficPolicy.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamTls {
    /// `DISABLE`.
    Disable,
    /// `SIMPLE`: the gateway originates TLS and verifies the server.
    Simple {
        /// `sni`; the request's host if absent.
        sni: Option<String>,
        /// `subjectAltNames`; the service's if empty, and the name sent as SNI if those are empty too.
        subject_alt_names: Vec<String>,
        /// `caCertificates`; the system's roots if absent.
        ca_certificates: Option<PathBuf>,
    },
}

/// `[[extensionProvider]]` with `oidc`.
#[derive(Clone, Debug, PartialEq)]
pub struct OidcProvider {
    /// `name`.
    pub name: String,
    /// `issuer`.
    pub issuer: String,
    /// `clientId`.
    pub client_id: String,
    /// `clientSecret`.
    pub client_secret: Option<Secret>,
    /// `redirectPath`.
    pub redirect_path: String,
    /// `logoutPath`.
    pub logout_path: String,
    /// `scopes`.
    pub scopes: Vec<String>,
    /// `cookieKey`: 32 raw bytes, or lines of base64, of which the first seals and all open; without it a key of this process's life.
    pub cookie_key: Option<Secret>,
    /// `dangerous_allowHttpIssuerOnLoopback`.
    pub allow_http_loopback: bool,
}
