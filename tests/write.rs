//! Bulk loading, group commit, snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use matryo::{Collection, Options, RowId, Schema, json};

type Done = Result<(), Box<dyn std::error::Error>>;

fn vector(id: u64) -> [f32; 4] {
    [1.0, id as f32, (id % 7) as f32, 0.5]
}

fn create(path: &Path, memtable: usize) -> matryo::Result<Collection> {
    let options = Options::new().memtable_bytes(memtable).background(false);
    Collection::create_with(path, Schema::builder(4).build()?, options)
}

/// The `n` of each row's payload, which says who wrote it.
fn writer_of(collection: &Collection, id: u64) -> matryo::Result<Option<u64>> {
    Ok(collection.get(id)?.map(|row| row.payload["n"].as_u64().expect("a number")))
}

fn files(path: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(path).expect("folder").flatten();
    let names = entries.map(|e| e.file_name().into_string().expect("UTF-8"));
    // Room that a writer keeps for deletes is none of these.
    names.filter(|name| name != "RESERVE").collect()
}

#[test]
fn bulk_rows_appear_at_once_and_replace_older_ones() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = create(&path, 20_000)?;
    for id in 0..50 {
        collection.upsert(id, &vector(id), json!({"n": 1}))?;
    }
    collection.flush()?;
    collection.upsert(50, &vector(50), json!({"n": 1}))?;
    let mut bulk = collection.bulk()?;
    for id in (40..1000).chain(900..910).chain(40..45) {
        let round = if bulk.len() < 960 { 2 } else { 3 };
        bulk.upsert(id, &vector(id), json!({"n": round}))?;
    }
    assert_eq!((collection.len(), bulk.len()), (51, 975), "nothing is visible yet");
    // What is committed before `finish` is older than the bulk.
    collection.upsert(60, &vector(60), json!({"n": 1}))?;
    bulk.finish()?;
    let check = |collection: &Collection| -> Done {
        assert_eq!(collection.len(), 1000);
        for id in 0..1000 {
            let expected = match id {
                0..40 => 1,
                40..45 | 900..910 => 3,
                _ => 2,
            };
            assert_eq!(writer_of(collection, id)?, Some(expected), "row {id}");
        }
        assert_eq!(collection.search(&[1.0; 4]).limit(2000).run()?.hits.len(), 1000);
        collection.verify()?;
        Ok(())
    };
    assert!(collection.info()?.segments > 2, "the bulk was larger than the memtable");
    check(&collection)?;
    drop(collection);
    let collection = Collection::open(&path)?;
    check(&collection)?;
    collection.upsert(40, &vector(40), json!({"n": 4}))?;
    assert_eq!(writer_of(&collection, 40)?, Some(4), "commits go on after a bulk");
    drop(collection);
    assert_eq!(writer_of(&Collection::open(&path)?, 40)?, Some(4));
    Ok(())
}

#[test]
fn of_shuffled_rows_loaded_in_many_segments_the_last_of_each_id_lives() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = create(&path, 3000)?;
    let mut model = BTreeMap::new();
    let mut draws = 1u64;
    let mut draw = |below: u64| {
        draws =
            draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (draws >> 33) % below
    };
    for round in 0..3 {
        // Rows in segments and in the log, and some of both deleted again.
        for step in 0..200 {
            let id = draw(2000);
            if step % 5 == 4 {
                collection.delete(id)?;
                model.remove(&id);
            } else {
                let n = round * 100_000 + step;
                collection.upsert(id, &vector(id), json!({"n": n}))?;
                model.insert(id, n);
            }
            if step == 120 {
                collection.flush()?;
            }
        }
        let mut bulk = collection.bulk()?;
        for step in 0..1500 {
            // Every tenth id again at once, most others again in another segment.
            let id = if step % 10 == 9 { step % 7 } else { draw(2000) };
            let n = round * 100_000 + 1000 + step;
            bulk.upsert(id, &vector(id), json!({"n": n}))?;
            model.insert(id, n);
        }
        let before = collection.info()?.segments;
        bulk.finish()?;
        assert!(collection.info()?.segments > before + 20, "the load has many segments");
        let check = |collection: &Collection| -> Done {
            assert_eq!(collection.len(), model.len() as u64);
            for id in 0..2000 {
                assert_eq!(writer_of(collection, id)?, model.get(&id).copied(), "row {id}");
            }
            assert_eq!(collection.snapshot().iter().count(), model.len());
            collection.verify()?;
            Ok(())
        };
        check(&collection)?;
        check(&Collection::open_with(&path, Options::new().read_only(true))?)?;
        if round == 1 {
            collection.compact()?;
            check(&collection)?;
        }
    }
    Ok(())
}

