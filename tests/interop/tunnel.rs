//! Clients of HBONE: TLS as a workload, and CONNECT over the `h2` crate.

use std::path::Path;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

#[path = "../support/tls_client.rs"]
mod tls_client;

pub(crate) use tls_client::{Identity, client, identity};

/// Runs `work` to its end, for at most 60 seconds.
pub(crate) fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    let limit = std::time::Duration::from_secs(60);
    local.block_on(&runtime, async {
        tokio::time::timeout(limit, work)
            .await
            .expect("ends in time")
    })
}

/// An HBONE connection as ztunnel makes it: no name, ALPN h2.
pub(crate) async fn connect(address: &str, dir: &Path) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("0.0.0.0").unwrap();
    let config = client(&["h2"], Some(identity(dir)), false);
    let tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .unwrap();
    let (send, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::task::spawn_local(async move { drop(connection.await) });
    send
}

/// An answer to a CONNECT, and its stream.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) send: SendStream<Bytes>,
    pub(crate) body: RecvStream,
}

impl Answer {
    /// Everything to the end, and the code of the reset that ended it.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Option<h2::Reason>) {
        let mut all = Vec::new();
        while let Some(piece) = self.body.data().await {
            match piece {
                Ok(piece) => {
                    drop(self.body.flow_control().release_capacity(piece.len()));
                    all.extend_from_slice(&piece);
                }
                Err(error) => return (all, error.reason()),
            }
        }
        (all, None)
    }

    /// The next piece.
    pub(crate) async fn piece(&mut self) -> Bytes {
        let piece = self.body.data().await.unwrap().unwrap();
        drop(self.body.flow_control().release_capacity(piece.len()));
        piece
    }
}

/// One CONNECT with these header fields.
pub(crate) async fn ask(
    send: &SendRequest<Bytes>,
    authority: &str,
    fields: &[(&'static str, &str)],
) -> Answer {
    let mut parts = http::uri::Parts::default();
    parts.authority = Some(authority.parse().unwrap());
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let mut ready = send.clone().ready().await.unwrap();
    let (response, stream) = ready.send_request(request, false).unwrap();
    let (head, body) = response.await.unwrap().into_parts();
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        send: stream,
        body,
    }
}
