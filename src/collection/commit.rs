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
use crate::sown::{Bug, sown};
use crate::sync::Mutex;
use crate::types::Lsn;
use crate::view::View;

/// A batch that waits to be committed.
struct Waiting {
    operations: u32,
    body: Vec<u8>,
    outcome: Outcome,
}

/// Where the thread that commits a batch leaves the result for the one that
/// brought it.
type Outcome = Arc<Mutex<Option<Result<()>>>>;

/// Batches that wait.
#[derive(Default)]
pub(super) struct Queue(Mutex<Vec<Waiting>>);

impl Queue {
    fn push(&self, operations: u32, body: Vec<u8>) -> Outcome {
        let outcome = Outcome::default();
        self.0.lock().push(Waiting { operations, body, outcome: outcome.clone() });
        outcome
    }

    fn take(&self) -> Vec<Waiting> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Commits a batch, alone or with those that wait beside it.
pub(super) fn commit(handle: &Handle, operations: u32, body: Vec<u8>) -> Result<()> {
    let writer = handle.writer()?;
    let outcome = handle.queue.push(operations, body);
    let early = sown(Bug::GroupTakenBeforeLock).then(|| handle.queue.take());
    let mut writer = writer.lock();
    if outcome.lock().is_none() {
        let group = early.unwrap_or_else(|| handle.queue.take());
        commit_group(handle, &mut writer, group);
    }
    let result = outcome.lock().take();
    result.expect("a batch is in the queue until somebody has committed it")
}

/// Commits each batch of a group or tells it why not.
fn commit_group(handle: &Handle, writer: &mut Writer, group: Vec<Waiting>) {
    match prepare(handle, writer) {
        Err(e) => group.iter().for_each(|batch| batch.finish(Err(e.again()))),
        Ok(view) => {
            let accepted = admit(&view, group);
            let done = log_and_apply(handle, writer, &view, &accepted);
            let outcome = || match &done {
                Ok(()) => Ok(()),
                Err(e) => Err(e.again()),
            };
            accepted.iter().for_each(|batch| batch.finish(outcome()));
        }
    }
}

/// Makes room in the memtable; returns the view to build on.
fn prepare(handle: &Handle, writer: &mut Writer) -> Result<Arc<View>> {
    writer.healthy()?;
    let view = handle.view();
    if !writer.wants_flush(&view, &handle.options) {
        return Ok(view);
    }
    handle.publish(writer.flush(&*handle.vfs, &view)?);
    handle.wake();
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

/// The commit order: log, sync, next view, publish. Readers see a batch only
/// when it is as durable as was asked for. An error is one for all batches of the
/// group, and ends writing unless there was just no room for them.
fn log_and_apply(
    handle: &Handle,
    writer: &mut Writer,
    view: &Arc<View>,
    group: &[Waiting],
) -> Result<()> {
    if group.is_empty() {
        return Ok(());
    }
    let first = view.lsn.next();
    let lsns = || (first.0..).map(Lsn).zip(group);
    let commits = lsns().map(|(lsn, batch)| (lsn, batch.operations, batch.body.as_slice()));
    writer.log(&*handle.vfs, commits)?;
    let full = handle.options.durability == Durability::Full;
    if full && !sown(Bug::PublishedBeforeSync) {
        writer.sync_log()?;
    }
    let mut next = view.clone();
    for (lsn, batch) in lsns() {
        // The log has the commit, so the view must too: a damaged segment that
        // keeps us from finding old rows ends writing, not just this batch.
        let applied = apply::commit(&next, lsn, batch.operations, &batch.body);
        next = Arc::new(applied.inspect_err(|e| writer.poison(e))?);
    }
    handle.publish_arc(next);
    if full && sown(Bug::PublishedBeforeSync) {
        writer.sync_log()?;
    }
    Ok(())
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
                let source = std::io::Error::new(source.kind(), source.to_string());
                Self::Io { action, path: path.clone(), source }
            }
            Self::Corrupt(corruption) => Self::Corrupt(corruption.clone()),
            Self::Poisoned { cause } => Self::Poisoned { cause: cause.clone() },
            Self::Invalid { what, why } => Self::Invalid { what, why: why.clone() },
            other => Self::Poisoned { cause: other.to_string() },
        }
    }
}
