//! Questions byte by byte, answers of every kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prost::Message as _;

use super::message::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue as Field,
    HeaderValueOption, HttpStatus, OkHttpResponse, QueryParameter, Status,
};
use super::model::{BodyCheck, HttpSettings, Names};
use super::{Held, Said, Subject, grpc_answer, grpc_call, http_answer, http_call};
use crate::policy::facts::{Connection, Request};
use crate::vocab::host::Host;
use crate::vocab::path::{CanonicalPath, PathNormalization};

fn names(all: &[&str]) -> Names {
    let mut names = Names::default();
    for name in all {
        assert!(names.push(name), "{name}");
    }
    names
}

fn header(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    headers
}

fn shown(headers: &HeaderMap) -> Vec<String> {
    let mut all: Vec<String> = headers
        .iter()
        .map(|(n, v)| format!("{n}: {}", String::from_utf8_lossy(v.as_bytes())))
        .collect();
    all.sort();
    all
}

fn request(method: Method, target: &str, fields: &[(&str, &str)]) -> Request {
    Request {
        path: (method != Method::CONNECT)
            .then(|| CanonicalPath::parse(PathNormalization::MergeSlashes, target).unwrap()),
        method,
        host: Host::parse("Shop.Example:8443").unwrap(),
        headers: header(fields),
        claims: None,
        time: 0,
    }
}

fn connection() -> Connection {
    let ip = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    Connection {
        principal: crate::vocab::spiffe::SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").ok(),
        peer: ip,
        remote: ip,
        destination: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
        port: 8080,
        sni: Some("shop.example".into()),
        time: 0,
    }
}

fn subject<'a>(
    connection: &'a Connection,
    request: Option<&'a Request>,
    body: Option<&'a Held>,
) -> Subject<'a> {
    Subject {
        connection,
        peer: SocketAddr::new(connection.peer, 4242),
        own: None,
        request,
        scheme: "https",
        protocol: "HTTP/1.1",
        length: Some(3),
        body,
        now: Duration::from_millis(1500),
    }
}

const FIELDS: &[(&str, &str)] = &[
    ("authorization", "Bearer x"),
    ("x-a", "1"),
    ("x-a", "2"),
    ("x-b", "3"),
    ("cookie", "c=1"),
    ("content-length", "3"),
    ("te", "trailers"),
    ("expect", "100-continue"),
    ("x-team", "client's"),
];

#[test]
fn question_in_http() {
    let settings = HttpSettings {
        path_prefix: "/check".to_owned(),
        request_headers: names(&["X-A", "cook*", "*engthy", "te", "content-*", "expect"]),
        additional: vec![(
            HeaderName::from_static("x-team"),
            HeaderValue::from_static("ours"),
        )],
        ..HttpSettings::default()
    };
    let (connection, request) = (
        connection(),
        request(Method::POST, "//a/../admin//x?q=1", FIELDS),
    );
    let call = http_call(&settings, &subject(&connection, Some(&request), None)).unwrap();
    assert_eq!(
        (call.method, call.target.as_str()),
        (Method::POST, "/check/admin/x?q=1")
    );
    assert_eq!(
        (call.authority.as_str(), call.body.len()),
        ("shop.example:8443", 0)
    );
    let want = [
        "authorization: Bearer x",
        "cookie: c=1",
        "x-a: 1",
        "x-a: 2",
        "x-team: ours",
    ];
    assert_eq!(shown(&call.headers), want);

    let held = Held {
        bytes: Bytes::from_static(b"abc"),
        partial: true,
    };
    let call = http_call(
        &settings,
        &subject(&connection, Some(&request), Some(&held)),
    )
    .unwrap();
    assert_eq!(&*call.body, b"abc");
    assert_eq!(call.headers["x-envoy-auth-partial-body"], "true");
}

#[test]
fn no_question_in_http_without_a_path() {
    let (settings, connection) = (HttpSettings::default(), connection());
    let connect = request(Method::CONNECT, "", &[]);
    assert!(http_call(&settings, &subject(&connection, Some(&connect), None)).is_none());
    assert!(http_call(&settings, &subject(&connection, None, None)).is_none());
}

fn asked(call: &super::Call) -> super::message::AttributeContext {
    assert_eq!(call.body[0], 0);
    let length = u32::from_be_bytes(call.body[1..5].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), call.body.len() - 5);
    CheckRequest::decode(&call.body[5..])
        .unwrap()
        .attributes
        .unwrap()
}