#[test]
fn a_bulk_that_is_not_finished_leaves_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = create(&path, 1000)?;
    let before = files(&path);
    let mut bulk = collection.bulk()?;
    for id in 0..100 {
        bulk.upsert(id, &vector(id), ())?;
    }
    assert!(bulk.upsert(100, &[f32::NAN; 4], ()).is_err());
    assert!(files(&path).len() > before.len(), "segments were written");
    // As if the process died: what was written is a stray.
    let died = dir.path().join("died");
    std::fs::create_dir(&died)?;
    for name in files(&path) {
        std::fs::copy(path.join(&name), died.join(&name))?;
    }
    let reopened = Collection::open(&died)?;
    assert!(reopened.is_empty());
    assert_eq!(files(&died), before);
    drop(reopened);
    drop(bulk);
    assert_eq!(files(&path), before);
    assert!(collection.is_empty());
    collection.bulk()?.finish()?;
    assert!(collection.is_empty(), "an empty bulk changes nothing");
    Ok(())
}

#[test]
fn commits_of_many_threads_are_all_there_and_in_one_order() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = create(&path, 1 << 20)?;
    let (threads, each) = (8, 40);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let collection = &collection;
            scope.spawn(move || {
                for n in 0..each {
                    let mut batch = collection.batch();
                    let own = 1000 + thread * each + n;
                    batch.upsert(own, &vector(own), json!({"n": n})).expect("upsert");
                    batch.upsert(thread, &vector(n + 1), json!({"n": n})).expect("upsert");
                    batch.commit().expect("commit");
                    assert_eq!(writer_of(collection, thread).expect("get"), Some(n));
                }
            });
        }
    });
    assert_eq!(collection.snapshot().lsn(), threads * each, "one LSN per commit");
    let check = |collection: &Collection| -> Done {
        assert_eq!(collection.len(), threads * each + threads);
        for thread in 0..threads {
            assert_eq!(writer_of(collection, thread)?, Some(each - 1));
        }
        Ok(())
    };
    check(&collection)?;
    drop(collection);
    check(&Collection::open(&path)?)
}

#[test]
fn a_snapshot_never_changes_and_outlives_its_collection() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let collection = create(&path, 1 << 20)?;
    for id in 0..20 {
        collection.upsert(id, &vector(id), json!({"n": id}))?;
    }
    collection.flush()?;
    let snapshot = collection.snapshot();
    for id in 0..10 {
        collection.delete(id)?;
    }
    collection.upsert(15, &vector(1), json!({"n": 99}))?;
    collection.compact()?;
    drop(collection);
    let collection = Collection::open(&path)?;
    assert_eq!((snapshot.len(), collection.len()), (20, 10));
    assert!(snapshot.lsn() < collection.snapshot().lsn());
    let ids = |rows: &matryo::Snapshot| -> matryo::Result<BTreeSet<RowId>> {
        rows.iter().map(|row| Ok(row?.id)).collect()
    };
    assert_eq!(ids(&snapshot)?, (0..20).map(RowId::U64).collect());
    assert_eq!(ids(&collection.snapshot())?, (10..20).map(RowId::U64).collect());
    assert_eq!(snapshot.get(15)?.expect("row").payload["n"], json!(15));
    assert_eq!(snapshot.search(&[1.0; 4]).limit(100).run()?.hits.len(), 20);
    Ok(())
}

#[test]
fn a_handle_that_a_fork_inherits_reads_but_does_not_write() -> Done {
    let folder = matryo::testing::Folder::default();
    let collection = folder.create(Schema::builder(4).build()?, Options::new())?;
    collection.upsert(1, &vector(1), ())?;
    let parent = folder.read("MANIFEST");
    folder.enter_fork();
    assert_eq!(collection.len(), 1);
    let refused = collection.upsert(2, &vector(2), ()).expect_err("must be refused");
    assert!(matches!(refused, matryo::Error::Forked { .. }), "{refused}");
    assert!(collection.flush().is_err() && collection.bulk().is_err());
    let empty = collection.batch().commit();
    assert!(matches!(empty, Err(matryo::Error::Forked { .. })), "{empty:?}");
    assert!(collection.sync().is_err());
    collection.close()?;
    assert_eq!(folder.read("MANIFEST"), parent, "the parent's log is not closed for it");
    Ok(())
}
