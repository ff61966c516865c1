//! Payloads set in batches, rows deleted by a filter, handles that batches keep, listings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use matryo::testing::{Folder, Recorder};
use matryo::{
    Batch, Bulk, Collection, Error, FieldKind, Filter, IdKind, Metric, Options, Row, RowId, Schema,
    field, json,
};

mod support;

use support::Rng;
use support::cuts::losses;

type Done = Result<(), Box<dyn std::error::Error>>;

fn vector(id: u64) -> [f32; 2] {
    [1.0, id as f32]
}

fn schema() -> Schema {
    let schema = Schema::builder(2).metric(Metric::L2).field("n", FieldKind::Integer);
    schema.build().expect("valid")
}

fn options() -> Options {
    Options::new().background(false)
}

/// Rows with these ids, whose `n` is `id % 10`.
fn put(db: &Collection, ids: std::ops::Range<u64>) -> matryo::Result<()> {
    let mut batch = db.batch();
    for id in ids {
        batch.upsert(id, &vector(id), json!({"n": id % 10}))?;
    }
    batch.commit().map(drop)
}

/// The vector's second component and `n` of a row.
fn seen(db: &Collection, id: u64) -> Option<(f32, i64)> {
    let row = db.get(id).expect("readable")?;
    Some((row.vector[1], row.payload.get("n").map_or(-1, |n| n.as_i64().expect("a number"))))
}

#[test]
fn payloads_of_a_batch_are_set_with_the_vectors_there_are_at_its_commit() -> Done {
    for flushed in [false, true] {
        let folder = Folder::default();
        let db = folder.create(schema(), options())?;
        put(&db, 0..20)?;
        if flushed {
            db.flush()?;
        }
        let mut batch = db.batch();
        let n = |n: i64| json!({"n": n});
        batch.set_payload(1, n(100))?.set_payload(99, n(100))?;
        // What the batch itself brought, took, and set before.
        batch.upsert(2, &[1.0, 50.0], n(0))?.set_payload(2, n(101))?;
        batch.delete(3)?.set_payload(3, n(102))?;
        batch.set_payload(4, n(103))?.delete(4)?.upsert(5, &[1.0, 51.0], ())?;
        batch.set_payload(6, n(104))?.set_payload(6, n(105))?;
        batch.set_payload(7, n(106))?.upsert(7, &[1.0, 52.0], n(107))?;
        batch.set_payload(8, ())?;
        assert_eq!(batch.len(), 14);
        // The vector is the one at the commit, and so are the rows that are there.
        db.upsert(1, &[1.0, 60.0], n(0))?;
        db.delete(6)?;
        db.upsert(6, &[1.0, 61.0], n(0))?;
        let lsn = db.snapshot().lsn();
        let done = batch.commit()?;
        assert_eq!((done.deleted, done.missing), (2, 2), "3 and 4; 99 and 3");
        assert_eq!(db.snapshot().lsn(), lsn + 1, "one commit");
        let check = |db: &Collection| {
            let rows: Vec<_> = (0..9).map(|id| seen(db, id)).collect();
            let expected = [
                Some((0.0, 0)),
                Some((60.0, 100)),
                Some((50.0, 101)),
                None,
                None,
                Some((51.0, -1)),
                Some((61.0, 105)),
                Some((52.0, 107)),
                Some((8.0, -1)),
            ];
            assert_eq!(rows, expected);
            assert_eq!((db.len(), db.contains(99).expect("readable")), (18, false));
            assert_eq!(db.count(&field("n").ge(100)).expect("indexed"), 4);
        };
        check(&db);
        check(&folder.fork().open(options())?);
        drop(db);
        check(&folder.open(options())?);
    }
    Ok(())
}

