//! The true nearest rows, proven by bounds instead of by comparing every vector.
//!
//! ```text
//!   floor = k-th best score of a shortlist            a scan of the funnel's code
//!   for each piece of the 4-bit code:                 a quarter of the bytes of f16 vectors
//!       upper = no score of the row is above it
//!       keep rows whose upper >= floor
//!       when many are kept: score them by the definition, highest upper first,
//!                           and raise the floor to the k-th best score so far
//! ```
//!
//! The floor is the score of some row at rank k or above, so it is never above that of the
//! true k-th row, and a row whose upper bound is *below* it cannot be among the best, not
//! even by its id. All that are left are scored by the definition that comparing every row
//! uses, and ranked by the same [`Best`]: so the answers are equal, ties included.
//!
//! Bounds are of cosines (`encoding/bound.rs`); [`Reach`] makes scores of them. Parts without such
//! a code at hand (rows in RAM), and those of which a filter leaves few rows, are compared
//! row by row.

use std::time::{Duration, Instant};

use super::exec::{Run, Scratch, locate};
use super::explain::{Explain, StageReport};
use super::funnel::Entry;
use super::score::{Best, Found, Scorer};
use crate::encoding::{BoundQuery, StageCode};
use crate::error::Result;
use crate::kernel::topk::Scored;
use crate::kernel::{BLOCK, Isa};
use crate::rows::Column;
use crate::schema::Metric;
use crate::sown::{Bug, sown};

/// Rows kept before they are scored.
const MANY: usize = 1024;

/// Where a filter leaves one row of a part in so many, or fewer, their vectors are read at
/// once: a row out of its order costs some four times what it costs in a scan.
const SPARSE: u64 = 16;

/// What a proof needs to know of the query.
struct Proof {
    stage: usize,
    code: StageCode,
    bound: BoundQuery,
    reach: Reach,
    floor: f32,
}

/// What was done so far.
#[derive(Default)]
struct Tally {
    bounded: u64,
    kept: u64,
    scored: u64,
    compared: u64,
    scoring: Duration,
}

impl Run<'_> {
    /// Finds the true nearest rows by the bounds of a stage code. `entry` is the code that
    /// gives the first floor.
    pub(super) fn prove(
        &self,
        stage: usize,
        entry: &Entry,
        scratch: &mut Scratch,
    ) -> Result<(Vec<Found>, Explain)> {
        let mut explain = Explain { exact: true, ..Explain::default() };
        if self.limit == 0 {
            return Ok((Vec::new(), explain));
        }
        let scorer = self.scorer(self.dims);
        let floor = self.first_floor(stage, entry, &scorer, scratch, &mut explain)?;
        let start = Instant::now();
        let code = self.view.schema.stages()[stage];
        let bound = BoundQuery::new(code, self.query);
        let reach = Reach::new(self.view.schema.metric(), &self.query[..self.dims]);
        let proof = Proof { stage, code, bound, reach, floor };
        let (mut best, mut tally) = (Best::new(self.limit), Tally::default());
        scratch.shortlist.clear();
        for at in 0..self.view.parts.len() {
            if self.is_bounded(at) {
                self.bound_part(at, &proof, &scorer, &mut best, &mut tally, scratch)?;
            } else {
                tally.compared += self.compare(at, &scorer, &mut best)?;
            }
        }
        self.settle(&proof, &scorer, &mut best, &mut tally, &mut scratch.shortlist)?;
        let found = best.into_sorted();
        self.report(&proof, &tally, found.len(), start.elapsed(), &mut explain);
        Ok((found, explain))
    }

    /// The k-th best score of a shortlist, if it has so many rows.
    fn first_floor(
        &self,
        stage: usize,
        entry: &Entry,
        scorer: &Scorer,
        scratch: &mut Scratch,
        explain: &mut Explain,
    ) -> Result<f32> {
        // The bounds' own code would be read twice.
        if entry.stage == stage {
            return Ok(f32::NEG_INFINITY);
        }
        let keep = self.limit.saturating_mul(2).saturating_add(16);
        explain.stages.push(self.scan(entry, keep, scratch));
        self.request(&mut scratch.shortlist);
        for candidate in &mut scratch.shortlist {
            candidate.score = self.score_of(candidate.ordinal, scorer)?;
        }
        let scores = &mut scratch.shortlist;
        if scores.len() < self.limit {
            return Ok(f32::NEG_INFINITY);
        }
        let descending = |a: &Scored, b: &Scored| b.score.total_cmp(&a.score);
        Ok(scores.select_nth_unstable_by(self.limit - 1, descending).1.score)
    }

    /// The score by the definition of the row at a position of the view.
    pub(super) fn score_of(&self, position: u32, scorer: &Scorer) -> Result<f32> {
        let (part, row) = locate(self.view, &self.bases, position);
        let whole = self.dims == self.view.schema.dims();
        let norm = whole.then(|| part.rows.norms()[row.index()]);
        Ok(scorer.score(part.rows.vector(row)?, norm))
    }

    fn is_bounded(&self, at: usize) -> bool {
        let part = &self.view.parts[at];
        let rows = self.selection.as_ref().map_or(part.live_rows(), |s| s.of_part(at).len());
        part.segment.is_some() && rows > u64::from(part.rows.len()) / SPARSE
    }

    /// Keeps the rows of a part that can be among the best.
    fn bound_part(
        &self,
        at: usize,
        proof: &Proof,
        scorer: &Scorer,
        best: &mut Best,
        tally: &mut Tally,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (part, base) = (&self.view.parts[at], self.bases[at]);
        let mask = self.selection.as_ref().map(|some| some.mask(at, part.rows.len()));
        let alive = mask.as_deref().or_else(|| part.alive());
        let living = |block: usize| alive.map_or(u64::MAX, |words| words[block]);
        part.rows.ready(Column::Stage(proof.stage))?;
        let view = part.rows.code(proof.stage);
        let blocks = view.rows().div_ceil(BLOCK);
        for start in (0..blocks).step_by(BoundQuery::blocks()) {
            let run = start..(start + BoundQuery::blocks()).min(blocks);
            if run.clone().all(|block| living(block) == 0) {
                continue;
            }
            let upper = proof.bound.upper(Isa::detect(), &view, run, &mut scratch.scan);
            let first = start * BLOCK;
            proof.reach.scores(&part.rows.norms()[first..first + upper.len()], upper);
            let mut floor = best.floor().max(proof.floor);
            if sown(Bug::FloorTooHigh) {
                floor += floor.abs() * 0.1;
            }
            for (n, upper) in upper.chunks(BLOCK).enumerate() {
                let living = living(start + n);
                let position = base + (first + n * BLOCK) as u32;
                tally.bounded += u64::from(living_rows(living, upper.len()));
                keep(&mut scratch.shortlist, position, upper, living, floor);
            }
            if scratch.shortlist.len() >= MANY {
                self.settle(proof, scorer, best, tally, &mut scratch.shortlist)?;
            }
        }
        Ok(())
    }

    /// Scores the rows kept, highest bound first, until the next cannot be among the best.
    fn settle(
        &self,
        proof: &Proof,
        scorer: &Scorer,
        best: &mut Best,
        tally: &mut Tally,
        kept: &mut Vec<Scored>,
    ) -> Result<()> {
        let start = Instant::now();
        tally.kept += kept.len() as u64;
        let floor = best.floor().max(proof.floor);
        kept.retain(|row| row.score >= floor);
        self.request(kept);
        kept.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.ordinal.cmp(&b.ordinal)));
        for row in &*kept {
            if row.score < best.floor() {
                break;
            }
            let (part, ordinal) = locate(self.view, &self.bases, row.ordinal);
            let score = self.score_of(row.ordinal, scorer)?;
            best.offer(score, row.ordinal, || part.rows.id(ordinal))?;
            tally.scored += 1;
        }
        kept.clear();
        tally.scoring += start.elapsed();
        Ok(())
    }

    fn report(
        &self,
        proof: &Proof,
        tally: &Tally,
        found: usize,
        time: Duration,
        explain: &mut Explain,
    ) {
        let row_bytes = self.scorer(self.dims).row_bytes() as u64;
        explain.stages.push(StageReport {
            name: format!("bounds {}", proof.code),
            dims: proof.code.dims,
            rows_in: tally.bounded,
            rows_out: tally.kept,
            bytes: tally.bounded * proof.code.bytes_per_row() as u64,
            time: time.saturating_sub(tally.scoring),
        });
        explain.stages.push(StageReport {
            name: format!("vectors in reach, {}", self.view.schema.stored()),
            dims: self.dims,
            rows_in: tally.scored + tally.compared,
            rows_out: found as u64,
            bytes: (tally.scored + tally.compared) * row_bytes,
            time: tally.scoring,
        });
    }
}

