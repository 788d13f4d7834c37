//! Buffers of a core: taken when there are bytes to move, given back when there are none, so that an idle connection
//! holds none.
//!
//! Three sizes: one TLS record for a quiet connection, more for one that moves much. What is not kept is freed.

use std::cell::RefCell;

use bytes::BytesMut;

use crate::record::RECORD_BYTES;
use crate::vocab::limits;

/// Records that a large buffer holds.
pub(super) const LARGE_RECORDS: usize = 16;
const MEDIUM_RECORDS: usize = 4;
/// A small buffer: the longest record of TLS 1.3 that a peer may send, padding included.
const SMALL_BYTES: usize = RECORD_BYTES + 240;
const MEDIUM_BYTES: usize = RECORD_BYTES * MEDIUM_RECORDS;
const LARGE_BYTES: usize = RECORD_BYTES * LARGE_RECORDS;

/// Which size is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Size {
    /// For one record.
    #[default]
    Small,
    /// For four.
    Medium,
    /// For `LARGE_RECORDS`.
    Large,
}

impl Size {
    /// Length in bytes.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Small => SMALL_BYTES,
            Self::Medium => MEDIUM_BYTES,
            Self::Large => LARGE_BYTES,
        }
    }

    /// Full records that fit.
    pub(super) fn records(self) -> usize {
        match self {
            Self::Small => 1,
            Self::Medium => MEDIUM_RECORDS,
            Self::Large => LARGE_RECORDS,
        }
    }

    /// The size for the next read, when one into this size found `n` bytes for a room of `room`: what is filled grows,
    /// what is mostly empty shrinks.
    pub(super) fn next(self, n: usize, room: usize) -> Self {
        let full = n >= room;
        match self {
            Self::Small if full => Self::Medium,
            Self::Medium | Self::Large if full => Self::Large,
            Self::Large if n > MEDIUM_BYTES => Self::Large,
            Self::Medium | Self::Large if n > SMALL_BYTES => Self::Medium,
            Self::Small | Self::Medium | Self::Large => Self::Small,
        }
    }

    fn kept(self) -> usize {
        match self {
            Self::Small => limits::SMALL_BUFFERS_PER_CORE,
            Self::Medium | Self::Large => limits::LARGE_BUFFERS_PER_CORE,
        }
    }
}

#[derive(Default)]
struct Free {
    received: [Vec<BytesMut>; 3],
    blocks: [Vec<Vec<u8>>; 3],
}

thread_local! {
    static FREE: RefCell<Free> = RefCell::default();
}

fn of<T>(lists: &mut [T; 3], size: Size) -> &mut T {
    let [small, medium, large] = lists;
    match size {
        Size::Small => small,
        Size::Medium => medium,
        Size::Large => large,
    }
}

/// An empty buffer to receive into.
pub(super) fn take(size: Size) -> BytesMut {
    FREE.with_borrow_mut(|free| of(&mut free.received, size).pop())
        .unwrap_or_else(|| BytesMut::with_capacity(size.bytes()))
}

/// Gives back a buffer that was received into; it is kept only if nobody else holds a part of it.
pub(super) fn give(mut buffer: BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    let left = buffer.capacity();
    buffer.clear();
    // Most are small: a look for more would not find it.
    if !buffer.try_reclaim(SMALL_BYTES) {
        return;
    }
    // One of which that much was left may be any: it is small if it has no byte more.
    let is_small = buffer.capacity() == SMALL_BYTES
        && (left < SMALL_BYTES || !buffer.try_reclaim(SMALL_BYTES.saturating_add(1)));
    let sizes: &[Size] = if is_small {
        &[Size::Small]
    } else {
        &[Size::Large, Size::Medium, Size::Small]
    };
    for size in sizes.iter().copied() {
        if buffer.try_reclaim(size.bytes()) {
            FREE.with_borrow_mut(|free| {
                let list = of(&mut free.received, size);
                if list.len() < size.kept() {
                    list.push(buffer);
                }
            });
            return;
        }
    }
}

/// An initialised block of exactly `size.bytes()`, with any content.
pub(super) fn take_block(size: Size) -> Vec<u8> {
    FREE.with_borrow_mut(|free| of(&mut free.blocks, size).pop())
        .unwrap_or_else(|| vec![0; size.bytes()])
}

/// Gives back a block; one of another length is freed.
pub(super) fn give_block(block: Vec<u8>) {
    for size in [Size::Small, Size::Medium, Size::Large] {
        if block.len() == size.bytes() {
            FREE.with_borrow_mut(|free| {
                let list = of(&mut free.blocks, size);
                if list.len() < size.kept() {
                    list.push(block);
                }
            });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again() {
        let mut buffer = take(Size::Large);
        buffer.extend_from_slice(b"data");
        let at = buffer.as_ptr();
        let held = buffer.split_to(2);
        // A part is still held: another buffer comes.
        give(buffer);
        let other = take(Size::Large);
        assert_ne!(other.as_ptr(), at);
        drop(held);
        let at = other.as_ptr();
        give(other);
        let again = take(Size::Large);
        assert_eq!(again.as_ptr(), at);
        assert_eq!(again.capacity(), Size::Large.bytes());
        let block = take_block(Size::Small);
        let at = block.as_ptr();
        give_block(block);
        let again = take_block(Size::Small);
        assert_eq!(again.as_ptr(), at);
    }

    #[test]
    fn what_is_large_is_kept_as_such_however_much_of_it_was_used() {
        for size in [Size::Medium, Size::Large] {
            for left in [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1] {
                let mut buffer = take(size);
                buffer.resize(size.bytes() - left, 0);
                drop(buffer.split());
                give(buffer);
                let small = FREE.with_borrow_mut(|free| of(&mut free.received, Size::Small).len());
                assert_eq!(small, 0, "{size:?} with {left} left");
                assert_eq!(take(size).capacity(), size.bytes());
            }
        }
    }

    #[test]
    fn sizes_follow_what_is_read() {
        let mut size = Size::Small;
        for (n, want) in [
            (100, Size::Small),
            (16_384, Size::Medium),
            (65_536, Size::Large),
            (262_144, Size::Large),
            (100_000, Size::Large),
            (50_000, Size::Medium),
            (20_000, Size::Medium),
            (16_384, Size::Small),
        ] {
            size = size.next(n, size.records() * 16_384);
            assert_eq!(size, want);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let many: Vec<Vec<u8>> = (0..limits::LARGE_BUFFERS_PER_CORE + 3)
            .map(|_| take_block(Size::Large))
            .collect();
        many.into_iter().for_each(give_block);
        let kept = FREE.with_borrow_mut(|free| of(&mut free.blocks, Size::Large).len());
        assert_eq!(kept, limits::LARGE_BUFFERS_PER_CORE);
    }
}
