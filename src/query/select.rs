//! Which rows a filter lets through: for each part of a view the living rows
//! that pass.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use roaring::RoaringBitmap;

use super::explain::{StageName, StageReport};
use super::mask;
use crate::error::Result;
use crate::filter::{Bound, Filter, bind};
use crate::payload::Payload;
use crate::types::{Ordinal, RowId};
use crate::view::{Part, View};

/// A condition that only the caller can compute.
pub(super) type Predicate = Box<dyn Fn(&RowId, &Payload) -> bool + Send + Sync>;

/// The living rows that pass, part by part.
pub(super) struct Selection {
    parts: Vec<RoaringBitmap>,
    /// `parts` as a scan wants them, made when first asked for.
    masks: Vec<OnceLock<Vec<u64>>>,
    pub(super) report: StageReport,
}

/// Evaluates a filter, then the predicates on what it lets through, and leaves one row out.
pub(super) fn select(
    view: &View,
    filter: Option<&Filter>,
    predicates: &[Predicate],
    without: Option<&RowId>,
) -> Result<Selection> {
    let start = Instant::now();
    let steps = filter.map(|filter| bind(filter, &view.schema)).transpose()?;
    let mut bytes = 0;
    let without = without.map(|id| view.find(id)).transpose()?.flatten();
    let select = |(at, part): (usize, &Arc<Part>)| -> Result<RoaringBitmap> {
        let mut rows = match &steps {
            Some(steps) => evaluate(steps, part, &mut bytes)?,
            None => all(part),
        };
        rows -= &*part.dead;
        if let Some((_, row)) = without.filter(|(of, _)| *of == at) {
            rows.remove(row.0);
        }
        if predicates.is_empty() {
            return Ok(rows);
        }
        let mut passing = RoaringBitmap::new();
        for row in &rows {
            if ask(part, Ordinal(row), predicates, &mut bytes)? {
                passing.insert(row);
            }
        }
        Ok(passing)
    };
    let parts: Vec<_> = view.parts.iter().enumerate().map(select).collect::<Result<_>>()?;
    let mut selection = Selection::of(parts);
    let report = &mut selection.report;
    report.name = StageName::new(format_args!("filter"));
    (report.rows_in, report.bytes, report.time) = (view.live_rows(), bytes, start.elapsed());
    Ok(selection)
}

impl Selection {
    /// A selection of these rows, part by part.
    pub(super) fn of(parts: Vec<RoaringBitmap>) -> Self {
        let rows = parts.iter().map(RoaringBitmap::len).sum();
        let (name, time) = (StageName::new(format_args!("rows")), Duration::ZERO);
        let report = StageReport { name, dims: 0, rows_in: rows, rows_out: rows, bytes: 0, time };
        let masks = parts.iter().map(|_| OnceLock::new()).collect();
        Self { parts, masks, report }
    }

    /// Number of rows that pass.
    pub(super) fn rows(&self) -> u64 {
        self.report.rows_out
    }

    /// The rows that pass, part by part.
    pub(super) fn into_parts(self) -> Vec<RoaringBitmap> {
        self.parts
    }

    /// The rows of a part that pass.
    pub(super) fn of_part(&self, at: usize) -> &RoaringBitmap {
        &self.parts[at]
    }

    /// The rows of a part that pass as a scan wants them: one bit per row, 64 rows a word; `None`
    /// for all rows of the part. If all that live are selected, that is known already.
    pub(super) fn mask<'s>(&'s self, at: usize, part: &'s Part) -> Option<&'s [u64]> {
        let rows = &self.parts[at];
        if rows.len() == part.live_rows() {
            return part.alive();
        }
        Some(self.masks[at].get_or_init(|| mask::words(rows.clone(), part.rows.len())))
    }
}

/// Number of living rows that pass a filter.
pub(crate) fn count(view: &View, filter: &Filter) -> Result<u64> {
    Ok(select(view, Some(filter), &[], None)?.rows())
}

/// The living rows of each part that pass a filter.
pub(crate) fn passing(view: &View, filter: &Filter) -> Result<Vec<RoaringBitmap>> {
    Ok(select(view, Some(filter), &[], None)?.into_parts())
}

fn all(part: &Part) -> RoaringBitmap {
    let mut rows = RoaringBitmap::new();
    rows.insert_range(0..part.rows.len());
    rows
}

/// Rows of a part that pass, dead ones included.
fn evaluate(steps: &[Bound], part: &Part, bytes: &mut u64) -> Result<RoaringBitmap> {
    let mut stack: Vec<RoaringBitmap> = Vec::new();
    for step in steps {
        let rows = match step {
            Bound::Field(field, test) => part.rows.index(*field)?.select(test, bytes)?,
            Bound::Ids(ids) => find(ids, part)?,
            Bound::Not => all(part) - stack.pop().expect("a filter has its operands"),
            Bound::And(n) => fold(&mut stack, *n, |rows, other| *rows &= other),
            Bound::Or(n) => fold(&mut stack, *n, |rows, other| *rows |= other),
        };
        stack.push(rows);
    }
    Ok(stack.pop().expect("a filter leaves one set of rows"))
}

fn fold(
    stack: &mut Vec<RoaringBitmap>,
    operands: usize,
    join: fn(&mut RoaringBitmap, RoaringBitmap),
) -> RoaringBitmap {
    let mut operands = stack.drain(stack.len() - operands..);
    let mut rows = operands.next().expect("at least two operands");
    operands.for_each(|other| join(&mut rows, other));
    rows
}

fn find(ids: &[RowId], part: &Part) -> Result<RoaringBitmap> {
    let found = ids.iter().map(|id| part.rows.find(id)).filter_map(Result::transpose);
    found.map(|row| row.map(|row| row.0)).collect()
}

/// Whether all predicates let a row through.
fn ask(part: &Part, row: Ordinal, predicates: &[Predicate], bytes: &mut u64) -> Result<bool> {
    let (id, text) = (part.rows.id(row)?, part.rows.payload(row)?);
    *bytes += text.len() as u64;
    let payload = part.parse_payload(row, &text)?;
    Ok(predicates.iter().all(|passes| passes(&id, &payload)))
}
