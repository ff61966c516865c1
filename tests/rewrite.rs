//! Copies, rewrites and merges: how far they are, how they are called off, how many files they make.

use std::cell::RefCell;
use std::path::Path;

use matryo::{Collection, CopyOptions, Error, Options, Progress, Schema, json};

mod support;

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
        Collection::rewrite_with(at("a"), &CopyOptions::new().dims(2), telling(&told, true))?;
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
        let shortened = Collection::rewrite_with(at("a"), &short, never);
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
    let db = filled(&at("a"), &[0..1000, 1000..2000])?;
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

#[test]
fn verification_tells_how_far_it_is_and_stops() -> Done {
    let dir = tempfile::tempdir()?;
    let db = filled(&dir.path().join("a"), &[0..20_000, 20_000..60_000])?;
    db.upsert(1, &vector(1), ())?;
    let told = RefCell::default();
    let verified = db.verify_with(telling(&told, true))?;
    assert_eq!(verified, db.verify()?);
    let told: Vec<(u64, u64)> = told.take();
    let (first, last) = (told[0], told[told.len() - 1]);
    assert!(told.len() >= 3 && first.0 < last.0, "{told:?}");
    assert!(told.is_sorted() && told.iter().all(|now| now.1 == last.1), "{told:?}");
    assert_eq!(last.0, last.1);
    assert!(last.1 > 3_000_000 && last.1 <= verified.bytes, "{told:?}, {verified:?}");
    for ends in 0..told.len() {
        let calls = std::cell::Cell::new(0);
        let stopped = db.verify_with(|_| calls.replace(calls.get() + 1) < ends);
        // How many stretches this thread takes depends on the others.
        if calls.get() > ends {
            assert!(matches!(stopped, Err(Error::Cancelled { .. })), "{stopped:?}");
            assert_eq!(calls.get(), ends + 1, "it was not asked again");
        }
    }
    let never = db.verify_with(|_| false);
    assert!(matches!(never, Err(Error::Cancelled { .. })), "{never:?}");
    Ok(())
}

#[test]
fn calibration_tells_how_far_it_is_and_stops() -> Done {
    let dir = tempfile::tempdir()?;
    let queries: Vec<_> = (0..40).map(|n| support::vector(90_000 + n, 64)).collect();
    let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    for (name, given) in [("rows", None), ("queries", Some(&*queries))] {
        let schema = Schema::builder(64).granularities([16]).build()?;
        let options = Options::new().background(false);
        let db = Collection::create_with(dir.path().join(name), schema, options)?;
        let mut batch = db.batch();
        for id in 0..2000u64 {
            batch.upsert(id, &support::vector(id, 64), ())?;
        }
        batch.commit()?;
        let told = RefCell::default();
        let stopped = db.calibrate_with_progress(given, telling(&told, false));
        assert!(matches!(stopped, Err(Error::Cancelled { .. })), "{stopped:?}");
        assert!(db.calibration().is_none(), "nothing was changed");
        let told: Vec<(u64, u64)> = told.take();
        assert!(told.iter().enumerate().all(|(n, now)| now.0 == n as u64), "one by one");
        let (last, before) = told.split_last().expect("told");
        assert!(last.0 == last.1 && before.is_sorted_by_key(|now| now.1), "guesses grow");
        assert!(before[0].1 <= last.1 * 2, "{} guessed, {} asked", before[0].1, last.1);
        // No lock is held meanwhile.
        let writes = |_| db.upsert(1, &support::vector(1, 64), ()).is_ok();
        db.calibrate_with_progress(given, writes)?;
        let found = db.calibrate_with_progress(given, |_| true)?;
        let same = given.map_or_else(|| db.calibrate(), |queries| db.calibrate_with(queries))?;
        assert_eq!(found.to_string(), same.to_string(), "{name}");
        assert_eq!(db.calibration().expect("kept").to_string(), same.to_string());
    }
    Ok(())
}
