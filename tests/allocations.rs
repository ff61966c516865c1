//! What a repeated query allocates once a thread has searched before: a handful of small
//! things whose number does not grow with the rows, the shortlist or the dimensions.
#![expect(unsafe_code, reason = "counting allocations means being the allocator")]

mod support;

use matryo::testing::Folder;
use matryo::{Collection, Funnel, Options, Precision, Schema};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use support::Rng;

thread_local! {
    /// Allocations of this thread, and their bytes.
    static COUNT: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

struct Counting;

fn note(bytes: usize) {
    // Threads that are ending have no counter any more.
    let _ = COUNT.try_with(|c| c.set((c.get().0 + 1, c.get().1 + bytes as u64)));
}

// SAFETY: everything is handed on to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn filled(rows: u64, dims: usize, stored: Precision) -> Collection {
    let schema = Schema::builder(dims).granularities([32, 64]).stored(stored);
    let schema = schema.build().expect("valid");
    let collection = Folder::default().create(schema, Options::new()).expect("create");
    let mut rng = Rng(rows);
    let mut batch = collection.batch();
    for id in 0..rows {
        batch.upsert(id, &rng.vector(dims), ()).expect("fits");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    collection
}

/// Allocations and bytes of one search, after two that are not counted.
fn of_search(collection: &Collection, query: &[f32], funnel: &Funnel) -> (u64, u64) {
    let search = || {
        let result = collection.search(query).funnel(funnel.clone()).run().expect("search");
        assert_eq!(result.hits.len(), 10);
    };
    search();
    search();
    let before = COUNT.get();
    search();
    let after = COUNT.get();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn a_repeated_query_allocates_the_same_few_times_whatever_the_rows() {
    for stored in Precision::ALL {
        let query = Rng(7).vector(1024);
        let small = filled(2000, 1024, stored);
        let large = filled(9000, 1024, stored);
        let by_hand = Funnel::stages([(64, 400), (512, 100)]);
        for funnel in [Funnel::recall(0.8), Funnel::recall(0.95), Funnel::exact(), by_hand] {
            let (few, many) =
                (of_search(&small, &query, &funnel), of_search(&large, &query, &funnel));
            println!("{stored} {funnel:?}: {few:?}, with more rows {many:?} (number, bytes)");
            assert!(few.0 <= MOST && many.0 <= MOST, "{funnel:?}: {few:?} {many:?}");
            // Names and numbers of the report; what is read goes to buffers that are kept.
            assert!(many.1 < 32 * 1024, "{funnel:?}: {} bytes", many.1);
        }
    }
}

/// Most allocations of one search: see ARCHITECTURE.md, "Memory of a search".
const MOST: u64 = 32;
