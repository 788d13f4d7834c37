//! What is left to come and to go: streams on which one side has sent everything, what waits for the peer, and what the peer
//! says of itself in its settings.

use std::task::{Context, Poll, Waker};

use super::{Mux, MuxError, State, register};
use crate::h2::Heads;

impl<H: Heads> Mux<H> {
    /// Whether we have sent everything on a stream, and the peer may go on.
    pub(in crate::io) fn is_half_closed(&self, id: u32) -> bool {
        let state = self.0.borrow();
        let open = state.slots.find(id).is_some_and(|slot| !slot.ended);
        open && state.session.is_sent(id)
    }

    /// Ready when the peer has ended its side of a stream, in order or not. What it sends until then is passed over.
    pub(in crate::io) fn poll_peer_end(&self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.borrow_mut();
        let state = &mut *state;
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(());
        };
        state.held = state.held.saturating_sub(slot.chunks.len());
        (slot.chunks, slot.tail) = Default::default();
        if slot.ended || slot.reset.is_some() || state.ended {
            return Poll::Ready(());
        }
        register(&mut slot.reader, cx);
        state.session.pass_over(id);
        state.sent();
        Poll::Pending
    }

    /// Ready when the peer has sent all of a stream; an error if it broke off.
    pub(in crate::io) fn poll_whole(
        &self,
        id: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), MuxError>> {
        let mut state = self.0.borrow_mut();
        let over = state.over();
        let Some(slot) = state.slots.find_mut(id) else {
            return Poll::Ready(Err(MuxError::Ended));
        };
        if slot.ended {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = slot.broken(over) {
            return Poll::Ready(Err(error));
        }
        register(&mut slot.reader, cx);
        Poll::Pending
    }

    /// Whether the peer leaves no room for a stream, on it or on the connection.
    pub(in crate::io) fn is_shut(&self, id: u32) -> bool {
        self.0.borrow().session.window(id) == Some(0)
    }

    /// Whether all that was to be sent has been written.
    pub(in crate::io) fn is_written(&self) -> bool {
        self.0.borrow().outbox.is_empty()
    }

    /// How many streams the peer takes at a time.
    pub(in crate::io) fn peer_max_streams(&self) -> usize {
        usize::try_from(self.0.borrow().session.peer_max_streams()).unwrap_or(usize::MAX)
    }

    /// Whether the peer takes extended CONNECT (RFC 8441).
    pub(in crate::io) fn takes_extended_connect(&self) -> bool {
        self.0.borrow().session.takes_extended_connect()
    }

    /// Whether the peer's settings have come: it speaks HTTP/2.
    pub(in crate::io) fn is_settled(&self) -> bool {
        self.0.borrow().session.is_settled()
    }

    /// Waits for the peer's settings.
    ///
    /// # Errors
    /// The connection has ended.
    pub(in crate::io) fn poll_settled(&self, cx: &Context<'_>) -> Poll<Result<(), MuxError>> {
        let mut state = self.0.borrow_mut();
        if state.session.is_settled() {
            return Poll::Ready(Ok(()));
        }
        if let Some(over) = state.over() {
            return Poll::Ready(Err(over));
        }
        if !state.settling.iter().any(|w| w.will_wake(cx.waker())) {
            state.settling.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl<H: Heads> State<H> {
    /// Tells those who wait for the peer's settings that they have come, if they have.
    pub(super) fn settled(&mut self) {
        if !self.settling.is_empty() && self.session.is_settled() {
            self.settling.drain(..).for_each(Waker::wake);
        }
    }
}
