//! A WebSocket where a side is a stream of HTTP/2: DATA frames there, and on the other side the same or an HTTP/1.1
//! connection that has switched.

use std::rc::Rc;

use super::{Ended, Switched, Up, end};
use crate::http::h1::{BodyDecoder, Framing};
use crate::io::body::{Coding, Sink, Source};
use crate::io::h1::{Reader, Writer};
use crate::io::h2::{Answering, Incoming, Outgoing};
use crate::io::tunnel::Lease;
use crate::io::upstream::H1Upstream;
use crate::worker::both_ways::between;

/// A stream to an upstream that carries a WebSocket.
#[derive(Debug)]
pub struct Across {
    incoming: Incoming,
    outgoing: Outgoing,
    /// Its place among the streams of its connection.
    _place: Lease,
}

impl From<Answering> for Across {
    fn from(asked: Answering) -> Self {
        let (incoming, outgoing, place) = asked.both_ways();
        Self {
            incoming,
            outgoing,
            _place: place,
        }
    }
}

impl Switched {
    /// As `relay`, on a stream.
    pub(in crate::worker) async fn relay_stream(
        self,
        (incoming, outgoing): (Incoming, Outgoing),
        idle_ms: u64,
    ) {
        let (mut source, mut sink) = (Source::H2(incoming), Sink::H2(outgoing));
        self.moved((&mut source, &mut sink), idle_ms).await;
    }

    /// As `relay_stream`, from a connection.
    pub(super) async fn relay_across(self, mut reader: Reader, mut writer: Writer, idle_ms: u64) {
        let mut source = Source::H1(&mut reader, BodyDecoder::new(Framing::UntilClose));
        let mut sink = Sink::H1(&mut writer, Coding::Close);
        self.moved((&mut source, &mut sink), idle_ms).await;
    }

    async fn moved(self, down: (&mut Source<'_>, &mut Sink<'_>), idle_ms: u64) {
        let Self {
            upstream,
            story,
            entry,
            times,
        } = self;
        let passed = Rc::clone(&story.passed);
        let (source, sink) = down;
        let mut connection;
        let mut up = match upstream {
            Up::H1(upstream) => {
                connection = upstream;
                let H1Upstream { reader, writer, .. } = &mut *connection;
                let source = Source::H1(reader, BodyDecoder::new(Framing::UntilClose));
                (source, Sink::H1(writer, Coding::Close), None)
            }
            Up::H2(stream) => {
                let Across {
                    incoming,
                    outgoing,
                    _place: place,
                } = *stream;
                (Source::H2(incoming), Sink::H2(outgoing), Some(place))
            }
        };
        let (up_source, up_sink, _place) = &mut up;
        let ended = tokio::select! {
            biased;
            why = entry.cancel.cancelled() => Ended::Cancelled(why),
            both = between((&mut *source, &mut *sink), (up_source, &mut *up_sink), &passed) => match both {
                Ok(()) => Ended::Done,
                Err((close, why)) => Ended::Broken(close, why),
            },
            what = times.over(&passed, idle_ms) => Ended::Late(what),
        };
        if !matches!(ended, Ended::Done) {
            // What either side has by now is not complete.
            break_off(sink);
            break_off(up_sink);
        }
        end(story, ended);
    }
}

/// Resets what stands for a connection (RFC 8441 section 5).
fn break_off(sink: &mut Sink<'_>) {
    match sink {
        Sink::Nothing => {}
        Sink::H1(writer, _) => writer.abort(),
        Sink::H2(outgoing) => outgoing.cancel(),
    }
}
