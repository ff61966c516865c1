//! Comparing every row, few of them by the definition.
//!
//! ```text
//!   for each piece of the rows:
//!       upper = no score of the row is above it      a sum in f32, twice as quick
//!       keep rows whose upper >= floor               the k-th best score so far
//!       until none is left: score the best of them by the definition, which raises the floor
//! ```
//!
//! As with bounds of codes (`query/exact.rs`) a row is left out only if its score is certainly below
//! one that k rows reach, and all others are scored by the definition and ranked by the same
//! [`Best`](super::best::Best): the answers are those of comparing every row. A sum in `f32` is off
//! by a millionth of the product of the norms (`kernel::row::quick_error`), so little more than the rows
//! that are found is scored twice.
//!
//! Norms are kept of whole vectors only, so over a prefix every row is scored by the definition.

use std::time::Instant;

use super::best::{Best, Rank};
use super::explain::{StageName, StageReport};
use super::run::{Answer, Few, QueryRun, Scratch};
use super::score::Scorer;
use crate::error::Result;
use crate::kernel::topk::Scored;
use crate::kernel::{BLOCK, Isa, gather};
use crate::types::Ordinal;
use crate::view::Part;

/// Rows of a piece: their vectors are in the core's own cache still when those in reach are scored,
/// or when the next query comes.
const PIECE_ROWS: usize = 256;

/// Rows whose vectors are on their way while one is compared.
const ROWS_AHEAD: usize = 4;

/// Rows scored by the definition at first, beside those wanted.
const SCORE_FIRST: usize = 6;

/// Where more than one row in this many is wanted, bounds leave too many.
const SIEVE_WANTED_ONE_IN: u64 = 4;

/// The rows of the next piece, while those of one are compared.
struct Coming {
    len: usize,
    rows: [u32; PIECE_ROWS],
}

impl Coming {
    fn none() -> Self {
        Self { len: 0, rows: [0; PIECE_ROWS] }
    }

    /// Takes some rows of a part, and asks for them, those that follow each other at once.
    fn take(&mut self, part: &Part, rows: &mut impl Iterator<Item = u32>) {
        self.len = 0;
        for (place, row) in self.rows.iter_mut().zip(rows.by_ref()) {
            *place = row;
            self.len += 1;
        }
        for some in self.rows[..self.len].chunk_by(|row, next| row + 1 == *next) {
            part.rows.will_need(some[0]..some[0] + some.len() as u32);
        }
    }
}

/// Some rows of a part.
struct Piece<'a> {
    len: usize,
    positions: [u32; PIECE_ROWS],
    /// What is compared of each.
    vectors: [&'a [u8]; PIECE_ROWS],
    /// Norms of whole vectors, if these are compared.
    norms: [f32; PIECE_ROWS],
}

impl<'a> Piece<'a> {
    fn new() -> Self {
        Self {
            len: 0,
            positions: [0; PIECE_ROWS],
            vectors: [&[]; PIECE_ROWS],
            norms: [0.0; PIECE_ROWS],
        }
    }

    /// Looks up rows of a part.
    fn fill(&mut self, run: &QueryRun<'a>, at: usize, coming: &Coming) -> Result<()> {
        let (part, base) = (&run.view.parts[at], run.view.base(at));
        let bytes = run.wanted.dims * run.view.schema.stored().bytes();
        let norms = if run.is_whole() { part.rows.norms() } else { &[] };
        self.len = 0;
        for &row in &coming.rows[..coming.len] {
            self.positions[self.len] = base + row;
            self.vectors[self.len] = &part.rows.vector(Ordinal(row))?[..bytes];
            self.norms[self.len] = norms.get(row as usize).copied().unwrap_or_default();
            self.len += 1;
        }
        Ok(())
    }

    /// Each position and vector, those of the next rows asked for.
    fn rows(&self) -> impl Iterator<Item = (u32, &'a [u8])> {
        let each = self.positions.iter().zip(&self.vectors).take(self.len).enumerate();
        each.map(|(n, (position, vector))| {
            if let Some(next) = self.vectors[..self.len].get(n + ROWS_AHEAD) {
                gather::prefetch(next);
            }
            (*position, *vector)
        })
    }
}

