//! One stream: how far each side is, its windows, what is held of it (RFC 9113 section 5.1).

use crate::h2::flow::{ReceiveWindow, SendWindow};
use crate::h2::heads::{Heads, Malformed, Shape};
use crate::h2::session::{Session, Side};

/// State of a stream that somebody holds.
#[derive(Debug)]
pub(crate) struct Entry {
    send: SendWindow,
    receive: ReceiveWindow,
    /// Bytes that were told and not released.
    held: u32,
    /// Of those, bytes that the connection's window has got back already.
    advanced: u32,
    /// We have sent END_STREAM or the stream is reset.
    local_closed: bool,
    /// The peer has sent END_STREAM or the stream is reset.
    remote_closed: bool,
    reset: bool,
    /// The final head of the server has passed: it is known to a client, sent by a server.
    headed: bool,
    /// That head made a tunnel of the stream: what follows is DATA alone.
    pub(super) tunnel: bool,
    taken: bool,
    client: bool,
    shape: Shape,
    /// What the peer's `content-length` leaves to come.
    due: Option<u64>,
    /// What it takes of the connection's window at the most, see `Settings::charged`.
    charged: u32,
    /// When it began, in milliseconds.
    began_ms: u64,
}

impl Entry {
    pub(super) fn new<H: Heads>(session: &Session<H>, shape: Shape) -> Self {
        let client = session.own.side == Side::Client;
        Self {
            send: SendWindow::new(session.peer_window),
            receive: ReceiveWindow::new(session.own.window),
            held: 0,
            advanced: 0,
            local_closed: false,
            remote_closed: false,
            reset: false,
            headed: false,
            tunnel: false,
            taken: client,
            client,
            shape,
            due: shape.length.filter(|_length| !client),
            charged: session.own.charged,
            began_ms: session.now_ms,
        }
    }

    /// What it carries, by its request.
    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// When it began, in milliseconds.
    pub(super) fn began_ms(&self) -> u64 {
        self.began_ms
    }

    /// The answer says how much content comes.
    pub(super) fn expect(&mut self, length: Option<u64>) {
        self.due = length;
    }

    /// Counts content of the peer.
    ///
    /// # Errors
    /// It is more than its `content-length`.
    pub(super) fn count(&mut self, bytes: u32) -> Result<(), Malformed> {
        let Some(due) = self.due else {
            return Ok(());
        };
        let left = due.checked_sub(u64::from(bytes));
        self.due = Some(left.ok_or(Malformed::Length)?);
        Ok(())
    }

    /// Whether the peer may end here, as far as its `content-length` goes.
    pub(super) fn is_complete(&self) -> bool {
        self.due.is_none_or(|due| due == 0)
    }

    pub(super) fn is_open(&self) -> bool {
        !(self.local_closed && self.remote_closed)
    }

    pub(super) fn is_reset(&self) -> bool {
        self.reset
    }

    pub(super) fn local_closed(&self) -> bool {
        self.local_closed
    }

    pub(super) fn remote_closed(&self) -> bool {
        self.remote_closed
    }

    /// Whether DATA may follow: a server's comes after its head.
    pub(super) fn may_send(&self) -> bool {
        !self.local_closed && (self.client || self.headed)
    }

    pub(super) fn headed(&self) -> bool {
        self.headed
    }

    pub(super) fn head(&mut self) {
        self.headed = true;
    }

    pub(super) fn taken(&self) -> bool {
        self.taken
    }

    pub(super) fn take(&mut self) {
        self.taken = true;
    }

    pub(super) fn room(&self) -> u32 {
        self.send.room()
    }

    /// Widens the send window; `false` if it is too wide then.
    pub(super) fn widen(&mut self, change: i64) -> bool {
        self.send.add(change)
    }

    pub(super) fn sent(&mut self, bytes: u32) {
        self.send.take(bytes);
    }

    /// Counts a frame's payload to the receive window; `false` if it is too much.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        self.receive.take(bytes)
    }

    /// Holds bytes for the reader. What the stream holds beyond its share is taken out of `advance`: so many bytes go back
    /// to the connection's window at once, so that a slow reader does not stop the other streams.
    pub(super) fn hold(&mut self, bytes: u32, advance: &mut u32) -> u32 {
        self.held = self.held.saturating_add(bytes);
        let over = self.held.saturating_sub(self.charged);
        let more = over.saturating_sub(self.advanced).min(*advance);
        *advance = advance.saturating_sub(more);
        self.advanced = self.advanced.saturating_add(more);
        more
    }

    /// Frees held bytes: how many go back to the connection's window, and the update that the peer is due.
    pub(super) fn release(&mut self, bytes: u32, advance: &mut u32) -> (u32, Option<u32>) {
        let freed = bytes.min(self.held);
        let back = self.let_go(freed, advance);
        (back, self.free(freed))
    }

    /// Frees held bytes, and puts back into `advance` what they had out of it.
    pub(super) fn let_go(&mut self, bytes: u32, advance: &mut u32) -> u32 {
        let freed = bytes.min(self.held);
        self.held = self.held.saturating_sub(freed);
        let over = self.held.saturating_sub(self.charged);
        let repaid = self.advanced.saturating_sub(over).min(freed);
        self.advanced = self.advanced.saturating_sub(repaid);
        *advance = advance.saturating_add(repaid);
        freed.saturating_sub(repaid)
    }

    /// Frees bytes that nobody held: padding.
    pub(super) fn free(&mut self, bytes: u32) -> Option<u32> {
        let update = self.receive.free(bytes);
        update.filter(|_| !self.remote_closed)
    }

    /// Ends our side; `true` if that closed the stream.
    pub(super) fn close_local(&mut self) -> bool {
        let open = self.is_open();
        self.local_closed = true;
        open && !self.is_open()
    }

    /// Ends the peer's side; `true` if that closed the stream.
    pub(super) fn close_remote(&mut self) -> bool {
        let open = self.is_open();
        self.remote_closed = true;
        open && !self.is_open()
    }

    pub(super) fn reset(&mut self) {
        self.reset = true;
        self.local_closed = true;
        self.remote_closed = true;
    }
}
