//! Compaction: what is merged, what is reclaimed, what is never lost.

use std::cell::Cell;
use std::path::Path;

use matryo::{Collection, Error, Options, Schema, json};

type Done = Result<(), Box<dyn std::error::Error>>;

fn vector(id: u64) -> [f32; 8] {
    let mut v = [1.0; 8];
    v[id as usize % 8] += id as f32;
    v
}

fn open(path: &Path, background: bool) -> matryo::Result<Collection> {
    let options = Options::new().background(background);
    if path.exists() {
        return Collection::open_with(path, options);
    }
    Collection::create_with(path, Schema::builder(8).build()?, options)
}

fn put(collection: &Collection, ids: std::ops::Range<u64>) -> matryo::Result<()> {
    let mut batch = collection.batch();
    for id in ids {
        batch.upsert(id, &vector(id), json!({"text": "x".repeat(500), "n": id}))?;
    }
    batch.commit()?;
    collection.flush()
}

/// Exactly the rows for which `living` says so are there, and are right.
fn check(collection: &Collection, ids: std::ops::Range<u64>, living: impl Fn(u64) -> bool) -> Done {
    for id in ids.clone() {
        let row = collection.get(id)?;
        assert_eq!(row.is_some(), living(id), "row {id}");
        if let Some(row) = row {
            assert_eq!(row.vector, vector(id));
            assert_eq!(row.payload["n"], json!(id));
        }
    }
    let expected = ids.filter(|id| living(*id)).count();
    assert_eq!(collection.len(), expected as u64);
    assert_eq!(collection.search(&[1.0; 8]).limit(usize::MAX).run()?.hits.len(), expected);
    collection.verify()?;
    Ok(())
}

#[test]
fn compaction_merges_segments_and_frees_the_bytes_of_dead_rows() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = open(&path, false)?;
    for start in (0..1000).step_by(100) {
        put(&collection, start..start + 100)?;
    }
    for id in (0..1000).filter(|id| id % 10 != 0) {
        collection.delete(id)?;
    }
    collection.flush()?;
    let before = collection.info()?;
    assert_eq!((before.segments, before.dead_rows), (10, 900));
    let done = collection.compact()?;
    assert_eq!((done.segments, done.rows, done.reclaimed), (10, 100, 900));
    let after = collection.info()?;
    assert_eq!((after.segments, after.dead_rows), (1, 0));
    assert!(after.disk_bytes * 4 < before.disk_bytes, "{} {}", after.disk_bytes, before.disk_bytes);
    check(&collection, 0..1000, |id| id % 10 == 0)?;
    assert_eq!(collection.compact()?, matryo::Compacted::default(), "nothing left to do");
    drop(collection);
    check(&open(&path, false)?, 0..1000, |id| id % 10 == 0)?;
    let files = std::fs::read_dir(&path)?.flatten().filter(|e| e.file_name() != "RESERVE");
    let bytes: u64 = files.map(|e| e.metadata().unwrap().len()).sum();
    assert!(bytes <= after.disk_bytes, "no stray files: {bytes}");
    Ok(())
}

#[test]
fn rows_that_die_or_change_while_segments_are_merged_stay_so() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = open(&path, false)?;
    put(&collection, 0..2000)?;
    put(&collection, 2000..4000)?;
    collection.delete(5)?;
    let once = Cell::new(true);
    collection.compact_with(|progress| {
        assert_eq!(progress.total, 3999);
        if once.replace(false) {
            collection.delete(7).expect("delete");
            collection.delete(2500).expect("delete");
            collection
                .upsert(2600, &vector(2600), json!({"n": 2600, "new": true}))
                .expect("upsert");
            collection.flush().expect("flush");
            collection.delete(8).expect("delete");
        }
        true
    })?;
    assert!(!once.get(), "the merge was interrupted");
    let living = |id| ![5, 7, 8, 2500].contains(&id);
    check(&collection, 0..4000, living)?;
    assert_eq!(collection.get(2600)?.expect("row").payload["new"], json!(true));
    drop(collection);
    let collection = open(&path, false)?;
    check(&collection, 0..4000, living)?;
    collection.compact()?;
    check(&collection, 0..4000, living)
}

#[test]
fn a_segment_that_dies_whole_while_it_is_merged_stays_dead() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = open(&dir.path().join("a"), false)?;
    put(&collection, 0..1500)?;
    put(&collection, 1500..3000)?;
    let once = Cell::new(true);
    collection.compact_with(|_| {
        if once.replace(false) {
            let mut batch = collection.batch();
            (0..1500).for_each(|id| {
                batch.delete(id).expect("delete");
            });
            batch.commit().expect("commit");
            collection.flush().expect("flush drops the segment");
        }
        true
    })?;
    check(&collection, 0..3000, |id| id >= 1500)
}

#[test]
fn an_ended_compaction_changes_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = open(&path, false)?;
    put(&collection, 0..1500)?;
    put(&collection, 1500..3000)?;
    let ended = collection.compact_with(|_| false);
    assert!(matches!(ended, Err(Error::Invalid { .. })), "{ended:?}");
    assert_eq!(collection.info()?.segments, 2);
    check(&collection, 0..3000, |_| true)?;
    drop(collection);
    check(&open(&path, false)?, 0..3000, |_| true)
}

#[test]
fn the_background_keeps_segments_few_and_the_lock_is_free_after_the_last_drop() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    for round in 0..6u64 {
        let collection = open(&path, true)?;
        for start in (0..1000).step_by(100) {
            put(&collection, round * 1000 + start..round * 1000 + start + 100)?;
            collection.delete(round * 1000 + start)?;
        }
        assert_eq!(collection.info()?.background_error, None);
    }
    // Each handle was closed while there was work; the last one gets to do it.
    let collection = open(&path, true)?;
    let patience = std::time::Instant::now() + std::time::Duration::from_mins(2);
    while collection.info()?.segments >= 12 {
        assert!(std::time::Instant::now() < patience, "{:?}", collection.info()?);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    check(&collection, 0..6000, |id| id % 100 != 0)
}

#[test]
fn searches_go_on_while_rows_are_written_and_merged() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = open(&dir.path().join("a"), true)?;
    put(&collection, 0..500)?;
    std::thread::scope(|scope| {
        let searcher = || {
            for _ in 0..200 {
                let result = collection.search(&[1.0; 8]).limit(usize::MAX).run().expect("search");
                let mut ids: Vec<_> = result.hits.iter().map(|h| h.id.clone()).collect();
                ids.sort();
                ids.dedup();
                assert_eq!(ids.len(), result.hits.len(), "a row was seen twice");
                // Each batch replaces 50 rows and adds 50: never a half of one.
                assert_eq!(ids.len() % 50, 0, "half a batch was seen: {}", ids.len());
            }
        };
        scope.spawn(searcher);
        scope.spawn(searcher);
        for round in 0..30u64 {
            let mut batch = collection.batch();
            for id in (round * 10..round * 10 + 50).chain(500 + round * 50..550 + round * 50) {
                batch.upsert(id, &vector(id), json!({"n": id})).expect("upsert");
            }
            batch.commit().expect("commit");
            if round % 3 == 0 {
                collection.flush().expect("flush");
            }
        }
    });
    check(&collection, 0..2000, |_| true)
}
