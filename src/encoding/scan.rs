//! One query over all rows of a stage.
//!
//! ```text
//!   for each row: dot = <code, query>          kernel, integers
//!                 est = factor * dot * scale   the cosine of the prefixes,
//!                       + that of the base     where codes are of rows less a centre
//!                 offer(score(est, norm))
//! ```
//!
//! The factor belongs to the whole prefix a code holds. A query of fewer
//! dimensions does without, as `benches/codes.rs` measured on text vectors:
//!
//! - 8 bits: the code's own norm over those dimensions is computed in passing. That ranks
//!   as a code made for just that prefix would; the factor loses 1 to 2 points of recall.
//! - 1 and 4 bits: that norm is the same for all rows, and the factor nearly so: it
//!   changes no recall by more than half a point. It is kept, times the root of the ratio
//!   of the dimensions, so that the estimate keeps its size.
//!
//! It is all done for [`RUN_BLOCKS`] blocks at a time, so that dots and scores stay in the
//! nearest cache while codes stream past, and skipping blocks with no row alive.

use super::stage::unbiased;
use super::{Bits, StageCode, StageQuery, StageView};
use crate::kernel::topk::Collect;
use crate::kernel::{BLOCK, Isa, QUERIES_PER_PASS, byte_squares, coding};
use std::ops::Range;

/// Blocks scored between two visits to the collector.
pub(super) const RUN_BLOCKS: usize = 16;

/// Bytes of codes that are scored for one query after the other: they stay in the core's own
/// cache meanwhile.
const CODES_IN_CACHE: usize = 64 << 10;

/// Blocks of a code to score between two visits to the collectors of `queries` queries.
pub(super) fn run_blocks(code: StageCode, queries: usize) -> usize {
    if queries == 1 {
        RUN_BLOCKS
    } else {
        (CODES_IN_CACHE / code.block_bytes().max(1)).clamp(1, RUN_BLOCKS)
    }
}

/// How an estimated cosine becomes a score (higher is better).
#[derive(Debug, Clone, Copy)]
pub enum Scoring<'a> {
    /// The cosine itself.
    Cosine,
    /// The dot product: cosine times both norms.
    Dot {
        /// Norm of each row.
        norms: &'a [f32],
        /// Norm of the query.
        query_norm: f32,
    },
    /// The squared distance, negated.
    L2 {
        /// Norm of each row.
        norms: &'a [f32],
        /// Norm of the query.
        query_norm: f32,
    },
}

/// Buffers of a scan, to be used again.
#[derive(Debug, Clone)]
pub struct ScanScratch {
    pub(super) dots: Vec<i32>,
    squares: Vec<i32>,
    pub(super) scores: Vec<f32>,
    /// Cosine of the base with each query, times its length.
    bases: Vec<f32>,
}

impl Default for ScanScratch {
    fn default() -> Self {
        Self {
            dots: vec![0; QUERIES_PER_PASS * RUN_BLOCKS * BLOCK],
            squares: vec![0; RUN_BLOCKS * BLOCK],
            scores: vec![0.0; RUN_BLOCKS * BLOCK],
            bases: Vec::new(),
        }
    }
}

/// One query over the rows of one stage.
#[derive(Debug, Clone, Copy)]
pub struct Scan<'a> {
    /// The rows.
    pub view: StageView<'a>,
    /// The query, prepared for the same code.
    pub query: &'a StageQuery,
    /// What is ranked by.
    pub scoring: Scoring<'a>,
    /// One bit for each row, 64 rows to a word; without it all rows take part.
    pub alive: Option<&'a [u64]>,
    /// Ordinal of the first row.
    pub base: u32,
}

