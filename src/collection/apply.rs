//! Operations of commits become the next view. Recovery goes the same way.
//!
//! What reads files, the places of the rows that die, is looked up first, so that a
//! commit can be refused before the log has it: what comes after does not fail.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::codec::FormatError;
use crate::error::{Error, Result};
use crate::memtable::RunBuilder;
use crate::rows::{Held, Lent, Place};
use crate::types::{Lsn, Ordinal, RowId};
use crate::view::{Part, View};
use crate::wal::format::Frame;
use crate::wal::ops::{self, Operation};

/// What the commits of a group change, looked up in the view that they build on.
pub(super) struct Changes {
    dead: Dead,
    /// Of each row that is added: which commit brings it, and where in its frame.
    rows: Vec<(RowId, usize, Place)>,
    /// Of each commit, how many of its deletes find a row.
    deleted: Vec<u64>,
}

/// The dead rows of parts, by their numbers in a view.
type Dead = HashMap<usize, RoaringBitmap>;

impl Changes {
    /// Looks up what commits change; of several operations on one id the last counts,
    /// whichever commit has it.
    ///
    /// # Errors
    /// The number of the commit whose rows could not be looked up, and why.
    pub(super) fn of<'a>(
        view: &View,
        commits: impl Iterator<Item = &'a Frame>,
    ) -> Result<Self, (usize, Error)> {
        let schema = &view.schema;
        let (mut operations, mut owners) = (Vec::new(), Vec::new());
        let mut deleted = Vec::new();
        for (commit, frame) in commits.enumerate() {
            deleted.push(0);
            let (ids, width) = (schema.ids(), schema.vector_bytes());
            let parsed = ops::parse(frame.body(), frame.operations(), ids, width);
            let wrong = |e: FormatError| (commit, Error::invalid("batch", e));
            operations.extend(parsed.map_err(wrong)?);
            owners.resize(operations.len(), commit);
        }
        let found = look_up(view, &operations).map_err(|(at, e)| (owners[at], e))?;
        found.deletes.iter().for_each(|at| deleted[owners[*at]] += 1);
        let owned = operations.into_iter().zip(owners).zip(found.counts);
        let row = |((operation, owner), counts): ((Operation, usize), bool)| match operation
            .behind(Frame::BODY)
        {
            Operation::Upsert { id, place, .. } if counts => Some((id, owner, place)),
            _ => None,
        };
        Ok(Self { dead: found.dead, rows: owned.filter_map(row).collect(), deleted })
    }

    /// Of each commit, how many of its deletes find a row.
    pub(super) fn deleted(&self) -> &[u64] {
        &self.deleted
    }

    /// The view after the commits, which end at `lsn` and whose rows stay in their frames.
    pub(super) fn apply(self, view: &View, lsn: Lsn, frames: Vec<Frame>) -> Result<View> {
        let held: Vec<_> = frames.into_iter().map(|frame| Arc::new(frame.into_held())).collect();
        let mut new = RunBuilder::new(&view.schema);
        for (id, commit, place) in &self.rows {
            new.lend(id, Lent { held: &held[*commit], place: *place });
        }
        next(view, lsn, self.dead, new)
    }
}

/// The view after operations that end at `lsn`; of several on one id the last
/// counts. Rows are copied, or stay in the bytes where the operations say they are.
pub(super) fn apply(
    view: &View,
    lsn: Lsn,
    operations: &[Operation],
    held: Option<&Arc<Held>>,
) -> Result<View> {
    let Found { dead, counts, .. } = look_up(view, operations).map_err(|(_, e)| e)?;
    let mut new = RunBuilder::new(&view.schema);
    for (operation, counts) in operations.iter().zip(counts) {
        if let Operation::Upsert { id, vector, payload, place } = operation
            && counts
        {
            match held {
                None => new.push(id, vector, payload),
                Some(held) => new.lend(id, Lent { held, place: *place }),
            }
        }
    }
    next(view, lsn, dead, new)
}

/// What operations meet in a view.
struct Found {
    /// The rows that die.
    dead: Dead,
    /// Which operations count: the last on each id.
    counts: Vec<bool>,
    /// The deletes that find a row, of the view or of an operation before them.
    deletes: Vec<usize>,
}

/// What is known of an id: its last operation, and whether it has a row once those so far are
/// carried out.
struct Known {
    last: usize,
    there: Option<bool>,
}

/// # Errors
/// The number of the operation whose row could not be looked up, and why.
fn look_up(view: &View, operations: &[Operation]) -> Result<Found, (usize, Error)> {
    let mut known: HashMap<&RowId, Known> = HashMap::with_capacity(operations.len());
    for (last, operation) in operations.iter().enumerate() {
        known.insert(operation.id(), Known { last, there: None });
    }
    let (mut dead, mut counts, mut deletes) = (Dead::new(), Vec::new(), Vec::new());
    for (at, operation) in operations.iter().enumerate() {
        let id = operation.id();
        let known = known.get_mut(id).expect("entered above");
        counts.push(known.last == at);
        let there = if let Some(there) = known.there {
            there
        } else if let Some((part, Ordinal(row))) = view.find(id).map_err(|e| (at, e))? {
            let before = &view.parts[part].dead;
            dead.entry(part).or_insert_with(|| (**before).clone()).insert(row);
            true
        } else {
            false
        };
        let deletes_it = matches!(operation, Operation::Delete { .. });
        if there && deletes_it {
            deletes.push(at);
        }
        known.there = Some(!deletes_it);
    }
    Ok(Found { dead, counts, deletes })
}

/// The view with these rows dead, and new ones as its last run.
fn next(view: &View, lsn: Lsn, dead: Dead, new: RunBuilder) -> Result<View> {
    let mut parts = view.parts.clone();
    for (at, rows) in dead {
        parts[at] = Arc::new(parts[at].with_dead(rows));
    }
    if new.len() > 0 {
        parts.push(run(new));
    }
    merge_runs(view, &mut parts)?;
    Ok(view.with(lsn, parts))
}

fn run(builder: RunBuilder) -> Arc<Part> {
    Arc::new(Part::new(Arc::new(builder.finish()), Arc::default(), None))
}

/// Runs of like size that are merged at once.
const FAN_IN: usize = 8;

/// Merges the newest runs when there are [`FAN_IN`] of one magnitude (a power of
/// it) or smaller, so that few runs remain. Only ids and places are copied.
fn merge_runs(view: &View, parts: &mut Vec<Arc<Part>>) -> Result<()> {
    parts.retain(|part| part.segment.is_some() || part.live_rows() > 0);
    let magnitude = |part: &Part| part.live_rows().max(1).ilog(FAN_IN as u64);
    loop {
        let runs = parts.iter().rev().take_while(|part| part.is_run());
        let newest = runs.clone().next().map_or(0, |part| magnitude(part));
        let count = runs.take_while(|part| magnitude(part) <= newest).count();
        if count < FAN_IN {
            return Ok(());
        }
        let mut merged = RunBuilder::new(&view.schema);
        for part in parts.drain(parts.len() - count..) {
            for row in part.living() {
                let lent = part.rows.lent(row).expect("a run is in RAM");
                merged.lend(&part.rows.id(row)?, lent);
            }
        }
        parts.push(run(merged));
    }
}
