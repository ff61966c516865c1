//! Copies, rewrites and merges: how far they are, how they are called off, how many files they make.

use std::cell::RefCell;
use std::path::Path;

use matryo::{Collection, CopyOptions, Error, Options, Progress, Schema, json};

type Done = Result<(), Box<dyn std::error::Error>>;

fn vector(id: u64) -> [f32; 4] {
    [1.0, id as f32, (id % 7) as f32, 0.5]
}

/// Rows with these ids, in a segment for each range.
fn filled(path: &Path, ranges: &[std::ops::Range<u64>]) -> matryo::Result<Collection> {
    let options = Options::new().background(false);
    let collection = Collection::create_with(path, Schema::builder(4).build()?, options)?;
    for ids in ranges {
        let mut batch = collection.batch();
        for id in ids.clone() {
            batch.upsert(id, &vector(id), json!({"n": id}))?;
        }
        batch.commit()?;
        collection.flush()?;
    }
    Ok(collection)
}

/// Everything that was told, and yes until all is done.
fn telling(told: &RefCell<Vec<(u64, u64)>>, at_the_end: bool) -> impl Fn(Progress) -> bool {
    move |now| {
        told.borrow_mut().push((now.done, now.total));
        at_the_end || now.done < now.total
    }
}

#[test]
fn progress_is_told_before_the_first_row_and_when_all_are_written() -> Done {
    for (rows, expected) in [
        (5, vec![(0, 5), (5, 5)]),
        (1024, vec![(0, 1024), (1024, 1024)]),
        (2000, vec![(0, 2000), (1024, 2000), (2000, 2000)]),
    ] {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let half = rows / 2;
        let db = filled(&at("a"), &[0..half, half..rows])?;
        let told = RefCell::default();
        db.copy_with(at("b"), &CopyOptions::new(), telling(&told, true))?;
        assert_eq!(told.take(), expected, "copy");
        db.compact_with(telling(&told, true))?;
        assert_eq!(told.take(), expected, "compact");
        drop(db);
        Collection::drop_tier_with(at("a"), &CopyOptions::new().dims(2), telling(&told, true))?;
        assert_eq!(told.take(), expected, "drop_tier");
    }
    Ok(())
}

#[test]
fn what_is_called_off_at_its_very_end_changes_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let db = filled(&at("a"), &[0..3, 3..5])?;
    let (told, short) = (RefCell::default(), CopyOptions::new().dims(2));
    let files = || std::fs::read_dir(at("a")).expect("folder").count();
    let before = files();
    let copied = db.copy_with(at("b"), &short, telling(&told, false));
    assert!(matches!(copied, Err(Error::Cancelled { .. })), "{copied:?}");
    assert!(!at("b").exists());
    let merged = db.compact_with(telling(&told, false));
    assert!(matches!(merged, Err(Error::Cancelled { .. })), "{merged:?}");
    assert_eq!((db.info()?.segments, files()), (2, before), "nothing is left of it");
    drop(db);
    for at_once in [true, false] {
        let never = |now: Progress| !at_once && now.done < now.total;
        let shortened = Collection::drop_tier_with(at("a"), &short, never);
        assert!(matches!(shortened, Err(Error::Cancelled { .. })), "{shortened:?}");
    }
    let db = Collection::open(at("a"))?;
    assert_eq!((db.schema().dims(), db.len(), files()), (4, 5, before));
    assert_eq!(db.get(4)?.expect("a row").vector, vector(4));
    Ok(())
}

#[test]
fn without_memory_there_are_few_segments_all_the_same() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let db = filled(&at("a"), &[0..2000])?;
    db.copy_to(at("b"), &CopyOptions::new().memory(0))?;
    let copy = Collection::open(at("b"))?;
    assert_eq!(copy.len(), 2000);
    assert!(copy.info()?.segments < 100, "{} segments", copy.info()?.segments);
    let options = Options::new().background(false).memtable_bytes(0);
    let loaded = Collection::create_with(at("c"), Schema::builder(4).build()?, options)?;
    let mut bulk = loaded.bulk()?;
    (0..2000).try_for_each(|id| bulk.upsert(id, &vector(id), ()))?;
    bulk.finish()?;
    assert_eq!(loaded.len(), 2000);
    let segments = loaded.info()?.segments;
    assert!((2..100).contains(&segments), "{segments} segments");
    Ok(())
}
