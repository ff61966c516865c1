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
//! Bounds are of cosines (`encoding/bound.rs`); [`ScoreBound`] makes scores of them. Parts without such
//! a code at hand (rows in RAM), and those of which a filter leaves few rows, are compared
//! row by row; so is the rest once bounds have left most of some thousand rows in reach. Of fewer,
//! but many still, sums in `f32` say more before they are scored (`query/sieve.rs`).

use std::ops::Range;
use std::slice;
use std::time::{Duration, Instant};

use super::best::{Best, Rank};
use super::entry::{Entry, needs_norms};
use super::explain::{Explain, StageName, StageReport};
use super::plan::PROVE_WANTED_ONE_IN;
use super::run::{Answer, Few, QueryRun, Scratch};
use super::scan::scan;
use super::score::ScoreBound;
use super::select::Selection;
use crate::encoding::{BoundQuery, ScanScratch, StageCode, StageView};
use crate::error::Result;
use crate::kernel::topk::Scored;
use crate::kernel::{BLOCK, Isa, QUERIES_PER_PASS, coding};
use crate::rows::Column;
use crate::sown::{Bug, sown};

/// Rows kept before they are scored.
const SETTLE_AT_ROWS: usize = 1024;

/// Rows bounded before one looks whether that pays: not where it leaves more than half in reach.
const TRY_BOUNDS_ON_ROWS: u64 = 4096;

/// Where one row in this many is left in reach, or more, they are quicker in the order they lie in
/// than by their bounds.
const SIFT_ABOVE_ONE_IN: u64 = 8;

/// Where a filter leaves one row of a part in this many, or fewer, their vectors are read at
/// once: a row out of its order costs some four times what it costs in a scan.
const GATHER_PART_BELOW_ONE_IN: u64 = 16;

/// What a proof needs to know of the query, and what was done so far.
struct Proof {
    stage: usize,
    code: StageCode,
    bound: BoundQuery,
    score_bound: ScoreBound,
    floor: f32,
    /// Rows that can be among the best, still to be scored.
    kept: Vec<Scored>,
    tally: Tally,
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

/// Finds the true nearest rows of some queries by the bounds of a stage code. `entry` is the code
/// that gives the first floors.
pub(super) fn prove(
    runs: &[QueryRun],
    stage: usize,
    entry: &Entry,
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    let Some(first) = runs.first().filter(|run| run.wanted.limit > 0) else {
        let none = |_| Answer::none(scratch.explain(true));
        return Ok(runs.iter().map(none).collect());
    };
    let (floors, mut explains) = first_floors(runs, stage, entry, scratch)?;
    let start = Instant::now();
    let proof =
        |(n, (run, floor)): (usize, (&QueryRun, f32))| Proof::new(run, stage, floor, n, scratch);
    let mut proofs: Few<Proof> = runs.iter().zip(floors).enumerate().map(proof).collect();
    let mut ranks: Few<Rank> =
        runs.iter().map(|run| run.rank(run.wanted.dims, scratch.found())).collect();
    for at in 0..first.view.parts.len() {
        if first.is_bounded(at) && !in_vain(&proofs) {
            first.bound_part(at, &mut proofs, &mut ranks, scratch)?;
        } else {
            first.compare_rest(at, 0, &mut proofs, &mut ranks, scratch)?;
        }
    }
    let mut scoring = Duration::ZERO;
    for (proof, rank) in proofs.iter_mut().zip(&mut ranks) {
        first.settle(proof, rank, scratch)?;
        scoring += proof.tally.scoring;
    }
    let time = start.elapsed().saturating_sub(scoring) / runs.len() as u32;
    let mut answers = Few::new();
    for (n, (proof, rank)) in proofs.into_iter().zip(ranks).enumerate() {
        let found = rank.best.into_sorted();
        let mut explain = std::mem::take(&mut explains[n]);
        first.report(&proof, found.len(), time, &mut explain);
        answers.push(Answer { found, explain, listed: 0, depth: 0 });
        scratch.lists[n] = proof.kept;
        scratch.bounds.push(proof.bound);
    }
    Ok(answers)
}

/// The k-th best score of a shortlist of each query, or of fewer than k rows minus infinity.
fn first_floors(
    runs: &[QueryRun],
    stage: usize,
    entry: &Entry,
    scratch: &mut Scratch,
) -> Result<(Few<f32>, Few<Explain>)> {
    let first = &runs[0];
    let rows = first.selection.map_or_else(|| first.view.live_rows(), Selection::rows);
    // The bounds' own code would be read twice. So many hits have no shortlist.
    if entry.stage == stage || first.wanted.limit as u64 > rows / PROVE_WANTED_ONE_IN {
        let none = runs.iter().map(|_| (f32::NEG_INFINITY, scratch.explain(true)));
        return Ok(none.unzip());
    }
    let keep = first.wanted.limit.saturating_mul(2).saturating_add(16);
    let mut explains = scan(runs, entry, keep, scratch);
    explains.iter_mut().for_each(|explain| explain.exact = true);
    let lists = &mut scratch.lists[..runs.len()];
    runs.iter().zip(lists).for_each(|(run, list)| run.request(list));
    let mut floors = Few::new();
    for (n, run) in runs.iter().enumerate() {
        let mut rank = run.rank(run.wanted.dims, scratch.found());
        let Rank { scorer, best } = &mut rank;
        let offer = |row: &mut Scored, score| run.offer(row.ordinal, score, best);
        run.each_score(&mut scratch.lists[n], scorer, offer)?;
        floors.push(rank.best.floor());
        scratch.recycle(rank.best.into_sorted(), Vec::new());
    }
    Ok((floors, explains))
}

impl Proof {
    /// With the `n`-th list of `scratch`.
    fn new(run: &QueryRun, stage: usize, floor: f32, n: usize, scratch: &mut Scratch) -> Self {
        let code = run.view.schema.stages()[stage];
        let again = |mut bound: BoundQuery| {
            bound.set(code, run.query);
            bound
        };
        let known = scratch.bounds.pop().map(again);
        let bound = known.unwrap_or_else(|| BoundQuery::new(code, run.query));
        let all = scratch.lists.len().max(n + 1);
        scratch.lists.resize_with(all, Vec::new);
        let mut kept = std::mem::take(&mut scratch.lists[n]);
        kept.clear();
        let score_bound = ScoreBound::new(run.view.schema.metric(), &run.query[..run.wanted.dims]);
        Self { stage, code, bound, score_bound, floor, kept, tally: Tally::default() }
    }

