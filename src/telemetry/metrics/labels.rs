//! What a series is about, in Istio's label names.

use std::collections::BTreeMap;

use crate::config::checked::{Gateway, Mesh, Service, Workload};
use crate::exchange::close::CloseReason;
use crate::telemetry::metrics::outcome::Outcome;
use crate::vocab::spiffe::SpiffeId;

/// Value of a label that is not known, as Istio writes it.
const UNKNOWN: &str = "unknown";

/// `reporter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reporter {
    /// The client's node.
    Source,
    /// The server's node.
    Destination,
    /// A waypoint or egress gateway on the way.
    Waypoint,
}

impl Reporter {
    /// As Istio writes it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Waypoint => "waypoint",
        }
    }
}

/// `response_flags`: how it ended, where not well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flag {
    /// `-`
    #[default]
    None,
    /// `DENY`: policy.
    Deny,
    /// `CONNECT`: the upstream could not be reached.
    Connect,
    /// `TLS_FAILURE`
    Tls,
    /// `H2_HANDSHAKE_FAILURE`
    Http2,
    /// `IDENTITY_ERROR`: the far end is not who it should be.
    Identity,
    /// `CERT_REVOKED`
    Revoked,
    /// `NR`: no route (Envoy's flag).
    NoRoute,
    /// `UC`: the upstream broke off (Envoy's flag).
    UpstreamReset,
    /// `DC`: the downstream broke off (Envoy's flag).
    DownstreamReset,
    /// `SI`: a time limit (Envoy's flag).
    Idle,
    /// `DRAIN`: the process ended.
    Drain,
    /// `UO`: a limit of ours is reached.
    Overflow,
}

impl Flag {
    /// As ztunnel writes it, and as Envoy does where ztunnel has no word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::Tls => "TLS_FAILURE",
            Self::Http2 => "H2_HANDSHAKE_FAILURE",
            Self::Identity => "IDENTITY_ERROR",
            Self::Revoked => "CERT_REVOKED",
            Self::NoRoute => "NR",
            Self::UpstreamReset => "UC",
            Self::DownstreamReset => "DC",
            Self::Idle => "SI",
            Self::Drain => "DRAIN",
            Self::Overflow => "UO",
        }
    }
}

impl From<CloseReason> for Flag {
    fn from(close: CloseReason) -> Self {
        match close {
            CloseReason::Done => Self::None,
            CloseReason::Denied
            | CloseReason::PlaintextRefused
            | CloseReason::PolicyChanged
            | CloseReason::Token
            | CloseReason::Login => Self::Deny,
            CloseReason::Handshake => Self::Tls,
            CloseReason::NoRoute
            | CloseReason::SelfCall
            | CloseReason::BadRequest
            | CloseReason::Misdirected => Self::NoRoute,
            CloseReason::UpstreamConnect | CloseReason::UpstreamTimeout => Self::Connect,
            CloseReason::UpstreamReset => Self::UpstreamReset,
            CloseReason::DownstreamReset => Self::DownstreamReset,
            CloseReason::Timeout => Self::Idle,
            CloseReason::Limit
            | CloseReason::BodyTooLarge
            | CloseReason::Overload
            | CloseReason::Overflow => Self::Overflow,
            CloseReason::Revoked => Self::Revoked,
            CloseReason::Drain => Self::Drain,
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Party {
    /// `*_workload`
    pub workload: String,
    /// `*_workload_namespace`
    pub namespace: String,
    /// `*_principal`
    pub principal: String,
    /// `*_app`
    pub app: String,
    /// `*_version`
    pub version: String,
    /// `*_canonical_service`
    pub canonical_service: String,
    /// `*_canonical_revision`
    pub canonical_revision: String,
}

impl Party {
    /// Somebody of whom only the identity is known, if that.
    #[must_use]
    pub fn stranger(principal: Option<&SpiffeId>) -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            workload: unknown(),
            namespace: principal
                .and_then(SpiffeId::k8s)
                .map_or_else(unknown, |(namespace, _account)| namespace.to_owned()),
            principal: principal.map_or_else(unknown, ToString::to_string),
            app: unknown(),
            version: unknown(),
            canonical_service: unknown(),
            canonical_revision: "latest".to_owned(),
        }
    }

    /// A workload of the mesh, with the identity that was proved, if one was.
    #[must_use]
    pub fn workload(workload: &Workload, principal: Option<&SpiffeId>) -> Self {
        Self::labelled(&workload.name, &workload.labels, principal)
    }

    /// A gateway of the mesh.
    #[must_use]
    pub fn gateway(gateway: &Gateway, principal: Option<&SpiffeId>) -> Self {
        Self::labelled(&gateway.name, &gateway.labels, principal)
    }

    fn labelled(
        name: &crate::vocab::resource::ResourceName,
        labels: &BTreeMap<String, String>,
        principal: Option<&SpiffeId>,
    ) -> Self {
        // The order in which Istio looks for canonical names.
        let first = |keys: &[&str]| keys.iter().find_map(|key| labels.get(*key)).cloned();
        let app = first(&["app", "app.kubernetes.io/name"]);
        let version = first(&["version", "app.kubernetes.io/version"]);
        let service = first(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]);
        let revision = first(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]);
        let unknown = || UNKNOWN.to_owned();
        Self {
            workload: name.name.clone(),
            namespace: name.namespace.clone(),
            principal: principal.map_or_else(unknown, ToString::to_string),
            app: app.unwrap_or_else(unknown),
            version: version.unwrap_or_else(unknown),
            canonical_service: service.unwrap_or_else(|| name.name.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
        }
    }
}

