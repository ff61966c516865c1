//! How often the disk is waited for: not less than the promises need, and not
//! more than they cost.

mod support;

use matryo::testing::Recorder;
use matryo::{Collection, Durability, Filter, Options, json};
use support::{DIMS, schema, vector};

/// Syncs (of files, of the folder) that something takes.
fn syncs(recorder: &Recorder, done: impl FnOnce()) -> (usize, usize) {
    let before = recorder.syncs();
    done();
    let after = recorder.syncs();
    (after.0 - before.0, after.1 - before.1)
}

fn put(db: &Collection, id: u64) {
    db.upsert(id, &vector(id, DIMS), json!({"n": id})).expect("upsert");
}

fn created(durability: Durability) -> (Recorder, Collection) {
    let recorder = Recorder::new(None);
    let options = Options::new().durability(durability);
    let db = recorder.create(schema(), options).expect("create");
    (recorder, db)
}

#[test]
fn a_durable_commit_is_one_sync_and_nothing_is_acknowledged_without() {
    let (recorder, db) = created(Durability::Full);
    // The log, its name, the manifest that names it, that manifest's name; the commit.
    assert_eq!(syncs(&recorder, || put(&db, 0)), (3, 2), "the first commit makes the log");
    for id in 1..20 {
        assert_eq!(syncs(&recorder, || put(&db, id)), (1, 0), "commit {id}");
    }
    let mut batch = db.batch();
    for id in 0..50 {
        batch.upsert(id, &vector(id, DIMS), ()).expect("upsert");
    }
    assert_eq!(syncs(&recorder, || batch.commit().map(drop).expect("commit")), (1, 0));
    let mut batch = db.batch();
    for id in 0..50 {
        batch.set_payload(id, json!({"n": id})).expect("set");
    }
    let set = syncs(&recorder, || assert_eq!(batch.commit().expect("commit").missing, 0));
    assert_eq!(set, (1, 0), "50 payloads");
    let some = Filter::ids(0..20u64);
    let deleted = syncs(&recorder, || assert_eq!(db.delete_where(&some).expect("delete"), 20));
    assert_eq!(deleted, (1, 0), "20 rows that pass a filter");
}

#[test]
fn a_buffered_commit_waits_for_nothing() {
    let (recorder, db) = created(Durability::Buffered);
    put(&db, 0);
    assert_eq!(syncs(&recorder, || (1..20).for_each(|id| put(&db, id))), (0, 0));
    let closed = syncs(&recorder, || drop(db));
    assert_eq!(closed, (2, 1), "a clean close makes the log durable, and says so");
}

#[test]
fn every_new_file_and_its_name_are_synced() {
    let (recorder, db) = created(Durability::Full);
    (0..8).for_each(|id| put(&db, id));
    let flush = || syncs(&recorder, || db.flush().expect("flush"));
    assert_eq!(flush(), (2, 2), "segment, names; manifest, name");
    db.delete(3).expect("delete");
    put(&db, 9);
    assert_eq!(flush(), (3, 2), "segment, tombstones, names; manifest, name");
    assert_eq!(flush(), (0, 0), "nothing is new");
    let merged = syncs(&recorder, || {
        db.compact().expect("compact");
    });
    assert_eq!(merged, (2, 2), "as a flush, and the flush before found nothing new");
    let bulk = || {
        let mut bulk = db.bulk().expect("bulk");
        (20..24).for_each(|id| bulk.upsert(id, &vector(id, DIMS), ()).expect("upsert"));
        bulk.finish().expect("finish");
    };
    let (files, names) = syncs(&recorder, bulk);
    assert_eq!(files, 2, "segment; manifest");
    assert!(names >= 2, "names; name");
}
