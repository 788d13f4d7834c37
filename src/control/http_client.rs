//! A small HTTP/1.1 client for identity providers and our own admin listeners: one request, one bounded answer, no
//! redirect followed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::jwt::model::{KeySource, Reach};
use crate::vocab::limits;
use crate::vocab::scope::{is_global, is_private};

/// Debian's bundle of the system's roots.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Fetches over https with the given roots, or over http from loopback alone.
#[derive(Clone)]
pub struct HttpClient {
    tls: Option<TlsConnector>,
    scope: Scope,
}

/// Where a client may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// Where the operator of the process sends it: to the inside as well, but not to link-local addresses.
    Operator,
    /// To an address that the operator gives for a listener of a process of his: wherever it listens, over http as well.
    Listener,
    /// Where the author of a token rule sends it, and whoever holds the zone of a name that he wrote.
    Rule {
        reach: Reach,
        /// The rule's own URL names loopback, which is meant then. What only resolves to it, or what a discovery document
        /// from elsewhere says, does not count.
        loopback: bool,
    },
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClient")
            .field("tls", &self.tls.is_some())
            .field("scope", &self.scope)
            .finish()
    }
}

/// Why nothing usable came back.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The roots cannot be read, or none of them is one.
    #[error("no trusted roots: https cannot be verified")]
    Roots,
    /// Not an absolute https URL, nor http to loopback.
    #[error("url is neither https nor http to loopback")]
    Url,
    /// The name has no address that may be connected to: link-local, multicast and unspecified ones may not, http
    /// reaches loopback alone, and a token rule no address of the inside, unless it says so.
    #[error("no address of the host may be connected to")]
    Address,
    /// Resolving, connecting or TLS.
    #[error("connection failed")]
    Connect(#[source] io::Error),
    /// HTTP/1.1.
    #[error("exchange failed")]
    Http(#[source] hyper::Error),
    /// The body broke off.
    #[error("answer broke off")]
    Body,
    /// More than `limits::DISCOVERY_BYTES`.
    #[error("answer is larger than 1 MiB")]
    TooLarge,
    /// Not within the timeout.
    #[error("no answer in time")]
    Timeout,
    /// Another status than 200 where only that is of use.
    #[error("answer has status {0}")]
    Status(u16),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl HttpClient {
    /// With the roots of a PEM bundle.
    ///
    /// # Errors
    /// `FetchError::Roots` if the file cannot be read or holds no root.
    pub fn new(roots: &Path) -> Result<Self, FetchError> {
        let mut store = rustls::RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(roots).map_err(|_e| FetchError::Roots)?;
        // A root that cannot be parsed does not spoil a bundle.
        store.add_parsable_certificates(certificates.flatten());
        if store.is_empty() {
            return Err(FetchError::Roots);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_e| FetchError::Roots)?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self {
            tls: Some(TlsConnector::from(Arc::new(config))),
            scope: Scope::Operator,
        })
    }

    /// The same client for the URLs of a token rule. The address is judged when it is dialled, after DNS has answered.
    #[must_use]
    pub fn for_rule(&self, source: &KeySource, reach: Reach) -> Self {
        let loopback = match source {
            KeySource::Uri(url) | KeySource::Discovery(url) => {
                let uri = url.parse::<Uri>().ok();
                uri.and_then(|uri| uri.host().map(names_loopback)) == Some(true)
            }
            KeySource::Inline(_) => false,
        };
        Self {
            scope: Scope::Rule { reach, loopback },
            ..self.clone()
        }
    }

    /// For http to loopback alone; https fails.
    #[must_use]
    pub fn loopback_only() -> Self {
        Self {
            tls: None,
            scope: Scope::Operator,
        }
    }

    /// For http to a listener of one of our processes, such as `admin.listen`; https fails.
    #[must_use]
    pub fn of_listener() -> Self {
        Self {
            tls: None,
            scope: Scope::Listener,
        }
    }

    /// The body of a GET that is answered with 200.
    ///
    /// # Errors
    /// `FetchError`.
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Vec<u8>, FetchError> {
        let mut request = Request::new(Vec::new());
        *request.uri_mut() = url.parse().map_err(|_e| FetchError::Url)?;
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.send(request, timeout).await?;
        match response.status().as_u16() {
            200 => Ok(response.into_body()),
            status => Err(FetchError::Status(status)),
        }
    }

    /// One request with an absolute URI, within `timeout` from name to last byte.
    ///
    /// # Errors
    /// `FetchError`; a status is never one, so redirects come back as they are.
    pub async fn send(
        &self,
        request: Request<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Response<Vec<u8>>, FetchError> {
        tokio::time::timeout(timeout, Box::pin(self.exchange(request)))
            .await
            .map_err(|_e| FetchError::Timeout)?
    }

    async fn exchange(&self, request: Request<Vec<u8>>) -> Result<Response<Vec<u8>>, FetchError> {
        let stream = self.connect(request.uri()).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        let answer = async {
            let response = sender
                .send_request(origin_form(request)?)
                .await
                .map_err(FetchError::Http)?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limits::DISCOVERY_BYTES)
                .collect()
                .await
                .map_err(|error| {
                    if error.is::<LengthLimitError>() {
                        FetchError::TooLarge
                    } else {
                        FetchError::Body
                    }
                })?;
            Ok(Response::from_parts(head, body.to_bytes().to_vec()))
        };
        tokio::pin!(answer);
        // The connection is driven here, not in a task of its own, so that it ends with the request.
        tokio::select! {
            biased;
            done = &mut answer => done,
            ended = connection => match ended {
                Ok(()) => answer.await,
                Err(error) => Err(FetchError::Http(error)),
            },
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Box<dyn Stream>, FetchError> {
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) | None => return Err(FetchError::Url),
        };
        let authority = uri
            .authority()
            .filter(|a| !a.as_str().contains('@'))
            .ok_or(FetchError::Url)?;
        let name = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        let found = tokio::net::lookup_host((name, port))
            .await
            .map_err(FetchError::Connect)?;
        let allowed: Vec<SocketAddr> = found
            .filter(|address| may_connect(address.ip(), https, self.scope, names_loopback(name)))
            .collect();
        if allowed.is_empty() {
            return Err(FetchError::Address);
        }
        let tcp = TcpStream::connect(allowed.as_slice())
            .await
            .map_err(FetchError::Connect)?;
        if !https {
            return Ok(Box::new(tcp));
        }
        let tls = self.tls.as_ref().ok_or(FetchError::Roots)?;
        let name = ServerName::try_from(name.to_owned()).map_err(|_e| FetchError::Url)?;
        let stream = tls.connect(name, tcp).await.map_err(FetchError::Connect)?;
        Ok(Box::new(stream))
    }
}

/// Whether the host of a URL is loopback as it stands.
fn names_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// Link-local addresses are where clouds keep their metadata services; nothing of an identity provider is there.
fn may_connect(ip: IpAddr, https: bool, scope: Scope, host_is_loopback: bool) -> bool {
    let ip = ip.to_canonical();
    match scope {
        Scope::Operator => {
            let link_local = match ip {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            };
            let nowhere = link_local || ip.is_unspecified() || ip.is_multicast();
            !nowhere && (https || ip.is_loopback())
        }
        Scope::Listener => !ip.is_unspecified() && !ip.is_multicast(),
        Scope::Rule { loopback: true, .. } if host_is_loopback => ip.is_loopback(),
        Scope::Rule { reach, .. } => {
            (https || reach.http) && (is_global(ip) || (reach.private && is_private(ip)))
        }
    }
}

/// The request as it goes to the origin server (RFC 9112 section 3.2.1), one per connection.
fn origin_form(request: Request<Vec<u8>>) -> Result<Request<Full<Bytes>>, FetchError> {
    let (mut head, body) = request.into_parts();
    let host = head.uri.authority().ok_or(FetchError::Url)?.as_str();
    let host = HeaderValue::from_str(host).map_err(|_e| FetchError::Url)?;
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    head.uri = target.parse().map_err(|_e| FetchError::Url)?;
    head.headers.insert(HOST, host);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("close"));
    head.headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("ringgate/", env!("CARGO_PKG_VERSION"))),
    );
    head.version = http::Version::HTTP_11;
    Ok(Request::from_parts(head, Full::new(Bytes::from(body))))
}

