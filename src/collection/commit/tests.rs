use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;

use super::super::{Batch, Collection, Options, Row, open};
use super::*;
use crate::schema::Schema;
use crate::sown::sow;
use crate::types::RowId;
use crate::vfs::Vfs;
use crate::vfs::mem::Mem;

/// What a thread does to its batch.
type Fill = fn(&mut Batch) -> Result<()>;

fn collection(folder: &Mem) -> Collection {
    let (schema, options) = (Schema::builder(2).build(), Options::new().background(false));
    open::create(Arc::new(folder.clone()), schema.expect("valid"), options).expect("create")
}

fn reopen(folder: &Mem) -> Collection {
    let options = Options::new().background(false);
    open::open(Arc::new(folder.clone()), options).expect("opens")
}

/// Commits batches as one group, in this order; what became of each, none where it
/// panicked.
fn together(
    collection: &Collection,
    batches: &[Fill],
    bug: Option<Bug>,
) -> Vec<Option<Result<()>>> {
    let writer = collection.handle.writer().expect("writes").lock();
    let begin = |(n, fill): (usize, &Fill)| {
        let (fill, (tell, told)) = (*fill, mpsc::channel());
        let committing = collection.clone();
        let commit = move || {
            sow(bug);
            let mut batch = committing.batch();
            fill(&mut batch).expect("can be stored");
            let done = batch.commit().map(drop);
            // Before anybody opens the folder again.
            drop(committing);
            let _ = tell.send(done);
        };
        // Not joined: one that waited for ever would take the test with it.
        drop(std::thread::spawn(commit));
        while collection.handle.queue.0.lock().len() <= n {
            std::thread::yield_now();
        }
        told
    };
    let told: Vec<_> = batches.iter().enumerate().map(begin).collect();
    drop(writer);
    let wait = |told: mpsc::Receiver<_>| match told.recv_timeout(Duration::from_secs(30)) {
        Ok(result) => Some(result),
        Err(mpsc::RecvTimeoutError::Disconnected) => None,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("somebody waits for ever"),
    };
    told.into_iter().map(wait).collect()
}

fn put(batch: &mut Batch, id: u64, n: u64) -> Result<()> {
    batch.upsert(id, &[1.0, n as f32], json!({"n": n})).map(drop)
}

/// The `n` of each row.
fn rows(collection: &Collection) -> Vec<(RowId, u64)> {
    let rows = collection.snapshot();
    let row = |row: Result<Row>| {
        let row = row.expect("undamaged");
        (row.id, row.payload["n"].as_u64().expect("a number"))
    };
    let mut rows: Vec<_> = rows.iter().map(row).collect();
    rows.sort();
    rows
}

#[test]
fn batches_of_one_group_change_the_same_rows_one_after_the_other() {
    let batches: [Fill; 4] = [
        |batch| (1..6).try_for_each(|id| put(batch, id, 1)),
        |batch| put(batch, 1, 2).and_then(|()| batch.delete(2).map(drop)),
        |batch| put(batch, 2, 3).and_then(|()| batch.delete(3).map(drop)),
        |batch| put(batch, 1, 4).and_then(|()| put(batch, 9, 4)),
    ];
    let expected = [(1, 4), (2, 3), (4, 1), (5, 1), (9, 4)];
    let expected: Vec<_> = expected.iter().map(|(id, n)| (RowId::U64(*id), *n)).collect();
    for flushed in [false, true] {
        let folder = Mem::default();
        let collection = collection(&folder);
        let mut batch = collection.batch();
        (1..4).try_for_each(|id| put(&mut batch, id, 0)).expect("can be stored");
        batch.commit().expect("commit");
        if flushed {
            collection.flush().expect("flush");
        }
        let done = together(&collection, &batches, None);
        assert!(done.iter().all(|done| matches!(done, Some(Ok(())))), "{done:?}");
        assert_eq!(rows(&collection), expected);
        assert_eq!(collection.snapshot().lsn(), 5, "one for each commit");
        // As if the process died, and as it is closed.
        let died = reopen(&folder.fork());
        assert_eq!((rows(&died), died.snapshot().lsn()), (expected.clone(), 5));
        drop(collection);
        assert_eq!(rows(&reopen(&folder)), expected);
    }
}

/// In the order of ids of a segment the block with the smallest is damaged.
fn damaged() -> (Mem, Collection) {
    let folder = Mem::default();
    let db = collection(&folder);
    let mut batch = db.batch();
    (0..5000).try_for_each(|id| put(&mut batch, id, 0)).expect("can be stored");
    batch.commit().expect("commit");
    db.flush().expect("flush");
    drop(db);
    let name = folder.list().expect("in RAM").into_iter().find(|name| name.starts_with("seg-"));
    let name = name.expect("a segment");
    let mut bytes = folder.bytes(&name).expect("there");
    let order: Vec<u8> = (0..64u32).flat_map(u32::to_le_bytes).collect();
    let at = bytes.windows(order.len()).position(|some| some == order).expect("there");
    bytes[at + 100] ^= 1;
    folder.set(&name, bytes);
    let db = reopen(&folder);
    (folder, db)
}

#[test]
fn a_batch_that_meets_damage_is_refused_before_it_is_logged() {
    let (folder, db) = damaged();
    let batches: [Fill; 4] = [
        |batch| put(batch, 6000, 1),
        |batch| put(batch, 6001, 1).and_then(|()| put(batch, 7, 1)),
        |batch| put(batch, 4999, 1),
        |batch| batch.delete(8).map(drop),
    ];
    let done = together(&db, &batches, None);
    assert!(matches!(
        done.as_slice(),
        [Some(Ok(())), Some(Err(Error::Corrupt(_))), Some(Ok(())), Some(Err(Error::Corrupt(_)))]
    ));
    db.upsert(6002, &[1.0, 1.0], json!({"n": 1})).expect("the handle writes on");
    let died = reopen(&folder.fork());
    assert_eq!((died.len(), died.snapshot().lsn()), (5002, 4));
    assert!(died.get(6001).expect("readable").is_none());
    drop(db);
    assert_eq!(reopen(&folder).len(), 5002);
}

#[test]
fn where_a_thread_panics_the_others_of_its_group_are_told() {
    let folder = Mem::default();
    let db = collection(&folder);
    db.upsert(1, &[1.0, 1.0], json!({"n": 1})).expect("commit");
    let batches: [Fill; 2] = [|batch| put(batch, 2, 1), |batch| put(batch, 3, 1)];
    let done = together(&db, &batches, Some(Bug::CommitPanics));
    let told = |done: &Option<Result<()>>| matches!(done, Some(Err(Error::Poisoned { .. })));
    assert_eq!(done.iter().filter(|done| done.is_none()).count(), 1, "{done:?}");
    assert_eq!(done.iter().filter(|done| told(done)).count(), 1, "{done:?}");
    let after = db.upsert(4, &[1.0, 1.0], ()).expect_err("what is on disk is unknown");
    assert!(matches!(after, Error::Poisoned { .. }), "{after}");
    assert_eq!(rows(&db), [(RowId::U64(1), 1)]);
    let reopened = reopen(&folder.fork());
    assert_eq!(rows(&reopened), [(RowId::U64(1), 1)]);
}