/// The service that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceLabels {
    /// `destination_service`: its first host.
    pub host: String,
    /// `destination_service_name`
    pub name: String,
    /// `destination_service_namespace`
    pub namespace: String,
}

impl ServiceLabels {
    /// Of a service of the mesh.
    #[must_use]
    pub fn of(service: &Service) -> Self {
        Self {
            host: service
                .hosts
                .first()
                .cloned()
                .unwrap_or_else(|| UNKNOWN.to_owned()),
            name: service.name.name.clone(),
            namespace: service.name.namespace.clone(),
        }
    }

    /// None was asked for.
    #[must_use]
    pub fn none() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            host: unknown(),
            name: unknown(),
            namespace: unknown(),
        }
    }
}

/// All labels of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// `reporter`
    pub reporter: Reporter,
    /// `source_*`
    pub source: Party,
    /// `destination_*`
    pub destination: Party,
    /// `destination_service*`
    pub service: ServiceLabels,
    /// `response_flags`
    pub flag: Flag,
    /// `connection_security_policy`: `mutual_tls`, else `unknown`.
    pub mutual_tls: bool,
}

impl Labels {
    /// Of a key in the mesh that its numbers are of.
    #[must_use]
    pub fn of(key: &super::Key, mesh: &Mesh) -> Self {
        let workload = |at: Option<usize>| at.and_then(|at| mesh.workloads.get(at));
        let gateway = |at: Option<usize>| at.and_then(|at| mesh.gateways.get(at));
        let ends = &key.ends;
        let principal = ends.principal.as_ref();
        let source = match (workload(ends.source), gateway(ends.source_gateway)) {
            (Some(workload), _) => Party::workload(workload, principal),
            (None, Some(gateway)) => Party::gateway(gateway, principal),
            (None, None) => Party::stranger(principal),
        };
        let proved = key.mutual_tls;
        let destination = match (workload(ends.destination), gateway(ends.gateway)) {
            (Some(workload), _) => Party::workload(workload, Some(&workload.id).filter(|_| proved)),
            (None, Some(gateway)) => Party::gateway(gateway, Some(&gateway.id).filter(|_| proved)),
            (None, None) => Party::stranger(None),
        };
        let service = ends.service.and_then(|at| mesh.services.get(at));
        Self {
            reporter: key.reporter,
            source,
            destination,
            service: service.map_or_else(ServiceLabels::none, ServiceLabels::of),
            flag: Flag::None,
            mutual_tls: key.mutual_tls,
        }
    }

    /// What is counted when a core has more series than it may keep.
    #[must_use]
    pub fn overflow() -> Self {
        Self {
            reporter: Reporter::Destination,
            source: Party::stranger(None),
            destination: Party::stranger(None),
            service: ServiceLabels::none(),
            flag: Flag::None,
            mutual_tls: false,
        }
    }

    /// Of a key, for requests: all but the server's own node speak mutual TLS with a workload of the mesh themselves.
    #[must_use]
    pub fn of_requests(key: &super::Key, mesh: &Mesh) -> Self {
        let proved = key.mutual_tls || key.reporter != Reporter::Destination;
        let labels = Self::of(
            &super::Key {
                mutual_tls: proved,
                ..key.clone()
            },
            mesh,
        );
        Self {
            mutual_tls: key.mutual_tls,
            ..labels
        }
    }

    /// Name and value of every label, in Istio's order.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let security = if self.mutual_tls {
            "mutual_tls"
        } else {
            UNKNOWN
        };
        let mut pairs = self.ends();
        pairs.extend([
            ("request_protocol", "tcp".to_owned()),
            ("response_flags", self.flag.label().to_owned()),
            ("connection_security_policy", security.to_owned()),
        ]);
        pairs
    }

    /// The same for requests that ended so.
    #[must_use]
    pub fn pairs_of(&self, outcome: Outcome) -> Vec<(&'static str, String)> {
        let security = match (self.reporter, self.mutual_tls) {
            // Istio's sidecars do not tell it where they are the client.
            (Reporter::Source, _) => UNKNOWN,
            (Reporter::Destination | Reporter::Waypoint, true) => "mutual_tls",
            (Reporter::Destination | Reporter::Waypoint, false) => "none",
        };
        let mut pairs = self.ends();
        pairs.extend(outcome.pairs());
        pairs.push(("connection_security_policy", security.to_owned()));
        pairs
    }

    /// Who counts, and between whom.
    fn ends(&self) -> Vec<(&'static str, String)> {
        let source = &self.source;
        let to = &self.destination;
        vec![
            ("reporter", self.reporter.label().to_owned()),
            ("source_workload", source.workload.clone()),
            ("source_canonical_service", source.canonical_service.clone()),
            (
                "source_canonical_revision",
                source.canonical_revision.clone(),
            ),
            ("source_workload_namespace", source.namespace.clone()),
            ("source_principal", source.principal.clone()),
            ("source_app", source.app.clone()),
            ("source_version", source.version.clone()),
            ("source_cluster", UNKNOWN.to_owned()),
            ("destination_service", self.service.host.clone()),
            (
                "destination_service_namespace",
                self.service.namespace.clone(),
            ),
            ("destination_service_name", self.service.name.clone()),
            ("destination_workload", to.workload.clone()),
            (
                "destination_canonical_service",
                to.canonical_service.clone(),
            ),
            (
                "destination_canonical_revision",
                to.canonical_revision.clone(),
            ),
            ("destination_workload_namespace", to.namespace.clone()),
            ("destination_principal", to.principal.clone()),
            ("destination_app", to.app.clone()),
            ("destination_version", to.version.clone()),
            ("destination_cluster", UNKNOWN.to_owned()),
        ]
    }
}
