//! What an authorizer is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use prost::Message as _;

use crate::extauthz::message::{
    Address, AttributeContext, CHECK, CheckRequest, HttpRequest, Peer, Request as CheckedRequest,
    SocketAddress, Timestamp, TlsSession,
};
use crate::extauthz::model::{BodyCheck, HttpSettings};
use crate::policy::facts::{Connection, Request};
use crate::vocab::spiffe::SpiffeId;

/// Says whether the body that is shown is not all of it.
const PARTIAL: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// Address of its peer.
    pub peer: SocketAddr,
    /// Who is called: the workload or gateway that asks.
    pub own: Option<&'a SpiffeId>,
    /// The canonical request, without what belongs to one hop; `None` for a bare connection.
    pub request: Option<&'a Request>,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1`, for instance.
    pub protocol: &'a str,
    /// Announced length of the body.
    pub length: Option<u64>,
    /// What is shown of the body, if it is shown at all.
    pub body: Option<&'a Held>,
    /// When it arrived, since the Unix epoch.
    pub now: Duration,
}

/// The beginning of a body, as one authorizer sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub bytes: Bytes,
    /// There may be more.
    pub partial: bool,
}

/// A request of our own.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Host and port.
    pub authority: String,
    /// Header fields without those that say how long the body is.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// The question in Envoy's HTTP contract: the request's own method, host and path below the prefix, and those of its
/// fields that are configured. `None` where there is no path (CONNECT) or no request.
#[must_use]
pub fn http_call(settings: &HttpSettings, subject: &Subject<'_>) -> Option<Call> {
    let request = subject.request?;
    let path = request.path.as_ref()?;
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let included =
            *name == header::AUTHORIZATION || settings.request_headers.contains(name.as_str());
        if included && !is_message_field(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    for (name, value) in &settings.additional {
        headers.insert(name.clone(), value.clone());
    }
    if let Some(body) = subject.body {
        headers.insert(PARTIAL, partial(body));
    }
    Some(Call {
        method: request.method.clone(),
        target: format!("{}{}", settings.path_prefix, path.as_str()),
        authority: request.host.as_str().to_owned(),
        headers,
        body: subject
            .body
            .map(|body| body.bytes.clone())
            .unwrap_or_default(),
    })
}

fn partial(body: &Held) -> HeaderValue {
    HeaderValue::from_static(if body.partial { "true" } else { "false" })
}

/// Fields of the request's message that are not those of the question.
fn is_message_field(name: &HeaderName) -> bool {
    [
        header::CONTENT_LENGTH,
        header::EXPECT,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
    ]
    .contains(name)
}

/// The question in Envoy's gRPC contract; one unary call. `authority` is the authorizer's own.
#[must_use]
pub fn grpc_call(
    authority: String,
    timeout_ms: u64,
    body: Option<BodyCheck>,
    subject: &Subject<'_>,
) -> Call {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_TYPE, "application/grpc"),
        (header::TE, "trailers"),
        (header::USER_AGENT, "ringgate"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // Eight digits at most (gRPC over HTTP/2, `Timeout`).
    if let Ok(value) = HeaderValue::try_from(format!("{}m", timeout_ms.min(99_999_999))) {
        headers.insert(HeaderName::from_static("grpc-timeout"), value);
    }
    let message = check(body, subject);
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(length.saturating_add(5));
    framed.put_u8(0);
    // What is in it is bounded by the limits of heads and held bodies.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message.encode_to_vec());
    Call {
        method: Method::POST,
        target: CHECK.to_owned(),
        authority,
        headers,
        body: framed.freeze(),
    }
}

fn check(body: Option<BodyCheck>, subject: &Subject<'_>) -> CheckRequest {
    let connection = subject.connection;
    let destination = SocketAddr::new(connection.destination, connection.port);
    let raw = body.is_some_and(|body| body.pack_as_bytes);
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(subject.peer, connection.principal.as_ref())),
            destination: Some(peer(destination, subject.own)),
            request: subject.request.map(|request| CheckedRequest {
                time: Some(Timestamp {
                    seconds: i64::try_from(subject.now.as_secs()).unwrap_or(i64::MAX),
                    nanos: i32::try_from(subject.now.subsec_nanos()).unwrap_or_default(),
                }),
                http: Some(http(request, raw, subject)),
            }),
            tls_session: connection.sni.as_deref().map(|sni| TlsSession {
                sni: sni.to_owned(),
            }),
        }),
    }
}

fn peer(address: SocketAddr, principal: Option<&SpiffeId>) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: address.ip().to_canonical().to_string(),
                port_value: address.port().into(),
            }),
        }),
        principal: principal.map_or_else(String::new, |id| id.as_str().to_owned()),
    }
}

fn http(request: &Request, raw: bool, subject: &Subject<'_>) -> HttpRequest {
    let path = request.path.as_ref().map_or("", |path| path.as_str());
    let mut headers = BTreeMap::new();
    for name in request.headers.keys() {
        // One field may be repeated; an authorizer that saw one value of several would judge another request.
        let all: Vec<String> = request.headers.get_all(name).iter().map(text).collect();
        headers.insert(name.as_str().to_owned(), all.join(","));
    }
    for (name, value) in [
        (":method", request.method.as_str()),
        (":authority", request.host.as_str()),
        (":path", path),
        (":scheme", subject.scheme),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    if let Some(body) = subject.body {
        headers.insert(PARTIAL.as_str().to_owned(), text(&partial(body)));
    }
    let shown = subject
        .body
        .map(|body| body.bytes.clone())
        .unwrap_or_default();
    HttpRequest {
        method: request.method.as_str().to_owned(),
        headers,
        path: path.to_owned(),
        host: request.host.as_str().to_owned(),
        scheme: subject.scheme.to_owned(),
        size: subject
            .length
            .map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX)),
        protocol: subject.protocol.to_owned(),
        body: if raw {
            String::new()
        } else {
            String::from_utf8_lossy(&shown).into_owned()
        },
        raw_body: if raw { shown } else { Bytes::new() },
    }
}

/// A value as protobuf's text can hold it.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
