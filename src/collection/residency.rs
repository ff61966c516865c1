//! Which columns of segments are kept in RAM: those that searches read first, as
//! long as [`Options::ram_budget`] has room for them.

use std::fmt;
use std::sync::Arc;

use super::Options;
use crate::error::{Error, Result};
use crate::query;
use crate::rows::{Budget, Column, Rows};
use crate::schema::Schema;
use crate::view::{Part, View};

/// Where a column of the rows in segments is, and why; part of
/// [`Info`](super::Info).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ColumnInfo {
    /// `norms`, or the stage code with its factors, as in `1 bit x 512`.
    pub name: String,
    /// Its bytes, of all segments.
    pub bytes: u64,
    /// How many of these are kept in RAM.
    pub ram_bytes: u64,
    /// Why as many and no more.
    pub placement: Placement,
}

/// Why a column is in RAM or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// All of it is in RAM.
    InRam,
    /// What is not in RAM had no room in [`Options::ram_budget`]: it is mapped, and
    /// read from disk where the system does not have it in its cache.
    OverBudget,
    /// Only exact searches read it, from front to back: it is mapped.
    Mapped,
    /// No search reads it: by [`Options::max_dims`] it is finer than is asked for.
    Unused,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InRam => "in RAM",
            Self::OverBudget => "mapped: over the RAM budget",
            Self::Mapped => "mapped: only exact searches read it",
            Self::Unused => "not read: finer than the dimensions searched",
        })
    }
}

/// What a handle keeps in RAM of its segments.
pub(super) struct Residency {
    budget: Arc<Budget>,
    /// Those that searches read, in the order they want RAM.
    columns: Vec<Column>,
    /// Most dimensions of a search.
    pub(super) dims: usize,
}

impl Residency {
    pub(super) fn new(schema: &Schema, options: &Options) -> Result<Self> {
        let dims = options.max_dims.unwrap_or(schema.dims());
        if !(1..=schema.dims()).contains(&dims) {
            let why = format!("expected 1 to {}, got {dims}", schema.dims());
            return Err(Error::invalid("max_dims", why));
        }
        let budget = Budget::new(options.ram_budget.unwrap_or(u64::MAX));
        Ok(Self { budget, columns: query::columns(schema, dims), dims })
    }

    /// Takes into RAM what there is room for, of all segments the first column
    /// before the second of any.
    pub(super) fn settle(&self, view: &View) -> Result<()> {
        for column in &self.columns {
            for part in segments(view) {
                part.rows.hold(*column, &self.budget)?;
            }
        }
        Ok(())
    }

    /// The same for segments that are in no view yet, before the writer's lock is taken. What
    /// cannot be read is left where it is: whoever comes to read it is told.
    pub(super) fn welcome(&self, segments: &[&dyn Rows]) {
        for column in &self.columns {
            for segment in segments {
                let _ = segment.hold(*column, &self.budget);
            }
        }
    }

    /// Whether exact searches over as many dimensions as this handle has read it.
    fn is_mapped(&self, schema: &Schema, column: Column) -> bool {
        matches!(column, Column::Stage(n)
            if !schema.pins(n) && schema.stages()[n].dims <= self.dims)
    }

    pub(super) fn info(&self, view: &View) -> Vec<ColumnInfo> {
        let schema = &view.schema;
        let stages = schema.stages().iter().enumerate();
        let stages = stages.map(|(n, code)| (Column::Stage(n), code.to_string()));
        let all = stages.chain([(Column::Norms, "norms".to_owned())]);
        let describe = |(column, name)| {
            let sizes = || segments(view).filter_map(|part| part.rows.column(column));
            let bytes = sizes().map(|(bytes, _)| bytes).sum();
            let ram_bytes = sizes().filter(|(_, held)| *held).map(|(bytes, _)| bytes).sum();
            let placement = match () {
                () if ram_bytes == bytes && self.columns.contains(&column) => Placement::InRam,
                () if self.columns.contains(&column) => Placement::OverBudget,
                () if self.is_mapped(schema, column) => Placement::Mapped,
                () => Placement::Unused,
            };
            ColumnInfo { name, bytes, ram_bytes, placement }
        };
        all.map(describe).collect()
    }
}

fn segments(view: &View) -> impl Iterator<Item = &Arc<Part>> {
    view.parts.iter().filter(|part| part.segment.is_some())
}

/// Whether two views stand on the same segments.
pub(super) fn same_segments(a: &View, b: &View) -> bool {
    segments(a).map(|part| part.segment).eq(segments(b).map(|part| part.segment))
}
