//! A global allocator that counts for each thread by itself, as other tests of the process run beside: what it asks for,
//! and what it holds.
#![expect(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Passes everything on to the system's allocator.
pub(crate) struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Allocations of this thread while `f` runs.
pub(crate) fn asked_by<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED.get();
    let out = f();
    (out, ASKED.get() - before)
}

/// Bytes that this thread has allocated more than it has freed, as they were asked for.
pub(crate) fn held() -> usize {
    HELD.get()
}

fn hold(more: usize, less: usize) {
    HELD.set(HELD.get().wrapping_add(more).wrapping_sub(less));
}

// SAFETY: every call is passed on unchanged; counting neither allocates nor touches what is allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        hold(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        hold(0, layout.size());
        // SAFETY: `at` is of the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        hold(size, layout.size());
        // SAFETY: `at` is of the system's allocator, with this layout; the caller keeps the rest of the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}