impl Scan<'_> {
    /// Offers the score of every row that takes part, for several queries over the same rows, each
    /// with its own collector: a few blocks at a time are scored for all of them, so that codes
    /// come from memory once.
    /// Each collector is offered what it would be offered alone, in the same order. Returns how
    /// many rows were scored: blocks of which none takes part are skipped.
    ///
    /// # Panics
    /// When a query and its view are of different codes, or `alive` or the norms are too short, or
    /// there are not as many collectors, or the rows differ.
    pub fn run_all<C: Collect>(
        scans: &[Self],
        isa: Isa,
        scratch: &mut ScanScratch,
        tops: &mut [C],
    ) -> u64 {
        assert_eq!(scans.len(), tops.len(), "one collector for each query");
        let Some(first) = scans.first() else { return 0 };
        for scan in scans {
            assert_eq!(scan.view.code, scan.query.code, "the query was prepared for another code");
            let same = std::ptr::eq(scan.view.blocks, first.view.blocks);
            assert!(same && scan.base == first.base, "queries over other rows");
        }
        scratch.bases.clear();
        scratch.bases.extend(scans.iter().map(|scan| scan.query.along(scan.view.base())));
        let blocks = first.view.rows().div_ceil(BLOCK);
        let run = run_blocks(first.view.code, scans.len());
        let mask = |block: usize| first.alive.map_or(!0, |words| words[block]);
        let (mut start, mut scored) = (0, 0);
        while start < blocks {
            let len = (start..blocks).take(run).take_while(|&b| mask(b) != 0).count();
            let passes = scans
                .chunks(QUERIES_PER_PASS)
                .zip(tops.chunks_mut(QUERIES_PER_PASS))
                .filter(|_| len > 0);
            for (pass, (scans, tops)) in passes.enumerate() {
                Self::dots(scans, isa, start..start + len, &mut scratch.dots);
                for (n, (scan, top)) in scans.iter().zip(tops).enumerate() {
                    let base = scratch.bases[pass * QUERIES_PER_PASS + n];
                    let scores = scan.score(isa, start..start + len, n, base, scratch);
                    let words = &mut [0; RUN_BLOCKS][..len];
                    coding::reaching(isa, scores, top.floor(), words);
                    words.iter_mut().zip(start..).for_each(|(word, block)| *word &= mask(block));
                    top.offer_words(first.base + (start * BLOCK) as u32, scores, words);
                }
            }
            scored += ((start + len) * BLOCK).min(first.view.rows()) - start * BLOCK;
            // A dead block is skipped alone: it is what ended the run, or began none.
            start += len.max(1);
        }
        scored as u64
    }

    /// Dots with the rows of some blocks, of each of at most [`QUERIES_PER_PASS`] queries.
    fn dots(scans: &[Self], isa: Isa, blocks: Range<usize>, dots: &mut [i32]) {
        let queries = scans.iter().map(|scan| scan.query);
        StageQuery::dots(queries, isa, &scans[0].view, blocks, dots);
    }

    /// Scores of the rows of some blocks, from the `n`-th of the dots, and the query along their
    /// base.
    fn score<'s>(
        &self,
        isa: Isa,
        blocks: Range<usize>,
        n: usize,
        base: f32,
        scratch: &'s mut ScanScratch,
    ) -> &'s [f32] {
        let StageView { code, blocks: codes, factors, residuals, .. } = self.view;
        let rows = blocks.start * BLOCK..(blocks.end * BLOCK).min(factors.len());
        let codes = &codes[blocks.start * code.block_bytes()..blocks.end * code.block_bytes()];
        let dots = &scratch.dots[n * blocks.len() * BLOCK..][..blocks.len() * BLOCK];
        let scores = &mut scratch.scores[..rows.len()];
        let (units, scale) = (code.units(code.dims), self.query.scale);
        match code.bits {
            Bits::Eight if self.query.dims < code.dims => {
                let squares = &mut scratch.squares[..dots.len()];
                byte_squares(isa, codes, units, &self.query.lanes, squares);
                for ((score, &dot), &square) in scores.iter_mut().zip(dots).zip(&*squares) {
                    // A prefix of zeros has a dot of 0, and must not divide by its norm.
                    *score = dot as f32 * scale / (square.max(1) as f32).sqrt();
                }
            }
            Bits::Four => {
                let (scales, residuals) = (&factors[rows.clone()], &residuals[rows.clone()]);
                let rows = scores.iter_mut().zip(dots).zip(scales).zip(residuals);
                for (((score, &dot), &factor), &residual) in rows {
                    *score = unbiased(factor, residual) * (dot as f32 * scale);
                }
            }
            _ => {
                let (dots, factors) = (&dots[..rows.len()], &factors[rows.clone()]);
                coding::estimate(isa, dots, factors, (scale, base), scores);
            }
        }
        self.scoring.apply(rows, scores);
        scores
    }
}

#[cfg(any(test, feature = "testing"))]
impl Scan<'_> {
    /// As [`Self::run_all`], for one query.
    ///
    /// # Panics
    /// As [`Self::run_all`].
    pub fn run(&self, isa: Isa, scratch: &mut ScanScratch, top: &mut impl Collect) {
        Self::run_all(std::slice::from_ref(self), isa, scratch, std::slice::from_mut(top));
    }
}

impl Scoring<'_> {
    /// The score of a row by its estimated cosine.
    pub fn of_row(&self, row: usize, cosine: f32) -> f32 {
        let mut score = [cosine];
        self.apply(row..row + 1, &mut score);
        score[0]
    }

    /// Turns estimated cosines of `rows` into scores.
    fn apply(&self, rows: Range<usize>, scores: &mut [f32]) {
        match *self {
            Self::Cosine => {}
            Self::Dot { norms, query_norm } => {
                for (score, &norm) in scores.iter_mut().zip(&norms[rows]) {
                    *score = *score * norm * query_norm;
                }
            }
            Self::L2 { norms, query_norm } => {
                for (score, &norm) in scores.iter_mut().zip(&norms[rows]) {
                    let estimate =
                        norm * (2.0 * query_norm * *score - norm) - query_norm * query_norm;
                    // Norms far out overflow; a NaN would lose the row.
                    *score = estimate.max(f32::MIN);
                }
            }
        }
    }
}
