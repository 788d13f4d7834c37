//! The decision record: one for every connection, tunnel and request, allowed or denied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::exchange::close::CloseReason;
use crate::http::baggage::Baggage;
use crate::http::connect::{self, Told};
use crate::policy::facts::{Connection, Request};
use crate::policy::{Decision, Judged, explain};
use crate::vocab::trace::TraceId;

/// What kind of exchange a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A captured or direct connection, judged at L4.
    Connection,
    /// A tunnel, judged at L4.
    Tunnel,
    /// A request, judged at L7.
    Request,
    /// A connection that leaves a workload.
    Outbound,
}

impl Kind {
    /// As records name it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tunnel => "tunnel",
            Self::Request => "request",
            Self::Outbound => "outbound",
        }
    }
}

/// One question to the provider of a CUSTOM policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `provider.name`.
    pub provider: String,
    /// `allow`, `deny`, `error` or `failed_open`.
    pub result: &'static str,
    /// What went wrong.
    pub detail: Option<Detail>,
    /// How long it took, waiting included.
    pub duration: Duration,
}

impl Asked {
    fn to_json(&self) -> Value {
        json!({
            "provider": self.provider,
            "result": self.result,
            "detail": self.detail,
            "duration_us": micros(self.duration),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why an exchange was refused before or after policy, in words.
pub type Detail = String;

/// Raw material of a record; it becomes text on the writer's thread.
#[derive(Clone, Debug)]
pub struct Record {
    /// Since the Unix epoch, when the exchange opened or ended.
    pub time: Duration,
    /// Generation of the configuration that judged it.
    pub generation: u64,
    /// Role.
    pub role: &'static str,
    /// Node or gateway.
    pub instance: String,
    /// Kind.
    pub kind: Kind,
    /// Who and where; `None` if the connection ended before that was known.
    pub connection: Option<Connection>,
    /// Address of the peer.
    pub peer: SocketAddr,
    /// The trace that it belongs to.
    pub trace: Option<TraceId>,
    /// What the head of the tunnel told beside its authority; nothing of it is proven.
    pub told: Option<Arc<Told>>,
    /// Service, if one was asked for.
    pub service: Option<String>,
    /// Workload or outside address.
    pub workload: Option<String>,
    /// Canonical request; `None` at L4.
    pub request: Option<Arc<Request>>,
    /// Providers of CUSTOM policies that were asked, in this order.
    pub asked: Vec<Asked>,
    /// What the engine said; `None` if it was not asked.
    pub judged: Option<Judged>,
    /// Why, where it was not the engine that said it.
    pub detail: Option<Detail>,
    /// What the mesh in dry run would have refused before the engine was asked.
    pub would: Option<Detail>,
    /// HTTP status that the peer got.
    pub status: Option<u16>,
    /// Why it ended; `None` while it is open.
    pub close: Option<CloseReason>,
    /// Bytes from the peer.
    pub received: u64,
    /// Bytes to the peer.
    pub sent: u64,
    /// How long it took.
    pub duration: Duration,
}

impl Record {
    /// Whether it was allowed: judged so and not refused for another reason.
    fn allowed(&self) -> bool {
        let refused = matches!(
            self.close,
            Some(CloseReason::Denied | CloseReason::PlaintextRefused | CloseReason::Token)
        );
        let judged = self.judged.as_ref();
        !refused && judged.is_some_and(|j| j.decision == Decision::Allow)
    }

    /// The record as one JSON object; `number` makes its `id` the only one of its millisecond.
    #[must_use]
    pub fn to_json(&self, number: u64) -> Value {
        let mut out = Map::new();
        let id = format!("{}/{:x}-{number}", self.generation, self.time.as_millis());
        out.insert("id".into(), id.into());
        out.insert("time".into(), rfc3339(self.time).into());
        out.insert("generation".into(), self.generation.into());
        out.insert("role".into(), self.role.into());
        out.insert("instance".into(), self.instance.as_str().into());
        out.insert("kind".into(), self.kind.label().into());
        let principal = self
            .connection
            .as_ref()
            .and_then(|c| c.principal.as_ref())
            .map(|id| id.principal());
        let mut source = Map::new();
        source.insert("principal".into(), principal.into());
        source.insert("address".into(), self.peer.to_string().into());
        let told = self.connection.as_ref().filter(|c| c.remote != c.peer);
        if let Some(connection) = told {
            // Rules compare the address that trusted proxies tell, so it is needed to judge again.
            source.insert("client".into(), connection.remote.to_string().into());
        }
        if let Some(told) = &self.told {
            tell(&mut source, told);
        }
        out.insert("source".into(), source.into());
        // The end user's own trace, where HTTP is understood, else the tunnel's.
        let request = self.request.as_ref();
        let trace = request.and_then(|r| connect::trace(&r.headers));
        if let Some(trace) = trace.or(self.trace) {
            out.insert("traceId".into(), trace.to_string().into());
        }
        self.destination(&mut out);
        if let Some(request) = &self.request {
            self.request(&mut out, request);
        }
        out.insert(
            "verdict".into(),
            if self.allowed() { "allow" } else { "deny" }.into(),
        );
        self.judgement(&mut out);
        if !self.asked.is_empty() {
            let asked: Vec<Value> = self.asked.iter().map(Asked::to_json).collect();
            out.insert("custom".into(), asked.into());
        }
        out.insert("status".into(), self.status.into());
        out.insert(
            "event".into(),
            if self.close.is_some() {
                "close"
            } else {
                "open"
            }
            .into(),
        );
        out.insert("close".into(), self.close.map(CloseReason::label).into());
        out.insert(
            "bytes".into(),
            json!({ "received": self.received, "sent": self.sent }),
        );
        out.insert("duration_us".into(), micros(self.duration).into());
        Value::Object(out)
    }

    fn destination(&self, out: &mut Map<String, Value>) {
        let mut destination = Map::new();
        destination.insert("service".into(), self.service.clone().into());
        destination.insert("workload".into(), self.workload.clone().into());
        if let Some(connection) = &self.connection {
            destination.insert("address".into(), connection.destination.to_string().into());
            destination.insert("port".into(), connection.port.into());
            if let Some(sni) = &connection.sni {
                destination.insert("sni".into(), sni.as_str().into());
            }
        }
        out.insert("destination".into(), destination.into());
    }

    fn request(&self, out: &mut Map<String, Value>, request: &Request) {
        let user = request.claims.as_ref().and_then(|c| c.request_principal());
        out.insert("user".into(), json!({ "principal": user }));
        let head = json!({
            "method": request.method.as_str(),
            "host": request.host.as_str(),
            "path": request.path.as_ref().map(|p| p.as_str()),
        });
        out.insert("request".into(), head);
    }

    /// What dry-run policies would have said, unless there is none.
    fn shadow(&self, out: &mut Map<String, Value>, judged: &Judged) {
        let said = [("deny", judged.shadow.deny), ("allow", judged.shadow.allow)];
        let said: Map<String, Value> = said
            .into_iter()
            .filter_map(|(action, decision)| Some((action.to_owned(), word(decision?).into())))
            .collect();
        if !said.is_empty() {
            out.insert("dryRun".into(), said.into());
        }
    }

    fn judgement(&self, out: &mut Map<String, Value>) {
        let judged = self.judged.as_ref();
        out.insert(
            "policy".into(),
            judged
                .and_then(|j| j.policy.as_ref())
                .map(ToString::to_string)
                .into(),
        );
        out.insert("rule".into(), judged.and_then(|j| j.rule).into());
        let reason = match (&self.detail, judged, &self.connection) {
            (Some(detail), ..) => detail.clone(),
            (None, Some(judged), Some(conn)) => judged.reason.text(conn, self.request.as_deref()),
            (None, Some(judged), None) => judged.reason.to_string(),
            (None, None, _) => self.close.map_or("", CloseReason::label).to_owned(),
        };
        out.insert("reason".into(), reason.into());
        if self.would.is_some() || judged.is_some_and(|j| j.would_deny) {
            out.insert("wouldDeny".into(), true.into());
        }
        if let Some(would) = &self.would {
            out.insert("unenforced".into(), would.as_str().into());
        }
        if let Some(judged) = judged {
            out.insert("audit".into(), judged.audit.into());
            self.shadow(out, judged);
            let told = judged.decision == Decision::Deny || judged.would_deny;
            if let Some(connection) = self.connection.as_ref().filter(|_| told) {
                let to = self
                    .service
                    .as_deref()
                    .or(self.workload.as_deref())
                    .unwrap_or("unknown");
                let steps = explain::steps(judged, connection, self.request.as_deref(), to);
                out.insert("steps".into(), steps.to_vec().into());
            }
        }
    }
}

/// What the peer says of itself and of its client.
fn tell(source: &mut Map<String, Value>, told: &Told) {
    if let Some(client) = told.client {
        source.insert("forwardedFor".into(), client.to_string().into());
    }
    let Some(baggage) = &told.baggage else { return };
    let Baggage {
        cluster,
        namespace,
        workload,
        service,
        version,
        region,
        zone,
    } = baggage;
    let said = [
        ("cluster", cluster.as_deref()),
        ("namespace", namespace.as_deref()),
        ("workload", workload.as_ref().map(|w| w.1.as_ref())),
        ("service", service.as_deref()),
        ("version", version.as_deref()),
        ("region", region.as_deref()),
        ("zone", zone.as_deref()),
    ];
    let said: Map<String, Value> = said
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.into())))
        .collect();
    source.insert("baggage".into(), said.into());
}

/// `allow` or `deny`.
fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

/// UTC with milliseconds (RFC 3339).
pub(super) fn rfc3339(since_epoch: Duration) -> String {
    let nanos = i128::try_from(since_epoch.as_nanos()).unwrap_or(0);
    let Ok(t) = time::OffsetDateTime::from_unix_timestamp_nanos(nanos) else {
        return String::new();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}