#[test]
fn question_in_grpc() {
    let (connection, request) = (connection(), request(Method::POST, "/a?q=%2f", FIELDS));
    let held = Held {
        bytes: Bytes::from_static(b"a\xffc"),
        partial: false,
    };
    let subject = subject(&connection, Some(&request), Some(&held));
    let call = grpc_call("authz:9000".to_owned(), 250, None, &subject);
    assert_eq!(call.target, "/envoy.service.auth.v3.Authorization/Check");
    assert_eq!(call.authority, "authz:9000");
    let want = [
        "content-type: application/grpc",
        "grpc-timeout: 250m",
        "te: trailers",
        "user-agent: ringgate",
    ];
    assert_eq!(shown(&call.headers), want);
    let attributes = asked(&call);
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/ns/a/sa/b");
    let address = source.address.unwrap().socket_address.unwrap();
    assert_eq!(
        (address.address.as_str(), address.port_value),
        ("10.0.0.1", 4242)
    );
    assert_eq!(attributes.tls_session.unwrap().sni, "shop.example");
    let checked = attributes.request.unwrap();
    let time = checked.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
    let http = checked.http.unwrap();
    assert_eq!(
        (http.method.as_str(), http.path.as_str()),
        ("POST", "/a?q=%2f")
    );
    assert_eq!(
        (http.host.as_str(), http.scheme.as_str()),
        ("shop.example:8443", "https")
    );
    assert_eq!((http.size, http.protocol.as_str()), (3, "HTTP/1.1"));
    assert_eq!(
        (http.headers["x-a"].as_str(), http.headers[":path"].as_str()),
        ("1,2", "/a?q=%2f")
    );
    assert_eq!(http.headers["x-envoy-auth-partial-body"], "false");
    assert_eq!((http.body.as_str(), http.raw_body.len()), ("a\u{fffd}c", 0));

    let raw = BodyCheck {
        max_bytes: 9,
        allow_partial: false,
        pack_as_bytes: true,
    };
    let http = asked(&grpc_call(String::new(), 1, Some(raw), &subject))
        .request
        .unwrap()
        .http
        .unwrap();
    assert_eq!((http.body.as_str(), &*http.raw_body), ("", &b"a\xffc"[..]));
}

#[test]
fn a_connection_in_grpc() {
    let connection = connection();
    let attributes = asked(&grpc_call(
        "a:1".to_owned(),
        1,
        None,
        &subject(&connection, None, None),
    ));
    assert!(attributes.request.is_none());
    let destination = attributes
        .destination
        .unwrap()
        .address
        .unwrap()
        .socket_address
        .unwrap();
    assert_eq!(
        (destination.address.as_str(), destination.port_value),
        ("10.0.0.2", 8080)
    );
}

fn changed(said: Said, before: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
    let Said::Allow(allowed) = said else {
        panic!("{said:?}")
    };
    let mut headers = header(before);
    allowed.upstream.apply(&mut headers);
    let mut downstream = HeaderMap::new();
    for (name, value) in allowed.downstream {
        downstream.append(name, value);
    }
    (shown(&headers), shown(&downstream))
}

fn is_error(said: &Said, want: &str) {
    let Said::Error(why) = said else {
        panic!("{said:?}")
    };
    assert!(why.contains(want), "{why}");
}

