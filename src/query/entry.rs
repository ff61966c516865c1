//! Where a search begins: the stage code whose estimates it starts from, and what it reads.

use crate::encoding::StageCode;
use crate::rows::Column;
use crate::schema::{Metric, Schema};

/// Where a funnel begins: a scan over one stage code, or walks over graphs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    /// Which of the schema's stages.
    pub(super) stage: usize,
    pub(super) code: StageCode,
    /// Dimensions of the code that are compared.
    pub(super) dims: usize,
    /// Whether parts that have a graph are walked instead.
    pub(super) walks: Walks,
}

impl Entry {
    /// The code to shortlist with for a search over `dims` dimensions: the
    /// shortest that holds them all, else the longest. Shorter codes have more
    /// bits, so the first that suffices is also the sharpest.
    pub(super) fn choose(schema: &Schema, dims: usize) -> Self {
        // A code that is not kept in RAM is no place to begin.
        let stages = schema.stages();
        let mut pinned = (0..stages.len()).filter(|n| schema.pins(*n));
        let holds = pinned.clone().find(|n| stages[*n].dims >= dims);
        let stage = holds.or(pinned.next_back()).expect("a schema pins a code");
        let dims = stages[stage].dims.min(dims);
        Self { stage, code: stages[stage], dims, walks: Walks::Never }
    }

    /// This code, with parts walked as `walks` says.
    pub(super) fn walking(self, walks: Walks) -> Self {
        Self { walks, ..self }
    }

    /// This code, with every part scanned.
    pub(super) fn scanned(self) -> Self {
        self.walking(Walks::Never)
    }
}

/// Whether a funnel begins with graphs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Walks {
    /// It scans.
    Never,
    /// Where that is quicker, for this recall.
    Recall(f64),
    /// Wherever there is a graph, for this recall.
    Always(f64),
    /// Wherever there is a graph, keeping this many rows.
    Width(usize),
}

impl Walks {
    /// For a shortlist `times` as long; where recall decides, that makes it so.
    pub(super) fn wider(self, times: usize) -> Self {
        match self {
            Self::Width(width) => Self::Width(width.saturating_mul(times)),
            other => other,
        }
    }
}

/// Whether a search over `dims` dimensions reads the norms of full vectors.
pub(super) fn needs_norms(schema: &Schema, dims: usize) -> bool {
    dims == schema.dims() || schema.metric() != Metric::Cosine
}

/// The columns that searches over at most `dims` dimensions can read, those first
/// that a search over all of them reads.
pub(crate) fn columns(schema: &Schema, dims: usize) -> Vec<Column> {
    let stage = |dims| Column::Stage(Entry::choose(schema, dims).stage);
    let norms = (1..=dims).any(|dims| needs_norms(schema, dims)).then_some(Column::Norms);
    let mut columns: Vec<Column> = [stage(dims)].into_iter().chain(norms).collect();
    for column in (1..dims).rev().map(stage) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_searches_scan_the_sharp_code() {
        let schema = Schema::builder(1024).granularities([32, 64, 256]).build().expect("valid");
        let entry = |dims| Entry::choose(&schema, dims);
        assert_eq!((entry(17).stage, entry(17).dims), (0, 17));
        assert_eq!((entry(64).stage, entry(64).dims), (0, 64));
        assert_eq!((entry(65).stage, entry(65).dims), (1, 65));
        assert_eq!((entry(1024).stage, entry(1024).dims), (1, 512));
    }
}
