//! The system's allocator, with an account of each thread: what it holds, and the most it held.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

pub struct Counting;

// SAFETY: all work is the system allocator's; the accounts allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        book(layout.size() as isize);
        // SAFETY: the caller keeps alloc's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        book(-(layout.size() as isize));
        // SAFETY: the caller keeps dealloc's contract.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there at once.
        book(size as isize);
        book(-(layout.size() as isize));
        // SAFETY: the caller keeps realloc's contract.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

fn book(bytes: isize) {
    // A thread that ends has no account any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        MOST.with(|most| most.set(most.get().max(held.get())));
    });
}

/// Bytes that this thread took and did not give back.
pub fn held() -> isize {
    HELD.with(Cell::get)
}

/// The most bytes that `work` held at once, beyond what was held before.
pub fn most_in<T>(work: impl FnOnce() -> T) -> (T, isize) {
    let before = held();
    MOST.with(|most| most.set(before));
    let done = work();
    (done, MOST.with(Cell::get) - before)
}
