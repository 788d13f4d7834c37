//! WebSocket on an HTTP/2 stream: DATA frames on one side, an HTTP/1.1 connection that has switched on the other.

use std::future::Future;
use std::rc::Rc;

use super::{Ended, Switched, end};
use crate::io::body::{Sink, Source};
use crate::io::h2::{Incoming, Outgoing};
use crate::io::upstream::H1Upstream;
use crate::worker::both_ways::both_ways;

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
            times,
        } = self;
        let H1Upstream {
            mut reader,
            mut writer,
            ..
        } = *upstream;
        let passed = Rc::clone(&story.passed);
        async move {
            let (mut source, mut sink) = (Source::H2(incoming), Sink::H2(outgoing));
            let down = (&mut source, &mut sink);
            let ended = tokio::select! {
                biased;
                why = entry.cancel.cancelled() => Ended::Cancelled(why),
                both = both_ways(down, (&mut reader, &mut writer), &passed) => match both {
                    Ok(()) => Ended::Done,
                    Err((close, why)) => Ended::Broken(close, why),
                },
                what = times.over(&passed, idle_ms) => Ended::Late(what),
            };
            if !matches!(ended, Ended::Done) {
                // What either side has by now is not complete.
                writer.abort();
                if let Sink::H2(outgoing) = &mut sink {
                    outgoing.cancel();
                }
            }
            end(story, ended);
        }
    }
}
