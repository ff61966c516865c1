//! A commit's operations become the next view. Recovery goes the same way.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::codec::FormatError;
use crate::error::{Error, Result};
use crate::memtable::RunBuilder;
use crate::rows::{Held, Lent};
use crate::types::{Lsn, RowId};
use crate::view::{Part, View};
use crate::wal::format::Frame;
use crate::wal::ops::{self, Operation};

/// The view after one commit, whose rows stay in its frame.
pub(super) fn commit(view: &View, lsn: Lsn, operations: u32, frame: Frame) -> Result<View> {
    let schema = &view.schema;
    let end = Frame::BODY + frame.body_len();
    let held = Arc::new(frame.into_held());
    let body = &held.bytes[Frame::BODY..end];
    let operations = ops::parse(body, operations, schema.ids(), schema.vector_bytes())
        .map_err(|e: FormatError| Error::invalid("batch", e))?;
    let operations: Vec<_> = operations.into_iter().map(|one| one.behind(Frame::BODY)).collect();
    apply(view, lsn, &operations, Some(&held))
}

/// The view after operations that end at `lsn`; of several on one id the last
/// counts. Rows are copied, or stay in the bytes where the operations say they are.
pub(super) fn apply(
    view: &View,
    lsn: Lsn,
    operations: &[Operation],
    held: Option<&Arc<Held>>,
) -> Result<View> {
    let mut last: HashMap<&RowId, usize> = HashMap::with_capacity(operations.len());
    for (at, operation) in operations.iter().enumerate() {
        last.insert(operation.id(), at);
    }
    let mut dead: HashMap<usize, RoaringBitmap> = HashMap::new();
    let mut new = RunBuilder::new(&view.schema);
    for (at, operation) in operations.iter().enumerate() {
        let id = operation.id();
        if last.get(id) != Some(&at) {
            continue;
        }
        if let Some((part, row)) = view.find(id)? {
            let before = &view.parts[part].dead;
            dead.entry(part).or_insert_with(|| (**before).clone()).insert(row.0);
        }
        if let Operation::Upsert { id, vector, payload, place } = operation {
            match held {
                None => new.push(id, vector, payload),
                Some(held) => new.lend(id, Lent { held, place: *place }),
            }
        }
    }
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