#[test]
fn yes_in_http() {
    let settings = HttpSettings {
        to_upstream: names(
            &["x-user", "x-*", "*"].map(|n| if n == "*" { "authorization" } else { n }),
        ),
        to_downstream_on_allow: names(&["set-cookie"]),
        ..HttpSettings::default()
    };
    let answer = header(&[
        ("x-user", "alice"),
        ("x-user", "also"),
        ("authorization", "Bearer y"),
        ("x-forwarded-client-cert", "By=evil"),
        ("x-envoy-internal", "true"),
        ("x-hop", "1"),
        ("connection", "x-hop"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        (
            "x-envoy-auth-headers-to-remove",
            "x-secret, Host, content-length, x-forwarded-for,,b@d",
        ),
    ]);
    let before = [
        ("x-user", "mallory"),
        ("x_user", "mallory"),
        ("x-secret", "1"),
        ("x_secret", "1"),
        ("x-forwarded-for", "10.0.0.9"),
        ("x-kept", "1"),
    ];
    let said = http_answer(&settings, StatusCode::OK, &answer, Bytes::new());
    let (upstream, downstream) = changed(said, &before);
    let want = [
        "authorization: Bearer y",
        "x-forwarded-for: 10.0.0.9",
        "x-kept: 1",
        "x-user: alice",
        "x-user: also",
    ];
    assert_eq!(upstream, want);
    assert_eq!(downstream, ["set-cookie: a=1", "set-cookie: b=2"]);
}

fn denied(said: Said) -> (u16, Vec<String>, Bytes) {
    let Said::Deny(refused) = said else {
        panic!("{said:?}")
    };
    (
        refused.status.as_u16(),
        shown(&refused.headers),
        refused.body,
    )
}

#[test]
fn no_in_http() {
    let answer = header(&[
        ("location", "https://login.example"),
        ("x-why", "because"),
        ("content-length", "2"),
        ("connection", "close"),
        ("date", "now"),
        ("server", "authz"),
    ]);
    let all = HttpSettings::default();
    let (status, fields, body) = denied(http_answer(
        &all,
        StatusCode::FOUND,
        &answer,
        Bytes::from_static(b"no"),
    ));
    assert_eq!((status, &*body), (302, &b"no"[..]));
    assert_eq!(
        fields,
        [
            "content-type: text/plain",
            "location: https://login.example",
            "x-why: because"
        ]
    );
    let some = HttpSettings {
        to_downstream_on_deny: Some(names(&["x-other"])),
        ..all.clone()
    };
    let (_, fields, _) = denied(http_answer(&some, StatusCode::FOUND, &answer, Bytes::new()));
    assert_eq!(fields, ["location: https://login.example"]);
    // Only 200 is a yes.
    for status in [201, 204, 101, 304, 401, 403, 404, 429] {
        let said = http_answer(
            &all,
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            Bytes::from_static(b"x"),
        );
        let (told, _, body) = denied(said);
        assert_eq!(told, if status == 101 { 403 } else { status });
        assert_eq!(body.is_empty(), [204, 304].contains(&status), "{status}");
    }
    for status in [500, 503, 599] {
        let said = http_answer(
            &all,
            StatusCode::from_u16(status).unwrap(),
            &HeaderMap::new(),
            Bytes::new(),
        );
        is_error(&said, &status.to_string());
    }
}

fn field(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(Field {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Bytes::new(),
        }),
        append: None,
        append_action: 0,
    }
}

fn framed(response: &CheckResponse) -> Bytes {
    let message = response.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    out.extend(message);
    out.into()
}

fn grpc(body: &Bytes) -> Said {
    let head = header(&[("content-type", "application/grpc+proto")]);
    grpc_answer(
        StatusCode::OK,
        &head,
        body,
        Some(&header(&[("grpc-status", "0")])),
    )
}

fn said(code: Option<i32>, denied: Option<DeniedHttpResponse>, ok: Option<OkHttpResponse>) -> Said {
    grpc(&framed(&CheckResponse {
        status: code.map(|code| Status {
            code,
            message: String::new(),
        }),
        denied_response: denied,
        ok_response: ok,
    }))
}

fn ok_with(headers: Vec<HeaderValueOption>) -> Said {
    said(
        Some(0),
        None,
        Some(OkHttpResponse {
            headers,
            ..OkHttpResponse::default()
        }),
    )
}

#[test]
fn yes_in_grpc() {
    let action = |key: &str, append_action| HeaderValueOption {
        append_action,
        ..field(key, "new")
    };
    let append = |key: &str, value| HeaderValueOption {
        append: Some(BoolValue { value }),
        ..field(key, "new")
    };
    let (upstream, _) = changed(
        ok_with(vec![
            field("x-default", "new"),
            action("x-absent", 1),
            action("x-not-absent", 1),
            action("x-overwrite", 2),
            action("x-present", 3),
            action("x-not-present", 3),
            append("x-append", true),
            append("x-set", false),
            field("x-two", "1"),
            field("x-two", "2"),
        ]),
        &[
            "x-default",
            "x-not-absent",
            "x-overwrite",
            "x-present",
            "x-append",
            "x-set",
            "x-two",
        ]
        .map(|name| (name, "old")),
    );
    let want = [
        "x-absent: new",
        "x-append: new",
        "x-append: old",
        "x-default: new",
        "x-not-absent: old",
        "x-overwrite: new",
        "x-present: new",
        "x-set: new",
        "x-two: 1",
        "x-two: 2",
    ];
    assert_eq!(upstream, want);
    let ok = OkHttpResponse {
        headers_to_remove: vec!["x-a".to_owned(), ":path".to_owned(), "host".to_owned()],
        response_headers_to_add: vec![field("set-cookie", "a=1"), field("connection", "close")],
        ..OkHttpResponse::default()
    };
    let (upstream, downstream) = changed(said(None, None, Some(ok)), &[("x-a", "1"), ("x_a", "1")]);
    assert_eq!(
        (upstream.len(), downstream),
        (0, vec!["set-cookie: a=1".to_owned()])
    );
    changed(said(Some(0), None, None), &[]);
}