    /// Bounds the rows of some blocks of a part, and keeps those in reach.
    /// The dots are there, and this is the `n`-th query.
    fn bound(&mut self, n: usize, piece: &Piece, best: &Best, scratch: &mut ScanScratch) {
        let upper = self.bound.upper_of(n, &piece.view, piece.blocks.clone(), scratch);
        let first = piece.blocks.start * BLOCK;
        let norms = piece.norms.get(first..first + upper.len()).unwrap_or_default();
        self.score_bound.scores(norms, upper);
        let mut floor = best.floor().max(self.floor);
        if sown(Bug::FloorTooHigh) {
            floor += floor.abs() * 0.1;
        }
        for (block, upper) in piece.blocks.clone().zip(upper.chunks(BLOCK)) {
            let living = piece.alive.map_or(u64::MAX, |words| words[block]);
            let position = piece.base + (block * BLOCK) as u32;
            self.tally.bounded += u64::from(living_rows(living, upper.len()));
            keep(&mut self.kept, position, upper, living, floor);
        }
    }
}

/// Blocks of a part that are bounded for one query after the other.
struct Piece<'a> {
    view: StageView<'a>,
    norms: &'a [f32],
    alive: Option<&'a [u64]>,
    base: u32,
    blocks: Range<usize>,
}

