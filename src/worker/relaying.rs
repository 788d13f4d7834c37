//! What is left of a connection once its handshake is done and it was judged and dialled: its relay, or the serving of its
//! requests, which hold nothing of what came before.
//!
//! The futures of handshake, judging and dialling are many times as large as what is left, and that may be idle for hours.
//! So a task first runs them to their end and frees them, and then runs what they have left to do.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::exchange::close::CloseReason;
use crate::hbone::Code;
use crate::io::early::Early;
use crate::io::mux::MuxError;
use crate::io::relay::{Broken, relay};
use crate::io::rt::Tcp;
use crate::io::stream::Stream;
use crate::worker::core::Place;
use crate::worker::open::Entry;
use crate::worker::places::Taken;
use crate::worker::site::Story;

/// A permitted connection with its upstream, judged anew with every snapshot.
#[derive(Debug)]
pub struct Going {
    /// The upstream.
    pub(super) up: Stream,
    /// Its record.
    pub story: Story,
    /// Its place among what is open.
    pub(super) entry: Entry,
    /// The other side, where that is in this process too.
    pub(super) far: Option<Box<FarSide>>,
    /// Its place among the connections of the workload that it leaves.
    pub(super) taken: Option<Taken>,
    /// How long nothing may move, in milliseconds (`tcp.idleTimeout`).
    pub(super) idle_ms: Option<u64>,
}

/// Who spoke first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// The client, with this byte.
    Client(u8),
    /// The server, or nobody ever will.
    Server,
}

impl Going {
    /// Waits until one side says something. Nothing is taken of it.
    pub(super) async fn first_word(&mut self, client: &Tcp) -> First {
        tokio::select! {
            biased;
            // It ends; whoever relays it will hear of it at once.
            _why = self.entry.cancel.cancelled() => First::Server,
            first = client.peek_first() => first.ok().flatten().map_or(First::Server, First::Client),
            _spoken = self.up.peek(1) => First::Server,
        }
    }

    /// Gives it up unrecorded: what follows has records of its own.
    pub(super) fn forget(self) {
        self.story.forget();
    }
}

/// What a tunnel would be at its far end: a connection of its own for records, metrics, policy and the drain.
#[derive(Debug)]
pub struct FarSide {
    pub(super) story: Story,
    pub(super) entry: Entry,
    pub(super) place: Place,
}

/// What a task has left to do.
pub struct Rest(Option<Serving>);

type Serving = Pin<Box<dyn Future<Output = ()>>>;

impl std::fmt::Debug for Rest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.0.is_some() { "some" } else { "none" };
        write!(f, "Rest({what})")
    }
}

impl From<Serving> for Rest {
    fn from(serving: Serving) -> Self {
        Self(Some(serving))
    }
}

/// All of a connection but what lasts.
pub type Setup = Pin<Box<dyn Future<Output = Rest>>>;

impl Rest {
    /// Nothing.
    pub const NONE: Self = Self(None);

    /// To serve what is left.
    #[must_use]
    pub fn serve(rest: impl Future<Output = ()> + 'static) -> Self {
        Self(Some(Box::pin(rest)))
    }

    /// As it is, and to let go of `held` at its end.
    #[must_use]
    pub fn holding<H: 'static>(self, held: H) -> Self {
        let serving = self.0.map(|serving| -> Serving {
            Box::pin(async move {
                serving.await;
                drop(held);
            })
        });
        Self(serving)
    }

    /// To relay bytes until both sides have ended or policy forbids it.
    #[must_use]
    pub fn relay(going: Going, down: Stream) -> Self {
        Self::serve(relayed(going, down))
    }

    /// As `relay`, with a client of whom something may be on its way already.
    #[must_use]
    pub fn relay_begun(mut going: Going, down: Tcp, early: &Early) -> Self {
        match early.finish() {
            Ok((sent, rest)) => {
                let mut passed = going.story.passed.get();
                let sent = u64::try_from(sent).unwrap_or(u64::MAX);
                passed.received = passed.received.saturating_add(sent);
                going.story.passed.set(passed);
                Self::relay(going, Stream::from(down).behind(rest))
            }
            Err(error) => {
                going.up.abort();
                going.story.fail(CloseReason::DownstreamReset, error);
                Self::NONE
            }
        }
    }
}

