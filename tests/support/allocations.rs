//! A global allocator that counts: what a thread asks for, and what the process holds.
#![expect(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Passes everything on to the system's allocator.
pub(crate) struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Allocations of this thread while `f` runs.
pub(crate) fn asked_by<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = ASKED.get();
    let out = f();
    (out, ASKED.get() - before)
}

/// Bytes that are allocated and not freed, as they were asked for.
pub(crate) fn held() -> usize {
    HELD.load(Relaxed)
}

// SAFETY: every call is passed on unchanged; counting neither allocates nor touches what is allocated.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` is of the system's allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        HELD.fetch_add(size, Relaxed);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` is of the system's allocator, with this layout; the caller keeps the rest of the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}
