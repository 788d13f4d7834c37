//! What waits to be written to an HTTP/2 connection: small frames of all streams side by side, large payloads as they
//! are, all in order.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes, BytesMut};

use crate::h2::{Heads, Session};
use crate::io::buffers::{self, Size};
use crate::io::slots::Slots;
use crate::vocab::limits;

/// A payload below this is copied beside its frame's head. A longer one gets memory of its own even if it has to be copied:
/// on some processors a long copy is slow by a factor of 25 where its target lies a few bytes behind its source, counted
/// within a page, and buffers that begin with a page do so behind a frame's head.
pub(super) const COPIED_BYTES: usize = 2048;
/// Where small frames stop being gathered in one piece.
const PIECE_BYTES: usize = 16 * 1024;
/// Small frames up to here have memory of their own length. More of them are gathered in a buffer of the core: to grow to
/// what the streams of a busy connection send at once would move all that is there, again and again.
const LONE_BYTES: usize = 1024;
/// Pieces of one write.
pub(super) const SLICES: usize = 32;

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    /// Frames in records, and how many bytes of the slots are filled.
    Slots(Slots, usize),
}

/// The queue. While it is empty it holds no memory.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pieces: VecDeque<Piece>,
    /// Behind all pieces: small frames.
    small: BytesMut,
    len: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether streams must wait, and the peer with them.
    pub(super) fn is_full(&self) -> bool {
        self.len >= limits::H2_OUTBOX_BYTES
    }

    /// Whether those that waited may go on: with the first byte of room they would come one by one.
    pub(super) fn has_room(&self) -> bool {
        self.len <= limits::H2_OUTBOX_BYTES / 2
    }

    /// Takes what the session has to send.
    pub(super) fn take<H: Heads>(&mut self, session: &mut Session<H>) {
        if !session.output().is_empty() {
            self.copy(session.output());
            session.sent();
        }
    }

    /// Appends few bytes.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        let most = Size::Small.bytes().saturating_sub(bytes.len());
        if self.small.len() >= PIECE_BYTES.min(most) {
            self.close_small();
            // What is left behind the piece is a sliver that shares its memory: grown, it would be a buffer that the core does not keep.
            self.small = BytesMut::new();
        }
        self.make_room(bytes.len());
        self.small.extend_from_slice(bytes);
        self.len = self.len.saturating_add(bytes.len());
    }

    /// Has room behind the small frames.
    fn make_room(&mut self, more: usize) {
        let len = self.small.len().saturating_add(more);
        let moves = len > self.small.capacity();
        let many = len > LONE_BYTES || !self.pieces.is_empty();
        if moves && many && len <= Size::Small.bytes() {
            let mut gathered = buffers::take(Size::Small);
            gathered.extend_from_slice(&self.small);
            buffers::give(std::mem::replace(&mut self.small, gathered));
        }
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
        self.pieces.push_back(Piece::Bytes(bytes));
    }

    /// Appends frames that lie in slots, for a stream that takes them.
    pub(super) fn push_slots(&mut self, slots: Slots, filled: usize) {
        self.close_small();
        self.len = self.len.saturating_add(filled);
        self.pieces.push_back(Piece::Slots(slots, filled));
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            let small = self.small.split().freeze();
            self.pieces.push_back(Piece::Bytes(small));
        }
    }

    /// Whether slots are next.
    pub(super) fn has_slots_first(&self) -> bool {
        matches!(self.pieces.front(), Some(Piece::Slots(..)))
    }

    /// Takes the slots that are next, as sent.
    pub(super) fn take_slots(&mut self) -> Option<(Slots, usize)> {
        match self.pieces.pop_front()? {
            Piece::Slots(slots, filled) => {
                self.len = self.len.saturating_sub(filled);
                self.settle();
                Some((slots, filled))
            }
            other @ Piece::Bytes(_) => {
                self.pieces.push_front(other);
                None
            }
        }
    }

    fn settle(&mut self) {
        if self.is_empty() {
            buffers::give(std::mem::take(self).small);
        }
    }

    /// What a write takes next, up to the next slots; how many of `slices` are filled.
    pub(super) fn fill<'b>(&'b self, slices: &mut [IoSlice<'b>; SLICES]) -> usize {
        let mut to = slices.iter_mut();
        let mut n = 0_usize;
        let mut put = |bytes: &'b [u8]| {
            let slice = to.next();
            let is_room = slice.is_some();
            if let Some(slice) = slice {
                *slice = IoSlice::new(bytes);
                n = n.saturating_add(1);
            }
            is_room
        };
        let whole = self.pieces.iter().all(|piece| match piece {
            Piece::Bytes(bytes) => put(bytes),
            Piece::Slots(..) => false,
        });
        if whole && !self.small.is_empty() {
            put(&self.small);
        }
        n
    }

    /// Drops what was written.
    pub(super) fn wrote(&mut self, mut n: usize) {
        self.len = self.len.saturating_sub(n);
        while let Some(Piece::Bytes(first)) = self.pieces.front_mut() {
            let part = first.len().min(n);
            first.advance(part);
            n = n.saturating_sub(part);
            if !first.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        if self.pieces.is_empty() {
            self.small.advance(n.min(self.small.len()));
        }
        self.settle();
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
        let Piece::Bytes(second) = &outbox.pieces[1] else {
            panic!()
        };
        assert_eq!(second.as_ptr(), large.as_ptr());
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
    fn small_frames_are_gathered_in_a_buffer_of_the_core() {
        let mut outbox = Outbox::default();
        outbox.copy(&[0; LONE_BYTES]);
        assert!(outbox.small.capacity() < Size::Small.bytes());
        let mut want = vec![0; LONE_BYTES];
        let mut first = None;
        for n in 1..=u8::MAX {
            outbox.copy(&[n; 300]);
            want.extend([n; 300]);
            let first = *first.get_or_insert(outbox.small.as_ptr());
            // In its place until it is full, and then it is a piece.
            match outbox.pieces.front() {
                None => {
                    assert_eq!(outbox.small.as_ptr(), first);
                    assert_eq!(outbox.small.capacity(), Size::Small.bytes());
                }
                Some(Piece::Bytes(piece)) => assert_eq!(piece.as_ptr(), first),
                Some(Piece::Slots(..)) => panic!(),
            }
        }
        assert_eq!(all(&outbox), want);
        assert!(outbox.pieces.len() >= 4);
        // Longer than any such buffer.
        let long = vec![b'l'; 2 * Size::Small.bytes()];
        outbox.copy(&long);
        want.extend(&long);
        assert_eq!(all(&outbox), want);
        outbox.wrote(want.len());
        // It comes back.
        outbox.copy(&[0; 2 * LONE_BYTES]);
        let at = outbox.small.as_ptr();
        outbox.wrote(2 * LONE_BYTES);
        assert_eq!(buffers::take(Size::Small).as_ptr(), at);
    }

    #[test]
    fn slots_are_taken_between_what_is_written() {
        let mut outbox = Outbox::default();
        outbox.copy(b"before");
        outbox.push_slots(Slots::take(9, Size::Medium), 20_000);
        outbox.copy(b"behind");
        assert!(!outbox.has_slots_first() && outbox.take_slots().is_none());
        assert_eq!(all(&outbox), b"before");
        outbox.wrote(6);
        assert!(outbox.has_slots_first() && all(&outbox).is_empty());
        assert_eq!(
            outbox.take_slots().map(|(_slots, filled)| filled),
            Some(20_000)
        );
        assert_eq!(all(&outbox), b"behind");
        outbox.wrote(6);
        assert!(outbox.is_empty());
    }

    #[test]
    fn it_is_full_until_half_is_written() {
        let mut outbox = Outbox::default();
        outbox.push(vec![0; limits::H2_OUTBOX_BYTES].into());
        assert!(outbox.is_full() && !outbox.has_room());
        outbox.wrote(1);
        assert!(!outbox.is_full() && !outbox.has_room());
        outbox.wrote(limits::H2_OUTBOX_BYTES / 2);
        assert!(outbox.has_room());
    }
}
