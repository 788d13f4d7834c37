//! One unary method: as tonic serves it, or with an answer that many share.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};
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

/// As [`unary`], but `method` gives the frame of its answer ([`frame`]): bytes that are sent to many are there once, however
/// slowly they are read.
pub(super) async fn shared<Q, M, F>(
    request: http::Request<Incoming>,
    most: usize,
    limit: Duration,
    method: M,
) -> http::Response<tonic::body::Body>
where
    Q: prost::Message + Default,
    M: FnOnce(Request<Q>) -> F,
    F: Future<Output = Result<Bytes, Status>>,
{
    let answer = async {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, most.saturating_add(FRAME_HEAD_BYTES));
        let bad = || Status::invalid_argument("malformed message");
        let bytes = body.collect().await.map_err(|_e| bad())?.to_bytes();
        let message = Q::decode(payload(&bytes).ok_or_else(bad)?).map_err(|_e| bad())?;
        let metadata = MetadataMap::from_headers(parts.headers);
        method(Request::from_parts(
            metadata,
            Extensions::default(),
            message,
        ))
        .await
    };
    match timeout(limit, answer).await {
        Ok(Ok(frame)) => framed(frame),
        Ok(Err(status)) => status.into_http(),
        Err(_elapsed) => Status::deadline_exceeded("request took too long").into_http(),
    }
}

/// Compression and length before a message.
const FRAME_HEAD_BYTES: usize = 5;

/// The message of the one frame that a unary request has, uncompressed.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let ([0, length @ ..], message) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>()? else {
        return None;
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    (message.len() == length).then_some(message)
}

/// A message as it is sent.
pub(super) fn frame(message: &impl prost::Message) -> Result<Bytes, Status> {
    let long = |_e| Status::internal("answer is too long");
    let length = u32::try_from(message.encoded_len()).map_err(long)?;
    let mut frame = Vec::with_capacity(message.encoded_len().saturating_add(FRAME_HEAD_BYTES));
    frame.push(0);
    frame.extend_from_slice(&length.to_be_bytes());
    message
        .encode(&mut frame)
        .map_err(|_e| Status::internal("answer cannot be encoded"))?;
    Ok(frame.into())
}

fn framed(frame: Bytes) -> http::Response<tonic::body::Body> {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = http::Response::new(tonic::body::Body::new(body));
    let grpc = http::HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, grpc);
    response
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_whole_frame() {
        let message = "version".to_owned();
        let bytes = frame(&message).unwrap();
        let read = payload(&bytes).and_then(|bytes| prost::Message::decode(bytes).ok());
        assert_eq!(read, Some(message));
        let with = |at: usize, byte: u8| {
            let mut changed = bytes.to_vec();
            changed[at] = byte;
            changed
        };
        for bad in [
            Vec::new(),
            bytes[..4].to_vec(),
            bytes[..bytes.len() - 1].to_vec(),
            [&bytes[..], b"x"].concat(),
            // Compressed, and longer than it is.
            with(0, 1),
            with(1, 1),
        ] {
            assert_eq!(payload(&bad), None, "{bad:?}");
        }
    }
}
