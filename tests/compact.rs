//! Compaction: what is merged, what is reclaimed, what is never lost.

use std::cell::Cell;
use std::os::unix::fs::FileExt;
use std::path::Path;

use matryo::testing::{Failure, Folder, Recorder, merge_all};
use matryo::{Collection, CopyOptions, Error, FieldKind, IdKind, Options, Schema, json};

type Done = Result<(), Box<dyn std::error::Error>>;

const DIMS: usize = 32;

fn vector(id: u64) -> [f32; DIMS] {
    let mut v = [1.0; DIMS];
    v[id as usize % DIMS] += id as f32;
    v
}

fn open(path: &Path, background: bool) -> matryo::Result<Collection> {
    let options = Options::new().background(background);
    if path.exists() {
        return Collection::open_with(path, options);
    }
    Collection::create_with(path, Schema::builder(DIMS).build()?, options)
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
    assert_eq!(collection.search(&[1.0; DIMS]).limit(usize::MAX).run()?.hits.len(), expected);
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
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    assert_eq!(collection.info()?.segments, 2);
    check(&collection, 0..3000, |_| true)?;
    drop(collection);
    check(&open(&path, false)?, 0..3000, |_| true)
}

/// Bytes of the vectors of rows, as they lie in the files of a folder: how often each.
fn copies(folder: &Folder, id: u64) -> usize {
    let bytes: Vec<u8> = vector(id).iter().flat_map(|v| v.to_le_bytes()).collect();
    let files = folder.names();
    let there = |name: &String| {
        let file = folder.read(name).expect("was listed");
        file.windows(bytes.len()).filter(|window| *window == bytes).count()
    };
    files.iter().map(there).sum()
}

/// A merge in the background writes no vectors: they are where their commits put them.
#[test]
fn a_merge_leaves_vectors_in_the_logs_of_its_sources() -> Done {
    let folder = Folder::default();
    let collection = folder.create(Schema::builder(DIMS).build()?, Options::new())?;
    for start in (0..400).step_by(100) {
        let mut batch = collection.batch();
        for id in start..start + 100 {
            batch.upsert(id, &vector(id), ())?;
        }
        // A row of the segment before, too, once as new and once as gone.
        if start > 0 {
            batch.upsert(start - 1, &vector(start - 1), json!({"n": start - 1}))?;
            batch.delete(start - 2)?;
        }
        batch.commit()?;
        collection.flush()?;
    }
    let living = |id| id % 100 != 98 || id == 398;
    let rows = |collection: &Collection| {
        let ids =
            collection.snapshot().iter().map(|row| Ok((row?.id, 0))).collect::<Result<_, Error>>();
        let found: std::collections::BTreeMap<_, u8> = ids.expect("readable");
        assert_eq!(found.len(), (0..400).filter(|id| living(*id)).count());
        for id in 0..400 {
            let row = collection.get(id).expect("readable");
            assert_eq!(row.map(|row| row.vector), living(id).then(|| vector(id).to_vec()), "{id}");
        }
        collection.verify().expect("undamaged");
    };
    let logs = |folder: &Folder| folder.names().iter().filter(|n| n.starts_with("wal-")).count();
    for turn in 0..2 {
        // The second time it is a merge of what was merged.
        let merged = merge_all(&collection, &|| ())?;
        assert_eq!(merged.segments, if turn == 0 { 4 } else { 2 });
        assert_eq!((collection.info()?.segments, logs(&folder)), (1, 4 + turn), "each log is kept");
        assert_eq!((copies(&folder, 7), copies(&folder, 99)), (1, 2), "one for each commit");
        rows(&collection);
        rows(&folder.fork().open(Options::new())?);
        if turn == 0 {
            let mut batch = collection.batch();
            (50..60).try_for_each(|id| batch.upsert(id, &vector(id), ()).map(drop))?;
            batch.commit()?;
            collection.flush()?;
        }
    }
    let backup = Folder::default();
    let copied = collection.snapshot().len();
    backup.back_up(&collection, &|_| true)?;
    assert_eq!((backup.open(Options::new())?.len(), logs(&backup)), (copied, 5));
    rows(&backup.open(Options::new())?);
    assert_eq!(copies(&folder, 98), 1, "a deleted row is in its log");
    collection.compact()?;
    assert_eq!((logs(&folder), copies(&folder, 98), copies(&folder, 99)), (0, 0, 1));
    rows(&collection);
    Ok(())
}

/// What a deleted row had is nowhere in the folder any more: not its id, not its payload, not what
/// the index of a declared field had of it.
#[test]
fn a_merge_by_hand_leaves_nothing_of_deleted_rows() -> Done {
    let folder = Folder::default();
    let schema = Schema::builder(DIMS).ids(IdKind::Str).field("word", FieldKind::Keyword);
    let collection = folder.create(schema.build()?, Options::new())?;
    let secret = |of: &str| format!("{of}, 40 bytes of a row that will be gone");
    let (id, word, text) = (secret("id"), secret("word"), secret("text"));
    for start in [0, 100] {
        let mut batch = collection.batch();
        for n in start..start + 100 {
            let payload = json!({"word": format!("word {n}"), "text": "a text"});
            batch.upsert(format!("row {n}"), &vector(n), payload)?;
        }
        if start == 0 {
            batch.upsert(&*id, &vector(7777), json!({"word": word, "text": text}))?;
        }
        batch.commit()?;
        collection.flush()?;
    }
    let there = || {
        let files: Vec<_> = folder.names().iter().filter_map(|name| folder.read(name)).collect();
        [&id, &word, &text].map(|text| {
            let bytes = text.as_bytes();
            files.iter().any(|file| file.windows(bytes.len()).any(|window| window == bytes))
        })
    };
    assert_eq!((there(), copies(&folder, 7777)), ([true; 3], 1));
    collection.delete(&*id)?;
    collection.flush()?;
    assert_eq!(there(), [true; 3], "or this shows nothing");
    collection.compact()?;
    assert_eq!((there(), copies(&folder, 7777)), ([false; 3], 0));
    assert_eq!(collection.len(), 200);
    collection.verify()?;
    Ok(())
}