#[test]
fn payloads_of_a_batch_are_refused_as_upserts_are() -> Done {
    let folder = Folder::default();
    let db = folder.create(schema(), options())?;
    put(&db, 0..3)?;
    let mut batch = db.batch();
    assert!(matches!(batch.set_payload("text", ()), Err(Error::Invalid { .. })));
    assert!(matches!(batch.set_payload(1, json!({"n": "text"})), Err(Error::Invalid { .. })));
    assert!(matches!(batch.set_payload(1, json!([1])), Err(Error::Invalid { .. })));
    assert!(batch.is_empty() && batch.bytes() == 0, "it is as it was");
    let text = "x".repeat(9 << 20);
    let full = (0..20).find_map(|_| batch.set_payload(1, json!({"text": text})).err());
    assert!(matches!(full, Some(Error::BatchFull { .. })), "{full:?}");
    assert_eq!(batch.len(), 7);
    assert!(batch.bytes() <= Batch::MAX_BYTES);
    batch.commit()?;
    assert_eq!(db.get(1)?.expect("a row").payload["text"], json!(text));
    // Of nothing but what is not there, nothing is committed.
    let lsn = db.snapshot().lsn();
    let mut batch = db.batch();
    batch.set_payload(77, ())?;
    assert_eq!(batch.commit()?.missing, 1);
    assert_eq!(db.snapshot().lsn(), lsn);
    Ok(())
}

#[test]
fn a_delete_tells_whether_there_was_a_row() -> Done {
    let db = Folder::default().create(schema(), options())?;
    put(&db, 0..5)?;
    assert!(db.delete(1)? && !db.delete(1)? && !db.delete(9)?);
    db.flush()?;
    assert!(db.delete(2)? && !db.delete(2)?);
    let mut batch = db.batch();
    batch.delete(2)?.delete(3)?.delete(3)?;
    batch.upsert(7, &vector(7), ())?.delete(7)?.delete(7)?.upsert(7, &vector(7), ())?;
    assert_eq!(batch.commit()?.deleted, 2, "3, and 7 for a moment");
    Ok(())
}

#[test]
fn what_passes_a_filter_is_deleted_few_or_many() -> Done {
    for (rows, flushed) in [(50, false), (3000, true), (40_000, false), (40_000, true)] {
        let folder = Folder::default();
        let db = folder.create(schema(), options())?;
        put(&db, 0..rows / 2)?;
        if flushed {
            db.flush()?;
        }
        put(&db, rows / 2..rows)?;
        db.delete(15)?;
        let (before, lsn) = (db.snapshot(), db.snapshot().lsn());
        assert_eq!(db.delete_where(&field("n").lt(0))?, 0);
        assert_eq!(db.snapshot().lsn(), lsn, "nothing was committed");
        let died = folder.fork();
        assert_eq!(db.delete_where(&field("n").lt(5))?, rows / 2);
        assert_eq!(db.snapshot().lsn(), lsn + 1, "one commit");
        let check = |db: &Collection| -> Done {
            assert_eq!(db.len(), rows / 2 - 1);
            assert_eq!(db.count(&field("n").lt(5))?, 0);
            let expected: Vec<u64> = (0..rows).filter(|id| id % 10 >= 5 && *id != 15).collect();
            let mut ids: Vec<_> =
                db.snapshot().iter().map(|row| row.map(|row| row.id)).collect::<Result<_, _>>()?;
            ids.sort();
            assert_eq!(ids, expected.into_iter().map(RowId::from).collect::<Vec<_>>());
            db.verify()?;
            Ok(())
        };
        check(&db)?;
        check(&folder.fork().open(options())?)?;
        put(&db, 0..1)?;
        assert_eq!(db.delete_where(&field("n").eq(0))?, 1, "commits go on");
        check(&db)?;
        assert_eq!((before.len(), died.open(options())?.len()), (rows - 1, rows - 1));
        drop(db);
        let db = folder.open(options())?;
        check(&db)?;
        assert_eq!(db.delete_where(&Filter::parse("n < 100")?)?, rows / 2 - 1);
        assert!(db.is_empty());
        assert!(db.delete_where(&field("m").eq(1)).is_err(), "not declared");
    }
    Ok(())
}

