//! A TLS connection after its handshake: records opened where they were received and sealed where they are sent from.
//!
//! While nothing moves it holds no buffer. What it owes to the protocol (answers to key updates, alerts) goes out in order
//! with the data.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::io::buffers::{self, Size};
use crate::io::slots::Slots;
use crate::io::stream::Stream;
use crate::record::{PAYLOAD_BYTES, Received, RecordError, Records};

/// Less than this of a record is kept in a buffer of its own length while the rest is waited for.
const STUB_BYTES: usize = 512;
/// Most plaintext that one write takes; more is left to the next, when this is sent.
const WRITE_BYTES: usize = 4 * PAYLOAD_BYTES;

/// Sealed bytes that wait to be sent.
#[derive(Debug)]
struct Outgoing {
    block: Vec<u8>,
    at: usize,
    end: usize,
}

/// An established TLS connection over any carrier.
#[derive(Debug)]
pub struct Tls {
    carrier: Stream,
    records: Records,
    /// What was received and not opened yet.
    inbox: BytesMut,
    /// Of the buffer that `inbox` is in.
    held: Size,
    /// Of the buffer for the next read.
    size: Size,
    /// What was opened and not read yet.
    rest: Bytes,
    outgoing: Option<Outgoing>,
    /// It cannot go on; every further use fails.
    broken: bool,
    /// The last bytes are with the carrier, and its sending direction is ended.
    shut: bool,
}

