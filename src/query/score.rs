//! What a score is, and what it cannot be above.

use std::cmp::Ordering;
use std::ops::Range;

use crate::encoding::Precision;
use crate::kernel::{Isa, row};
use crate::schema::Metric;
use crate::sown::{Bug, sown};
use crate::types::RowId;

/// Scores stored rows against a query by the definition: sums in `f64` in the
/// order [`row`] fixes, so that every machine gives the same score.
pub(super) struct Scorer<'a> {
    isa: Isa,
    metric: Metric,
    stored: Precision,
    /// The dimensions compared.
    query: &'a [f32],
    query_norm: f64,
    /// How far a cosine of sums in `f32` can be off.
    quick_error: f64,
}

/// Norms of which all products and sums are so far inside the normal numbers of `f32` that what is
/// lost below them is nothing beside [`QUICK_SLACK`].
const QUICK_NORMS: Range<f64> = 1e-9..1e18;

/// Covers, in units of the product of the norms, what `f64` sums of the definition are off by
/// (65 535 dimensions: 2^-40) and what `f32` loses by underflow (2^-49).
const QUICK_SLACK: f64 = 1e-12;

impl<'a> Scorer<'a> {
    pub(super) fn new(metric: Metric, stored: Precision, query: &'a [f32]) -> Self {
        let isa = Isa::detect();
        let query_norm = query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let mut quick_error = row::quick_error(query.len()) + QUICK_SLACK;
        if sown(Bug::SumsTooExact) {
            quick_error *= 0.95;
        }
        Self { isa, metric, stored, query, query_norm, quick_error }
    }

    /// Dimensions compared.
    pub(super) fn dims(&self) -> usize {
        self.query.len()
    }

    /// Bytes of a row that are read.
    pub(super) fn row_bytes(&self) -> usize {
        self.query.len() * self.stored.bytes()
    }

    /// The score of a row from its stored bytes, and the norm of what is
    /// compared if it is known. A row whose compared prefix is all zeros has no
    /// direction: its cosine is 0.
    ///
    /// Norms are rounded to `f32`, as they are stored, so that a known norm and
    /// a computed one give the same score.
    pub(super) fn score(&self, bytes: &[u8], norm: Option<f32>) -> f32 {
        let bytes = &bytes[..self.row_bytes()];
        let dot = || row::dot(self.isa, self.stored, self.query, bytes);
        let score = match self.metric {
            Metric::Dot => dot(),
            Metric::L2 => -row::l2_squared(self.isa, self.stored, self.query, bytes),
            Metric::Cosine => {
                let norm = norm.map_or_else(|| self.norm(bytes), f64::from);
                if norm == 0.0 { 0.0 } else { dot() / (self.query_norm * norm) }
            }
        };
        single(score)
    }

    /// The dot product in `f32`, for [`Self::bound`].
    pub(super) fn quick_dot(&self, bytes: &[u8]) -> f32 {
        row::quick_dot(self.isa, self.stored, self.query, bytes)
    }

    /// Makes of the quick dots of rows with these norms what [`Self::score`] of none is above.
    pub(super) fn bound(&self, norms: &[f32], upper: &mut [f32]) {
        if !QUICK_NORMS.contains(&self.query_norm) {
            return upper.fill(f32::INFINITY);
        }
        // Norms were rounded: the error is of a product that may be a little larger.
        let error = self.quick_error * (1.0 + f64::from(f32::EPSILON));
        for (upper, &norm) in upper.iter_mut().zip(norms) {
            let cosine = f64::from(*upper) / (self.query_norm * f64::from(norm)) + error;
            *upper = (cosine as f32).next_up();
        }
        ScoreBound::with_norm(self.metric, self.query_norm).scores(norms, upper);
        for (upper, &norm) in upper.iter_mut().zip(norms) {
            *upper = if QUICK_NORMS.contains(&f64::from(norm)) { *upper } else { f32::INFINITY };
        }
    }

    /// The norm of a prefix, rounded as full norms are; of a prefix so small
    /// that `f32` has lost its digits, as it is.
    fn norm(&self, bytes: &[u8]) -> f64 {
        let norm = row::norm_squared(self.isa, self.stored, bytes).sqrt();
        let rounded = norm as f32;
        if rounded.is_normal() { f64::from(rounded) } else { norm }
    }
}

/// Turns upper bounds of cosines into upper bounds of scores.
pub(super) struct ScoreBound {
    metric: Metric,
    /// Norm of the query.
    norm: f64,
}

/// What a norm rounded to `f32` and the definition's sums can be wrong by, relative to the
/// product of the norms; `encoding/bound.rs` counts the same for cosines.
const NORM_ROUNDING: f64 = 1e-6;

/// What a norm can be wrong by that is below the normal numbers.
const NORM_UNDERFLOW: f64 = 1e-44;

impl ScoreBound {
    pub(super) fn new(metric: Metric, query: &[f32]) -> Self {
        Self::with_norm(metric, query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt())
    }

    /// Bounds for a query with this norm.
    pub(super) fn with_norm(metric: Metric, norm: f64) -> Self {
        Self { metric, norm }
    }

    /// `upper` holds bounds of the cosines of rows with these norms, then of their scores.
    pub(super) fn scores(&self, norms: &[f32], upper: &mut [f32]) {
        match self.metric {
            Metric::Cosine => {}
            Metric::Dot => {
                for (upper, &norm) in upper.iter_mut().zip(norms) {
                    *upper = single(self.dot(f64::from(norm), *upper));
                }
            }
            Metric::L2 => {
                let square = self.norm * self.norm;
                for (upper, &norm) in upper.iter_mut().zip(norms) {
                    let norm = f64::from(norm);
                    let least = (norm * (1.0 - NORM_ROUNDING) - NORM_UNDERFLOW).max(0.0);
                    let score = 2.0 * self.dot(norm, *upper) - (square + least * least);
                    // The definition's own sum is of terms that these bound.
                    *upper = single(
                        score
                            + NORM_ROUNDING * (square + norm * norm)
                            + NORM_UNDERFLOW * NORM_UNDERFLOW,
                    );
                }
            }
        }
    }

    /// At least the dot product.
    fn dot(&self, norm: f64, cosine: f32) -> f64 {
        self.norm * (norm * (f64::from(cosine) + NORM_ROUNDING) + NORM_UNDERFLOW)
    }
}

/// A score as it is given out. Rounding keeps the order, so of bounds what is not below before is not
/// after. Sums of huge components leave the range of `f32`: an infinite score would tie with others it
/// should not tie with, a NaN would be lost. -0 becomes 0, with which it ties.
fn single(score: f64) -> f32 {
    score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 + 0.0
}

/// A row that was scored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub(super) score: f32,
    pub(super) id: RowId,
    /// Its position in the view.
    pub(super) position: u32,
}

impl Eq for Found {}

impl Ord for Found {
    /// Greater is worse, so that a max-heap has the worst on top, and sorting
    /// gives the best first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Found {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_components_give_finite_scores() {
        let query = [f32::MAX, f32::MAX];
        let mut row = Vec::new();
        Precision::F32.encode(&query, &mut row).expect("in range");
        for metric in Metric::ALL {
            let score = Scorer::new(metric, Precision::F32, &query).score(&row, None);
            assert!(score.is_finite(), "{metric}: {score}");
        }
    }
}
