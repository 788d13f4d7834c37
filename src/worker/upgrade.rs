//! WebSocket: a permitted request whose upstream has switched protocols becomes a relay of bytes, judged
//! anew with every snapshot and recorded with its bytes.
//!
//! The request takes the way of all requests, so policy is judged first and nothing is relayed before the upstream's 101.
//! What is left of it then are two connections, its record and its place among what is open; the exchange's own memory is
//! freed before the relay begins.

mod stream;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderValue, header};

use crate::config::checked::route::Timeouts;
use crate::exchange::close::CloseReason;
use crate::http::h1::RawResponse;
use crate::http::upgrade;
use crate::io::h1::{Reader, Writer, unite};
use crate::io::relay::{Meter, relay};
use crate::io::stream::Stream;
use crate::io::upstream::H1Upstream;
use crate::io::{clock, rt};
use crate::role::endpoints::Busy;
use crate::worker::open::Entry;
use crate::worker::site::Story;
pub use stream::Across;

/// What a request that asks for a WebSocket gathers on its way.
#[derive(Debug, Default)]
pub struct Upgrade {
    stage: RefCell<Stage>,
    /// It was asked for on an HTTP/2 stream: what must answer the key that we made.
    accept: Option<HeaderValue>,
}

#[derive(Debug, Default)]
enum Stage {
    /// The upstream has not agreed.
    #[default]
    Asked,
    /// It has; the client is to be told.
    Agreed(Up),
    /// The client was told.
    Told(Up, Story),
    /// All that the relay needs.
    Whole(Box<Switched>),
}

/// The side of the upstream.
#[derive(Debug)]
enum Up {
    /// A connection that has switched.
    H1(Box<H1Upstream>),
    /// A stream.
    H2(Box<Across>),
}

impl From<Box<H1Upstream>> for Up {
    fn from(connection: Box<H1Upstream>) -> Self {
        Self::H1(connection)
    }
}

impl From<Across> for Up {
    fn from(across: Across) -> Self {
        Self::H2(Box::new(across))
    }
}

/// Two sides that speak another protocol from here on.
#[derive(Debug)]
pub struct Switched {
    upstream: Up,
    story: Story,
    entry: Entry,
    times: Times,
}

impl Upgrade {
    /// Of a stream of an HTTP/2 connection; `accept` answers the key of its request.
    pub(super) fn of_stream(accept: HeaderValue) -> Self {
        Self {
            stage: RefCell::default(),
            accept: Some(accept),
        }
    }

    /// Whether it was asked for on an HTTP/2 stream, where an answer of success is the switch.
    pub(super) fn is_of_stream(&self) -> bool {
        self.accept.is_some()
    }

    /// Whether an upstream's answer is the one that switches.
    pub(super) fn is_agreed_by(&self, head: &RawResponse) -> bool {
        let accepted = |accept| head.headers.get(header::SEC_WEBSOCKET_ACCEPT) == Some(accept);
        upgrade::agrees(head) && self.accept.as_ref().is_none_or(accepted)
    }

    /// The upstream has switched.
    #[expect(private_bounds, reason = "which sides there are is said here")]
    pub(super) fn agreed(&self, upstream: impl Into<Up>) {
        *self.stage.borrow_mut() = Stage::Agreed(upstream.into());
    }

    /// The client was told.
    pub(super) fn told(&self, mut story: Story) {
        let before = self.stage.take();
        if let Stage::Agreed(upstream) = before {
            let status = if self.is_of_stream() { 200 } else { 101 };
            story.edit(|r| r.status = Some(status));
            story.opened();
            *self.stage.borrow_mut() = Stage::Told(upstream, story);
        }
    }

    /// Its place among what is open, and how long it may last.
    pub(super) fn enter(&self, (mut entry, busy): (Entry, Option<Busy>), times: Times) {
        // Its endpoint has it as long as it is open.
        entry.keeps(busy);
        let before = self.stage.take();
        if let Stage::Told(upstream, story) = before {
            *self.stage.borrow_mut() = Stage::Whole(Box::new(Switched {
                upstream,
                story,
                entry,
                times,
            }));
        }
    }

    /// What there is to relay, if it came to that.
    pub(super) fn into_switched(self) -> Option<Box<Switched>> {
        match self.stage.into_inner() {
            Stage::Whole(switched) => Some(switched),
            Stage::Asked | Stage::Agreed(_) | Stage::Told(..) => None,
        }
    }
}