impl QueryRun<'_> {
    fn is_bounded(&self, at: usize) -> bool {
        let part = &self.view.parts[at];
        let rows = self.selection.map_or(part.live_rows(), |s| s.of_part(at).len());
        part.segment.is_some() && rows > u64::from(part.rows.len()) / GATHER_PART_BELOW_ONE_IN
    }

    /// Keeps the rows of a part that can be among the best of each query.
    fn bound_part(
        &self,
        at: usize,
        proofs: &mut [Proof],
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (part, base) = (&self.view.parts[at], self.view.base(at));
        let (stage, step) = (proofs[0].stage, proofs[0].bound.blocks(proofs.len()));
        let alive = self.selection.map_or_else(|| part.alive(), |some| some.mask(at, part));
        part.rows.ready(Column::Stage(stage))?;
        let norms =
            if needs_norms(&self.view.schema, self.wanted.dims) { part.rows.norms() } else { &[] };
        let view = part.rows.code(stage);
        let count = view.rows().div_ceil(BLOCK);
        for start in (0..count).step_by(step) {
            if in_vain(proofs) {
                return self.compare_rest(at, (start * BLOCK) as u32, proofs, ranks, scratch);
            }
            let blocks = start..(start + step).min(count);
            if alive.is_some_and(|words| words[blocks.clone()].iter().all(|word| *word == 0)) {
                continue;
            }
            let piece = Piece { view, norms, alive, base, blocks };
            for (proofs, ranks) in
                proofs.chunks_mut(QUERIES_PER_PASS).zip(ranks.chunks_mut(QUERIES_PER_PASS))
            {
                let queries = proofs.iter().map(|proof| &proof.bound);
                let (isa, blocks) = (Isa::detect(), piece.blocks.clone());
                BoundQuery::dots(queries, isa, &view, blocks, &mut scratch.scan);
                for (n, (proof, rank)) in proofs.iter_mut().zip(ranks).enumerate() {
                    proof.bound(n, &piece, &rank.best, &mut scratch.scan);
                    if proof.kept.len() >= SETTLE_AT_ROWS {
                        self.settle(proof, rank, scratch)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares the rows of a part from `first` on, without bounds.
    fn compare_rest(
        &self,
        at: usize,
        first: u32,
        proofs: &mut [Proof],
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let rows = self.compare_from(at, first, ranks, scratch)?;
        proofs.iter_mut().for_each(|proof| proof.tally.compared += rows);
        Ok(())
    }

    /// Scores the rows kept, highest bound first, until the next cannot be among the best; or,
    /// where they are many, as if these were all rows.
    fn settle(&self, proof: &mut Proof, rank: &mut Rank, scratch: &mut Scratch) -> Result<()> {
        let start = Instant::now();
        let Proof { kept, tally, .. } = proof;
        tally.kept += kept.len() as u64;
        let floor = rank.best.floor().max(proof.floor);
        kept.retain(|row| row.score >= floor);
        if self.is_whole() && kept.len() as u64 >= tally.bounded / SIFT_ABOVE_ONE_IN {
            tally.scored += kept.len() as u64;
            let part_of = |row: &Scored| self.view.part_at(row.ordinal);
            for rows in kept.chunk_by(|a, b| part_of(a) == part_of(b)) {
                let at = part_of(&rows[0]);
                let all = self.view.parts[at].live_rows();
                let each = rows.iter().map(|row| row.ordinal - self.view.base(at));
                self.sift(at, each, all, slice::from_mut(rank), scratch)?;
            }
            kept.clear();
            tally.scoring += start.elapsed();
            return Ok(());
        }
        self.request(kept);
        kept.sort_unstable_by(Scored::best_first);
        let Rank { scorer, best } = rank;
        self.each_vector(kept, scorer, |row, vector| {
            if row.score < best.floor() {
                return Ok(false);
            }
            let (vector, norm) = vector?;
            tally.scored += 1;
            self.offer(row.ordinal, scorer.score(vector, norm), best)?;
            Ok(true)
        })?;
        kept.clear();
        tally.scoring += start.elapsed();
        Ok(())
    }

    /// `time` is that of the bounds.
    fn report(&self, proof: &Proof, found: usize, time: Duration, explain: &mut Explain) {
        let tally = &proof.tally;
        let row_bytes = self.scorer(self.wanted.dims).row_bytes() as u64;
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("bounds {}", proof.code)),
            dims: proof.code.dims,
            rows_in: tally.bounded,
            rows_out: tally.kept,
            bytes: tally.bounded * proof.code.bytes_per_row() as u64,
            time,
        });
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("vectors in reach, {}", self.view.schema.stored())),
            dims: self.wanted.dims,
            rows_in: tally.scored + tally.compared,
            rows_out: found as u64,
            bytes: (tally.scored + tally.compared) * row_bytes,
            time: tally.scoring,
        });
    }
}

/// Whether bounds leave so much in reach that comparing every row costs less.
fn in_vain(proofs: &[Proof]) -> bool {
    let bounded = proofs.iter().map(|proof| proof.tally.bounded).sum::<u64>();
    let kept = proofs.iter().map(|proof| proof.tally.kept + proof.kept.len() as u64).sum::<u64>();
    bounded >= TRY_BOUNDS_ON_ROWS * proofs.len() as u64 && kept > bounded / 2
}

/// How many of the first `rows` bits are set.
fn living_rows(living: u64, rows: usize) -> u32 {
    (living & (u64::MAX >> (BLOCK - rows))).count_ones()
}

/// Adds the living rows of a block whose upper bound reaches the floor.
fn keep(kept: &mut Vec<Scored>, first: u32, upper: &[f32], living: u64, floor: f32) {
    let mut reached = [0];
    coding::reaching(Isa::detect(), upper, floor, &mut reached);
    let mut left = reached[0] & living;
    while left != 0 {
        let lane = left.trailing_zeros();
        kept.push(Scored { ordinal: first + lane, score: upper[lane as usize] });
        left &= left - 1;
    }
}
