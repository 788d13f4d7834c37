//! The decision record: one for every connection, tunnel and request, allowed or denied.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};

use crate::config::checked::RecordedQuery;
use crate::exchange::close::CloseReason;
use crate::http::baggage::Baggage;
use crate::http::connect::{self, Told};
use crate::http::forward::XFF;
use crate::http::grpc;
use crate::http::reply::Reply;
use crate::http::request_id::REQUEST_ID;
use crate::policy::explain::{self, Explained};
use crate::policy::facts::{Connection, Request};
use crate::policy::{Decision, Judged, Reason};
use crate::telemetry::json::{Object, key};
use crate::vocab::limits;
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
    fn put(&self, out: &mut Object<'_>) {
        out.text(key!("provider"), &self.provider);
        out.plain(key!("result"), self.result);
        out.maybe_text(key!("detail"), self.detail.as_deref());
        out.number(key!("duration_us"), micros(self.duration));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// `Reason::AllowRule` as its text, which most records hold.
const ALLOW_RULE: &str = "matched an ALLOW rule";

/// Why an exchange was refused before or after policy, in words.
pub type Detail = String;

/// Raw material of a record; it becomes text when the exchange has ended.
#[derive(Clone, Debug)]
pub struct Record {
    /// Since the Unix epoch, when the exchange opened or ended.
    pub time: Duration,
    /// Generation of the configuration that judged it.
    pub generation: u64,
    /// Role.
    pub role: &'static str,
    /// Node or gateway.
    pub instance: Rc<str>,
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
    pub service: Option<Rc<str>>,
    /// Workload or outside address.
    pub workload: Option<Rc<str>>,
    /// Address and port of the endpoint that it was sent to last.
    pub endpoint: Option<SocketAddr>,
    /// The rule of a route that it takes.
    pub route: Option<Arc<str>>,
    /// How often it was sent, if more than once.
    pub attempts: Option<u32>,
    /// It is a copy of a request (`requestMirror`).
    pub mirror: bool,
    /// It is a health check, after which an endpoint is held to be well (`true`) or is left out.
    pub health_check: Option<bool>,
    /// Canonical request; `None` at L4.
    pub request: Option<Arc<Request>>,
    /// `x-request-id` that went upstream; that of `request` if none is known.
    pub renamed: Option<HeaderValue>,
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
    /// `grpc-status` that a call got, by the head or the trailers of its answer.
    pub grpc_status: Option<u16>,
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
    /// The answer is our own.
    pub fn answered(&mut self, reply: &Reply) {
        self.status = Some(reply.status.as_u16());
        self.grpc_status = grpc::code(&reply.headers);
        let request = self.request.as_ref();
        // Its answer has the length of a body, and none (RFC 9110 section 9.3.2).
        let bodiless = request.is_some_and(|request| request.method == Method::HEAD);
        let length = if bodiless { 0 } else { reply.body.len() };
        self.sent = u64::try_from(length).unwrap_or(0);
    }

    /// Whether it was allowed: judged so and not refused for another reason.
    fn allowed(&self) -> bool {
        let refused = matches!(
            self.close,
            Some(CloseReason::Denied | CloseReason::PlaintextRefused | CloseReason::Token)
        );
        let judged = self.judged.as_ref();
        !refused && judged.is_some_and(|j| j.decision == Decision::Allow)
    }

    /// Appends the record as one JSON object; `number` makes its `id` the only one of its millisecond, and of the query no
    /// more is told than `query` says. Reasons and steps are those of the whole request: they hold no values of a query.
    pub fn write_json(&self, number: u64, query: RecordedQuery, out: &mut Vec<u8>) {
        let mut out = Object::new(out);
        let time = Stamp::of(self.time);
        out.plain(key!("time"), time.text());
        let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        out.id(key!("id"), (self.generation, millis, number));
        out.number(key!("generation"), self.generation);
        out.plain(key!("role"), self.role);
        out.text(key!("instance"), &self.instance);
        out.plain(key!("kind"), self.kind.label());
        out.object(key!("source"), |source| self.source(source));
        // A tunnel may carry requests of many clients, and tells of the first one alone.
        let request = self.request.as_ref();
        let trace = match self.kind {
            Kind::Request => request.and_then(|r| connect::trace(&r.headers)),
            Kind::Connection | Kind::Tunnel | Kind::Outbound => self.trace,
        };
        if let Some(trace) = trace {
            out.shown(key!("traceId"), &trace);
        }
        out.object(key!("destination"), |to| self.destination(to));
        if let Some(request) = &self.request {
            let name = self.renamed.as_ref();
            put_request(
                &mut out,
                request,
                query,
                name.or_else(|| request.headers.get(REQUEST_ID)),
            );
        }
        let verdict = if self.allowed() { "allow" } else { "deny" };
        out.plain(key!("verdict"), verdict);
        self.judgement(&mut out);
        if !self.asked.is_empty() {
            out.objects(key!("custom"), &self.asked, |out, asked| asked.put(out));
        }
        if let Some(route) = &self.route {
            out.text(key!("route"), route);
        }
        if self.mirror {
            out.bool(key!("mirror"), true);
        }
        if let Some(well) = self.health_check {
            out.plain(
                key!("healthCheck"),
                if well { "healthy" } else { "unhealthy" },
            );
        }
        if let Some(attempts) = self.attempts {
            out.number(key!("attempts"), attempts.into());
        }
        out.maybe_number(key!("status"), self.status.map(u64::from));
        if let Some(code) = self.grpc_status {
            out.number(key!("grpcStatus"), code.into());
        }
        let event = if self.close.is_some() {
            "close"
        } else {
            "open"
        };
        out.plain(key!("event"), event);
        out.maybe_text(key!("close"), self.close.map(CloseReason::label));
        out.object(key!("bytes"), |bytes| {
            bytes.number(key!("received"), self.received);
            bytes.number(key!("sent"), self.sent);
        });
        out.number(key!("duration_us"), micros(self.duration));
        out.end();
    }

    fn source(&self, source: &mut Object<'_>) {
        let connection = self.connection.as_ref();
        let principal = connection.and_then(|c| c.principal.as_ref());
        match principal {
            // Nothing in an ID has to be escaped.
            Some(id) => source.plain(key!("principal"), id.principal()),
            None => source.null(key!("principal")),
        }
        source.socket(key!("address"), self.peer);
        if let Some(connection) = connection.filter(|c| c.remote != c.peer) {
            // Rules compare the address that trusted proxies tell, so it is needed to judge again.
            source.ip(key!("client"), connection.remote);
        }
        if self.kind == Kind::Request {
            let request = self.request.as_ref();
            if let Some(client) = request.and_then(|r| forwarded_for(&r.headers)) {
                source.text(key!("forwardedFor"), &client);
            }
        } else if let Some(client) = self.told.as_ref().and_then(|told| told.client) {
            source.shown(key!("forwardedFor"), &client);
        }
        if let Some(baggage) = self.told.as_ref().and_then(|told| told.baggage.as_deref()) {
            tell(source, baggage);
        }
    }

    fn destination(&self, destination: &mut Object<'_>) {
        destination.maybe_text(key!("service"), self.service.as_deref());
        destination.maybe_text(key!("workload"), self.workload.as_deref());
        if let Some(endpoint) = self.endpoint {
            destination.socket(key!("endpoint"), endpoint);
        }
        if let Some(connection) = &self.connection {
            destination.ip(key!("address"), connection.destination);
            destination.number(key!("port"), connection.port.into());
            if let Some(sni) = &connection.sni {
                destination.text(key!("sni"), sni);
            }
        }
    }

    fn judgement(&self, out: &mut Object<'_>) {
        let judged = self.judged.as_ref();
        match judged.and_then(|j| j.policy.as_ref()) {
            Some(policy) => out.pair(key!("policy"), (&policy.namespace, b'/', &policy.name)),
            None => out.null(key!("policy")),
        }
        let rule = judged.and_then(|j| j.rule);
        out.maybe_number(key!("rule"), rule.and_then(|r| r.try_into().ok()));
        let to = self.service.as_deref().or(self.workload.as_deref());
        let told = judged.zip(self.connection.as_ref()).map(|(judged, conn)| {
            Explained::new(
                judged,
                conn,
                self.request.as_deref(),
                to.unwrap_or("unknown"),
            )
        });
        match (&self.detail, judged, &told) {
            (Some(detail), ..) => out.text(key!("reason"), detail),
            (None, Some(judged), _) if judged.reason == Reason::AllowRule => {
                out.plain(key!("reason"), ALLOW_RULE);
            }
            (None, Some(_), Some(told)) => {
                out.written(key!("reason"), |out| told.write_reason(out));
            }
            (None, Some(judged), None) => out.shown(key!("reason"), &judged.reason),
            (None, None, _) => out.text(key!("reason"), self.close.map_or("", CloseReason::label)),
        }
        if self.would.is_some() || judged.is_some_and(|j| j.would_deny) {
            out.bool(key!("wouldDeny"), true);
        }
        if let Some(would) = &self.would {
            out.text(key!("unenforced"), would);
        }
        let Some(judged) = judged else { return };
        out.bool(key!("audit"), judged.audit);
        shadow(out, judged);
        let denied = judged.decision == Decision::Deny || judged.would_deny;
        if let Some(told) = told.filter(|_| denied) {
            out.texts(key!("steps"), explain::PLAIN, |nth, out| {
                told.write_step(nth, out)
            });
        }
    }
}

fn put_request(
    out: &mut Object<'_>,
    request: &Request,
    query: RecordedQuery,
    name: Option<&HeaderValue>,
) {
    let claims = request.claims.as_ref();
    // Istio's request principal.
    let user = claims.and_then(|c| Some((c.issuer()?, b'/', c.subject()?)));
    out.object(key!("user"), |out| match user {
        Some(user) => out.pair(key!("principal"), user),
        None => out.null(key!("principal")),
    });
    out.object(key!("request"), |out| {
        // Neither holds what has to be escaped.
        out.plain(key!("method"), request.method.as_str());
        out.plain(key!("host"), request.host.as_str());
        match (&request.path, query) {
            (None, _) => out.null(key!("path")),
            (Some(path), RecordedQuery::Keep) => out.text(key!("path"), path.as_str()),
            (Some(path), RecordedQuery::Names) => {
                out.text(key!("path"), &path.without_query_values());
            }
            (Some(path), RecordedQuery::Drop) => out.text(key!("path"), path.path()),
        }
        // Inside the mesh whoever calls may choose it.
        let name = name.filter(|name| name.len() <= limits::RECORDED_NAME_BYTES);
        if let Some(name) = name.and_then(|name| name.to_str().ok()) {
            out.text(key!("id"), name);
        }
    });
}

/// What dry-run policies would have said, unless there is none.
fn shadow(out: &mut Object<'_>, judged: &Judged) {
    let said = [
        (key!("deny"), judged.shadow.deny),
        (key!("allow"), judged.shadow.allow),
    ];
    if said.iter().any(|(_action, decision)| decision.is_some()) {
        out.object(key!("dryRun"), |out| {
            for (action, decision) in said {
                if let Some(decision) = decision {
                    out.plain(action, word(decision));
                }
            }
        });
    }
}

/// The clients that a request's own head names; of a long list its end, which the nearest proxies wrote.
fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    let told = headers.get_all(&XFF).iter();
    let told: Vec<&[u8]> = told.map(HeaderValue::as_bytes).collect();
    if told.is_empty() {
        return None;
    }
    let told = told.join(&b", "[..]);
    let excess = told.len().saturating_sub(limits::RECORDED_NAME_BYTES);
    // What is no text stands beside what is.
    let end = told.get(excess..).unwrap_or_default();
    let told = String::from_utf8_lossy(end).into_owned();
    Some(told)
}

