//! Two authorizers: one speaks HTTP and does as the path says, one is a tonic server and does as a header field says.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringgate::cli::os;
use ringgate::extauthz::message::{
    BoolValue, CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValue, HeaderValueOption,
    HttpStatus, OkHttpResponse, Status,
};
use tonic_prost::ProstCodec;

/// A request as a server of these tests saw it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(found, _)| found == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// What a server saw so far.
pub(crate) type Log<T> = Arc<Mutex<Vec<T>>>;

/// What an HTTP server answers; `None` ends the connection.
type Script = fn(&Seen) -> Option<String>;

/// A server that writes down what it gets.
pub(crate) fn serve(addresses: &[String], script: Script) -> Log<Seen> {
    let log: Log<Seen> = Arc::default();
    for address in addresses {
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&shared);
                std::thread::spawn(move || exchange(stream, &log, script));
            }
        });
    }
    log
}

fn exchange(stream: TcpStream, log: &Log<Seen>, script: Script) {
    let mut stream = BufReader::new(stream);
    while let Some(seen) = read(&mut stream) {
        log.lock().unwrap().push(seen.clone());
        let Some(answer) = script(&seen) else { return };
        if stream.get_mut().write_all(answer.as_bytes()).is_err()
            || answer.contains("connection: close")
        {
            return;
        }
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace();
    let mut seen = Seen {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        ..Seen::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        seen.headers
            .push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if seen.all("transfer-encoding").contains(&"chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).ok()?;
            let n = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut piece = vec![0; n + 2];
            stream.read_exact(&mut piece).ok()?;
            if n == 0 {
                break;
            }
            seen.body.extend_from_slice(&piece[..n]);
        }
    }
    let length = seen
        .all("content-length")
        .first()
        .map_or(0, |n| n.parse().unwrap());
    if length > 0 {
        seen.body = vec![0; length];
        stream.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

/// The workload's app: tells what reached it.
pub(crate) fn app(seen: &Seen) -> Option<String> {
    let body = format!("{} {}", seen.method, seen.target);
    let body = if seen.method == "HEAD" { "" } else { &body };
    Some(format!(
        "HTTP/1.1 200 OK\r\nx-app: 1\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

fn answer(status: &str, fields: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {status}\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// The HTTP authorizer: the last segment of the path says what it answers.
pub(crate) fn by_path(seen: &Seen) -> Option<String> {
    let path = seen.target.split('?').next().unwrap();
    match path.rsplit('/').next().unwrap() {
        "deny" => answer(
            "418 Teapot",
            "x-why: pot\r\nx-other: 1\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-type: text/html\r\nx-envoy-x: 1\r\n",
            "<p>no</p>",
        ),
        "redirect" => answer("302 Found", "location: https://login.example/\r\n", ""),
        "change" => answer(
            "200 OK",
            "x-user: alice\r\nx-user: also\r\nx-unlisted: 1\r\nx-checked: yes\r\nx-envoy-auth-headers-to-remove: x-secret\r\n",
            "",
        ),
        "token" => answer("200 OK", "authorization: Bearer not.a.token\r\n", ""),
        "untoken" => answer(
            "200 OK",
            "x-envoy-auth-headers-to-remove: authorization\r\n",
            "",
        ),
        "smuggle" => answer(
            "200 OK",
            "host: evil\r\nx-all-a: 1\r\ntransfer-encoding2: chunked\r\nx-forwarded-client-cert: By=evil\r\n\
             x-forwarded-for: 9.9.9.9\r\nx-envoy-original-path: /admin\r\nconnection: x-all-b, keep-alive\r\nx-all-b: 1\r\n\
             upgrade: websocket\r\nte: trailers\r\nx-envoy-auth-headers-to-remove: host, x-forwarded-for, content-length\r\n",
            "",
        ),
        "split" => {
            Some("HTTP/1.1 200 OK\r\nx-user: a\nx-evil: 1\r\ncontent-length: 0\r\n\r\n".to_owned())
        }
        "error" => answer("500 Oops", "x-why: oops\r\n", "secret trace"),
        "created" => answer("201 Created", "", ""),
        "wait" => {
            let file = seen.all("x-ask-file")[0].to_owned();
            assert!(os::wait_until(Duration::from_secs(20), || {
                std::path::Path::new(&file).exists()
            }));
            answer("200 OK", "", "")
        }
        "hang" => {
            std::thread::sleep(Duration::from_secs(20));
            None
        }
        "once" => {
            Some("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned())
        }
        "drop" => None,
        "garbage" => Some("SSH-2.0-x\r\n\r\n".to_owned()),
        "huge" => answer("200 OK", "", &"x".repeat(100_000)),
        _ => answer("200 OK", "", ""),
    }
}

/// The gRPC authorizer.
pub(crate) fn serve_grpc(address: &str) -> Log<CheckRequest> {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let log: Log<CheckRequest> = Arc::default();
    let shared = Arc::clone(&log);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let log = Arc::clone(&shared);
                let answer =
                    hyper::service::service_fn(move |request: ::http::Request<Incoming>| {
                        let check = Check(Arc::clone(&log));
                        async move {
                            assert_eq!(
                                request.uri().path(),
                                "/envoy.service.auth.v3.Authorization/Check"
                            );
                            let codec: ProstCodec<CheckResponse, CheckRequest> = ProstCodec::new();
                            let mut grpc =
                                tonic::server::Grpc::new(codec).max_decoding_message_size(8 << 20);
                            Ok::<_, Infallible>(grpc.unary(check, request).await)
                        }
                    });
                drop(tokio::spawn(
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), answer),
                ));
            }
        });
    });
    log
}

struct Check(Log<CheckRequest>);

impl tower_service::Service<tonic::Request<CheckRequest>> for Check {
    type Response = tonic::Response<CheckResponse>;
    type Error = tonic::Status;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, tonic::Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), tonic::Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let request = request.into_inner();
        self.0.lock().unwrap().push(request.clone());
        Box::pin(async move { by_header(&request).await.map(tonic::Response::new) })
    }
}

