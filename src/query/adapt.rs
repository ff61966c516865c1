//! A calibrated plan: each query compares as many full vectors as it needs.
//!
//! ```text
//!   shortlist = best rows by estimate
//!   compare as many of it as the held-out queries needed on the average
//!   loop: s = the k best scores so far
//!         cut = the highest estimate with  mean over s of P(error < cut - s)  <=  1 - recall
//!         shortlist reaches down to cut: done; else compare more of it, at most as many again
//! ```
//!
//! Queries of a group go through the loop together: the rows that all of them want next are asked
//! for before the first is compared, so that a disk has enough to do.
//!
//! The error is that of an estimate of a true near row, as calibration found it, in units of
//! the root of one less the squared cosine ([`crate::calibration`]). So the mean says what
//! share of rows with these scores would have an estimate below the cut. The best scores so far
//! are at most the true ones, which errs to the safe side. Queries whose neighbours stand out
//! from the rest compare few rows; queries in a crowd, many.

use std::slice;
use std::time::{Duration, Instant};

use super::explain::{ExpectedRecall, Explain, StageName, StageReport};
use super::graph::Walked;
use super::plan::Calibrated;
use super::run::{Answer, Few, QueryRun, Scratch};
use super::scan::{scan_above, scan_near};
use super::score::Scorer;
use super::shortlist;
use crate::calibration::{Check, Noise};
use crate::error::Result;
use crate::graph::Graph;
use crate::kernel::topk::Scored;

/// Where a shortlist was too short, another scan keeps at most this many times the rows.
const RESCAN_TIMES: usize = 8;
/// Of many best scores this many stand for all.
const SCORES_SAMPLED: usize = 64;
/// Halvings of the interval in which the cut lies.
const CUT_HALVINGS: usize = 12;

/// Finds the rows that a calibrated plan asks for, of each query.
pub(super) fn adapt<'r, 'a>(
    runs: &'r [QueryRun<'a>],
    plan: &Calibrated,
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    let Some(first) = runs.first() else { return Ok(Few::new()) };
    let walks = (0..first.view.parts.len()).any(|at| first.beam(&plan.entry, at).is_some());
    if first.wanted.limit == 0 || (walks && first.walk_margins().is_none()) {
        return shortlist::run(runs, &plan.entry, plan.table, &[], scratch);
    }
    if walks {
        return runs.iter().map(|run| run.adapt_walks(plan, scratch)).collect();
    }
    let explains = scan_near(runs, plan, scratch);
    scratch.walked.clear();
    let begin = |((n, run), explain): ((usize, &'r QueryRun<'a>), Explain)| {
        let (rows, floor) = (std::mem::take(&mut scratch.lists[n]), scratch.floors[n]);
        let list = Shortlist { rows, floor, walked_only: false };
        Adapting::new(run, *plan, list, explain, scratch)
    };
    let mut all: Few<_> = runs.iter().enumerate().zip(explains).map(begin).collect();
    compare_all(&mut all, scratch)?;
    let end = |(n, one): (usize, Adapting)| {
        let (answer, list) = one.finish(scratch)?;
        scratch.lists[n] = list;
        Ok(answer)
    };
    all.into_iter().enumerate().map(end).collect()
}

