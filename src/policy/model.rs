//! Authorization and peer authentication as the operator wrote them, checked; Istio's names in snake case.

use std::collections::BTreeMap;

use crate::vocab::resource::ResourceName;

/// What a policy is attached to (policy semantics section 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// The whole namespace, or the mesh if in the root namespace.
    #[default]
    Namespace,
    /// Workloads that carry all these labels.
    Selector(BTreeMap<String, String>),
    /// Gateways, services or service entries by name.
    Refs(Vec<TargetRef>),
}

/// One entry of `targetRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetRef {
    /// Kind in its own API group.
    pub kind: TargetKind,
    /// Name; always in the policy's namespace.
    pub name: String,
}

/// Kinds that a policy may be attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    /// `gateway.networking.k8s.io/Gateway`.
    Gateway,
    /// `gateway.networking.k8s.io/GatewayClass`.
    GatewayClass,
    /// Core `Service`.
    Service,
    /// `networking.istio.io/ServiceEntry`.
    ServiceEntry,
    /// Extension, core `ServiceAccount`: enforced at the workloads that run as it, and at the waypoint of a service that
    /// has such a workload.
    ServiceAccount,
}

/// `AuthorizationPolicy.action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Allow what matches; once one applies, the rest is denied.
    #[default]
    Allow,
    /// Deny what matches.
    Deny,
    /// Mark what matches for the audit log.
    Audit,
    /// Ask the provider about what matches.
    Custom,
}

impl Action {
    /// As Istio writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// An AuthorizationPolicy (`security.istio.io/v1`).
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: ResourceName,
    /// What it is attached to.
    pub target: Target,
    /// Action.
    pub action: Action,
    /// `provider.name`, for `Custom`.
    pub provider: Option<String>,
    /// Judged and reported, not enforced (`istio.io/dry-run`).
    pub dry_run: bool,
    /// Rules; any one that matches makes the policy match.
    pub rules: Vec<Rule>,
}

/// One rule: any source, any operation, every condition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// `from[].source`; empty means any.
    pub from: Vec<Source>,
    /// `to[].operation`; empty means any.
    pub to: Vec<Operation>,
    /// `when[]`; all must hold.
    pub when: Vec<Condition>,
}

/// `from[].source`; an empty list is an absent field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// `to[].operation`; an empty list is an absent field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
    /// Extension: regular expressions over the whole path.
    pub path_regexes: Vec<String>,
    /// Extension: none of these may match the path.
    pub not_path_regexes: Vec<String>,
}

/// `when[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub key: String,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
    /// Extension.
    pub regexes: Vec<String>,
    /// Extension.
    pub not_regexes: Vec<String>,
}

/// `PeerAuthentication.mtls.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Inherit.
    #[default]
    Unset,
    /// Plaintext is accepted; HBONE stays on.
    Disable,
    /// Plaintext and mTLS are accepted.
    Permissive,
    /// Plaintext is reset.
    Strict,
}

/// A PeerAuthentication (`security.istio.io/v1`).
#[derive(Clone, Debug, PartialEq)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub name: ResourceName,
    /// `selector.matchLabels`; `None` for the whole namespace or mesh.
    pub selector: Option<BTreeMap<String, String>>,
    /// Mode.
    pub mode: MtlsMode,
    /// `portLevelMtls`, by the workload's port.
    pub ports: BTreeMap<u16, MtlsMode>,
}