/// What the peer says of itself.
fn tell(source: &mut Object<'_>, baggage: &Baggage) {
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
        (key!("cluster"), cluster.as_deref()),
        (key!("namespace"), namespace.as_deref()),
        (key!("workload"), workload.as_ref().map(|w| w.1.as_ref())),
        (key!("service"), service.as_deref()),
        (key!("version"), version.as_deref()),
        (key!("region"), region.as_deref()),
        (key!("zone"), zone.as_deref()),
    ];
    source.object(key!("baggage"), |out| {
        for (key, value) in said {
            if let Some(value) = value {
                out.text(key, value);
            }
        }
    });
}

/// `allow` or `deny`.
fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

/// UTC with milliseconds (RFC 3339).
#[must_use]
pub fn rfc3339(since_epoch: Duration) -> String {
    Stamp::of(since_epoch).text().to_owned()
}

/// Room for `0000-00-00T00:00:00.000Z`.
const STAMP: [u8; 24] = *b"0000-00-00T00:00:00.000Z";

/// Where its milliseconds stand.
const MILLIS: Range<usize> = 20..23;

/// Fills `to` with the last digits of `number`.
fn write_digits(to: &mut [u8], mut number: u32) {
    for digit in to.iter_mut().rev() {
        // One digit: it fits.
        *digit = b'0'.saturating_add(u8::try_from(number % 10).unwrap_or(0));
        number /= 10;
    }
}

