//! What no row can exceed: upper bounds of cosines from a 4-bit code.
//!
//! Let `y = x / |x|` be a row and `s c` its code, at a distance of at most `r` (its residual); let
//! `p = q / |q|` be the query and `t` what it was rounded to. Then
//!
//! ```text
//!   <p, y> = <t, s c> + <t, y - s c> + <p - t, y>  <=  s <t, c> + |t| r + |p - t|
//! ```
//!
//! by Cauchy and Schwarz, twice. The first term is what the kernel counts in integers.
//! This holds for real numbers; sums here are `f32`, of terms below 2, so a fixed
//! [`COSINE_ROUNDING`] is added that is far above what they and the definition of a score
//! (`kernel::row`, and a division by a norm rounded to `f32`) can be wrong by together.

use super::scan::{RUN_BLOCKS, run_blocks};
use super::{Bits, ScanScratch, StageCode, StageQuery, StageView};
use crate::kernel::{BLOCK, Isa};
use crate::sown::{Bug, sown};
use std::ops::Range;

/// Covers, in units of a cosine: the conversion of a dot (2^-24 of at most 1.2), the products
/// and sums of an upper bound (5 times 2^-24 of at most 2), a score divided by a norm that was
/// rounded (2^-23), and sums of 65 535 terms in `f64` (below 2^-36). Ten times all of it.
const COSINE_ROUNDING: f64 = 1e-5;

/// A query prepared to bound its cosine with rows of a 4-bit code.
#[derive(Debug, Clone)]
pub struct BoundQuery {
    query: StageQuery,
    /// `|t|`, rounded up.
    length: f32,
    /// `|p - t|` and [`COSINE_ROUNDING`].
    slack: f32,
}

impl BoundQuery {
    /// Prepares all the dimensions of a code.
    ///
    /// # Panics
    /// When the code does not have 4 bits, or the query has fewer dimensions.
    pub fn new(code: StageCode, query: &[f32]) -> Self {
        assert_eq!(code.bits, Bits::Four, "bounds follow from 4-bit codes");
        let query_of_code = StageQuery::new(code, query, code.dims);
        let mut new = Self { query: query_of_code, length: 0.0, slack: 0.0 };
        new.measure(query);
        new
    }

    /// Prepares another query, in the buffers of this one.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn set(&mut self, code: StageCode, query: &[f32]) {
        assert_eq!(code.bits, Bits::Four, "bounds follow from 4-bit codes");
        self.query.set(code, query, code.dims);
        self.measure(query);
    }

    /// How long the rounded query is, and how far from the query.
    fn measure(&mut self, query: &[f32]) {
        let vector = &query[..self.query.code.dims];
        let norm = vector.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let (mut length, mut off) = (0f64, 0f64);
        if norm > 0.0 {
            let scale = f64::from(self.query.scale);
            for (&v, &i) in vector.iter().zip(self.query.lanes.as_slice().as_flattened()) {
                let rounded = scale * f64::from(i);
                length += rounded * rounded;
                off += (f64::from(v) / norm - rounded).powi(2);
            }
        }
        if sown(Bug::QueryTakenAsExact) {
            off = 0.0;
        }
        let up = |v: f64| (v as f32).next_up();
        (self.length, self.slack) = (up(length.sqrt()), up(off.sqrt() + COSINE_ROUNDING));
    }

    /// Does for several queries together, at most [`crate::kernel::QUERIES_PER_PASS`], what
    /// [`Self::upper_of`] goes on from.
    ///
    /// # Panics
    /// When the view is of another code, or there are more than [`RUN_BLOCKS`] blocks.
    pub fn dots<'q>(
        queries: impl ExactSizeIterator<Item = &'q Self>,
        isa: Isa,
        view: &StageView<'_>,
        blocks: Range<usize>,
        scratch: &mut ScanScratch,
    ) {
        assert!(blocks.len() <= RUN_BLOCKS, "{} blocks in a run", blocks.len());
        let queries = queries.map(|query| {
            assert_eq!(view.code, query.query.code, "the query was prepared for another code");
            &query.query
        });
        StageQuery::dots(queries, isa, view, blocks, &mut scratch.dots);
    }

    /// Upper bounds of the cosines of the rows of some blocks, for the `n`-th of the queries that
    /// [`Self::dots`] was last asked for.
    ///
    /// # Panics
    /// As [`Self::dots`].
    pub fn upper_of<'s>(
        &self,
        n: usize,
        view: &StageView<'_>,
        blocks: Range<usize>,
        scratch: &'s mut ScanScratch,
    ) -> &'s mut [f32] {
        let rows = blocks.start * BLOCK..(blocks.end * BLOCK).min(view.rows());
        let dots = &scratch.dots[n * blocks.len() * BLOCK..][..blocks.len() * BLOCK];
        let upper = &mut scratch.scores[..rows.len()];
        let (scales, residuals) = (&view.factors[rows.clone()], &view.residuals[rows]);
        let rows = upper.iter_mut().zip(dots).zip(scales).zip(residuals);
        for (((upper, &dot), &scale), &residual) in rows {
            *upper =
                scale * (dot as f32 * self.query.scale) + (self.length * residual + self.slack);
        }
        upper
    }

    /// Blocks that [`Self::dots`] is best asked for at once, where `queries` ask for the same; never
    /// more than it takes.
    pub fn blocks(&self, queries: usize) -> usize {
        run_blocks(self.query.code, queries)
    }
}

#[cfg(any(test, feature = "testing"))]
impl BoundQuery {
    /// As [`Self::upper_of`], for this query alone.
    ///
    /// # Panics
    /// As [`Self::dots`].
    pub fn upper<'s>(
        &self,
        isa: Isa,
        view: &StageView<'_>,
        blocks: Range<usize>,
        scratch: &'s mut ScanScratch,
    ) -> &'s mut [f32] {
        Self::dots([self].into_iter(), isa, view, blocks.clone(), scratch);
        self.upper_of(0, view, blocks, scratch)
    }
}
