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
use super::reserve::retry;
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
    frame: Frame,
    promise: Promise,
}

/// Where the thread that commits a batch leaves the result for the one that
/// brought it: how many rows were deleted.
type Outcome = Arc<Mutex<Option<Result<u64>>>>;

/// That there will be a result: where the thread panics that was to leave it, that is the
/// result, so nobody waits for ever.
struct Promise(Outcome);

impl Promise {
    fn keep(&self, result: Result<u64>) {
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
    fn push(&self, frame: Frame) -> Outcome {
        let outcome = Outcome::default();
        let promise = Promise(outcome.clone());
        self.0.lock().push(Waiting { frame, promise });
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

/// Commits a batch, alone or with those that wait beside it; how many rows were deleted.
pub(super) fn commit(handle: &Handle, frame: Frame) -> Result<u64> {
    let writer = handle.writer()?;
    let outcome = handle.queue.push(frame);
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

/// Commits what `make` makes of the rows as they are, with nothing in between; how many rows were
/// deleted. Nothing is committed where it makes nothing.
pub(super) fn replace(
    handle: &Handle,
    make: impl FnOnce(&View) -> Result<Option<Frame>>,
) -> Result<u64> {
    let mut writer = handle.lock_writer()?;
    while must_wait(handle, &writer) {
        handle.flushed.wait(&mut writer);
    }
    let Some(frame) = make(&handle.view())? else { return Ok(0) };
    let outcome = Outcome::default();
    let promise = Promise(outcome.clone());
    commit_or_poison(handle, &mut writer, vec![Waiting { frame, promise }]);
    result(&outcome)
}

/// What became of a batch that was committed.
fn result(outcome: &Outcome) -> Result<u64> {
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
    if let Err(e) = writer.reserve.refill(&*handle.vfs) {
        refuse_adds(&mut group, &e);
    }
    let view = match prepare(handle, writer) {
        Ok(view) => view,
        // Rows in RAM could not be written; to delete some is possible all the same.
        Err(e) if e.is_full() && writer.healthy().is_ok() => {
            refuse_adds(&mut group, &e);
            handle.view()
        }
        Err(e) => return tell(group.iter().map(|batch| (&batch.promise, 0)), &Err(e)),
    };
    let group = admit(&view, group);
    let (accepted, changes, logged) = look_up_and_log(handle, writer, &view, group);
    let owned = accepted.into_iter().map(|batch| (batch.frame, batch.promise));
    let (frames, promises): (Vec<_>, Vec<_>) = owned.unzip();
    let deleted = changes.deleted().to_vec();
    let done = logged.and_then(|()| publish(handle, writer, &view, changes, frames));
    tell(promises.iter().zip(deleted), &done);
}

/// The batches that can be carried out, what they change, and whether they are in the log.
fn look_up_and_log(
    handle: &Handle,
    writer: &mut Writer,
    view: &View,
    group: Vec<Waiting>,
) -> (Vec<Waiting>, Changes, Result<()>) {
    let mut found = look_up(view, group);
    let logged = retry(
        &mut (&mut *writer, &mut found),
        |(writer, (accepted, _))| log(handle, writer, view, accepted),
        |(writer, found), full| {
            let deletes = found.0.iter().any(|batch| !batch.frame.adds());
            if !deletes || writer.healthy().is_err() || !writer.reserve.spend(&*handle.vfs) {
                return Ok(false);
            }
            refuse_adds(&mut found.0, full);
            **found = look_up(view, std::mem::take(&mut found.0));
            Ok(true)
        },
    );
    let (accepted, changes) = found;
    (accepted, changes, logged)
}

/// Turns away those that add rows, which the reserve is not for.
fn refuse_adds(group: &mut Vec<Waiting>, full: &Error) {
    let adds = |batch: &mut Waiting| batch.frame.adds() && !sown(Bug::ReserveForAll);
    group.extract_if(.., adds).for_each(|batch| batch.promise.keep(Err(full.again())));
}

/// Tells those who wait what became of their batches: how many rows each has deleted.
fn tell<'p>(promises: impl IntoIterator<Item = (&'p Promise, u64)>, done: &Result<()>) {
    for (promise, deleted) in promises {
        promise.keep(match done {
            Ok(()) => Ok(deleted),
            Err(e) => Err(e.again()),
        });
    }
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
        let frozen = writer.freeze(&*handle.vfs, &view)?;
        handle.publish(writer, frozen);
        handle.flush_in_background(writer);
    } else {
        let flushed = writer.flush(&*handle.vfs, &view)?;
        handle.publish(writer, flushed);
        handle.engine.wake();
    }
    Ok(handle.view())
}

/// Turns batches away for which there are no positions left.
fn admit(view: &View, group: Vec<Waiting>) -> Vec<Waiting> {
    let mut operations = 0u32;
    let mut accepted = Vec::with_capacity(group.len());
    for batch in group {
        let more = operations.saturating_add(batch.frame.operations());
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
        match Changes::of(view, group.iter().map(|batch| &batch.frame)) {
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
    let frames = group.iter_mut().map(|batch| &mut batch.frame);
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
    handle.publish(writer, next);
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

#[cfg(all(test, feature = "testing", not(feature = "shuttle")))]
mod tests;
