//! What a merge holds in RAM beside what the handle keeps: little of each row, and no vectors and codes.
#![expect(unsafe_code, reason = "counting allocations means being the allocator")]

mod support;

use matryo::{Collection, Options, Schema};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::Rng;

/// Bytes that are allocated, of all threads, and the most there were.
static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: everything is handed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIMS: usize = 512;
const ROWS: u64 = 20_000;
/// What is listed of a row while it is merged: where it is, its id, its rank, scalars of its codes.
const LISTED: usize = 80;

#[test]
fn a_merge_holds_no_codes() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let options = Options::new().ram_budget(0).background(false).memtable_bytes(16 << 20);
    let schema = Schema::builder(DIMS).build().expect("valid");
    let path = dir.path().join("a.matryo");
    let collection = Collection::create_with(&path, schema, options).expect("create");
    let mut rng = Rng(5);
    let mut bulk = collection.bulk().expect("bulk");
    (0..ROWS).for_each(|id| bulk.upsert(id, &rng.vector(DIMS), ()).expect("a row"));
    bulk.finish().expect("finish");
    let info = collection.info().expect("info");
    assert!(info.segments > 1, "there is something to merge");
    let codes: usize = collection
        .schema()
        .stages()
        .iter()
        .map(|code| code.dims * code.bits.count() as usize / 8)
        .sum();
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    collection.compact().expect("merge");
    let most = MOST.load(Ordering::Relaxed) - before;
    assert_eq!(collection.info().expect("info").segments, 1);
    let rows = ROWS as usize;
    assert!(codes > 2 * LISTED, "or this shows nothing");
    // Buffers, and groups of rows that are coded or written, take so much whatever their number.
    assert!(most < rows * LISTED + (2 << 20), "{most} bytes for {rows} rows");
    println!("{most} bytes for {rows} rows with codes of {codes} bytes");
}
