//! Room for records that are sealed where they were read: header room, payload, tail, one slot behind the other.
//!
//! A scattered read fills the payloads, whoever frames them writes into the header room, and as a slot is as long as a
//! full record the sealed ones lie end to end: one read, one send, no copy.

use std::io::IoSliceMut;
use std::ops::Range;

use crate::io::buffers::{self, LARGE_RECORDS, Size};
use crate::record::{HEADER_BYTES, PAYLOAD_BYTES, RECORD_BYTES};

/// Slots in one pooled block.
pub struct Slots {
    block: Vec<u8>,
    /// Of each slot what is left free before the bytes that are read: a frame header's length.
    frame: usize,
    count: usize,
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slots({})", self.count)
    }
}

impl Slots {
    /// As many slots as a block of this size holds, with room for a frame header of `frame` bytes in each (9 for HTTP/2,
    /// 0 without framing).
    #[must_use]
    pub(super) fn take(frame: usize, size: Size) -> Self {
        Self {
            block: buffers::take_block(size),
            frame: frame.min(PAYLOAD_BYTES),
            count: size.records(),
        }
    }

    /// Gives the block back unused.
    pub fn give(self) {
        buffers::give_block(self.block);
    }

    /// Bytes that one slot takes.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        PAYLOAD_BYTES.saturating_sub(self.frame)
    }

    /// Bytes that all slots take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.payload_bytes().saturating_mul(self.count)
    }

    /// Where a scattered read puts them, `most` bytes at the most.
    pub(super) fn payloads(&mut self, most: usize) -> [IoSliceMut<'_>; LARGE_RECORDS] {
        let (from, each) = (
            HEADER_BYTES.saturating_add(self.frame),
            self.payload_bytes(),
        );
        let mut left = most;
        let mut slots = self.block.chunks_exact_mut(RECORD_BYTES);
        std::array::from_fn(|_| {
            let len = left.min(each);
            left = left.saturating_sub(len);
            let slot = slots.next().unwrap_or_default();
            let slot = slot.get_mut(from..from.saturating_add(len));
            IoSliceMut::new(slot.unwrap_or_default())
        })
    }

    /// The first `filled` bytes that were read, if they lie in one slot.
    pub(super) fn only(&self, filled: usize) -> Option<&[u8]> {
        let from = HEADER_BYTES.saturating_add(self.frame);
        let within = filled <= self.payload_bytes();
        let bytes = within.then(|| self.block.get(from..from.saturating_add(filled)));
        bytes.flatten()
    }

    /// Has `write` fill the room for a frame header before each part of the `filled` bytes, by the part's length; `false`
    /// where it could not.
    pub(super) fn frame(
        &mut self,
        filled: usize,
        mut write: impl FnMut(&mut [u8], usize) -> bool,
    ) -> bool {
        let frame = self.frame;
        self.records(filled).all(|record| {
            let part = record.len().saturating_sub(frame);
            let head = record.start..record.start.saturating_add(frame);
            let head = self.block.get_mut(head);
            head.is_some_and(|head| write(head, part))
        })
    }

    /// For `filled` bytes that were read where each record's payload is in the block, frame header included.
    fn records(&self, filled: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (frame, each) = (self.frame, self.payload_bytes());
        let mut left = filled.min(self.capacity());
        let mut slot = 0_usize;
        std::iter::from_fn(move || {
            let len = left.min(each);
            if len == 0 {
                return None;
            }
            left = left.saturating_sub(len);
            let start = slot
                .saturating_mul(RECORD_BYTES)
                .saturating_add(HEADER_BYTES);
            slot = slot.saturating_add(1);
            Some(start..start.saturating_add(frame).saturating_add(len))
        })
    }

    /// The block, and as `records` says what is in it.
    pub(super) fn into_records(
        self,
        filled: usize,
    ) -> (Vec<u8>, impl Iterator<Item = Range<usize>> + use<>) {
        let records = self.records(filled);
        (self.block, records)
    }
}