#[cfg(test)]
mod tests {
    use super::*;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// Serves one connection with `answer` and gives back what was asked.
    async fn once(answer: Vec<u8>) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?x=1", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let n = stream.read(&mut asked).await.unwrap();
            // The client may have enough before all is written.
            let _written = stream.write_all(&answer).await;
            String::from_utf8(asked[..n].to_vec()).unwrap()
        });
        (url, server)
    }

    fn answer(head: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), body].concat()
    }

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn gets_a_body() {
        block_on(async {
            let (url, server) = once(answer("200 OK\r\ncontent-length: 2", b"{}")).await;
            assert_eq!(
                HttpClient::loopback_only().get(&url, SOON).await.unwrap(),
                b"{}"
            );
            let asked = server.await.unwrap();
            assert!(asked.starts_with("GET /keys?x=1 HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("host: 127.0.0.1:"), "{asked}");
        });
    }

    #[test]
    fn follows_no_redirect() {
        block_on(async {
            let (url, _server) = once(answer(
                "302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0",
                b"",
            ))
            .await;
            let outcome = HttpClient::loopback_only().get(&url, SOON).await;
            assert!(
                matches!(outcome, Err(FetchError::Status(302))),
                "{outcome:?}"
            );
        });
    }

    #[test]
    fn answers_are_bounded() {
        block_on(async {
            let (url, _server) =
                once(answer("200 OK", &vec![b' '; limits::DISCOVERY_BYTES + 1])).await;
            let outcome = HttpClient::loopback_only().get(&url, SOON).await;
            assert!(matches!(outcome, Err(FetchError::TooLarge)), "{outcome:?}");
        });
    }

    #[test]
    fn silence_ends() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            let outcome = HttpClient::loopback_only()
                .get(&url, Duration::from_millis(50))
                .await;
            assert!(matches!(outcome, Err(FetchError::Timeout)), "{outcome:?}");
        });
    }

    #[test]
    fn where_it_may_go() {
        let check = |ip: &str, https, want| {
            assert_eq!(
                may_connect(ip.parse().unwrap(), https, Scope::Operator, false),
                want,
                "{ip} {https}"
            );
        };
        check("127.0.0.1", false, true);
        check("::1", false, true);
        check("10.0.0.1", false, false);
        check("10.0.0.1", true, true);
        check("169.254.169.254", true, false);
        check("::ffff:169.254.169.254", true, false);
        check("fe80::1", true, false);
        check("0.0.0.0", true, false);
        check("224.0.0.1", true, false);
        check("127.0.0.1", true, true);
        for url in ["ftp://127.0.0.1/", "/keys", "http://user@127.0.0.1/"] {
            let outcome = block_on(HttpClient::loopback_only().get(url, SOON));
            assert!(matches!(outcome, Err(FetchError::Url)), "{url} {outcome:?}");
        }
    }

    #[test]
    fn a_listener_is_asked_where_it_is() {
        let may = |ip: &str| may_connect(ip.parse().unwrap(), false, Scope::Listener, false);
        for ip in [
            "127.0.0.1",
            "10.0.0.1",
            "192.0.2.1",
            "169.254.1.1",
            "fd00::1",
        ] {
            assert!(may(ip), "{ip}");
        }
        assert!(!may("0.0.0.0") && !may("::") && !may("224.0.0.1"));
    }

    #[test]
    fn where_a_rule_may_send_it() {
        let (none, http, private) = (
            Reach::default(),
            Reach {
                http: true,
                private: false,
            },
            Reach {
                http: false,
                private: true,
            },
        );
        let may = |ip: &str, https, reach: Reach, loopback| {
            let scope = Scope::Rule { reach, loopback };
            may_connect(ip.parse().unwrap(), https, scope, loopback)
        };
        for inside in [
            "10.0.0.1",
            "192.168.1.1",
            "100.100.100.200",
            "127.0.0.1",
            "::1",
            "fd00:ec2::254",
        ] {
            assert!(!may(inside, true, none, false), "{inside}");
            assert!(!may(inside, false, http, false), "{inside}");
            assert!(may(inside, true, private, false), "{inside}");
            assert!(!may(inside, false, private, false), "{inside}");
            assert!(may(inside, false, http.or(private), false), "{inside}");
        }
        for nowhere in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
        ] {
            assert!(!may(nowhere, true, http.or(private), false), "{nowhere}");
            assert!(!may(nowhere, false, http.or(private), true), "{nowhere}");
        }
        assert!(may("8.8.8.8", true, none, false));
        assert!(!may("8.8.8.8", false, none, false));
        assert!(may("8.8.8.8", false, http, false));
        assert!(may("127.0.0.1", false, none, true), "written as loopback");
        assert!(
            !may("8.8.8.8", true, private, true),
            "and then only loopback"
        );
        let elsewhere = Scope::Rule {
            reach: none,
            loopback: false,
        };
        let loopback = "127.0.0.1".parse().unwrap();
        assert!(
            !may_connect(loopback, true, elsewhere, true),
            "the discovery document of a rule for elsewhere leads to loopback"
        );
    }

    #[test]
    fn a_rule_for_elsewhere_does_not_reach_loopback() {
        block_on(async {
            let (url, server) = once(answer("200 OK\r\ncontent-length: 2", b"{}")).await;
            let client = |source: &str| {
                let source = KeySource::Discovery(source.to_owned());
                HttpClient::loopback_only().for_rule(&source, Reach::default())
            };
            let outcome = client("https://issuer.example").get(&url, SOON).await;
            assert!(matches!(outcome, Err(FetchError::Address)), "{outcome:?}");
            assert_eq!(client(&url).get(&url, SOON).await.unwrap(), b"{}");
            server.await.unwrap();
        });
    }
}
