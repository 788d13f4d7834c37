//! What waits to be written to a connection of tunnels: small frames of all streams side by side, large payloads as they
//! are, all in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::hbone::Session;
use crate::vocab::limits;

/// A payload below this is copied beside its frame's head. A longer one gets memory of its own even if it has to be copied:
/// on some processors a long copy is slow by a factor of 25 where its target lies a few bytes behind its source, counted
/// within a page, and buffers that begin with a page do so behind a frame's head.
const COPIED_BYTES: usize = 2048;
/// Where small frames stop being gathered in one piece.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces of one write.
pub(super) const SLICES: usize = 32;

/// The queue. While it is empty it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Bytes>,
    /// Behind all pieces: small frames.
    small: BytesMut,
    len: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether streams must wait, and the peer with them.
    pub(super) fn is_full(&self) -> bool {
        self.len >= limits::HBONE_OUTBOX_BYTES
    }

    /// Whether those that waited may go on: with the first byte of room they would come one by one.
    pub(super) fn has_room(&self) -> bool {
        self.len <= limits::HBONE_OUTBOX_BYTES / 2
    }

    /// Takes what the session has to send.
    pub(super) fn take(&mut self, session: &mut Session) {
        if !session.output().is_empty() {
            self.copy(session.output());
            session.sent();
        }
    }

    /// Appends few bytes.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        if self.small.len() >= PIECE_BYTES {
            self.close_small();
        }
        self.small.extend_from_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// Appends a payload of somebody else.
    pub(super) fn copy_payload(&mut self, bytes: &[u8]) {
        if bytes.len() < COPIED_BYTES {
            self.copy(bytes);
        } else {
            self.push(Bytes::copy_from_slice(bytes));
        }
    }

    /// Appends a payload, without copying a large one.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.len() < COPIED_BYTES {
            return self.copy(&bytes);
        }
        self.close_small();
        self.len = self.len.saturating_add(bytes.len());
        self.pieces.push_back(bytes);
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
    }

    /// What a write takes next; how many of `slices` are filled.
    pub(super) fn fill<'b>(&'b self, slices: &mut [IoSlice<'b>; SLICES]) -> usize {
        let small = (!self.small.is_empty()).then_some(&self.small[..]);
        let all = self.pieces.iter().map(|piece| &piece[..]).chain(small);
        let mut n = 0_usize;
        for (slice, bytes) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(bytes);
            n = n.saturating_add(1);
        }
        n
    }

    /// Drops what was written.
    pub(super) fn wrote(&mut self, mut n: usize) {
        self.len = self.len.saturating_sub(n);
        while let Some(first) = self.pieces.front_mut() {
            let part = first.len().min(n);
            first.advance(part);
            n = n.saturating_sub(part);
            if !first.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.small.advance(n.min(self.small.len()));
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(outbox: &Outbox) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let n = outbox.fill(&mut slices);
        slices[..n].iter().flat_map(|s| s.to_vec()).collect()
    }

    #[test]
    fn order_is_kept_and_large_payloads_are_not_copied() {
        let mut outbox = Outbox::default();
        let large = Bytes::from(vec![b'L'; COPIED_BYTES]);
        outbox.copy(b"one");
        outbox.push(large.clone());
        outbox.copy(b"two");
        outbox.push(Bytes::from_static(b"three"));
        let want = [b"one", &large[..], b"twothree"].concat();
        assert_eq!(all(&outbox), want);
        assert_eq!(outbox.pieces[1].as_ptr(), large.as_ptr());
        // However it is written.
        let mut at = 0;
        for n in [1, 2, 5, COPIED_BYTES - 5, 3, 4] {
            outbox.wrote(n);
            at += n;
            assert_eq!(all(&outbox), want[at..]);
        }
        outbox.wrote(1);
        assert!(outbox.is_empty() && all(&outbox).is_empty());
        assert_eq!((outbox.small.capacity(), outbox.pieces.capacity()), (0, 0));
    }

    #[test]
    fn it_is_full_until_half_is_written() {
        let mut outbox = Outbox::default();
        outbox.push(vec![0; limits::HBONE_OUTBOX_BYTES].into());
        assert!(outbox.is_full() && !outbox.has_room());
        outbox.wrote(1);
        assert!(!outbox.is_full() && !outbox.has_room());
        outbox.wrote(limits::HBONE_OUTBOX_BYTES / 2);
        assert!(outbox.has_room());
    }
}
