//! An allocator that wipes what is given back, so that what was secret in it is not in the process any more: also what
//! libraries copy it to, which wipe nothing themselves (a client secret in a header, in a buffer of HTTP, in a map of JSON).
//!
//! Threads whose work is bytes of strangers, the cores, are exempt: they hold no secret of this process in memory that they
//! give back, but for what its own type wipes, and the secrets of TLS sessions whose tickets rustls opens and seals there. What strangers send is left there, their tokens and cookies among it, and
//! what is made of it to go on: the ID token of a session in a header. A block that grows is moved, and what it was is wiped.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::hint::black_box;
use std::ptr;

use mimalloc::MiMalloc;

thread_local! {
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

/// Ends wiping for this thread, for good.
pub fn exempt() {
    EXEMPT.set(true);
}

/// The allocator of the program.
#[derive(Debug)]
pub struct Wiping;

/// The alignment that mimalloc gives without being asked (its `MI_MAX_ALIGN_SIZE`), to blocks that are no smaller.
const PLAIN_ALIGN: usize = 16;

/// Whether a block comes aligned without being asked for so. Of what is larger than a kilobyte mimalloc else takes more, to
/// align within it, and all its neighbours are then slower to free.
const fn is_plain(layout: Layout) -> bool {
    layout.align() <= PLAIN_ALIGN && layout.align() <= layout.size()
}

/// Fills a block with zeros.
///
/// # Safety
/// `at` may be written to, for `size` bytes.
#[inline(never)]
#[expect(unsafe_code, reason = "memory that nobody has any more")]
unsafe fn wipe(at: *mut u8, size: usize) {
    // SAFETY: the caller's.
    unsafe { ptr::write_bytes(at, 0, size) };
    // Written although nobody reads it before it is given back.
    black_box(at);
}

// SAFETY: every block is of `MiMalloc`, with the layout that it was asked for with; it is wiped when its owner has given it
// back, or moved what was in it.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Wiping {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_plain(layout) {
            // SAFETY: any size may be asked for.
            return unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the contract is the same.
        unsafe { MiMalloc.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_plain(layout) {
            // SAFETY: any size may be asked for.
            return unsafe { libmimalloc_sys::mi_zalloc(layout.size()) }.cast();
        }
        // SAFETY: the contract is the same.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if !EXEMPT.get() {
            // SAFETY: the block is this large, and its owner is done with it.
            unsafe { wipe(at, layout.size()) };
        }
        // SAFETY: the contract is the same.
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if EXEMPT.get() {
            if is_plain(layout) && layout.align() <= size {
                // SAFETY: the block is of this allocator, whichever of its calls it came by.
                return unsafe { libmimalloc_sys::mi_realloc(at.cast(), size) }.cast();
            }
            // SAFETY: the contract is the same.
            return unsafe { MiMalloc.realloc(at, layout, size) };
        }
        // SAFETY: the contract is that of `realloc`, which is this one's.
        unsafe { moved(at, layout, size) }
    }
}

