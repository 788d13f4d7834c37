//! How long an exchange may take, by the times of its route.

use std::future::Future;
use std::pin::Pin;

use crate::config::checked::route::Timeouts;
use crate::exchange::close::CloseReason;
use crate::io::rt;
use crate::worker::open::Cancel;

/// Runs an exchange, and ends it when its time is over: a request with 504 if no answer has begun.
pub(super) async fn within<T>(
    times: Timeouts,
    cancel: &Cancel,
    mut exchange: Pin<Box<impl Future<Output = T>>>,
) -> T {
    let request = times
        .request_ms
        .map(|ms| (ms, CloseReason::UpstreamTimeout, "timeout of the request"));
    let stream = times
        .stream_ms
        .map(|ms| (ms, CloseReason::Timeout, "timeout of the stream"));
    let first = request.into_iter().chain(stream).min_by_key(|(ms, ..)| *ms);
    let Some((ms, close, what)) = first else {
        return exchange.await;
    };
    // On the heap, as few routes have such times.
    let timed = async {
        tokio::select! {
            biased;
            done = &mut exchange => return done,
            () = rt::sleep(ms) => {}
        }
        cancel.time_is_over(close, what);
        exchange.await
    };
    Box::pin(timed).await
}
