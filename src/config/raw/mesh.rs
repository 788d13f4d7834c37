//! Tables of the mesh, but for the policies.

use std::net::IpAddr;

use crate::config::checked::{GatewayClass, Location, Preference, Protocol};
use crate::config::place::At;
use crate::config::raw::authorizer::{EnvoyExtAuthzGrpc, EnvoyExtAuthzHttp};
use crate::config::raw::traffic::{ConnectionPool, HealthCheck, LoadBalancer, OutlierDetection};
use crate::config::read::{AnyText, Count, Map, MaybeEmpty, Port, table, words};
use crate::http::forward::ForwardClientCert;
use crate::policy::L4Deny;
use crate::vocab::cidr::Cidr;
use crate::vocab::path::PathNormalization;

/// `labels`, `annotations`, `matchLabels`.
pub(crate) type Labels = Map<At<AnyText>>;

words!(PathNormalization, "one of NONE, BASE, MERGE_SLASHES, DECODE_AND_MERGE_SLASHES",
    "NONE" => PathNormalization::None, "BASE" => PathNormalization::Base,
    "MERGE_SLASHES" => PathNormalization::MergeSlashes,
    "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes);

/// `mesh.outboundTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutboundTrafficPolicy {
    RegistryOnly,
    AllowAny,
}

words!(OutboundTrafficPolicy, "one of REGISTRY_ONLY, ALLOW_ANY",
    "REGISTRY_ONLY" => Self::RegistryOnly, "ALLOW_ANY" => Self::AllowAny);

words!(L4Deny, "one of api, ztunnel", "api" => Self::Api, "ztunnel" => Self::Ztunnel);

words!(ForwardClientCert, "one of SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET, ALWAYS_FORWARD_ONLY",
    "SANITIZE" => Self::Sanitize, "FORWARD_ONLY" => Self::ForwardOnly, "APPEND_FORWARD" => Self::AppendForward,
    "SANITIZE_SET" => Self::SanitizeSet, "ALWAYS_FORWARD_ONLY" => Self::AlwaysForwardOnly);

table! {
    /// `[mesh]`
    MeshSettings {
        /// Trust domain of the mesh.
        /// Default: `"cluster.local"`
        trust_domain: Option<At<String>> = "trustDomain",
        /// Former trust domains, which policies may still name.
        /// Default: none
        /// Example: `["old.example"]`
        trust_domain_aliases: Option<MaybeEmpty<At<String>>> = "trustDomainAliases",
        /// Namespace whose policies hold for all namespaces.
        /// Default: `"istio-system"`
        root_namespace: Option<At<String>> = "rootNamespace",
        /// What is done to a path before it is judged and sent on.
        /// Default: `"BASE"`
        path_normalization: Option<PathNormalization> = "pathNormalization",
        /// What happens to destinations that the mesh does not know; `ALLOW_ANY` lets them out.
        /// Default: `"REGISTRY_ONLY"`
        outbound_traffic_policy: Option<At<OutboundTrafficPolicy>> = "outboundTrafficPolicy",
        /// Proxies in front of the ingress whose `x-forwarded-for` is believed.
        /// Default: `0`
        num_trusted_proxies: Option<Count> = "numTrustedProxies",
        /// What the ingress does with `x-forwarded-client-cert`.
        /// Default: `"SANITIZE_SET"`
        forward_client_cert: Option<ForwardClientCert> = "forwardClientCertDetails",
        /// Judges and records, and lets everything pass.
        /// Default: `false`
        dry_run: Option<At<bool>> = "dangerous_dryRun",
        /// Where Istio's own parts differ from each other.
        compat: Option<Compat> = "compat",
    }
}

table! {
    /// `mesh.compat`
    Compat {
        /// How a DENY policy with fields of L7 holds where no L7 is seen: as the API says, or as ztunnel does.
        /// Default: `"api"`
        l4_deny: Option<L4Deny> = "l4Deny",
        /// Whether a selector of `istio.io/gateway-name` alone means that gateway.
        /// Default: `true`
        gateway_name_selector: Option<bool> = "gatewayNameSelector",
        /// Whether selectors choose ingress and egress gateways, too.
        /// Default: `true`
        gateway_selectors: Option<bool> = "gatewaySelectors",
        /// Whether audiences are compared without scheme and closing slash.
        /// Default: `false`
        audience_stripping: Option<bool> = "audienceStripping",
    }
}

