//! WebSocket on an HTTP/2 stream: DATA frames on one side, an HTTP/1.1 connection that has switched on the other.

use std::future::Future;
use std::rc::Rc;

use super::Switched;
use crate::exchange::close::CloseReason;
use crate::http::h1::{BodyDecoder, Framing};
use crate::io::body::{Coding, PumpError, Sink, Source, Trailers, pump};
use crate::io::h2::{Incoming, Outgoing};
use crate::io::upstream::H1Upstream;
use crate::worker::forward::{seen_received, seen_sent};

/// How a relay came to its end.
enum Ended {
    /// Both sides have ended.
    Done,
    Broken(CloseReason, String),
    Idle,
    Cancelled(CloseReason),
}

impl Switched {
    /// As `relay`, on a stream.
    pub(in crate::worker) fn relay_stream(
        self,
        (incoming, outgoing): (Incoming, Outgoing),
        idle_ms: u64,
    ) -> impl Future<Output = ()> {
        let Self {
            upstream,
            story,
            entry,
        } = self;
        let H1Upstream {
            mut reader,
            mut writer,
            ..
        } = *upstream;
        let passed = Rc::clone(&story.passed);
        async move {
            let mut sink = Sink::H2(outgoing);
            let upward = async {
                let mut source = Source::H2(incoming);
                let mut sink = Sink::H1(&mut writer, Coding::Close);
                let seen = seen_received(&passed);
                let pumped = pump(&mut source, &mut sink, Trailers::Drop, seen).await;
                let ended = match pumped {
                    Ok(()) => writer.shutdown().await.map_err(PumpError::Sink),
                    Err(error) => Err(error),
                };
                ended.map_err(|error| match error {
                    PumpError::Source(e) => (CloseReason::DownstreamReset, e.to_string()),
                    PumpError::Sink(e) => (CloseReason::UpstreamReset, e.to_string()),
                })
            };
            let downward = async {
                let mut source = Source::H1(&mut reader, BodyDecoder::new(Framing::UntilClose));
                let seen = seen_sent(&passed);
                let pumped = pump(&mut source, &mut sink, Trailers::Drop, seen).await;
                pumped.map_err(|error| match error {
                    PumpError::Source(e) => (CloseReason::UpstreamReset, e.to_string()),
                    PumpError::Sink(e) => (CloseReason::DownstreamReset, e.to_string()),
                })
            };
            let ended = tokio::select! {
                biased;
                why = entry.cancel.cancelled() => Ended::Cancelled(why),
                both = async { tokio::try_join!(upward, downward) } => match both {
                    Ok(_both) => Ended::Done,
                    Err((close, why)) => Ended::Broken(close, why),
                },
                () = passed.idle(idle_ms) => Ended::Idle,
            };
            if !matches!(ended, Ended::Done) {
                // What either side has by now is not complete.
                writer.abort();
                if let Sink::H2(outgoing) = &mut sink {
                    outgoing.cancel();
                }
            }
            match ended {
                Ended::Done => story.end(CloseReason::Done),
                Ended::Broken(close, why) => story.fail(close, why),
                Ended::Idle => story.fail(CloseReason::Timeout, "stream is idle"),
                Ended::Cancelled(why) => story.end(why),
            }
        }
    }
}