/// The answer that switches, for the client: what the upstream said, but for what belongs to its own hop.
pub(super) fn head(answer: &RawResponse, out: &mut bytes::BytesMut) {
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n",
    );
    crate::http::h1::write_fields(out, &answer.headers);
}

impl Switched {
    /// Relays until both sides have ended, one of its times is over, or it is no longer allowed. Without an idle time of its
    /// own it has `idle_ms`.
    pub(super) fn relay(
        self,
        reader: Reader,
        writer: Writer,
        idle_ms: u64,
    ) -> impl Future<Output = ()> {
        // Before the future is made, which lives long: it holds no more than the streams.
        let way = self.way(reader, writer, idle_ms);
        async move {
            let (sides, story, entry, times) = match way {
                Way::Bytes(sides, story, entry, times) => (sides, story, entry, times),
                Way::Across(moved) => return moved.await,
            };
            let passed = Rc::clone(&story.passed);
            let (down, up) = match sides {
                Ok(sides) => sides,
                Err((close, why)) => return story.fail(close, why),
            };
            let ended = tokio::select! {
                biased;
                why = entry.cancel.cancelled() => Ended::Cancelled(why),
                done = relay(down, up, &passed) => match done {
                    Ok(()) => Ended::Done,
                    Err(broken) => Ended::Broken(broken.close(), broken.to_string()),
                },
                what = times.over(&passed, idle_ms) => Ended::Late(what),
            };
            end(story, ended);
        }
    }
}

/// How it is relayed.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and is taken apart at once"
)]
enum Way {
    /// Between two connections.
    Bytes(
        Result<(Stream, Stream), (CloseReason, &'static str)>,
        Story,
        Entry,
        Times,
    ),
    /// Between a connection and a stream.
    Across(Pin<Box<dyn Future<Output = ()>>>),
}

impl Switched {
    fn way(self, reader: Reader, writer: Writer, idle_ms: u64) -> Way {
        match self.upstream {
            Up::H2(_) => Way::Across(Box::pin(self.relay_across(reader, writer, idle_ms))),
            Up::H1(upstream) => {
                let H1Upstream {
                    reader: up_reader,
                    writer: up_writer,
                    ..
                } = *upstream;
                let sides = whole(unite(reader, writer), unite(up_reader, up_writer));
                Way::Bytes(sides, self.story, self.entry, self.times)
            }
        }
    }
}

/// Both streams; if one cannot be had, the other one is broken off.
fn whole(
    down: Option<Stream>,
    up: Option<Stream>,
) -> Result<(Stream, Stream), (CloseReason, &'static str)> {
    match (down, up) {
        (Some(down), Some(up)) => Ok((down, up)),
        (Some(mut down), None) => {
            down.abort();
            let why = "upstream switched before it had the whole request";
            Err((CloseReason::UpstreamReset, why))
        }
        (None, up) => {
            if let Some(mut up) = up {
                up.abort();
            }
            let why = "the client's connection is in use";
            Err((CloseReason::DownstreamReset, why))
        }
    }
}

/// How a relay came to its end.
enum Ended {
    /// Both sides have ended.
    Done,
    Broken(CloseReason, String),
    /// This time is over.
    Late(&'static str),
    Cancelled(CloseReason),
}

fn end(story: Story, ended: Ended) {
    match ended {
        Ended::Done => story.end(CloseReason::Done),
        Ended::Broken(close, why) => story.fail(close, why),
        Ended::Late(what) => story.fail(CloseReason::Timeout, what),
        Ended::Cancelled(why) => story.end(why),
    }
}

/// The times of a route that hold for a WebSocket.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// `idle`, in milliseconds.
    idle_ms: Option<u64>,
    /// When `stream` is over.
    ends: Option<Instant>,
}

impl Times {
    /// Of an exchange that begins now.
    #[must_use]
    pub fn begin(times: &Timeouts) -> Self {
        let ends = |ms| clock::now().checked_add(Duration::from_millis(ms));
        Self {
            idle_ms: times.idle_ms,
            ends: times.stream_ms.and_then(ends),
        }
    }

    /// Ends when one of them is over, which it names; without an `idle` of its own it has `idle_ms`.
    async fn over(self, passed: &Meter, idle_ms: u64) -> &'static str {
        let idle = passed.idle(self.idle_ms.unwrap_or(idle_ms));
        let Some(ends) = self.ends else {
            idle.await;
            return IDLE;
        };
        let left = ends.saturating_duration_since(clock::now()).as_millis();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        tokio::select! {
            () = idle => IDLE,
            () = rt::sleep(left) => "timeout of the stream",
        }
    }
}

const IDLE: &str = "stream is idle";
