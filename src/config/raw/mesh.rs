//! Tables of the mesh, but for the policies.

use std::net::IpAddr;

use crate::config::checked::{GatewayClass, Location, Preference, Protocol};
use crate::config::place::At;
use crate::config::raw::authorizer::{EnvoyExtAuthzGrpc, EnvoyExtAuthzHttp};
use crate::config::raw::traffic::{ConnectionPool, LoadBalancer, OutlierDetection};
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
        trust_domain: Option<At<String>> = "trustDomain",
        trust_domain_aliases: Option<MaybeEmpty<At<String>>> = "trustDomainAliases",
        root_namespace: Option<At<String>> = "rootNamespace",
        path_normalization: Option<PathNormalization> = "pathNormalization",
        outbound_traffic_policy: Option<At<OutboundTrafficPolicy>> = "outboundTrafficPolicy",
        num_trusted_proxies: Option<Count> = "numTrustedProxies",
        forward_client_cert: Option<ForwardClientCert> = "forwardClientCertDetails",
        dry_run: Option<At<bool>> = "dangerous_dryRun",
        compat: Option<Compat> = "compat",
    }
}

table! {
    /// `mesh.compat`
    Compat {
        l4_deny: Option<L4Deny> = "l4Deny",
        gateway_name_selector: Option<bool> = "gatewayNameSelector",
        gateway_selectors: Option<bool> = "gatewaySelectors",
        audience_stripping: Option<bool> = "audienceStripping",
    }
}

words!(GatewayClass, "one of istio-waypoint, ringgate-ingress, ringgate-egress",
    "istio-waypoint" => Self::Waypoint, "ringgate-ingress" => Self::Ingress, "ringgate-egress" => Self::Egress);

table! {
    /// `[[gateway]]`
    Gateway {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        labels: Option<Labels> = "labels",
        gateway_class_name: GatewayClass = "gatewayClassName",
        /// The gateway's name if absent, as Istio names it.
        service_account: Option<At<String>> = "serviceAccount",
        address: At<IpAddr> = "address",
        hbone_port: Option<Port> = "hbonePort",
    }
    unused { "annotations": Labels }
    later ["listeners", "addresses", "infrastructure"]
}

table! {
    /// `[[workloadEntry]]`
    WorkloadEntry {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        labels: Option<Labels> = "labels",
        service_account: At<String> = "serviceAccount",
        address: At<IpAddr> = "address",
        hbone_port: Option<Port> = "hbonePort",
        locality: Option<At<String>> = "locality",
        weight: Option<At<u32>> = "weight",
    }
    unused { "annotations": Labels }
    later ["ports", "network"]
}

table! {
    /// `[[namespace]]`: labels that hold for what is in it.
    Namespace {
        name: At<String> = "name",
        labels: Option<Labels> = "labels",
    }
    unused { "annotations": Labels }
}

table! {
    /// `[[serviceAccount]]`: labels that hold for the workloads that run as it.
    ServiceAccount {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        labels: Option<Labels> = "labels",
    }
    unused { "annotations": Labels }
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
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        labels: Option<Labels> = "labels",
        hosts: Vec<At<String>> = "hosts",
        addresses: Option<Vec<At<Cidr>>> = "addresses",
        ports: Vec<ServicePort> = "ports",
        location: Option<Location> = "location",
        resolution: At<Resolution> = "resolution",
        endpoints: Option<Vec<Endpoint>> = "endpoints",
        workload_selector: Option<WorkloadSelector> = "workloadSelector",
        subject_alt_names: Option<Vec<At<String>>> = "subjectAltNames",
        /// Ours: DNS may answer with addresses of the inside.
        allow_private: Option<At<bool>> = "dangerous_allowPrivateAddresses",
        export_to: Option<Vec<At<String>>> = "exportTo",
        /// Of Kubernetes' Service; Istio takes it from the annotation.
        traffic_distribution: Option<At<Preference>> = "trafficDistribution",
        annotations: Option<Labels> = "annotations",
    }
}

words!(Preference, "one of Any, PreferClose, PreferSameZone, PreferSameNode",
    "Any" => Self::Any, "PreferClose" => Self::Zone, "PreferSameZone" => Self::Zone, "PreferSameNode" => Self::Node);

table! {
    /// `serviceEntry.ports[]`
    ServicePort {
        number: At<Port> = "number",
        name: At<String> = "name",
        protocol: Protocol = "protocol",
        target_port: Option<Port> = "targetPort",
    }
}

table! {
    /// `serviceEntry.endpoints[]`
    Endpoint {
        address: At<String> = "address",
        locality: Option<At<String>> = "locality",
        weight: Option<At<u32>> = "weight",
    }
    later ["ports", "labels", "network", "serviceAccount"]
}

table! {
    /// `serviceEntry.workloadSelector`
    WorkloadSelector {
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
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        host: At<String> = "host",
        traffic_policy: TrafficPolicy = "trafficPolicy",
    }
    unused { "labels": Labels, "annotations": Labels }
    later ["subsets", "exportTo", "workloadSelector"]
}

table! {
    /// `destinationRule.trafficPolicy`
    TrafficPolicy {
        tls: Option<ClientTls> = "tls",
        load_balancer: Option<LoadBalancer> = "loadBalancer",
        outlier_detection: Option<OutlierDetection> = "outlierDetection",
        connection_pool: Option<ConnectionPool> = "connectionPool",
    }
    later ["portLevelSettings", "tunnel", "proxyProtocol", "retryBudget"]
}

table! {
    /// `destinationRule.trafficPolicy.tls`
    ClientTls {
        mode: At<TlsMode> = "mode",
        sni: Option<At<String>> = "sni",
        subject_alt_names: Option<Vec<At<String>>> = "subjectAltNames",
        ca_certificates: Option<At<String>> = "caCertificates",
    }
    later ["clientCertificate", "privateKey", "credentialName", "caCrl", "insecureSkipVerify"]
}

table! {
    /// `[[extensionProvider]]`
    ExtensionProvider {
        name: At<String> = "name",
        oidc: Option<Oidc> = "oidc",
        http: Option<EnvoyExtAuthzHttp> = "envoyExtAuthzHttp",
        grpc: Option<EnvoyExtAuthzGrpc> = "envoyExtAuthzGrpc",
    }
}

table! {
    /// `extensionProvider.oidc`
    Oidc {
        issuer: At<String> = "issuer",
        client_id: String = "clientId",
        client_secret: Option<At<String>> = "clientSecret",
        /// The same as `clientSecret = "file:.."`.
        client_secret_file: Option<At<String>> = "clientSecretFile",
        redirect_path: Option<At<String>> = "redirectPath",
        logout_path: Option<At<String>> = "logoutPath",
        scopes: Option<Vec<At<String>>> = "scopes",
        cookie_key: Option<At<String>> = "cookieKey",
        allow_http_loopback: Option<bool> = "dangerous_allowHttpIssuerOnLoopback",
    }
}