/// A block of `size` bytes with what was in the one before, which is wiped and freed; null, and all as it was, if there is no
/// memory.
///
/// # Safety
/// That of `GlobalAlloc::realloc`.
#[inline(never)]
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe fn moved(at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
    // SAFETY: with this alignment, `size` is no more than an address can have: the caller's.
    let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
    // SAFETY: `size` is not zero: the caller's.
    let new = unsafe { MiMalloc.alloc(wanted) };
    if !new.is_null() {
        let both = layout.size().min(size);
        // SAFETY: both blocks are that large, and the new one was nobody's.
        unsafe { ptr::copy_nonoverlapping(at, new, both) };
        // SAFETY: the block is this large, and what was in it is in the other one.
        unsafe { wipe(at, layout.size()) };
        // SAFETY: it was allocated so, and its owner has the other one from here on.
        unsafe { MiMalloc.dealloc(at, layout) };
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_as_they_were_asked_for() {
        for align in [1, 2, 4, 8, 16, 32, 64, 4096] {
            // Sizes of all kinds, also such as are no multiple of the alignment.
            for size in (1..200).chain((200..40_000).step_by(97)) {
                let layout = Layout::from_size_align(size, align).unwrap();
                let (one, two) = (block_of(layout, false), block_of(layout, true));
                for at in [one, two] {
                    assert_eq!(at.align_offset(align), 0, "{layout:?}");
                }
                let (two, layout_of_two) = moved_to(two, layout, size.div_ceil(3).max(align));
                let (two, layout_of_two) = moved_to(two, layout_of_two, 2 * size);
                free(two, layout_of_two);
                free(one, layout);
            }
        }
    }

    /// Room of the allocator, with zeros if so wanted.
    #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
    fn block_of(layout: Layout, zeroed: bool) -> *mut u8 {
        let at = if zeroed {
            // SAFETY: its size is not zero.
            unsafe { Wiping.alloc_zeroed(layout) }
        } else {
            // SAFETY: its size is not zero.
            unsafe { Wiping.alloc(layout) }
        };
        assert!(!at.is_null(), "no memory");
        at
    }

    /// It in a block of `size` bytes, aligned as before, by a thread whose blocks are not wiped.
    #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
    fn moved_to(at: *mut u8, layout: Layout, size: usize) -> (*mut u8, Layout) {
        exempt();
        // SAFETY: it is of this allocator with this layout, and the size is not zero.
        let at = unsafe { Wiping.realloc(at, layout, size) };
        assert_eq!(at.align_offset(layout.align()), 0, "{layout:?} to {size}");
        (at, Layout::from_size_align(size, layout.align()).unwrap())
    }

    #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
    fn free(at: *mut u8, layout: Layout) {
        // SAFETY: it is of this allocator, and nobody uses it.
        unsafe { Wiping.dealloc(at, layout) };
    }

    const SECRET: &[u8] = b"hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 hunter2 ";

    /// A block with the secret in it.
    #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
    fn block(layout: Layout) -> *mut u8 {
        // SAFETY: the layout has a size.
        let at = unsafe { Wiping.alloc(layout) };
        // SAFETY: the block is larger.
        unsafe { ptr::copy_nonoverlapping(SECRET.as_ptr(), at, SECRET.len()) };
        at
    }

    /// Whether memory that was just given back still holds the end of the secret; the allocator keeps its list of free blocks
    /// in the beginning.
    #[expect(unsafe_code, reason = "looks at what is mapped, but nobody's")]
    fn holds(at: *mut u8) -> bool {
        // SAFETY: the page is still mapped, since another block of it is in use, and this thread alone has it.
        let left = unsafe { std::slice::from_raw_parts(at, SECRET.len()) };
        left.ends_with(b"hunter2 hunter2 ")
    }

    fn on_a_thread(exempts: bool) -> [bool; 2] {
        let test = move || {
            if exempts {
                exempt();
            }
            let layout = Layout::from_size_align(SECRET.len(), 8).expect("layout");
            let (keeps, freed) = (block(layout), block(layout));
            // SAFETY: it was allocated so.
            #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
            unsafe {
                Wiping.dealloc(freed, layout);
            };
            let after_free = holds(freed);
            let grown = block(layout);
            // SAFETY: it was allocated so.
            #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
            let larger = unsafe { Wiping.realloc(grown, layout, 4096) };
            // What is left where it was, and what is in the new place.
            let after_growth = holds(grown);
            assert!(holds(larger) && holds(keeps));
            [after_free, after_growth]
        };
        std::thread::scope(|scope| scope.spawn(test).join()).expect("no panic")
    }

    #[test]
    fn what_is_given_back_is_wiped() {
        assert_eq!(on_a_thread(false), [false, false]);
    }

    #[test]
    fn not_on_threads_that_are_exempt() {
        assert_eq!(on_a_thread(true), [true, true]);
    }
}
