//! Rows of a snapshot one after another, from any of them on.

use std::fmt;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::snapshot::{Row, Snapshot};
use crate::error::Result;
use crate::rows::Asked;
use crate::types::{Ordinal, RowId};
use crate::view::{Part, View};

/// Rows whose vectors are asked for at once where some are read: they may be few of many.
const GROUP: usize = 128;

/// Where rows are, in the order they are stored.
pub(super) struct Places {
    view: Arc<View>,
    /// Of each part; none for all that live.
    chosen: Option<Vec<RoaringBitmap>>,
    part: usize,
    /// The first row of that part that was not passed yet.
    row: u32,
    /// Of that part.
    asked: Asked,
}

impl Places {
    pub(super) fn new(view: Arc<View>, chosen: Option<Vec<RoaringBitmap>>) -> Self {
        Self { view, chosen, part: 0, row: 0, asked: Asked::default() }
    }

    /// The place behind `skipped` others.
    fn next(&mut self, mut skipped: u64) -> Option<(Arc<Part>, Ordinal)> {
        loop {
            let part = self.view.parts.get(self.part)?;
            let row = if skipped == 0 {
                self.first(part)
            } else {
                // Rows are counted only here: else there would be a count for each.
                let left = self.left(part, part.rows.len());
                let here = skipped < left;
                let row = here.then(|| self.behind(part, skipped)).flatten();
                skipped -= if here { 0 } else { left };
                row
            };
            if let Some(row) = row {
                self.row = row + 1;
                return Some((part.clone(), Ordinal(row)));
            }
            (self.part, self.row, self.asked) = (self.part + 1, 0, Asked::default());
        }
    }

    /// The next row of the part at hand.
    fn first(&self, part: &Part) -> Option<u32> {
        match &self.chosen {
            Some(chosen) => chosen[self.part].range(self.row..).next(),
            None => (self.row..part.rows.len()).find(|row| !part.dead.contains(*row)),
        }
    }

    /// How many rows of the part at hand are still to come before row `end`.
    fn left(&self, part: &Part, end: u32) -> u64 {
        let some = self.row..end;
        match &self.chosen {
            Some(chosen) => chosen[self.part].range_cardinality(some),
            None => some.len() as u64 - part.dead.range_cardinality(some),
        }
    }

    /// The row of the part at hand that `skipped` others come before, fewer than are left.
    fn behind(&self, part: &Part, skipped: u64) -> Option<u32> {
        if let Some(chosen) = &self.chosen {
            let rows = &chosen[self.part];
            let before = self.row.checked_sub(1).map_or(0, |row| rows.rank(row));
            return rows.select((before + skipped) as u32);
        }
        // The first row with more than that up to it.
        let (mut low, mut high) = (self.row, part.rows.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.left(part, middle + 1) > skipped {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Some(low)
    }

    /// Before the vector of a row is read, asks for it and for those behind it.
    fn ask(&mut self, part: &Part, row: Ordinal) {
        let Some(chosen) = &self.chosen else {
            return self.asked.before(&*part.rows, row);
        };
        if row.0 < self.asked.0 {
            return;
        }
        let group: Vec<u32> = chosen[self.part].range(row.0..).take(GROUP).collect();
        for run in group.chunk_by(|row, next| row + 1 == *next) {
            part.rows.will_need(run[0]..run[0] + run.len() as u32);
        }
        self.asked.0 = group.last().map_or(0, |last| last + 1);
    }
}

/// Rows of a snapshot, one after another ([`Snapshot::iter`], [`Snapshot::select`]). Rows that are
/// passed over by [`Iterator::nth`], and so by [`Iterator::skip`], are not read.
pub struct Rows {
    pub(super) snapshot: Snapshot,
    pub(super) places: Places,
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        self.nth(0)
    }

    fn nth(&mut self, skipped: usize) -> Option<Result<Row>> {
        let (part, row) = self.places.next(skipped as u64)?;
        self.places.ask(&part, row);
        Some(self.snapshot.row(&part, row))
    }
}

/// Ids of rows of a snapshot, one after another ([`Snapshot::ids`]).
pub struct Ids(pub(super) Places);

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").finish_non_exhaustive()
    }
}

impl Iterator for Ids {
    type Item = Result<RowId>;

    fn next(&mut self) -> Option<Result<RowId>> {
        self.nth(0)
    }

    fn nth(&mut self, skipped: usize) -> Option<Result<RowId>> {
        let (part, row) = self.0.next(skipped as u64)?;
        Some(part.rows.id(row))
    }
}
