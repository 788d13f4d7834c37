//! The first bytes of a client, which go out with the CONNECT that is made for it instead of behind its answer.
//!
//! Most clients speak first. What they say travels with the request for the tunnel: one wake-up less at either end, and
//! one round trip less. The far end keeps it until it has decided (RFC 9113 section 8.5: a stream carries DATA as soon as
//! it is open), and drops it with a tunnel that it refuses. We keep it too, for another endpoint.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::io::buffers::{self, Size};
use crate::io::mux::{Mux, Payload};
use crate::io::rt::Tcp;

/// What a client has sent before its tunnel is open: at most one read of it.
#[derive(Debug)]
pub struct Early {
    tcp: Tcp,
    first: RefCell<Bytes>,
    /// How many of `first` the tunnel that is being opened has taken.
    sent: Cell<usize>,
    /// Nothing more is read: there was something, the end, or an error.
    done: Cell<bool>,
    error: RefCell<Option<io::Error>>,
}

impl Early {
    /// Of this client.
    #[must_use]
    pub fn of(tcp: &Tcp) -> Self {
        Self {
            tcp: tcp.clone(),
            first: RefCell::default(),
            sent: Cell::new(0),
            done: Cell::new(false),
            error: RefCell::default(),
        }
    }

    /// Another way is tried: it gets all of it.
    pub fn begin(&self) {
        self.sent.set(0);
    }

    /// Reads, if nothing was read, and sends on a stream that waits for its answer, as far as there is room.
    pub(super) fn poll(&self, mux: &Mux, id: u32, cx: &mut Context<'_>) {
        if !self.done.get() {
            self.poll_read(cx);
        }
        let first = self.first.borrow();
        while self.sent.get() < first.len() {
            let rest = first.slice(self.sent.get()..);
            // A stream that takes no more tells so by its answer.
            let Poll::Ready(Ok(room)) = mux.poll_room(id, rest.len(), cx) else {
                return;
            };
            if !mux.send(id, Payload::Held(rest.slice(..room)), false) {
                return;
            }
            self.sent.set(self.sent.get().saturating_add(room));
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>) {
        let mut block = buffers::take_block(Size::Small);
        let mut into = ReadBuf::new(&mut block);
        let polled = Pin::new(&mut self.tcp.clone()).poll_read(cx, &mut into);
        match polled {
            Poll::Pending => {}
            Poll::Ready(Ok(())) => {
                self.done.set(true);
                *self.first.borrow_mut() = Bytes::copy_from_slice(into.filled());
            }
            Poll::Ready(Err(error)) => {
                self.done.set(true);
                *self.error.borrow_mut() = Some(error);
            }
        }
        buffers::give_block(block);
    }

    /// How many bytes the open tunnel has, and those that it did not take.
    ///
    /// # Errors
    /// The client broke off; its socket would say that it has ended.
    pub fn finish(&self) -> io::Result<(usize, Bytes)> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let rest = self.first.borrow().slice(self.sent.get()..);
        Ok((self.sent.get(), rest))
    }
}
