//! Group commit: commits that wait for each other share one sync.
//!
//! ```text
//!   put the batch into the queue
//!   take the writer's lock
//!   if somebody who had it before has committed the batch: done
//!   else take the whole queue: look up the rows that die, log each batch, sync once,
//!   publish what all of them make of the view
//! ```
//!
//! While one thread syncs, others queue up behind the lock; the next one to get
//! it commits them all. A single thread finds only itself in the queue.
//!
//! A batch that cannot be carried out, because the place of a row it replaces is damaged,
//! is turned away before the log has it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::apply::Changes;
use super::writer::{Writer, check_room};
use super::{Durability, Handle};
use crate::error::{Error, Result};
use crate::manifest::MAX_LOG;
use crate::sown::{Bug, sown};
use crate::sync::Mutex;
use crate::types::Lsn;
use crate::view::View;
use crate::wal::format::Frame;

/// Most bytes of batches that are logged at once: a log that is not full has room for them.
const GROUP_BYTES: u64 = MAX_LOG / 4;

/// A batch that waits to be committed.
struct Waiting {
    operations: u32,
    /// Whether it adds rows, so that the reserve is not for it.
    adds: bool,
    frame: Frame,
    promise: Promise,
}

/// Where the thread that commits a batch leaves the result for the one that
/// brought it.
type Outcome = Arc<Mutex<Option<Result<()>>>>;

/// That there will be a result: where the thread panics that was to leave it, that is the
/// result, so nobody waits for ever.
struct Promise(Outcome);

impl Promise {
    fn keep(&self, result: Result<()>) {
        *self.0.lock() = Some(result);
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let cause = || panicked().to_string();
        self.0.lock().get_or_insert_with(|| Err(Error::Poisoned { cause: cause() }));
    }
}

/// A thread panicked between the first byte of a commit and the last.
fn panicked() -> Error {
    Error::invalid("commit", "the thread that committed panicked")
}

/// Batches that wait.
#[derive(Default)]
pub(super) struct Queue(Mutex<Vec<Waiting>>);

impl Queue {
    fn push(&self, operations: u32, adds: bool, frame: Frame) -> Outcome {
        let outcome = Outcome::default();
        let promise = Promise(outcome.clone());
        self.0.lock().push(Waiting { operations, adds, frame, promise });
        outcome
    }

    /// The first that wait: one, and as many more as together have no more than [`GROUP_BYTES`].
    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.0.lock();
        let mut bytes = 0;
        let fits = |batch: &&Waiting| {
            bytes += batch.frame.body_len() as u64;
            bytes <= GROUP_BYTES
        };
        let count = waiting.iter().take_while(fits).count().max(1);
        let count = count.min(waiting.len());
        waiting.drain(..count).collect()
    }
}

/// Commits a batch, alone or with those that wait beside it.
pub(super) fn commit(handle: &Handle, operations: u32, adds: bool, frame: Frame) -> Result<()> {
    let writer = handle.writer()?;
    let outcome = handle.queue.push(operations, adds, frame);
    let mut early = sown(Bug::GroupTakenBeforeLock).then(|| handle.queue.take());
    let mut writer = writer.lock();
    while outcome.lock().is_none() {
        if must_wait(handle, &writer) {
            handle.flushed.wait(&mut writer);
            continue;
        }
        let group = early.take().unwrap_or_else(|| handle.queue.take());
        commit_or_poison(handle, &mut writer, group);
    }
    result(&outcome)
}

/// Commits what `make` makes of the rows as they are, an upsert, with nothing in between; whether
/// it made anything.
pub(super) fn replace(
    handle: &Handle,
    make: impl FnOnce(&View) -> Result<Option<Frame>>,
) -> Result<bool> {
    let mut writer = handle.lock_writer()?;
    while must_wait(handle, &writer) {
        handle.flushed.wait(&mut writer);
    }
    let Some(frame) = make(&handle.view())? else { return Ok(false) };
    let outcome = Outcome::default();
    let promise = Promise(outcome.clone());
    let batch = Waiting { operations: 1, adds: true, frame, promise };
    commit_or_poison(handle, &mut writer, vec![batch]);
    result(&outcome).map(|()| true)
}