/// Where most of the logs of the sources are dead rows, vectors are written anew.
#[test]
fn a_merge_drops_logs_that_hold_little() -> Done {
    let folder = Folder::default();
    let collection = folder.create(Schema::builder(DIMS).build()?, Options::new())?;
    for _ in 0..2 {
        let mut batch = collection.batch();
        (0..100).try_for_each(|id| batch.upsert(id, &vector(id), ()).map(drop))?;
        batch.commit()?;
        (0..60).try_for_each(|id| collection.delete(id).map(drop))?;
        (60..70).try_for_each(|id| collection.upsert(id, &vector(id), ()))?;
        collection.flush()?;
    }
    merge_all(&collection, &|| ())?;
    assert!(folder.names().iter().all(|name| !name.starts_with("wal-")), "{:?}", folder.names());
    assert_eq!((collection.len(), copies(&folder, 65)), (40, 1));
    collection.verify()?;
    Ok(())
}

/// Rows 0 to 99, then 100 to 199, each hundred in a segment of its own.
/// Flips a bit of every place in the folder's files that has these bytes; how many there were.
fn flip(path: &Path, bytes: &[u8]) -> Result<usize, std::io::Error> {
    let mut places = 0;
    for file in std::fs::read_dir(path)? {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(file?.path())?;
        let mut all = vec![0; file.metadata()?.len() as usize];
        file.read_exact_at(&mut all, 0)?;
        for (at, window) in all.windows(bytes.len()).enumerate() {
            if window == bytes {
                places += 1;
                file.write_all_at(&[window[0] ^ 1], at as u64)?;
            }
        }
    }
    Ok(places)
}

/// Files are compared with their checksums when they are first read. What is written anew is
/// compared once more, or damage that came since would get checksums of its own.
#[test]
fn damage_that_came_after_the_first_read_is_not_written_anew() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = open(&path, false)?;
    put(&collection, 0..300)?;
    put(&collection, 300..600)?;
    let floats: Vec<u8> = vector(7).iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut flipped = floats.clone();
    flipped[0] ^= 1;
    let id = [399u64, 400, 401].iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let mut other_id = id.clone();
    other_id[0] ^= 1;
    let rotten = [(floats, flipped, "vector"), (id, other_id, "id")];
    check(&collection, 0..600, |_| true)?;
    for (sound, damaged, what) in &rotten {
        assert!(flip(&path, sound)? > 0, "{what}");
        let copy = collection.copy_to(dir.path().join("b"), &CopyOptions::new());
        assert!(matches!(copy, Err(Error::Corrupt(_))), "{what}: {copy:?}");
        let merged = collection.compact();
        assert!(matches!(merged, Err(Error::Corrupt(_))), "{what}: {merged:?}");
        flip(&path, damaged)?;
        check(&collection, 0..600, |_| true)?;
    }
    collection.compact()?;
    check(&collection, 0..600, |_| true)
}

fn fill_two_segments(collection: &Collection) -> Done {
    for start in [0, 100] {
        let mut batch = collection.batch();
        (start..start + 100).try_for_each(|id| batch.upsert(id, &vector(id), ()).map(drop))?;
        batch.commit()?;
        collection.flush()?;
    }
    Ok(())
}

/// A segment whose rows all die while it is merged goes, and with it the log that it kept: the
/// merged segment must not need it.
#[test]
fn a_source_may_go_while_it_is_merged() -> Done {
    for living in [false, true] {
        let folder = Folder::default();
        let collection = folder.create(Schema::builder(DIMS).build()?, Options::new())?;
        fill_two_segments(&collection)?;
        let once = Cell::new(true);
        merge_all(&collection, &|| {
            if once.replace(false) {
                (0..100).for_each(|id| collection.delete(id).map(drop).expect("commit"));
                if living {
                    collection.upsert(3, &vector(3), ()).expect("commit");
                }
                collection.flush().expect("flush");
            }
        })?;
        let ids = |id| id >= 100 || (living && id == 3);
        for collection in [&collection, &folder.fork().open(Options::new())?] {
            assert_eq!(collection.len(), (0..200).filter(|id| ids(*id)).count() as u64);
            (0..200)
                .for_each(|id| assert_eq!(collection.get(id).expect("read").is_some(), ids(id)));
            collection.verify()?;
        }
    }
    Ok(())
}

/// A medium that fails is no reason to begin anew, whatever has become of the sources.
#[test]
fn a_merge_that_fails_is_not_tried_again() -> Done {
    let recorder = Recorder::new(None);
    let collection = recorder.create(Schema::builder(DIMS).build()?, Options::new())?;
    fill_two_segments(&collection)?;
    let tries = Cell::new(0);
    let failed = merge_all(&collection, &|| {
        tries.set(tries.get() + 1);
        if tries.get() == 1 {
            (0..100).for_each(|id| collection.delete(id).map(drop).expect("commit"));
            collection.flush().expect("flush");
            let next = recorder.tried();
            recorder.fail(next..next + 1, Failure { code: 5, percent_written: 0 });
        }
    });
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    assert_eq!((tries.get(), collection.len()), (1, 100));
    collection.verify()?;
    Ok(())
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
                let result =
                    collection.search(&[1.0; DIMS]).limit(usize::MAX).run().expect("search");
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