impl QueryRun<'_> {
    /// Parts with graphs are walked, the others scanned. Half of what may be lost may be lost
    /// by walks, half by estimates.
    fn adapt_walks(&self, plan: &Calibrated, scratch: &mut Scratch) -> Result<Answer> {
        let behind = plan.behind_walks(None, self.wanted.dims);
        let mut explain = scan_near(slice::from_ref(self), &behind, scratch).remove(0);
        let Scratch { lists, floors, walked, walker, .. } = &mut *scratch;
        let scanned = lists[0].len();
        let Walked::Found(stage) = self.walk(&plan.entry, &mut lists[0], walker)? else {
            scratch.recycle(Vec::new(), explain.stages);
            let scanned = Calibrated { entry: plan.entry.scanned(), ..*plan };
            return Ok(adapt(slice::from_ref(self), &scanned, scratch)?.remove(0));
        };
        walked.clear();
        walked.extend_from_slice(&lists[0][scanned..]);
        explain.stages.retain(|stage| stage.rows_in > 0);
        let walked_only = explain.stages.is_empty();
        explain.stages.extend(stage);
        let floor = if walked_only { f32::NEG_INFINITY } else { floors[0] };
        let list = Shortlist { rows: std::mem::take(&mut lists[0]), floor, walked_only };
        let (mut answer, rows) = self.adapt_found(plan, list, explain, scratch)?;
        scratch.lists[0] = rows;
        let check = self.walk_margins().map(|margins| margins.check(plan.recall));
        answer.explain.recall = Some(self.expected(plan.recall, self.view.schema.dims(), check));
        Ok(answer)
    }

    /// What checks over `dims` dimensions say of this search. They were made without filters, and
    /// those with rows without the row itself.
    fn expected(&self, asked: f64, dims: usize, check: Option<Check>) -> ExpectedRecall {
        let others = self.view.live_rows().saturating_sub(1);
        let all = self.selection.is_none_or(|selection| selection.rows() >= others);
        let check = check.filter(|_| all && self.wanted.dims == dims);
        ExpectedRecall::new(asked, check)
    }

    /// Compares rows of a list that walks found at least a part of; its buffer comes back.
    pub(super) fn adapt_found(
        &self,
        plan: &Calibrated,
        list: Shortlist,
        explain: Explain,
        scratch: &mut Scratch,
    ) -> Result<(Answer, Vec<Scored>)> {
        let graphs = self.view.parts.iter().filter_map(|part| part.walkable());
        let least = graphs.map(Graph::code).min_by_key(|code| code.dims);
        let plan = plan.behind_walks(least.filter(|_| list.walked_only), self.wanted.dims);
        let mut one = [Adapting::new(self, plan, list, explain, scratch)];
        compare_all(&mut one, scratch)?;
        let [one] = one;
        one.finish(scratch)
    }
}

/// Rows by their estimates.
pub(super) struct Shortlist {
    pub(super) rows: Vec<Scored>,
    /// The estimate down to which scans have found all rows.
    pub(super) floor: f32,
    /// Whether nothing was scanned.
    pub(super) walked_only: bool,
}

/// A query whose shortlist is being compared.
struct Adapting<'r, 'a> {
    run: &'r QueryRun<'a>,
    plan: Calibrated,
    scorer: Scorer<'a>,
    /// The shortlist. Of its rows the first `done` are compared, and `next` are to be.
    list: Vec<Scored>,
    done: usize,
    next: usize,
    /// The estimate down to which the list is whole.
    floor: f32,
    /// The estimate down to which the list must be compared.
    cut: f32,
    /// Rows that are compared, with their scores.
    scored: Vec<Scored>,
    explain: Explain,
    time: Duration,
}

/// Compares rows of all shortlists, as far down as each needs.
fn compare_all(all: &mut [Adapting], scratch: &mut Scratch) -> Result<()> {
    while all.iter().any(Adapting::wants_more) {
        for one in all.iter_mut().filter(|one| one.wants_more()) {
            one.timed(Adapting::request);
        }
        for one in all.iter_mut().filter(|one| one.wants_more()) {
            one.timed(|one| one.compare(scratch))?;
        }
    }
    Ok(())
}

impl<'r, 'a> Adapting<'r, 'a> {
    fn new(
        run: &'r QueryRun<'a>,
        plan: Calibrated,
        Shortlist { rows: list, floor, .. }: Shortlist,
        explain: Explain,
        scratch: &mut Scratch,
    ) -> Self {
        let mut scored = scratch.compared.pop().unwrap_or_default();
        scored.clear();
        let (scorer, next) =
            (run.scorer(run.wanted.dims), plan.first(run.wanted.shortlist_for).min(list.len()));
        let (cut, time) = (f32::NEG_INFINITY, Duration::ZERO);
        Self { run, plan, scorer, list, done: 0, next, floor, cut, scored, explain, time }
    }