/// What became of a batch that was committed.
fn result(outcome: &Outcome) -> Result<()> {
    outcome.lock().take().expect("a batch waits until somebody has committed it")
}

/// Whether the memtable is full again while what filled it before is being written.
fn must_wait(handle: &Handle, writer: &Writer) -> bool {
    writer.flushing
        && writer.wants_flush(&handle.view(), &handle.options)
        && !sown(Bug::CommitDoesNotWait)
}

/// As [`commit_group`]; a panic ends writing, for nobody knows what of the group is in the log.
fn commit_or_poison(handle: &Handle, writer: &mut Writer, group: Vec<Waiting>) {
    let commit = || commit_group(handle, writer, group);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(commit)) {
        writer.poison(&panicked());
        resume_unwind(panic);
    }
}

/// Commits each batch of a group or tells it why not. On a full disk those that
/// only delete go on with the reserve, which the others may not use.
fn commit_group(handle: &Handle, writer: &mut Writer, mut group: Vec<Waiting>) {
    let vfs = &*handle.vfs;
    let room = writer.reserve.refill(vfs);
    let refuse_adds = |group: &mut Vec<Waiting>, e: &Error| {
        let adds = |batch: &mut Waiting| batch.adds && !sown(Bug::ReserveForAll);
        group.extract_if(.., adds).for_each(|batch| batch.promise.keep(Err(e.again())));
    };
    if let Err(e) = &room {
        refuse_adds(&mut group, e);
    }
    let view = match prepare(handle, writer) {
        Ok(view) => view,
        // Rows in RAM could not be written; to delete some is possible all the same.
        Err(e) if e.is_full() && writer.healthy().is_ok() => {
            refuse_adds(&mut group, &e);
            handle.view()
        }
        Err(e) => return group.iter().for_each(|batch| batch.promise.keep(Err(e.again()))),
    };
    let (mut accepted, mut changes) = look_up(&view, admit(&view, group));
    let mut logged = log(handle, writer, &view, &mut accepted);
    if let Err(e) = &logged
        && e.is_full()
        && writer.healthy().is_ok()
        && !accepted.iter().all(|batch| batch.adds)
        && writer.reserve.spend(vfs)
    {
        refuse_adds(&mut accepted, e);
        (accepted, changes) = look_up(&view, accepted);
        logged = log(handle, writer, &view, &mut accepted);
    }
    let owned = accepted.into_iter().map(|batch| (batch.frame, batch.promise));
    let (frames, promises): (Vec<_>, Vec<_>) = owned.unzip();
    let done = logged.and_then(|()| publish(handle, writer, &view, changes, frames));
    let result = || match &done {
        Ok(()) => Ok(()),
        Err(e) => Err(e.again()),
    };
    promises.iter().for_each(|promise| promise.keep(result()));
}

/// Makes room in the memtable, if need be: its runs become a segment in the
/// background, or here and now where there is no background, or it failed.
/// Returns the view to build on.
fn prepare(handle: &Handle, writer: &mut Writer) -> Result<Arc<View>> {
    writer.healthy()?;
    let view = handle.view();
    if !writer.wants_flush(&view, &handle.options) {
        return Ok(view);
    }
    if handle.options.background && !writer.is_frozen() {
        handle.publish(writer.freeze(&*handle.vfs, &view)?);
        handle.flush_in_background(writer);
    } else {
        handle.publish(writer.flush(&*handle.vfs, &view)?);
        handle.wake();
    }
    Ok(handle.view())
}

/// Turns batches away for which there are no positions left.
fn admit(view: &View, group: Vec<Waiting>) -> Vec<Waiting> {
    let mut operations = 0u32;
    let mut accepted = Vec::with_capacity(group.len());
    for batch in group {
        let more = operations.saturating_add(batch.operations);
        match check_room(view, more) {
            Ok(()) => {
                operations = more;
                accepted.push(batch);
            }
            Err(e) => batch.promise.keep(Err(e)),
        }
    }
    accepted
}