/// The power is cut before every operation of it and behind the last, and any part of what was not
/// synced is lost.
#[test]
fn many_rows_are_deleted_whole_or_not_at_all() -> Done {
    let recorder = Recorder::new(None);
    let db = recorder.create(schema(), options())?;
    put(&db, 0..10_000)?;
    db.flush()?;
    put(&db, 10_000..20_000)?;
    db.delete(9)?;
    let begins = recorder.operations();
    assert_eq!(db.delete_where(&field("n").gt(0))?, 17_999, "more than the log takes");
    let (ends, lsn) = (recorder.operations(), db.snapshot().lsn());
    let (mut replay, mut rng, mut found) = (recorder.replay(), Rng(7), [0, 0]);
    (0..begins).for_each(|_| assert!(replay.step()));
    for at in begins..=ends {
        // Of the many ways in which a long write is torn, some.
        let losses = losses(&replay, &mut rng);
        let step = 1 + losses.len() / 40;
        for (keep, torn) in losses.into_iter().step_by(step) {
            let left = replay.folder(|n| keep[n], torn).open(options())?;
            let deleted = left.len() == 2000;
            assert!(deleted || left.len() == 19_999, "{} rows before operation {at}", left.len());
            assert!(deleted || at < ends, "acknowledged");
            assert_eq!(left.snapshot().lsn(), lsn - u64::from(!deleted));
            assert_eq!(left.count(&field("n").gt(0))?, if deleted { 0 } else { 17_999 });
            found[usize::from(deleted)] += 1;
        }
        assert_eq!(replay.step(), at < ends);
    }
    assert!(found[0] > 10 && found[1] > 0, "{found:?} states");
    Ok(())
}

