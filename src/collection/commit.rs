//! Group commit: commits that wait for each other share one sync.
//!
//! ```text
//!   put the batch into the queue
//!   take the writer's lock
//!   if somebody who had it before has committed the batch: done
//!   else take the whole queue: log each batch, sync once, apply each, publish
//! ```
//!
//! While one thread syncs, others queue up behind the lock; the next one to get
//! it commits them all. A single thread finds only itself in the queue.

use std::sync::Arc;

use super::writer::{Writer, check_room};
use super::{Durability, Handle, apply};
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
    outcome: Outcome,
}

/// Where the thread that commits a batch leaves the result for the one that
/// brought it.
type Outcome = Arc<Mutex<Option<Result<()>>>>;

/// Batches that wait.
#[derive(Default)]
pub(super) struct Queue(Mutex<Vec<Waiting>>);

impl Queue {
    fn push(&self, operations: u32, adds: bool, frame: Frame) -> Outcome {
        let outcome = Outcome::default();
        self.0.lock().push(Waiting { operations, adds, frame, outcome: outcome.clone() });
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
        // The memtable is full again while what filled it before is being written.
        if writer.flushing
            && writer.wants_flush(&handle.view(), &handle.options)
            && !sown(Bug::CommitDoesNotWait)
        {
            handle.flushed.wait(&mut writer);
            continue;
        }
        let group = early.take().unwrap_or_else(|| handle.queue.take());
        commit_group(handle, &mut writer, group);
    }
    let result = outcome.lock().take();
    result.expect("a batch is in the queue until somebody has committed it")
}

/// Commits each batch of a group or tells it why not. On a full disk those that
/// only delete go on with the reserve, which the others may not use.
fn commit_group(handle: &Handle, writer: &mut Writer, mut group: Vec<Waiting>) {
    let vfs = &*handle.vfs;
    let room = writer.reserve.refill(vfs);
    let refuse_adds = |group: &mut Vec<Waiting>, e: &Error| {
        let adds = |batch: &mut Waiting| batch.adds && !sown(Bug::ReserveForAll);
        group.extract_if(.., adds).for_each(|batch| batch.finish(Err(e.again())));
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
        Err(e) => return group.iter().for_each(|batch| batch.finish(Err(e.again()))),
    };
    let mut accepted = admit(&view, group);
    let mut logged = log(handle, writer, &view, &mut accepted);
    if let Err(e) = &logged
        && e.is_full()
        && writer.healthy().is_ok()
        && !accepted.iter().all(|batch| batch.adds)
        && writer.reserve.spend(vfs)
    {
        refuse_adds(&mut accepted, e);
        logged = log(handle, writer, &view, &mut accepted);
    }
    let outcomes: Vec<_> = accepted.iter().map(|batch| batch.outcome.clone()).collect();
    let done = logged.and_then(|()| apply(handle, writer, &view, accepted));
    let result = || match &done {
        Ok(()) => Ok(()),
        Err(e) => Err(e.again()),
    };
    outcomes.iter().for_each(|outcome| *outcome.lock() = Some(result()));
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
            Err(e) => batch.finish(Err(e)),
        }
    }
    accepted
}

/// Appends a group to the log, as durable as was asked for. An error is one for
/// all batches of the group, and ends writing unless there was just no room for
/// them.
fn log(handle: &Handle, writer: &mut Writer, view: &View, group: &mut [Waiting]) -> Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    let frames = group.iter_mut().map(|batch| (batch.operations, &mut batch.frame));
    writer.log(&*handle.vfs, lsns(view).zip(frames))?;
    if is_full(handle) && !sown(Bug::PublishedBeforeSync) {
        writer.sync_log()?;
    }
    Ok(())
}

/// Publishes the view with a group that is in the log: only now do readers see it.
fn apply(
    handle: &Handle,
    writer: &mut Writer,
    view: &Arc<View>,
    group: Vec<Waiting>,
) -> Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    let mut next = view.clone();
    for (lsn, batch) in lsns(view).zip(group) {
        // The log has the commit, so the view must too: a damaged segment that
        // keeps us from finding old rows ends writing, not just this batch.
        let applied = apply::commit(&next, lsn, batch.operations, batch.frame);
        next = Arc::new(applied.inspect_err(|e| writer.poison(e))?);
    }
    handle.publish_arc(next);
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

impl Waiting {
    fn finish(&self, result: Result<()>) {
        *self.outcome.lock() = Some(result);
    }
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