words!(GatewayClass, "one of istio-waypoint, ringgate-ingress, ringgate-egress",
    "istio-waypoint" => Self::Waypoint, "ringgate-ingress" => Self::Ingress, "ringgate-egress" => Self::Egress);

table! {
    /// `[[gateway]]`
    Gateway {
        /// Name, one of its kind and namespace.
        /// Example: `"public"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Labels, which selectors of policies choose by.
        /// Example: `{ "istio.io/waypoint-for" = "all" }`
        labels: Option<Labels> = "labels",
        /// Which role it is.
        /// Example: `"istio-waypoint"`
        gateway_class_name: GatewayClass = "gatewayClassName",
        /// Service account that its identity is made of.
        /// Default: the gateway's name
        /// Example: `"public"`
        service_account: Option<At<String>> = "serviceAccount",
        /// Where others reach it.
        /// Example: `"10.1.0.20"`
        address: At<IpAddr> = "address",
        /// Its port for HBONE.
        /// Default: `15008`
        hbone_port: Option<Port> = "hbonePort",
    }
    unused {
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
    later ["listeners", "addresses", "infrastructure"]
}

table! {
    /// `[[workloadEntry]]`
    WorkloadEntry {
        /// Name, one of its kind and namespace.
        /// Example: `"web"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Labels, which selectors of policies and services choose by.
        /// Example: `{ app = "web" }`
        labels: Option<Labels> = "labels",
        /// Service account that its identity is made of.
        /// Example: `"web"`
        service_account: At<String> = "serviceAccount",
        /// Where others reach it.
        /// Example: `"10.1.0.3"`
        address: At<IpAddr> = "address",
        /// Port for HBONE of its node.
        /// Default: `15008`
        hbone_port: Option<Port> = "hbonePort",
        /// Where it is: `region/zone/subzone`.
        /// Example: `"eu/eu-1"`
        locality: Option<At<String>> = "locality",
        /// Share of the connections of its service.
        /// Default: `1`
        weight: Option<At<u32>> = "weight",
    }
    unused {
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
    later ["ports", "network"]
}

table! {
    /// `[[namespace]]`: labels that hold for what is in it.
    Namespace {
        /// Name, one of its kind and namespace.
        /// Example: `"shop"`
        name: At<String> = "name",
        /// Labels, such as the waypoint of everything in it.
        /// Example: `{ "istio.io/use-waypoint" = "waypoint" }`
        labels: Option<Labels> = "labels",
    }
    unused {
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
}

table! {
    /// `[[serviceAccount]]`: labels that hold for the workloads that run as it.
    ServiceAccount {
        /// Name, one of its kind and namespace.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Labels, such as the waypoint of its workloads.
        /// Example: `{ "istio.io/use-waypoint" = "waypoint" }`
        labels: Option<Labels> = "labels",
    }
    unused {
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
}

words!(Location, "one of MESH_EXTERNAL, MESH_INTERNAL",
    "MESH_EXTERNAL" => Self::External, "MESH_INTERNAL" => Self::Internal);

words!(Protocol, "one of HTTP, HTTP2, GRPC, HTTPS, TLS, TCP",
    "HTTP" => Self::Http, "HTTP2" => Self::Http2, "GRPC" => Self::Grpc, "HTTPS" => Self::Https,
    "TLS" => Self::Tls, "TCP" => Self::Tcp);

/// `serviceEntry.resolution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolution {
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

words!(Resolution, "one of NONE, STATIC, DNS, DNS_ROUND_ROBIN",
    "STATIC" => Self::Static, "DNS" => Self::Dns, "DNS_ROUND_ROBIN" => Self::DnsRoundRobin,
    "NONE" => Self::None, "DYNAMIC_DNS" => Self::DynamicDns);

table! {
    /// `[[serviceEntry]]`
    ServiceEntry {
        /// Name, one of its kind and namespace.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Labels, such as the waypoint or egress gateway of the service.
        /// Example: `{ "istio.io/use-waypoint" = "waypoint" }`
        labels: Option<Labels> = "labels",
        /// Host names.
        /// Example: `["ledger.shop.svc.cluster.local"]`
        hosts: Vec<At<String>> = "hosts",
        /// Addresses that mean the service, beside its names.
        /// Example: `["10.96.0.7"]`
        addresses: Option<Vec<At<Cidr>>> = "addresses",
        /// A port.
        ports: Vec<ServicePort> = "ports",
        /// Whether its endpoints are workloads of the mesh.
        /// Default: `"MESH_EXTERNAL"`
        location: Option<Location> = "location",
        /// Where endpoints come from: from here, from DNS, or the address that was asked for.
        /// Example: `"STATIC"`
        resolution: At<Resolution> = "resolution",
        /// An endpoint.
        endpoints: Option<Vec<Endpoint>> = "endpoints",
        /// Takes the workloads with these labels for endpoints.
        workload_selector: Option<WorkloadSelector> = "workloadSelector",
        /// Names that the certificate of an outside server must have one of.
        /// Example: `["ledger.example"]`
        subject_alt_names: Option<Vec<At<String>>> = "subjectAltNames",
        /// Lets DNS answer with addresses of the inside.
        /// Default: `false`
        allow_private: Option<At<bool>> = "dangerous_allowPrivateAddresses",
        /// Whether an ingress that leads there by itself tells this outside service who calls: `x-forwarded-for` and
        /// `x-forwarded-proto`.
        /// Default: `false`
        forward_client: Option<At<bool>> = "forwardClientAddress",
        /// Namespaces that see the service; `.` is its own.
        /// Default: all
        /// Example: `["."]`
        export_to: Option<Vec<At<String>>> = "exportTo",
        /// Whether endpoints nearby come first.
        /// Default: `"Any"`
        traffic_distribution: Option<At<Preference>> = "trafficDistribution",
        /// Annotations; `networking.istio.io/traffic-distribution` is read.
        /// Example: `{ "networking.istio.io/traffic-distribution" = "PreferClose" }`
        annotations: Option<Labels> = "annotations",
    }
}

words!(Preference, "one of Any, PreferClose, PreferSameZone, PreferSameNode",
    "Any" => Self::Any, "PreferClose" => Self::Zone, "PreferSameZone" => Self::Zone, "PreferSameNode" => Self::Node);

table! {
    /// `serviceEntry.ports[]`
    ServicePort {
        /// Port of the service.
        /// Example: `80`
        number: At<Port> = "number",
        /// Its name.
        /// Example: `"http"`
        name: At<String> = "name",
        /// What is spoken there.
        /// Example: `"HTTP"`
        protocol: Protocol = "protocol",
        /// Port of the endpoints.
        /// Default: that of `number`
        /// Example: `8080`
        target_port: Option<Port> = "targetPort",
    }
}

table! {
    /// `serviceEntry.endpoints[]`
    Endpoint {
        /// Address or host name.
        /// Example: `"192.0.2.7"`
        address: At<String> = "address",
        /// Where it is: `region/zone/subzone`.
        /// Example: `"eu/eu-1"`
        locality: Option<At<String>> = "locality",
        /// Share of the connections.
        /// Default: `1`
        weight: Option<At<u32>> = "weight",
    }
    later ["ports", "labels", "network", "serviceAccount"]
}

table! {
    /// `serviceEntry.workloadSelector`
    WorkloadSelector {
        /// All of these labels.
        /// Example: `{ app = "ledger" }`
        labels: Labels = "labels",
    }
}

/// `trafficPolicy.tls.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsMode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

words!(TlsMode, "one of DISABLE, SIMPLE",
    "DISABLE" => Self::Disable, "SIMPLE" => Self::Simple, "MUTUAL" => Self::Mutual,
    "ISTIO_MUTUAL" => Self::IstioMutual);

table! {
    /// `[[destinationRule]]`
    DestinationRule {
        /// Name, one of its kind and namespace.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Host of the service.
        /// Example: `"ledger.shop.svc.cluster.local"`
        host: At<String> = "host",
        /// How it is called.
        traffic_policy: TrafficPolicy = "trafficPolicy",
    }
    unused {
        /// Labels of the resource; read by no check, as Kubernetes writes them.
        /// Example: `{ team = "shop" }`
        "labels": Labels,
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
    later ["subsets", "exportTo", "workloadSelector"]
}

table! {
    /// `destinationRule.trafficPolicy`
    TrafficPolicy {
        /// TLS to an outside server.
        tls: Option<ClientTls> = "tls",
        /// Which endpoint is taken.
        load_balancer: Option<LoadBalancer> = "loadBalancer",
        /// When an endpoint is left out.
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        /// How much there may be at a time.
        connection_pool: Option<ConnectionPool> = "connectionPool",
        /// Asks endpoints whether they are well; a key of ours.
        health_check: Option<HealthCheck> = "healthCheck",
    }
    later ["portLevelSettings", "tunnel", "proxyProtocol", "retryBudget"]
}

table! {
    /// `destinationRule.trafficPolicy.tls`
    ClientTls {
        /// Whether TLS is begun here.
        /// Example: `"SIMPLE"`
        mode: At<TlsMode> = "mode",
        /// Server name that is asked for.
        /// Default: the host
        /// Example: `"api.example.com"`
        sni: Option<At<String>> = "sni",
        /// Names that the certificate must have one of.
        /// Default: the server name
        /// Example: `["api.example.com"]`
        subject_alt_names: Option<Vec<At<String>>> = "subjectAltNames",
        /// PEM of the roots that are trusted.
        /// Default: those of the system
        /// Example: `"partner-ca.pem"`
        ca_certificates: Option<At<String>> = "caCertificates",
    }
    later ["clientCertificate", "privateKey", "credentialName", "caCrl", "insecureSkipVerify"]
}

table! {
    /// `[[extensionProvider]]`
    ExtensionProvider {
        /// Name, which policies say as `provider.name`.
        /// Example: `"opa"`
        name: At<String> = "name",
        /// A login by OpenID Connect at an ingress.
        oidc: Option<Oidc> = "oidc",
        /// An authorizer by Envoy's HTTP contract; docs/authorizers.md.
        http: Option<EnvoyExtAuthzHttp> = "envoyExtAuthzHttp",
        /// An authorizer by Envoy's gRPC contract; docs/authorizers.md.
        grpc: Option<EnvoyExtAuthzGrpc> = "envoyExtAuthzGrpc",
    }
}

table! {
    /// `extensionProvider.oidc`
    Oidc {
        /// Issuer URL of the provider.
        /// Example: `"https://auth.example.com"`
        issuer: At<String> = "issuer",
        /// Client that is registered there.
        /// Example: `"portal"`
        client_id: String = "clientId",
        /// Its secret, `file:`, `env:` or `cred:`.
        /// Example: `"cred:portal"`
        client_secret: Option<At<String>> = "clientSecret",
        /// The same as `clientSecret = "file:.."`.
        /// Example: `"portal.secret"`
        client_secret_file: Option<At<String>> = "clientSecretFile",
        /// Path that the provider sends browsers back to.
        /// Default: `"/oidc/callback"`
        redirect_path: Option<At<String>> = "redirectPath",
        /// Path that ends a login.
        /// Default: `"/oidc/logout"`
        logout_path: Option<At<String>> = "logoutPath",
        /// Scopes that are asked for, `openid` among them.
        /// Default: `["openid"]`
        scopes: Option<Vec<At<String>>> = "scopes",
        /// Key of the session cookies, for several ingresses with one login.
        /// Default: a key that lives with the process
        /// Example: `"cred:cookie-key"`
        cookie_key: Option<At<String>> = "cookieKey",
        /// Takes a provider at `http://127.0.0.1`, for trials.
        /// Default: `false`
        allow_http_loopback: Option<bool> = "dangerous_allowHttpIssuerOnLoopback",
    }
}