/// A row passes for one commit and then no more: only while it does may it be deleted.
#[test]
fn nothing_comes_between_a_look_at_the_filter_and_the_deletion() -> Done {
    let dir = tempfile::tempdir()?;
    let db = Collection::create(dir.path().join("a"), schema())?;
    let (ends, writer) = (Arc::new(AtomicBool::new(false)), db.clone());
    let stop = ends.clone();
    let writes = std::thread::spawn(move || {
        for round in 0.. {
            let id = round % 5;
            let put = |n: u64| writer.upsert(id, &vector(round), json!({"n": n})).expect("commit");
            put(1);
            put(0);
            assert!(writer.contains(id).expect("readable"), "it did not pass any more");
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    });
    let mut deleted = 0;
    let start = Instant::now();
    while deleted < 20 && start.elapsed() < Duration::from_mins(1) {
        deleted += db.delete_where(&field("n").eq(1))?;
    }
    ends.store(true, Ordering::Relaxed);
    writes.join().expect("nothing was deleted that did not pass");
    assert!(deleted > 0, "they met");
    Ok(())
}

/// What an application keeps in one place.
struct Ingest {
    db: Collection,
    open: Batch,
    load: Option<Bulk>,
    rest: Box<dyn Iterator<Item = matryo::Result<Row>> + Send>,
}

fn ingest(folder: &Folder) -> matryo::Result<Ingest> {
    let db = folder.create(schema(), options())?;
    put(&db, 0..10)?;
    let rest = Box::new(db.snapshot().select(&field("n").ge(7))?);
    Ok(Ingest { open: db.batch(), load: Some(db.bulk()?), db, rest })
}

#[test]
fn batches_loads_and_listings_stand_beside_their_collection() -> Done {
    let folder = Folder::default();
    let mut all = ingest(&folder)?;
    all.open.upsert(10, &vector(10), ())?;
    let mut load = all.load.take().expect("there");
    load.upsert(11, &vector(11), ())?;
    load.finish()?;
    std::mem::replace(&mut all.open, all.db.batch()).commit()?;
    assert_eq!((all.db.len(), all.rest.count()), (12, 3));
    all.open.upsert(12, &vector(12), ())?;
    drop(all.db);
    assert!(matches!(folder.open(options()), Err(Error::Locked { .. })), "the batch holds it");
    all.open.commit()?;
    assert_eq!(folder.open(options())?.len(), 13);
    let mut rows = 0;
    for row in folder.open(options())?.snapshot() {
        rows += u64::from(row?.id != RowId::U64(0));
    }
    assert_eq!(rows, 12);
    Ok(())
}

#[test]
fn listings_go_on_from_any_row() -> Done {
    let folder = Folder::default();
    let schema = Schema::builder(2).ids(IdKind::Str).field("n", FieldKind::Integer).build()?;
    let db = folder.create(schema, options())?;
    let put = |ids: std::ops::Range<u64>| -> matryo::Result<()> {
        let mut batch = db.batch();
        for id in ids {
            batch.upsert(format!("row {id}"), &vector(id), json!({"n": id % 3}))?;
        }
        batch.commit().map(drop)
    };
    put(0..700)?;
    db.flush()?;
    put(700..701)?;
    db.flush()?;
    put(701..1500)?;
    for id in [0, 1, 5, 64, 65, 699, 700, 1499] {
        assert!(db.delete(format!("row {id}"))?);
    }
    let snapshot = db.snapshot();
    let two = field("n").eq(2);
    let ids =
        |rows: matryo::Rows| -> Vec<RowId> { rows.map(|row| row.expect("intact").id).collect() };
    let (all, some) = (ids(snapshot.iter()), ids(snapshot.select(&two)?));
    assert_eq!(all.len(), 1492);
    let passing: Vec<_> = snapshot.ids(&two)?.collect::<Result<_, _>>()?;
    assert_eq!(passing, some);
    assert_eq!(passing.len() as u64, snapshot.count(&two)?);
    for skipped in (0..=all.len() + 2).step_by(13).chain([1491, 1492]) {
        let rest = all.get(skipped..).unwrap_or_default();
        let mut rows = snapshot.iter();
        assert_eq!(rows.nth(skipped).map(|row| row.expect("intact").id).as_ref(), rest.first());
        assert_eq!(rows.next().map(|row| row.expect("intact").id).as_ref(), rest.get(1));
        assert_eq!(ids(rows), rest.get(2..).unwrap_or_default());
        let rest = some.get(skipped..).unwrap_or_default();
        let skip = snapshot.select(&two)?.skip(skipped);
        assert_eq!(skip.map(|row| row.expect("intact").id).collect::<Vec<_>>(), rest);
        let skip = snapshot.ids(&two)?.skip(skipped).step_by(2);
        let every_other: Vec<_> = rest.iter().step_by(2).cloned().collect();
        assert_eq!(skip.map(|id| id.expect("intact")).collect::<Vec<_>>(), every_other);
    }
    Ok(())
}

/// The block with the first vectors is damaged: who passes over them does not notice.
#[test]
fn rows_that_are_passed_over_are_not_read() -> Done {
    let folder = Folder::default();
    let db = folder.create(schema(), options())?;
    put(&db, 0..3000)?;
    db.compact()?;
    drop(db);
    let name = folder.names().into_iter().find(|name| name.starts_with("seg-")).expect("a segment");
    let mut bytes = folder.read(&name).expect("there");
    let first: Vec<u8> = vector(1).iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = bytes.windows(8).position(|some| some == first).expect("there");
    bytes[at] ^= 1;
    folder.write(&name, bytes);
    let snapshot = folder.open(options())?.snapshot();
    assert!(matches!(snapshot.iter().next(), Some(Err(Error::Corrupt(_)))));
    assert!(snapshot.iter().skip(2500).all(|row| row.is_ok()));
    assert!(snapshot.select(&field("n").ge(0))?.skip(2500).all(|row| row.is_ok()));
    assert_eq!(snapshot.ids(&field("n").ge(0))?.flatten().count(), 3000);
    Ok(())
}

#[test]
fn a_handle_tells_its_folder_and_whether_it_writes() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let db = Collection::create(&path, schema())?;
    assert_eq!((db.path(), db.is_read_only()), (path.clone(), false));
    let reader = Collection::open_with(&path, Options::new().read_only(true))?;
    assert_eq!((reader.path(), reader.is_read_only()), (path, true));
    Ok(())
}
