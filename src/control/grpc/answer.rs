//! One unary method as tonic serves it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Answers one request of at most `most` bytes with `method`, within `limit`.
pub(super) async fn unary<Q, A, M, F>(
    request: http::Request<Incoming>,
    most: usize,
    limit: Duration,
    method: M,
) -> http::Response<tonic::body::Body>
where
    Q: prost::Message + Default + Send + 'static,
    A: prost::Message + Default + Send + 'static,
    M: FnOnce(Request<Q>) -> F + Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let codec: ProstCodec<A, Q> = ProstCodec::new();
    let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(most);
    match timeout(limit, grpc.unary(Method(Some(method)), request)).await {
        Ok(response) => response,
        Err(_elapsed) => Status::deadline_exceeded("request took too long").into_http(),
    }
}

/// The method, called once.
struct Method<M>(Option<M>);

impl<Q, A, M, F> tower_service::Service<Request<Q>> for Method<M>
where
    M: FnOnce(Request<Q>) -> F,
    F: Future<Output = Result<A, Status>> + Send + 'static,
    A: Send + 'static,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        match self.0.take() {
            Some(method) => {
                let answer = method(request);
                Box::pin(async move { answer.await.map(Response::new) })
            }
            None => Box::pin(std::future::ready(Err(Status::internal("called twice")))),
        }
    }
}
