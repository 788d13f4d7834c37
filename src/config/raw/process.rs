//! Tables that describe this process.

use std::net::SocketAddr;

use crate::config::checked::capture::{OriginalSource, Unowned};
use crate::config::checked::serving::UnknownServerName;
use crate::config::checked::{DnsUnknown, IoDriver, RecordedQuery, Sandbox};
use crate::config::place::At;
use crate::config::raw::capture::{Capture, OwnerMatch};
use crate::config::raw::mesh::OutboundTrafficPolicy;
use crate::config::read::{Count, Map, Millis, Port, table, words};

words!(IoDriver, "one of auto, io_uring, epoll",
    "auto" => IoDriver::Auto, "io_uring" => IoDriver::IoUring, "epoll" => IoDriver::Epoll);

words!(RecordedQuery, "one of keep, names, drop",
    "keep" => Self::Keep, "names" => Self::Names, "drop" => Self::Drop);

words!(Sandbox, "one of on, required, log, off",
    "on" => Sandbox::On, "required" => Sandbox::Required, "log" => Sandbox::Log, "off" => Sandbox::Off);

table! {
    /// `[process]`
    ProcessSettings {
        /// Name of the process, which stands in its records.
        /// Default: `"ringgate"`
        name: Option<String> = "name",
        /// Driver of the data cores; `auto` takes epoll where the kernel refuses io_uring, `io_uring` fails there.
        /// Default: `"auto"`
        io: Option<IoDriver> = "io",
        /// Data cores, each a thread; 0 is as many as the machine offers.
        /// Default: `0`
        cores: Option<Count> = "cores",
        /// Nameservers for names outside of the mesh.
        /// Default: those of /etc/resolv.conf
        /// Example: `["10.1.0.53:53"]`
        nameservers: Option<Vec<At<SocketAddr>>> = "nameservers",
        /// How long what is open may go on after the process was told to stop, at most 1h.
        /// Default: `"5s"`
        drain: Option<At<Millis>> = "drain",
        /// Unix socket by which a new process takes over the listeners of this one.
        /// Example: `"/run/ringgate/handover.sock"`
        handover: Option<At<String>> = "handover",
        /// What the process forbids itself: `on` as much as the kernel has, `required` ends the start where it lacks
        /// something, `log` lets the kernel log system calls that `on` refuses and forbids nothing, `off` nothing at all.
        /// Default: `"on"`
        sandbox: Option<Sandbox> = "sandbox",
        /// User that a process started by root becomes before it opens anything: a name, or `UID` or `UID:GID`.
        /// Default: who starts it
        /// Example: `"ringgate"`
        user: Option<At<String>> = "user",
    }
    unused {
        /// Directory with mesh resources: *.toml, and Istio's own *.yaml and *.json.
        /// Example: `"mesh.d"`
        "meshDir": String,
    }
}

table! {
    /// `[records]`
    Records {
        /// A file, or `stdout`.
        /// Example: `"/var/log/ringgate/decisions.jsonl"`
        path: At<String> = "path",
        /// What records hold of the query of a request: `keep` is all of it, `names` the names of its parameters, with `*` for
        /// each value, `drop` nothing. What is judged and sent on is the request as it is.
        /// Default: `"keep"`
        query: Option<RecordedQuery> = "query",
    }
}

table! {
    /// `[admin]`
    Admin {
        /// Address of the listener; Istio has 15000.
        /// Example: `"127.0.0.1:15000"`
        listen: At<SocketAddr> = "listen",
    }
}

table! {
    /// `[metrics]`
    Metrics {
        /// Address of the listener; Istio has 15020.
        /// Example: `"127.0.0.1:15020"`
        listen: At<SocketAddr> = "listen",
        /// Whether requests are counted (`istio_requests_total` and its histograms), besides connections. A series of them
        /// has some fifty lines.
        /// Default: `true`
        requests: Option<bool> = "requests",
    }
}

table! {
    /// `[readiness]`
    Readiness {
        /// Address of the listener; Istio has 15021.
        /// Example: `"127.0.0.1:15021"`
        listen: At<SocketAddr> = "listen",
    }
}

table! {
    /// `[authority]`
    Authority {
        /// Directory of the root, its key and the ledger; without it both end with the process.
        /// Example: `"/var/lib/ringgate/authority"`
        state_dir: Option<At<String>> = "stateDir",
        /// Life of an SVID, 1s to 24h.
        /// Default: `"24h"`
        svid_ttl: Option<At<Millis>> = "svidTtl",
        /// Where other processes get their identities (Istio's 15012).
        /// Example: `"10.1.0.1:15012"`
        listen: Option<At<SocketAddr>> = "listen",
        /// File of fixed join tokens, beside those that `ringgate authority token create` makes.
        /// Example: `"file:join-tokens"`
        join_tokens: Option<At<String>> = "joinTokens",
        /// Life of the SVID of a node, 1s to 720h.
        /// Default: `"24h"`
        node_ttl: Option<At<Millis>> = "nodeTtl",
        /// PEM of an issuing CA that was made elsewhere and its chain; with `issuingKey` and `rootCa`.
        /// Example: `"issuing-chain.pem"`
        issuing_chain: Option<At<String>> = "issuingChain",
        /// Key of that CA, `file:`, `env:` or `cred:`.
        /// Example: `"cred:issuing-key"`
        issuing_key: Option<At<String>> = "issuingKey",
        /// PEM of the roots above that CA.
        /// Example: `"root-ca.pem"`
        root_ca: Option<At<String>> = "rootCa",
    }
}