/// What a group changes, but for batches that cannot be carried out: these are told so.
fn look_up(view: &View, mut group: Vec<Waiting>) -> (Vec<Waiting>, Changes) {
    loop {
        let commits = group.iter().map(|batch| (batch.operations, &batch.frame));
        match Changes::of(view, commits) {
            Ok(changes) => return (group, changes),
            // Rows of the others are looked up again: damage is rare.
            Err((at, e)) => group.remove(at).promise.keep(Err(e)),
        }
    }
}

/// Appends a group to the log, as durable as was asked for. An error is one for
/// all batches of the group, and ends writing unless there was just no room for
/// them.
fn log(handle: &Handle, writer: &mut Writer, view: &View, group: &mut [Waiting]) -> Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    assert!(!sown(Bug::CommitPanics), "sown");
    let frames = group.iter_mut().map(|batch| (batch.operations, &mut batch.frame));
    writer.log(&*handle.vfs, lsns(view).zip(frames))?;
    if is_full(handle) && !sown(Bug::PublishedBeforeSync) {
        writer.sync_log()?;
    }
    Ok(())
}

/// Publishes the view with a group that is in the log: only now do readers see it.
fn publish(
    handle: &Handle,
    writer: &mut Writer,
    view: &View,
    changes: Changes,
    frames: Vec<Frame>,
) -> Result<()> {
    let Some(last) = lsns(view).take(frames.len()).last() else { return Ok(()) };
    // The log has the commits, so the view must too.
    let next = changes.apply(view, last, frames).inspect_err(|e| writer.poison(e))?;
    handle.publish(next);
    if is_full(handle) && sown(Bug::PublishedBeforeSync) {
        writer.sync_log()?;
    }
    Ok(())
}

/// Whether commits are durable before they are seen.
fn is_full(handle: &Handle) -> bool {
    handle.options.durability == Durability::Full
}

/// Those of the commits that come after `view`.
fn lsns(view: &View) -> impl Iterator<Item = Lsn> + use<> {
    (view.lsn.next().0..).map(Lsn)
}

impl Error {
    /// The same error for another batch of its group.
    fn again(&self) -> Self {
        match self {
            Self::Io { action, path, source } => {
                // The system's number, if there is one, tells what can be done about it.
                let said = || std::io::Error::new(source.kind(), source.to_string());
                let number = source.raw_os_error();
                let source = number.map_or_else(said, std::io::Error::from_raw_os_error);
                Self::Io { action, path: path.clone(), source }
            }
            Self::Corrupt(corruption) => Self::Corrupt(corruption.clone()),
            Self::Poisoned { cause } => Self::Poisoned { cause: cause.clone() },
            Self::Invalid { what, why } => Self::Invalid { what, why: why.clone() },
            other => Self::Poisoned { cause: other.to_string() },
        }
    }
}

#[cfg(all(test, feature = "testing", not(feature = "shuttle")))]
mod tests {
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
        let writer = collection.shared.writer().expect("writes").lock();
        let begin = |(n, fill): (usize, &Fill)| {
            let (fill, (tell, told)) = (*fill, mpsc::channel());
            let committing = collection.clone();
            let commit = move || {
                sow(bug);
                let mut batch = committing.batch();
                fill(&mut batch).expect("can be stored");
                let done = batch.commit();
                // Before anybody opens the folder again.
                drop(committing);
                let _ = tell.send(done);
            };
            // Not joined: one that waited for ever would take the test with it.
            drop(std::thread::spawn(commit));
            while collection.shared.queue.0.lock().len() <= n {
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
            [
                Some(Ok(())),
                Some(Err(Error::Corrupt(_))),
                Some(Ok(())),
                Some(Err(Error::Corrupt(_)))
            ]
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
}
