//! A gRPC connection to an authority: TLS, HTTP/2, unary calls.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::client::RemoteError;

/// Where an authority is.
#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) server_name: ServerName<'static>,
    pub(super) origin: http::Uri,
}

/// An open connection; dropping it ends it.
pub(super) struct Channel {
    sender: http2::SendRequest<tonic::body::Body>,
    origin: http::Uri,
    _driver: JoinSet<()>,
}

impl Channel {
    pub(super) async fn connect(
        address: &Address,
        tls: Arc<ClientConfig>,
    ) -> Result<Self, RemoteError> {
        let stream = TcpStream::connect((address.host.as_str(), address.port))
            .await
            .map_err(RemoteError::Connect)?;
        let stream = TlsConnector::from(tls)
            .connect(address.server_name.clone(), stream)
            .await
            .map_err(RemoteError::Connect)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(RemoteError::Http)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The answer tells what went wrong; the connection only has to be driven until it is there.
            let _ended = connection.await;
        });
        Ok(Self {
            sender,
            origin: address.origin.clone(),
            _driver: driver,
        })
    }

    /// One call with an answer of at most `most` bytes.
    pub(super) async fn call<Q, A>(
        &self,
        path: &'static str,
        request: Request<Q>,
        most: usize,
    ) -> Result<A, RemoteError>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let service = Sender(self.sender.clone());
        let mut grpc = tonic::client::Grpc::with_origin(service, self.origin.clone())
            .max_decoding_message_size(most);
        let codec: ProstCodec<Q, A> = ProstCodec::new();
        grpc.ready().await.map_err(RemoteError::Http)?;
        let refused = |status: Status| RemoteError::Refused(Box::new(status));
        grpc.unary(request, PathAndQuery::from_static(path), codec)
            .await
            .map(tonic::Response::into_inner)
            .map_err(refused)
    }
}

/// One HTTP/2 connection as tonic wants it.
struct Sender(http2::SendRequest<tonic::body::Body>);

impl tower_service::Service<http::Request<tonic::body::Body>> for Sender {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