table! {
    /// `[identity]`
    Identity {
        /// The authority, or istiod: `https://HOST:PORT`.
        /// Example: `"https://10.1.0.1:15012"`
        address: Option<At<String>> = "address",
        /// PEM of the roots that it is trusted by: `ringgate authority roots` prints them.
        /// Example: `"root-ca.pem"`
        root_ca: Option<At<String>> = "rootCa",
        /// Join token or service account token, `file:`, `env:` or `cred:`.
        /// Example: `"cred:join-token"`
        token: Option<At<String>> = "token",
        /// Name of the node that this process joins as.
        /// Example: `"vm-1"`
        node: Option<At<String>> = "node",
        /// Directory of the node's own key and SVID, so that its token is used once.
        /// Example: `"/var/lib/ringgate/node"`
        state_dir: Option<At<String>> = "stateDir",
        /// Istio's CLUSTER_ID.
        /// Example: `"Kubernetes"`
        cluster_id: Option<At<String>> = "clusterId",
        /// Directories with an identity each, which something else keeps fresh.
        /// Example: `["identity/web"]`
        files: Option<At<Vec<At<String>>>> = "files",
        /// Socket of a SPIFFE Workload API, or `env:SPIFFE_ENDPOINT_SOCKET`.
        /// Example: `"unix:///run/spire/agent.sock"`
        workload_api: Option<At<String>> = "workloadApi",
        /// Trust domains whose bundles are taken from the Workload API.
        /// Example: `["partner.example"]`
        federates_with: Option<Vec<At<String>>> = "federatesWith",
    }
}

table! {
    /// `[[identityFiles]]`
    IdentityFiles {
        /// Workload entry `namespace/name`.
        /// Example: `"default/web"`
        workload: At<String> = "workload",
        /// Directory to write to.
        /// Example: `"/run/ringgate/web"`
        dir: At<String> = "dir",
        /// Audience of the JWT-SVID beside the certificate.
        /// Example: `"customer-api"`
        audience: String = "audience",
    }
}

table! {
    /// `[[node]]`
    Node {
        /// Name of the node, which stands in records and metrics.
        /// Example: `"vm-1"`
        name: At<String> = "name",
        /// Listeners for captured connections to the workloads (Istio's 15006).
        /// Example: `["[::]:15006"]`
        inbound: Option<Vec<At<SocketAddr>>> = "inbound",
        /// Listener for captured connections of the workloads (Istio's 15001).
        /// Example: `"[::]:15001"`
        outbound: Option<At<SocketAddr>> = "outbound",
        /// Listener for HBONE for all workloads of the node (Istio's 15008).
        /// Example: `"[::]:15008"`
        hbone: Option<At<SocketAddr>> = "hbone",
        /// A workload of this machine.
        workload: Vec<NodeWorkload> = "workload",
        /// `SO_MARK` of the node's own connections, which capture lets pass.
        /// Default: 1337 with `[node.capture]`, none without
        /// Example: `1337`
        mark: Option<At<u32>> = "mark",
        /// Whether applications see the client's address; `auto`: with capture, where the kernel allows it.
        /// Default: `"auto"`
        original_source: Option<OriginalSource> = "originalSource",
        /// What happens to a captured connection that is no workload's.
        /// Default: `"REFUSE"`
        unowned: Option<Unowned> = "unowned",
        /// What `ringgate node setup` captures; docs/capture.md.
        capture: Option<Capture> = "capture",
        /// What happens to destinations that the mesh does not know, for this node.
        /// Default: that of `[mesh]`
        /// Example: `"REGISTRY_ONLY"`
        outbound_policy: Option<At<OutboundTrafficPolicy>> = "outboundTrafficPolicy",
        /// DNS for captured workloads, UDP and TCP (Istio's 15053).
        /// Example: `"127.0.0.1:15053"`
        dns: Option<At<SocketAddr>> = "dns",
        /// Search domains of the workloads.
        /// Default: those of /etc/resolv.conf
        /// Example: `["corp.example"]`
        dns_search: Option<Vec<At<String>>> = "dnsSearch",
        /// What happens to questions about names that the mesh does not know.
        /// Default: `"FORWARD"`
        dns_unknown: Option<DnsUnknown> = "dnsUnknown",
    }
}

words!(DnsUnknown, "one of FORWARD, REFUSE", "FORWARD" => Self::Forward, "REFUSE" => Self::Refuse);