/// A time as text.
struct Stamp([u8; 24]);

impl Stamp {
    /// As `made`, of whose text a core remembers that of the last second.
    fn of(since_epoch: Duration) -> Self {
        thread_local! {
            static LAST: Cell<(u64, [u8; 24])> = const { Cell::new((0, STAMP)) };
        }
        let second = since_epoch.as_secs();
        let (last, mut text) = LAST.get();
        if last != second || second == 0 {
            let Self(made) = Self::made(since_epoch);
            LAST.set((second, made));
            return Self(made);
        }
        if let Some(digits) = text.get_mut(MILLIS) {
            write_digits(digits, since_epoch.subsec_millis());
        }
        Self(text)
    }

    fn made(since_epoch: Duration) -> Self {
        let nanos = i128::try_from(since_epoch.as_nanos()).unwrap_or(0);
        let mut text = STAMP;
        let Ok(t) = time::OffsetDateTime::from_unix_timestamp_nanos(nanos) else {
            return Self(text);
        };
        let year = u32::try_from(t.year()).unwrap_or(0);
        let parts = [
            (0, 4, year),
            (5, 2, u32::from(u8::from(t.month()))),
            (8, 2, u32::from(t.day())),
            (11, 2, u32::from(t.hour())),
            (14, 2, u32::from(t.minute())),
            (17, 2, u32::from(t.second())),
            (20, 3, u32::from(t.millisecond())),
        ];
        for (at, len, number) in parts {
            if let Some(digits) = text.get_mut(at..).and_then(|rest| rest.get_mut(..len)) {
                write_digits(digits, number);
            }
        }
        Self(text)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::policy::model::{Action, AuthorizationPolicy, Condition, Rule, Target};
    use crate::policy::{
        L4Deny, MeshPolicies, Point, PointKind, PolicySet, Scope, compile, decide,
    };
    use crate::vocab::host::Host;
    use crate::vocab::path::{CanonicalPath, PathNormalization};
    use crate::vocab::resource::ResourceName;
    use crate::vocab::spiffe::SpiffeId;

    /// A policy that wants `currency=eur`.
    fn wants_eur() -> PolicySet {
        let condition = Condition {
            key: "request.query[currency]".to_owned(),
            values: vec!["eur".to_owned()],
            ..Condition::default()
        };
        let rule = Rule {
            when: vec![condition],
            ..Rule::default()
        };
        let policy = AuthorizationPolicy {
            name: ResourceName::new("shop", "eur"),
            target: Target::Namespace,
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: vec![rule],
        };
        let mesh = MeshPolicies {
            policies: &[policy],
            trust_domains: &[],
            scope: Scope {
                root_namespace: "istio-system",
                gateway_name_selector: false,
                gateway_selectors: false,
            },
            l4_deny: L4Deny::default(),
            dry_run: false,
        };
        let point = Point {
            kind: PointKind::Workload,
            namespace: "shop".to_owned(),
            labels: BTreeMap::new(),
            gateway: None,
            services: Vec::new(),
            accounts: Vec::new(),
            default: Decision::Allow,
        };
        compile(&mesh, &point).unwrap()
    }

    /// The record of a request for this target.
    fn record_of(target: &str) -> Record {
        let connection = Connection {
            principal: None,
            peer: [10, 0, 0, 1].into(),
            remote: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            port: 80,
            sni: None,
            time: 0,
        };
        let request = Request {
            method: Method::GET,
            host: Host::parse("shop.example").unwrap(),
            path: Some(CanonicalPath::parse(PathNormalization::Base, target).unwrap()),
            headers: HeaderMap::new(),
            claims: None,
            time: 0,
        };
        let judged = decide(&wants_eur(), &connection, Some(&request));
        Record {
            time: Duration::ZERO,
            generation: 1,
            role: "node",
            instance: "shop/web".into(),
            kind: Kind::Request,
            peer: (connection.peer, 1).into(),
            connection: Some(connection),
            trace: None,
            told: None,
            service: None,
            workload: None,
            endpoint: None,
            route: None,
            request: Some(Arc::new(request)),
            attempts: None,
            renamed: None,
            mirror: false,
            health_check: None,
            asked: Vec::new(),
            judged: Some(judged.judged().clone()),
            detail: None,
            would: None,
            status: None,
            grpc_status: None,
            close: Some(CloseReason::Denied),
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
        }
    }

    /// What is recorded of a request for this target.
    fn recorded(target: &str, query: RecordedQuery) -> Value {
        let mut text = Vec::new();
        record_of(target).write_json(0, query, &mut text);
        serde_json::from_slice(&text).unwrap()
    }

    /// Whoever reads records may know them by their bytes.
    #[test]
    fn a_denial_byte_for_byte() {
        let mut record = record_of("/a%22b?currency=usd&x=%5C");
        let connection = record.connection.as_mut().unwrap();
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/front").unwrap();
        connection.principal = Some(id);
        connection.sni = Some("shop.example".into());
        record.time = Duration::from_millis(951_782_399_999);
        record.generation = 12;
        record.service = Some("shop/\"shop\"".into());
        record.status = Some(403);
        record.received = 4_294_967_296;
        record.sent = 100_000_000;
        record.duration = Duration::from_micros(99_999_999);
        let want = concat!(
            r#"{"time":"2000-02-28T23:59:59.999Z","id":"12/dd9aa6dfff-123456","generation":12,"role":"node","#,
            r#""instance":"shop/web","kind":"request","source":{"principal":"cluster.local/ns/shop/sa/front","#,
            r#""address":"10.0.0.1:1"},"destination":{"service":"shop/\"shop\"","workload":null,"#,
            r#""address":"10.0.0.2","port":80,"sni":"shop.example"},"user":{"principal":null},"request":"#,
            r#"{"method":"GET","host":"shop.example","path":"/a%22b?currency=usd&x=%5C"},"verdict":"deny","#,
            r#""policy":"shop/eur","rule":0,"reason":"needs query parameter currency eur, got another value","#,
            r#""audit":false,"steps":["identity from the client certificate: spiffe://cluster.local/ns/shop/sa/front","#,
            r#""destination: shop/\"shop\", request GET /a%22b","policy checked: shop/eur (ALLOW), rule 0","#,
            r#""required: query parameter currency eur, presented: another value: mismatch","#,
            r#""decision: DENY, 403 RBAC: access denied"],"status":403,"event":"close","close":"denied","#,
            r#""bytes":{"received":4294967296,"sent":100000000},"duration_us":99999999}"#,
        );
        let mut text = Vec::new();
        record.write_json(123_456, RecordedQuery::Keep, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), want);
        // Who has no identity is told by the address.
        record.connection.as_mut().unwrap().principal = None;
        let mut text = Vec::new();
        record.write_json(123_456, RecordedQuery::Keep, &mut text);
        let want = want
            .replace(r#""cluster.local/ns/shop/sa/front""#, "null")
            .replace(
                "identity from the client certificate: spiffe://cluster.local/ns/shop/sa/front",
                "no client certificate from 10.0.0.1, no identity",
            );
        assert_eq!(String::from_utf8(text).unwrap(), want);
    }

    #[test]
    fn no_body_is_told_of_an_answer_to_head() {
        for (method, want) in [(Method::GET, 19), (Method::HEAD, 0)] {
            let mut record = record_of("/");
            let request = record.request.as_mut().and_then(Arc::get_mut).unwrap();
            request.method = method;
            record.answered(&Reply::denied());
            assert_eq!((record.status, record.sent), (Some(403), want));
        }
    }

    #[test]
    fn a_query_that_is_not_recorded_was_judged() {
        use RecordedQuery::{Drop, Keep, Names};
        let target = "/a?currency=usd&token=s3cret";
        for (query, path) in [
            (Keep, target),
            (Names, "/a?currency=*&token=*"),
            (Drop, "/a"),
        ] {
            let record = recorded(target, query);
            assert_eq!(record["request"]["path"], path);
            // Why it was denied is the same, whatever is recorded.
            let got = "needs query parameter currency eur, got another value";
            assert_eq!(record["reason"], got, "{record}");
            let step = "required: query parameter currency eur, presented: another value: mismatch";
            assert_eq!(record["steps"][3], step, "{record}");
            let values = ["usd", "s3cret"].map(|value| record.to_string().contains(value));
            assert_eq!(values, [query == Keep; 2], "{record}");
            let without = recorded("/a", query);
            let got = "needs query parameter currency eur, got none";
            assert_eq!(without["reason"], got, "{without}");
        }
    }

    #[test]
    fn the_usual_reason_is_as_the_engine_tells_it() {
        assert_eq!(Reason::AllowRule.to_string(), ALLOW_RULE);
    }

    #[test]
    fn times() {
        for (millis, want) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (4_102_444_799_060, "2099-12-31T23:59:59.060Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59.000Z"),
        ] {
            assert_eq!(rfc3339(Duration::from_millis(millis)), want);
        }
    }

    #[test]
    fn a_long_list_of_clients_is_cut_to_its_end() {
        let mut headers = HeaderMap::new();
        assert_eq!(forwarded_for(&headers), None);
        headers.append(&XFF, "x".repeat(4096).parse().unwrap());
        headers.append(&XFF, "192.0.2.7".parse().unwrap());
        let told = forwarded_for(&headers).unwrap();
        assert_eq!(told.len(), limits::RECORDED_NAME_BYTES);
        assert!(told.ends_with("x, 192.0.2.7"), "{told}");
        let bytes = HeaderValue::from_bytes(b"\xe9, 192.0.2.8").unwrap();
        headers.insert(&XFF, bytes);
        let told = forwarded_for(&headers);
        assert_eq!(told.as_deref(), Some("\u{fffd}, 192.0.2.8"));
    }
}