fn failed(error: RecordError) -> io::Error {
    let kind = match error {
        RecordError::Truncated => io::ErrorKind::UnexpectedEof,
        RecordError::Misused | RecordError::Exhausted => io::ErrorKind::Other,
        RecordError::Unexpected(_)
        | RecordError::TooLong
        | RecordError::Forged
        | RecordError::Malformed(_)
        | RecordError::Illegal(_)
        | RecordError::Flood
        | RecordError::Renegotiation
        | RecordError::Alert(_)
        | RecordError::Rustls(_) => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

impl Tls {
    /// `early`: what came behind the handshake.
    #[must_use]
    pub(super) fn new(carrier: Stream, records: Records, early: &[u8]) -> Self {
        Self {
            carrier,
            records,
            inbox: BytesMut::from(early),
            held: Size::Small,
            size: Size::Small,
            rest: Bytes::new(),
            outgoing: None,
            broken: false,
            shut: false,
        }
    }

    /// What carries it.
    pub(super) fn carrier(&mut self) -> &mut Stream {
        &mut self.carrier
    }

    /// Whether slots fit its records.
    pub(super) fn takes_slots(&self) -> bool {
        self.records.is_tls13()
    }

    /// The next piece of what the peer sends, decrypted where it was received; `None` at its end. A piece keeps the whole
    /// buffer of its read alive: small ones that are kept for long are better copied.
    ///
    /// # Errors
    /// The carrier broke, the peer broke the protocol, or it ended without saying so.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if let Some(chunk) = self.buffered_chunk(cx)? {
                return Poll::Ready(Ok(Some(chunk)));
            }
            if self.records.peer_closed() {
                self.let_go();
                return Poll::Ready(Ok(None));
            }
            if self.outgoing.is_none() && self.records.owes() {
                // The reader does not wait for it; an error is the writer's, and comes again.
                self.pay()?;
                if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                    return Poll::Ready(Err(error));
                }
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Err(failed(RecordError::Truncated)));
            }
        }
    }

    /// The next piece of what is here already.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn buffered_chunk(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Bytes>> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        if self.broken {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        match self.open_next() {
            Ok(chunk) => Ok(chunk),
            Err(error) => {
                self.give_up(cx, &error);
                Err(failed(error))
            }
        }
    }

    fn open_next(&mut self) -> Result<Option<Bytes>, RecordError> {
        while !self.records.peer_closed() {
            match self.records.length(&self.inbox)? {
                Some(length) if length <= self.inbox.len() => {
                    let mut record = self.inbox.split_to(length);
                    match self.records.open(&mut record)? {
                        Received::Data(at) => {
                            record.truncate(at.end);
                            record.advance(at.start);
                            return Ok(Some(record.freeze()));
                        }
                        Received::Nothing | Received::Close => {}
                    }
                }
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Ready when there is something to take, or it is worth to try and receive. While there is not, no buffer is held.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let whole = match self.records.length(&self.inbox) {
            Ok(Some(length)) => length <= self.inbox.len(),
            Ok(None) => false,
            Err(_) => true,
        };
        let told = self.broken || self.records.peer_closed() || self.records.owes();
        if told || whole || !self.rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_carrier(cx)
    }

    fn poll_carrier(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.carrier.poll_readable(cx);
        if polled.is_pending() {
            self.size = Size::Small;
            self.let_go();
        }
        polled
    }

    /// Receives more; 0 at the end of the carrier.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.poll_carrier(cx))?;
        let size = self.size;
        let room = size.bytes().saturating_sub(self.inbox.len());
        if !self.inbox.try_reclaim(room) {
            self.move_inbox(size);
        }
        let room = self.inbox.capacity().saturating_sub(self.inbox.len());
        let polled = pin!(self.carrier.read_buf(&mut self.inbox)).poll(cx);
        match polled {
            Poll::Ready(Ok(n)) => self.size = size.next(n, room),
            Poll::Ready(Err(_)) => self.let_go(),
            Poll::Pending => {
                self.size = Size::Small;
                self.let_go();
            }
        }
        polled
    }

    /// Puts what was received into a buffer of this size.
    fn move_inbox(&mut self, size: Size) {
        let mut fresh = buffers::take(size);
        fresh.extend_from_slice(&self.inbox);
        buffers::give(std::mem::replace(&mut self.inbox, fresh));
        self.held = size;
    }

    /// Holds no more than what was received, or than one record takes.
    fn let_go(&mut self) {
        if self.inbox.len() < STUB_BYTES {
            let stub = BytesMut::from(&*self.inbox);
            buffers::give(std::mem::replace(&mut self.inbox, stub));
            self.held = Size::Small;
        } else if self.held > Size::Small && self.inbox.len() <= Size::Small.bytes() {
            self.move_inbox(Size::Small);
        }
    }

    /// Tells the peer why, as far as that goes out at once.
    fn give_up(&mut self, cx: &mut Context<'_>, error: &RecordError) {
        self.broken = true;
        if self.outgoing.is_none() {
            let mut alert = Vec::new();
            if self.records.give_up(error, &mut alert).is_ok() {
                self.queue(alert);
                if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                    tracing::trace!(%error, "alert was not sent");
                }
            }
        }
    }

    /// Records that were sealed and are not sent leave a gap, which the peer would take for an attack.
    fn spent(&mut self, error: RecordError) -> io::Error {
        self.broken = true;
        failed(error)
    }

    fn queue(&mut self, block: Vec<u8>) {
        let end = block.len();
        if end > 0 {
            self.outgoing = Some(Outgoing { block, at: 0, end });
        }
    }

    /// Queues what is owed; nothing may wait.
    fn pay(&mut self) -> io::Result<()> {
        let mut owed = Vec::new();
        self.records.pay(&mut owed).map_err(failed)?;
        self.queue(owed);
        Ok(())
    }

    /// Sends what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(outgoing) = &mut self.outgoing {
            let bytes = outgoing.block.get(outgoing.at..outgoing.end);
            let n = ready!(Pin::new(&mut self.carrier).poll_write(cx, bytes.unwrap_or_default()))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.at = outgoing.at.saturating_add(n);
            if outgoing.at >= outgoing.end
                && let Some(sent) = self.outgoing.take()
            {
                buffers::give_block(sent.block);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when everything before is with the carrier, so that slots can be sent.
    ///
    /// # Errors
    /// The carrier broke.
    pub fn poll_clear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_drain(cx))?;
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !self.records.owes() {
                return Poll::Ready(Ok(()));
            }
            self.pay()?;
        }
    }

    /// Seals `filled` bytes of the slots in place, with the frame headers before them, and sends them as far as the carrier
    /// takes them; the rest goes with the next `poll_clear`, which must have been ready before.
    ///
    /// # Errors
    /// The carrier broke, or the keys are exhausted.
    pub fn send_slots(
        &mut self,
        cx: &mut Context<'_>,
        slots: Slots,
        filled: usize,
    ) -> io::Result<()> {
        if self.outgoing.is_some() || !self.takes_slots() {
            slots.give();
            return Err(failed(RecordError::Misused));
        }
        let (mut block, records) = slots.into_records(filled);
        let mut end = 0;
        for payload in records {
            let sealed = self.records.seal(&mut block, payload);
            end = sealed.map_err(|error| self.spent(error))?.end;
        }
        self.outgoing = Some(Outgoing { block, at: 0, end });
        match self.poll_drain(cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Seals bytes of `bufs` into one block; how many. What lies in one piece is sealed from there, the rest is gathered.
    fn seal_copy(&mut self, bufs: &[io::IoSlice<'_>]) -> Result<usize, RecordError> {
        let total = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let total = total.min(WRITE_BYTES);
        let (head, tail) = self.records.room();
        let around = head.saturating_add(tail);
        let size = if total.saturating_add(around) <= Size::Small.bytes() {
            Size::Small
        } else {
            Size::Medium
        };
        let mut block = buffers::take_block(size);
        let mut pieces = bufs.iter().map(|buf| &**buf);
        let mut piece: &[u8] = &[];
        let (mut end, mut taken) = (0_usize, 0_usize);
        while taken < total {
            let start = end.saturating_add(head);
            let room = block.len().saturating_sub(start).saturating_sub(tail);
            let len = room.min(PAYLOAD_BYTES).min(total.saturating_sub(taken));
            // Of a version with longer headers one record less fits.
            if len == 0 {
                break;
            }
            while piece.is_empty()
                && let Some(next) = pieces.next()
            {
                piece = next;
            }
            let sealed = if let Some((now, later)) = piece.split_at_checked(len) {
                piece = later;
                self.records.seal_from(&mut block, start, now)?
            } else {
                let place = start..start.saturating_add(len);
                let to = block.get_mut(place.clone()).unwrap_or_default();
                gather(to, &mut piece, &mut pieces);
                self.records.seal(&mut block, place)?
            };
            end = sealed.end;
            taken = taken.saturating_add(len);
        }
        self.outgoing = Some(Outgoing { block, at: 0, end });
        Ok(taken)
    }
}

/// Fills `to` from `piece` and what follows it.
fn gather<'b>(mut to: &mut [u8], piece: &mut &'b [u8], rest: &mut impl Iterator<Item = &'b [u8]>) {
    while !to.is_empty() {
        if piece.is_empty() {
            let Some(next) = rest.next() else { return };
            *piece = next;
        }
        let n = piece.len().min(to.len());
        let (now, later) = piece.split_at_checked(n).unwrap_or_default();
        let (place, behind) = to.split_at_mut_checked(n).unwrap_or_default();
        place.copy_from_slice(now);
        (*piece, to) = (later, behind);
    }
}

impl AsyncRead for Tls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut chunk) = ready!(self.poll_chunk(cx))? else {
            return Poll::Ready(Ok(()));
        };
        let n = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk.split_to(n));
        self.rest = chunk;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tls {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_clear(cx))?;
        let taken = self.seal_copy(bufs).map_err(|error| self.spent(error))?;
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.carrier).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.poll_drain(cx))?;
            let mut last = Vec::new();
            self.records.close(&mut last).map_err(failed)?;
            self.queue(last);
            self.shut = true;
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.carrier).poll_flush(cx))?;
        Pin::new(&mut self.carrier).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