    fn timed<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let done = work(self);
        self.time += start.elapsed();
        done
    }

    fn wants_more(&self) -> bool {
        self.done < self.next
    }

    /// Asks for the rows to be compared next, and puts them in the order they lie on disk.
    fn request(&mut self) {
        best_first(&mut self.list[self.done..], self.next - self.done);
        self.run.request(&mut self.list[self.done..self.next]);
    }

    /// Compares these, and says how many are to be next.
    fn compare(&mut self, scratch: &mut Scratch) -> Result<()> {
        let Self { run, scorer, list, scored, done, next, .. } = self;
        run.each_score(&mut list[*done..*next], scorer, |row, score| {
            scored.push(Scored { score, ..*row });
            Ok(())
        })?;
        *done = *next;
        self.raise_cut();
        // Whatever else is in the list: what walks found is estimated as low as it is.
        if self.cut < self.floor {
            self.scan_again(scratch);
        }
        let more = self.reached() - self.done;
        self.next += more.min(self.done);
        Ok(())
    }

    /// How many rows are compared, or have an estimate that reaches the cut.
    fn reached(&self) -> usize {
        let rest = self.list[self.done..].iter();
        self.done + rest.filter(|row| row.score >= self.cut).count()
    }

    /// Makes a list again that is too short: whole down to the cut.
    fn scan_again(&mut self, scratch: &mut Scratch) {
        let keep = self.list.len().max(self.plan.keep).saturating_mul(RESCAN_TIMES);
        let (whole, again) = scan_above(self.run, &self.plan.entry, (self.cut, keep), scratch);
        self.explain.stages[0].add(&again);
        self.floor = whole;
        // Those that are compared stay, and come not again.
        self.list.truncate(self.done);
        self.list.sort_unstable_by_key(|row| row.ordinal);
        for row in scratch.again.iter().chain(&scratch.walked) {
            let compared = &self.list[..self.done];
            if compared.binary_search_by_key(&row.ordinal, |row| row.ordinal).is_err() {
                self.list.push(*row);
            }
        }
    }

    /// By the best scores so far, which are put first.
    fn raise_cut(&mut self) {
        let k = self.run.wanted.shortlist_for.min(self.scored.len());
        if k < self.run.wanted.shortlist_for {
            return;
        }
        self.scored.select_nth_unstable_by(k - 1, |a, b| b.score.total_cmp(&a.score));
        let mut best = [(0.0, 0.0); SCORES_SAMPLED];
        let rows = self.scored[..k].iter().step_by(k.div_ceil(SCORES_SAMPLED));
        let count = rows.len();
        for (place, row) in best.iter_mut().zip(rows) {
            *place = (row.score, self.run.unit(row.ordinal, row.score));
        }
        self.cut = cut(&best[..count], &self.plan.noise, self.plan.lost, self.cut);
    }

    /// The answer, and the list to be used again.
    fn finish(self, scratch: &mut Scratch) -> Result<(Answer, Vec<Scored>)> {
        let start = Instant::now();
        let Self { run, plan, scorer, list, scored, mut explain, .. } = self;
        if let [stage] = &mut explain.stages[..] {
            stage.rows_out = list.len() as u64;
        }
        let mut best = run.best(scratch.found());
        for row in &scored {
            run.offer(row.ordinal, row.score, &mut best)?;
        }
        let found = best.into_sorted();
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("re-rank full, {}", run.view.schema.stored())),
            dims: run.wanted.dims,
            rows_in: scored.len() as u64,
            rows_out: found.len() as u64,
            bytes: scored.len() as u64 * scorer.row_bytes() as u64,
            time: self.time + start.elapsed(),
        });
        let Calibrated { recall, noise, .. } = plan;
        explain.recall = Some(run.expected(recall, noise.dims, Some(noise.check(recall))));
        let listed = scored.len();
        scratch.compared.push(scored);
        Ok((Answer { found, explain, listed, depth: 0 }, list))
    }
}

/// Puts the best `count` rows first, in no order.
fn best_first(list: &mut [Scored], count: usize) {
    if (1..list.len()).contains(&count) {
        list.select_nth_unstable_by(count - 1, Scored::best_first);
    }
}

/// The highest estimate below which at most the fraction `lost` of rows with such scores (and
/// units of error) lies, `least` or above.
fn cut(best: &[(f32, f32)], noise: &Noise, lost: f64, least: f32) -> f32 {
    let unit = best.iter().map(|b| b.1).fold(0.0, f32::max) * noise.scale;
    let lowest = noise.quantiles[0].min(0.0) * 4.0 * unit;
    let highest = noise.quantiles[noise.quantiles.len() - 1].max(0.0) * unit;
    let low = best.iter().map(|b| b.0).fold(f32::MAX, f32::min) + lowest;
    let mut high = best.iter().map(|b| b.0).fold(f32::MIN, f32::max) + highest;
    let mut low = low.max(least).min(high);
    for _ in 0..CUT_HALVINGS {
        let middle = low + (high - low) / 2.0;
        let below = |&(score, unit): &(f32, f32)| noise.fraction_below((middle - score) / unit);
        let mean = best.iter().map(below).sum::<f64>() / best.len() as f64;
        if mean <= lost {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
