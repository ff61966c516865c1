//! What an open and a merge hold in RAM.

mod support;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use matryo::{Collection, Options, Schema};
use support::Rng;
use support::counting::{Counting, of_all_threads};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: what is counted is of all threads.
static ALONE: Mutex<()> = Mutex::new(());

const DIMS: usize = 512;
const ROWS: u64 = 20_000;
/// What is listed of a row while it is merged: where it is, its id, its rank, scalars of its codes.
const LISTED: usize = 80;

/// What a merge holds beside what the handle keeps: little of each row, and no vectors and codes.
#[test]
fn a_merge_holds_no_codes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
    let (_, _, most) = of_all_threads(|| collection.compact().expect("merge"));
    assert_eq!(collection.info().expect("info").segments, 1);
    let rows = ROWS as usize;
    assert!(codes > 2 * LISTED, "or this shows nothing");
    // Buffers, and groups of rows that are coded or written, take so much whatever their number.
    assert!(most < rows * LISTED + (2 << 20), "{most} bytes for {rows} rows");
    println!("{most} bytes for {rows} rows with codes of {codes} bytes");
}

/// A collection of `rows` rows, in so many segments.
fn in_segments(path: &Path, rows: u64, segments: u64) {
    let schema = Schema::builder(64).build().expect("valid");
    let options = Options::new().background(false);
    let collection = Collection::create_with(path, schema, options).expect("create");
    let mut rng = Rng(7);
    for segment in 0..segments {
        let mut bulk = collection.bulk().expect("bulk");
        for id in segment * rows / segments..(segment + 1) * rows / segments {
            bulk.upsert(id, &rng.vector(64), ()).expect("a row");
        }
        bulk.finish().expect("finish");
    }
    assert_eq!(collection.info().expect("info").segments as u64, segments);
}

/// Without codes in RAM an open keeps at most 64 KiB, and 3 KiB for each segment (asked was 1; it
/// is 2.8: tables of regions, paths); and meanwhile it takes no more than as much again.
#[test]
fn an_open_takes_little_of_each_segment_and_nothing_of_each_row() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("temporary folder");
    for (rows, segments) in [(4000, 1), (4000, 40), (40_000, 1), (40_000, 40)] {
        let path = dir.path().join(format!("{rows}-{segments}"));
        in_segments(&path, rows, segments);
        for read_only in [true, false] {
            let options = Options::new().background(false).ram_budget(0).read_only(read_only);
            let open = || Collection::open_with(&path, options).expect("open");
            let (collection, kept, most) = of_all_threads(open);
            assert_eq!(collection.len(), rows);
            println!("{rows} rows, {segments} segments: {kept} bytes kept, {most} at most");
            let bound = (64 << 10) + 3 * 1024 * segments as usize;
            assert!(kept <= bound, "{rows} rows, {segments} segments: {kept} of {bound}");
            assert!(most <= 2 * bound, "{rows} rows, {segments} segments: {most} meanwhile");
        }
    }
}