/// Runs a connection to its end.
pub(super) async fn run(setup: Setup) {
    // A statement of its own: at its end the setup is freed.
    let rest = setup.await;
    if let Some(serving) = rest.0 {
        serving.await;
    }
}

/// Relays a connection to its end. What it holds is made here, outside of the future, which would hold it twice.
fn relayed(going: Going, down: Stream) -> impl Future<Output = ()> {
    let Going {
        up,
        story,
        entry,
        far,
        taken,
        idle_ms,
    } = going;
    story.opened();
    if let Some(far) = &far {
        far.story.opened();
        story.passed.pair(&far.story.passed);
    }
    let passed = Rc::clone(&story.passed);
    let sides = Sides { story, entry, far };
    // On the heap, as few services have such a time.
    let meter = Rc::clone(&passed);
    let idle = idle_ms.map(|ms| -> Serving { Box::pin(async move { meter.idle(ms).await }) });
    async move {
        let relay = relay(down, up, &passed);
        let done = tokio::select! {
            biased;
            () = poll_fn(|cx| sides.poll_cut(cx)) => Over::Cut,
            done = relay => Over::Relayed(done),
            () = async { match idle { Some(idle) => idle.await, None => pending().await } } => Over::Idle,
        };
        sides.end(&done);
        drop(taken);
    }
}

/// How a relay came to its end.
enum Over {
    /// One of its sides has to end.
    Cut,
    /// Both have ended, or one broke off.
    Relayed(Result<(), Broken>),
    /// Nothing has moved for too long.
    Idle,
}

/// Both sides of a relay, as far as they are here.
struct Sides {
    story: Story,
    entry: Entry,
    far: Option<Box<FarSide>>,
}

impl Sides {
    /// Ready when one of them has to end.
    fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        let far = self.far.as_deref().map(|far| &far.entry.cancel);
        let cancels = std::iter::once(&self.entry.cancel).chain(far);
        let mut cut = Poll::Pending;
        for cancel in cancels {
            if cancel.poll_cancelled(cx).is_ready() {
                cut = Poll::Ready(());
            }
        }
        cut
    }

    /// Ends the records: of the relay if that has ended, else each of its own cut, or of the other side's, which breaks it off.
    fn end(self, done: &Over) {
        if let Some(far) = self.far {
            let FarSide {
                story,
                entry,
                place,
            } = *far;
            end(story, &entry, done, CloseReason::DownstreamReset);
            drop(place);
        }
        end(self.story, &self.entry, done, CloseReason::UpstreamReset);
    }
}

/// Ends one record. `other`: what the end of the other side is to this one.
fn end(story: Story, entry: &Entry, done: &Over, other: CloseReason) {
    match (done, entry.cancel.why()) {
        (Over::Relayed(Ok(())), _) => story.end(CloseReason::Done),
        (Over::Relayed(Err(broken)), _) => story.fail(broken.close(), broken),
        (Over::Idle, _) => story.fail(CloseReason::Timeout, "connection is idle"),
        (Over::Cut, Some(why)) => story.end(why),
        // As a tunnel tells it.
        (Over::Cut, None) => story.fail(other, MuxError::Reset(Code::CONNECT_ERROR)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<A, B, F: Future>(_made_by: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection holds while it is idle is memory of every open one: a size that is known, and no more.
    #[test]
    fn what_is_left_is_small() {
        let size = size_of_val(&run(Box::pin(async { Rest::NONE })));
        assert!(size < 64, "{size} bytes");
        let size = future_bytes(relayed);
        assert!((600..1300).contains(&size), "{size} bytes");
    }
}