fn field(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn response(
    code: i32,
    denied: Option<DeniedHttpResponse>,
    ok: Option<OkHttpResponse>,
) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code,
            message: String::new(),
        }),
        denied_response: denied,
        ok_response: ok,
    }
}

fn ok(ok: OkHttpResponse) -> CheckResponse {
    response(0, None, Some(ok))
}

/// What `x-do` says; without a request, port 8081 is denied.
async fn by_header(request: &CheckRequest) -> Result<CheckResponse, tonic::Status> {
    let attributes = request.attributes.clone().unwrap();
    let Some(http) = attributes.request.and_then(|r| r.http) else {
        let source = attributes.source.unwrap().principal;
        let code = if source.ends_with("/sa/reviews-service") {
            7
        } else {
            0
        };
        return Ok(response(code, None, None));
    };
    Ok(match http.headers.get("x-do").map_or("", String::as_str) {
        "deny" => {
            let denied = DeniedHttpResponse {
                status: Some(HttpStatus { code: 429 }),
                headers: vec![
                    field("x-why", "often"),
                    field("set-cookie", "a=1"),
                    field("set-cookie", "b=2"),
                ],
                body: "slower".to_owned(),
            };
            response(8, Some(denied), None)
        }
        "bare" => response(7, None, None),
        "change" => ok(OkHttpResponse {
            headers: vec![
                field("x-user", "alice"),
                HeaderValueOption {
                    append: Some(BoolValue { value: true }),
                    ..field("x-list", "second")
                },
            ],
            headers_to_remove: vec!["x-secret".to_owned()],
            response_headers_to_add: vec![field("x-checked", "yes")],
            ..OkHttpResponse::default()
        }),
        "smuggle" => ok(OkHttpResponse {
            headers: vec![field("host", "evil")],
            ..OkHttpResponse::default()
        }),
        "split" => ok(OkHttpResponse {
            headers: vec![field("x-user", "a\r\nx-evil: 1")],
            ..OkHttpResponse::default()
        }),
        "status" => return Err(tonic::Status::unavailable("busy")),
        "empty" => CheckResponse::default(),
        "hang" => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            response(0, None, None)
        }
        _ => response(0, None, None),
    })
}