table! {
    /// `[[node.workload]]`
    NodeWorkload {
        /// Workload entry `namespace/name`.
        /// Example: `"default/web"`
        name: At<String> = "name",
        /// A listener for HBONE of this workload's own.
        /// Default: the node's
        /// Example: `"10.1.0.3:15008"`
        hbone: Option<At<SocketAddr>> = "hbone",
        /// A listener for its captured connections of its own.
        /// Default: the node's
        /// Example: `"127.0.0.1:15002"`
        outbound: Option<At<SocketAddr>> = "outbound",
        /// Which processes are the workload; all keys that are given must hold.
        owner: Option<OwnerMatch> = "match",
        /// SOCKS5 listener by which a client says that it is this workload.
        /// Example: `"127.0.0.1:15080"`
        socks: Option<At<SocketAddr>> = "socks",
        /// DNS for this workload alone.
        /// Default: the node's
        /// Example: `"127.0.0.1:15054"`
        dns: Option<At<SocketAddr>> = "dns",
        /// Where the application listens, by port, if not at the workload's own address.
        /// Default: the workload's address
        /// Example: `{ 8080 = "127.0.0.1:8080" }`
        app: Option<Map<SocketAddr>> = "app",
        /// Connections and tunnels to this workload.
        /// Default: that of `[limits]`
        /// Example: `1000`
        max_inbound: Option<At<u32>> = "maxInboundConnections",
        /// Connections of this workload to others.
        /// Default: that of `[limits]`
        /// Example: `1000`
        max_outbound: Option<At<u32>> = "maxOutboundConnections",
    }
}

table! {
    /// `[[waypoint]]`
    Waypoint {
        /// The gateway `namespace/name` that this process is.
        /// Example: `"default/waypoint"`
        gateway: At<String> = "gateway",
        /// Listener for HBONE (Istio's 15008).
        /// Example: `"10.1.0.10:15008"`
        hbone: At<SocketAddr> = "hbone",
        /// Listener for mTLS without a tunnel.
        /// Example: `"10.1.0.10:8443"`
        mtls: Option<At<SocketAddr>> = "mtls",
    }
}

table! {
    /// `[[ingress]]`
    Ingress {
        /// The gateway `namespace/name` that this process is.
        /// Example: `"edge/public"`
        gateway: At<String> = "gateway",
        /// A listener for plain HTTP/1, where every request is redirected (308) to https at `httpsPort`. Nothing is forwarded from
        /// it, and no token or cookie is looked at.
        /// Default: none
        /// Example: `"0.0.0.0:80"`
        http: Option<At<SocketAddr>> = "httpListen",
        /// The port that clients reach https at, where that is not the port that this process listens at.
        /// Default: that of the first listener
        /// Example: `443`
        https_port: Option<At<Port>> = "httpsPort",
        /// A public listener.
        listener: Vec<IngressListener> = "listener",
    }
}

words!(UnknownServerName, "one of SERVE_FIRST, REFUSE", "SERVE_FIRST" => Self::ServeFirst,
    "REFUSE" => Self::Refuse);

table! {
    /// `[[ingress.listener]]`
    IngressListener {
        /// Address and port.
        /// Example: `"0.0.0.0:443"`
        address: At<SocketAddr> = "address",
        /// PEM of the certificate and its chain, the first one of this listener.
        /// Default: none, the first one is that of `certificates`
        /// Example: `"tls/cert.pem"`
        certificate: Option<At<String>> = "certificate",
        /// Its key, `file:`, `env:` or `cred:`.
        /// Default: none, where there is no `certificate`
        /// Example: `"file:tls/key.pem"`
        key: Option<At<String>> = "key",
        /// Server names (SNI) that the certificate is for: exact, or `*.suffix`. An exact one goes before a suffix, a longer suffix
        /// before a shorter one.
        /// Default: the DNS names of the certificate
        /// Example: `["portal.example.com", "*.shop.example.com"]`
        hostnames: Option<Vec<At<String>>> = "hostnames",
        /// A certificate more, for other server names.
        certificates: Option<Vec<ListenerCertificate>> = "certificates",
        /// What clients get that tell no server name, or one that no certificate is for: the first certificate, or an alert.
        /// Default: `"SERVE_FIRST"`
        unknown_server_name: Option<UnknownServerName> = "unknownServerName",
    }
}

table! {
    /// `[[ingress.listener.certificates]]`
    ListenerCertificate {
        /// PEM of the certificate and its chain.
        /// Example: `"tls/shop.pem"`
        certificate: At<String> = "certificate",
        /// Its key, `file:`, `env:` or `cred:`.
        /// Example: `"file:tls/shop.key"`
        key: At<String> = "key",
        /// Server names (SNI) that it is for, as those of the listener.
        /// Default: the DNS names of the certificate
        /// Example: `["shop.example.com"]`
        hostnames: Option<Vec<At<String>>> = "hostnames",
    }
}

table! {
    /// `[[egress]]`
    Egress {
        /// The gateway `namespace/name` that this process is.
        /// Example: `"egress/egress"`
        gateway: At<String> = "gateway",
        /// Listener for HBONE (Istio's 15008).
        /// Example: `"10.1.0.30:15008"`
        hbone: At<SocketAddr> = "hbone",
        /// Listener of an HTTP forward proxy, for TLS with a client certificate of the mesh, and for plaintext without an identity.
        /// Example: `"10.1.0.30:15081"`
        proxy: Option<At<SocketAddr>> = "proxy",
    }
}
