//! An allocator that counts what is allocated. A test that includes this declares
//! `#[global_allocator] static ALLOCATOR: Counting = Counting;`.
#![expect(unsafe_code, reason = "counting allocations means being the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are allocated, of all threads, and the most there were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The same of what this thread allocates, less what it frees.
    static HERE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    /// Allocations of this thread, and their bytes.
    static MADE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

pub(crate) struct Counting;

fn count(bytes: isize) {
    // A thread that ends has no counter any more.
    let _ = HERE.try_with(|here| {
        let (live, most) = here.get();
        here.set((live + bytes, most.max(live + bytes)));
    });
    if let Ok(bytes) = u64::try_from(bytes) {
        let _ = MADE.try_with(|made| made.set((made.get().0 + 1, made.get().1 + bytes)));
    }
}

// SAFETY: everything is handed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

/// What `work` returns, and by how much what all threads have allocated has grown: behind it, and
/// at most meanwhile. One such measurement at a time.
pub(crate) fn of_all_threads<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let done = work();
    let (after, most) = (LIVE.load(Ordering::Relaxed), MOST.load(Ordering::Relaxed));
    (done, after.saturating_sub(before), most - before)
}

/// Allocations of this thread, and their bytes, while `work` runs. What it returns is dropped.
pub(crate) fn allocations<T>(work: impl FnOnce() -> T) -> (u64, u64) {
    let before = MADE.get();
    let done = work();
    let after = MADE.get();
    drop(done);
    (after.0 - before.0, after.1 - before.1)
}

/// What `work` returns, and the most that this thread had allocated for it.
pub(crate) fn of_this_thread<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HERE.get().0;
    HERE.set((before, before));
    let done = work();
    (done, (HERE.get().1 - before) as usize)
}