/// How many of the first `rows` bits are set.
fn living_rows(living: u64, rows: usize) -> u32 {
    (living & (u64::MAX >> (BLOCK - rows))).count_ones()
}

/// Adds the living rows of a block whose upper bound reaches the floor.
fn keep(kept: &mut Vec<Scored>, first: u32, upper: &[f32], living: u64, floor: f32) {
    // Nearly no block has such a row; without a branch per row the comparison vectorises.
    if upper.iter().fold(0, |any, &u| any | u32::from(u >= floor)) == 0 {
        return;
    }
    for (lane, &score) in upper.iter().enumerate() {
        if living >> lane & 1 == 1 && score >= floor {
            kept.push(Scored { ordinal: first + lane as u32, score });
        }
    }
}

/// Turns upper bounds of cosines into upper bounds of scores.
struct Reach {
    metric: Metric,
    /// Norm of the query.
    norm: f64,
}

/// What a norm rounded to `f32` and the definition's sums can be wrong by, relative to the
/// product of the norms; `encoding/bound.rs` counts the same for cosines.
const ROUNDING: f64 = 1e-6;

/// What a norm can be wrong by that is below the normal numbers.
const TINY: f64 = 1e-44;

impl Reach {
    fn new(metric: Metric, query: &[f32]) -> Self {
        Self { metric, norm: query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() }
    }

    /// `upper` holds bounds of the cosines of rows with these norms, then of their scores.
    fn scores(&self, norms: &[f32], upper: &mut [f32]) {
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
                    let least = (norm * (1.0 - ROUNDING) - TINY).max(0.0);
                    let score = 2.0 * self.dot(norm, *upper) - (square + least * least);
                    // The definition's own sum is of terms that these bound.
                    *upper = single(score + ROUNDING * (square + norm * norm) + TINY * TINY);
                }
            }
        }
    }

    /// At least the dot product.
    fn dot(&self, norm: f64, cosine: f32) -> f64 {
        self.norm * (norm * (f64::from(cosine) + ROUNDING) + TINY)
    }
}

/// To `f32` as scores are. Rounding keeps the order, so what is not below before is not after;
/// -0 becomes 0, which no score of 0 is above.
fn single(score: f64) -> f32 {
    score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 + 0.0
}