#[test]
fn what_an_authorizer_may_not_do() {
    for name in [
        "host",
        "Host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "trailer",
        "expect",
        "x-forwarded-client-cert",
        "X_Forwarded_Client_Cert",
        "x-forwarded-for",
        "x-envoy-original-path",
        "x-istio-x",
    ] {
        is_error(&ok_with(vec![field(name, "v")]), "not its to set");
    }
    for name in [":path", ":authority", "a b", "", "x\r\ny"] {
        is_error(&ok_with(vec![field(name, "v")]), "no header field");
    }
    for value in ["a\r\nx-b: 1", "a\nb", "\0"] {
        is_error(
            &ok_with(vec![field("x-a", value)]),
            "no value of a header field",
        );
        let answer = DeniedHttpResponse {
            headers: vec![field("x-a", value)],
            ..DeniedHttpResponse::default()
        };
        is_error(
            &said(Some(7), Some(answer), None),
            "no value of a header field",
        );
    }
    let unknown = HeaderValueOption {
        append_action: 9,
        ..field("x-a", "v")
    };
    is_error(&ok_with(vec![unknown]), "unknown way");
    is_error(&ok_with(vec![field("x-a", "v"); 101]), "too many");
    let parameter = QueryParameter {
        key: "a".to_owned(),
        value: "b".to_owned(),
    };
    let query = OkHttpResponse {
        query_parameters_to_set: vec![parameter],
        ..OkHttpResponse::default()
    };
    is_error(&said(Some(0), None, Some(query)), "query");
}

#[test]
fn no_in_grpc() {
    let answer = |code| DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: vec![
            field("x-why", "a"),
            field("x-why", "b"),
            field("content-length", "99"),
        ],
        body: "no".to_owned(),
    };
    let (status, fields, body) = denied(said(Some(7), Some(answer(429)), None));
    assert_eq!((status, &*body), (429, &b"no"[..]));
    assert_eq!(fields, ["content-type: text/plain", "x-why: a", "x-why: b"]);
    for code in [0, -1, 99, 101, 700, 65_536 + 200] {
        assert_eq!(
            denied(said(Some(16), Some(answer(code)), None)).0,
            403,
            "{code}"
        );
    }
    assert_eq!(
        denied(said(Some(7), None, None)),
        (403, Vec::new(), Bytes::new())
    );
    // The status decides, not what stands beside it.
    assert_eq!(
        denied(said(Some(7), None, Some(OkHttpResponse::default()))).0,
        403
    );
}

#[test]
fn nothing_that_is_no_yes_is_one() {
    is_error(&said(None, None, None), "no status");
    is_error(
        &said(Some(0), Some(DeniedHttpResponse::default()), None),
        "both",
    );
    is_error(
        &said(None, Some(DeniedHttpResponse::default()), None),
        "no status",
    );
    let yes = framed(&CheckResponse {
        status: Some(Status::default()),
        ..CheckResponse::default()
    });
    let head = header(&[("content-type", "application/grpc")]);
    let trailers = |code: &str| header(&[("grpc-status", code), ("grpc-message", "busy")]);
    let answer = |head: &HeaderMap, body: &Bytes, trailers: Option<&HeaderMap>| {
        grpc_answer(StatusCode::OK, head, body, trailers)
    };
    changed(answer(&head, &yes, Some(&trailers("0"))), &[]);
    is_error(
        &answer(&head, &yes, Some(&trailers("14"))),
        "grpc-status 14 busy",
    );
    is_error(&answer(&head, &yes, None), "grpc-status none");
    is_error(
        &answer(&HeaderMap::new(), &yes, Some(&trailers("0"))),
        "does not speak gRPC",
    );
    is_error(
        &grpc_answer(StatusCode::NOT_FOUND, &head, &yes, Some(&trailers("0"))),
        "404",
    );
    let only = header(&[("content-type", "application/grpc"), ("grpc-status", "12")]);
    is_error(&answer(&only, &Bytes::new(), None), "grpc-status 12");
    for (body, want) in [
        (Bytes::new(), "no message"),
        (Bytes::from_static(&[1, 0, 0, 0, 0]), "compresses"),
        (Bytes::from_static(&[0, 0, 0, 0, 2, 0]), "one message"),
        ([&yes[..], &yes[..]].concat().into(), "one message"),
        (Bytes::from_static(&[0, 0, 0, 0, 1, 0xff]), "cannot be read"),
    ] {
        is_error(&answer(&head, &body, Some(&trailers("0"))), want);
    }
}