/// Compares every row that may be found; each is read once for all queries.
pub(super) fn compare_all(runs: &[QueryRun], scratch: &mut Scratch) -> Result<Few<Answer>> {
    let start = Instant::now();
    let mut ranks: Few<Rank> =
        runs.iter().map(|run| run.rank(run.wanted.dims, scratch.found())).collect();
    let mut rows = 0;
    if let Some(run) = runs.first().filter(|run| run.wanted.limit > 0) {
        for at in 0..run.view.parts.len() {
            rows += run.compare(at, &mut ranks, scratch)?;
        }
    }
    let time = start.elapsed() / runs.len().max(1) as u32;
    let answer = |(run, rank): (&QueryRun, Rank)| {
        let bytes = rows * rank.scorer.row_bytes() as u64;
        let found = rank.best.into_sorted();
        let which = if run.selection.is_some() { "selected" } else { "all" };
        let stage = StageReport {
            name: StageName::new(format_args!("{which} vectors, {}", run.view.schema.stored())),
            dims: run.wanted.dims,
            rows_in: rows,
            rows_out: found.len() as u64,
            bytes,
            time,
        };
        let mut explain = scratch.explain(true);
        explain.stages.push(stage);
        Answer { found, ..Answer::none(explain) }
    };
    Ok(runs.iter().zip(ranks).map(answer).collect())
}

impl QueryRun<'_> {
    /// Offers all rows of a part that may be found to all queries; how many.
    pub(super) fn compare(
        &self,
        at: usize,
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<u64> {
        self.compare_from(at, 0, ranks, scratch)
    }

    /// As [`Self::compare`], the rows from one on.
    pub(super) fn compare_from(
        &self,
        at: usize,
        first: u32,
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let part = &self.view.parts[at];
        let Some(selection) = self.selection else {
            let rows = first..part.rows.len();
            let count = rows.len() as u64 - part.dead.range_cardinality(rows.clone());
            let lives =
                |words: &[u64], row: u32| words[row as usize / BLOCK] >> (row % 64) & 1 == 1;
            let rows = rows.filter(|row| part.alive().is_none_or(|words| lives(words, *row)));
            self.sift(at, rows, count, ranks, scratch)?;
            return Ok(count);
        };
        let rows = selection.of_part(at);
        let count = rows.range_cardinality(first..);
        self.sift(at, rows.range(first..), count, ranks, scratch)?;
        Ok(count)
    }

    /// Offers `count` rows of a part to all queries.
    pub(super) fn sift(
        &self,
        at: usize,
        mut rows: impl Iterator<Item = u32>,
        count: u64,
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let part = &self.view.parts[at];
        let (sifted, whole) = (self.is_sifted(count), self.is_whole());
        let (mut piece, mut coming) = (Piece::new(), Coming::none());
        coming.take(part, &mut rows);
        while coming.len > 0 {
            piece.fill(self, at, &coming)?;
            coming.take(part, &mut rows);
            for Rank { scorer, best } in &mut *ranks {
                if sifted {
                    keep_reaching(&piece, scorer, best.floor(), &mut scratch.scored);
                    self.offer_reaching(&mut scratch.scored, scorer, best)?;
                } else {
                    for ((position, vector), norm) in piece.rows().zip(piece.norms) {
                        let score = scorer.score(vector, whole.then_some(norm));
                        self.offer(position, score, best)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether bounds say more of `count` rows than they cost.
    fn is_sifted(&self, count: u64) -> bool {
        let wanted = &self.wanted;
        let few =
            wanted.limit as u64 <= count / SIEVE_WANTED_ONE_IN || wanted.least > f32::NEG_INFINITY;
        // Without wide registers the definition is the quicker one.
        few && self.is_whole() && Isa::detect() != Isa::Scalar
    }

    /// Whether whole vectors are compared, whose norms are known.
    pub(super) fn is_whole(&self) -> bool {
        self.wanted.dims == self.view.schema.dims()
    }

    /// Offers rows by their upper bounds, highest first, until no other can be among the best.
    fn offer_reaching(
        &self,
        rows: &mut Vec<Scored>,
        scorer: &Scorer,
        best: &mut Best,
    ) -> Result<()> {
        let mut count = self.wanted.limit.saturating_add(SCORE_FIRST);
        loop {
            let floor = best.floor();
            rows.retain(|row| row.score >= floor);
            if rows.is_empty() {
                return Ok(());
            }
            let rest = rows.len().saturating_sub(count);
            if rest > 0 {
                rows.select_nth_unstable_by(rest, |a, b| b.best_first(a));
            }
            let offer = |row: &mut Scored, score| self.offer(row.ordinal, score, best);
            self.each_score(&mut rows[rest..], scorer, offer)?;
            rows.truncate(rest);
            count = count.saturating_mul(2);
        }
    }
}

/// The rows whose upper bound reaches the floor.
fn keep_reaching(piece: &Piece, scorer: &Scorer, floor: f32, kept: &mut Vec<Scored>) {
    let mut upper = [0.0; PIECE_ROWS];
    for (upper, (_, vector)) in upper.iter_mut().zip(piece.rows()) {
        *upper = scorer.quick_dot(vector);
    }
    scorer.bound(&piece.norms[..piece.len], &mut upper[..piece.len]);
    let rows = piece.positions[..piece.len].iter().zip(upper);
    let rows = rows.map(|(&ordinal, score)| Scored { ordinal, score });
    kept.clear();
    kept.extend(rows.filter(|row| row.score >= floor));
}
