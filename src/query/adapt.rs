//! A calibrated plan: each query compares as many full vectors as it needs.
//!
//! ```text
//!   shortlist = best rows by estimate
//!   compare the first k + 8 of it
//!   loop: s = the k best scores so far
//!         cut = the highest estimate with  mean over s of P(error < cut - s)  <=  1 - recall
//!         shortlist reaches down to cut: done; else compare more of it, at most as many again
//! ```
//!
//! The error is that of an estimate of a true near row, as calibration found it, in units of
//! the root of one less the squared cosine ([`crate::calibration`]). So the mean says what
//! share of rows with these scores would have an estimate below the cut. The best scores so far
//! are at most the true ones, which errs to the safe side. Queries whose neighbours stand out
//! from the rest compare few rows; queries in a crowd, many.

use std::slice;
use std::time::Instant;

use super::exec::{self, Answer, Few, Run, Scratch, locate};
use super::explain::{ExpectedRecall, Explain, StageName, StageReport};
use super::funnel::Calibrated;
use super::graph::Walked;
use super::scan::{scan_above, scan_near};
use super::score::{Found, Scorer};
use crate::calibration::{Noise, sine};
use crate::error::Result;
use crate::graph::Graph;
use crate::kernel::topk::Scored;
use crate::schema::Metric;

/// Rows compared first, beside those wanted.
const FIRST: usize = 8;
/// Where a shortlist was too short, another scan keeps at most so many times the rows.
const MORE: usize = 8;
/// Of many best scores so many stand for all.
const SCORES: usize = 64;
/// Halvings of the interval in which the cut lies.
const HALVINGS: usize = 20;

/// Finds the rows that a calibrated plan asks for, of each query.
pub(super) fn adapt(runs: &[Run], plan: &Calibrated, scratch: &mut Scratch) -> Result<Few<Answer>> {
    let Some(first) = runs.first() else { return Ok(Few::new()) };
    let walks = (0..first.view.parts.len()).any(|at| first.beam(&plan.entry, at).is_some());
    if first.limit == 0 || (walks && first.reach().is_none()) {
        return exec::funnel(runs, &plan.entry, plan.table, &[], scratch);
    }
    if walks {
        return runs.iter().map(|run| run.adapt_walks(plan, scratch)).collect();
    }
    let explains = scan_near(runs, plan, scratch);
    scratch.walked.clear();
    let mut answers = Few::new();
    for (n, (run, explain)) in runs.iter().zip(explains).enumerate() {
        let mut list = std::mem::take(&mut scratch.lists[n]);
        let answer = run.adapt(plan, scratch.floors[n], &mut list, explain, scratch);
        scratch.lists[n] = list;
        answers.push(answer?);
    }
    Ok(answers)
}

impl Run<'_> {
    /// Parts with graphs are walked, the others scanned. Half of what may be lost may be lost
    /// by walks, half by estimates.
    fn adapt_walks(&self, plan: &Calibrated, scratch: &mut Scratch) -> Result<Answer> {
        let scanned = plan.behind_walks(None, self.dims);
        let mut explain = scan_near(slice::from_ref(self), &scanned, scratch).remove(0);
        std::mem::swap(&mut scratch.shortlist, &mut scratch.lists[0]);
        let scanned = scratch.shortlist.len();
        let walked = self.walk(&plan.entry, scratch);
        scratch.walked.clear();
        scratch.walked.extend_from_slice(&scratch.shortlist[scanned..]);
        let mut list = std::mem::take(&mut scratch.shortlist);
        explain.stages.retain(|stage| stage.rows_in > 0);
        let only_walks = explain.stages.is_empty();
        let answer = match walked {
            Ok(Walked::Found(stage)) => {
                explain.stages.extend(stage);
                let floor = if only_walks { f32::NEG_INFINITY } else { scratch.floors[0] };
                self.adapt_found(plan, only_walks, floor, &mut list, explain, scratch)
            }
            Ok(Walked::Overflowed) => {
                let scanned = Calibrated { entry: plan.entry.scanned(), ..*plan };
                return Ok(adapt(slice::from_ref(self), &scanned, scratch)?.remove(0));
            }
            Err(damage) => Err(damage),
        };
        scratch.shortlist = list;
        let mut answer = answer?;
        let check = self.reach().map(|reach| reach.check(plan.share));
        // Checks were made over all dimensions, without filters.
        let whole = self.dims == self.view.schema.dims() && self.selection.is_none();
        let none = ExpectedRecall { asked: plan.share, measured: None };
        let expected = check.filter(|_| whole).map(|check| ExpectedRecall::new(plan.share, check));
        answer.explain.recall = Some(expected.unwrap_or(none));
        Ok(answer)
    }

    /// Compares rows that walks found, and only these where there was no scan; what scans found is
    /// whole down to `floor`.
    pub(super) fn adapt_found(
        &self,
        plan: &Calibrated,
        only_walks: bool,
        floor: f32,
        list: &mut Vec<Scored>,
        explain: Explain,
        scratch: &mut Scratch,
    ) -> Result<Answer> {
        let graphs = self.view.parts.iter().filter_map(|part| part.walkable());
        let least = graphs.map(Graph::code).min_by_key(|code| code.dims);
        let plan = plan.behind_walks(least.filter(|_| only_walks), self.dims);
        self.adapt(&plan, floor, list, explain, scratch)
    }

    /// Compares rows of the shortlist as far down as the plan needs. One that is too short, being
    /// whole down to the estimate `floor` only, is made again; the first list of `scratch` is used
    /// for that.
    pub(super) fn adapt(
        &self,
        plan: &Calibrated,
        mut floor: f32,
        list: &mut Vec<Scored>,
        mut explain: Explain,
        scratch: &mut Scratch,
    ) -> Result<Answer> {
        let start = Instant::now();
        let scorer = self.scorer(self.dims);
        let mut done = 0;
        let mut scored = std::mem::take(&mut scratch.scored);
        scored.clear();
        let mut next = self.limit.saturating_add(FIRST);
        loop {
            next = next.min(list.len());
            best_first(&mut list[done..], next - done);
            self.compare_some(&mut list[done..next], &scorer, &mut scored)?;
            done = next;
            let cut = self.cut(plan, &mut scored);
            let reached = |list: &[Scored]| list.iter().filter(|c| c.score >= cut).count();
            let mut more = reached(&list[done..]);
            if done + more == list.len() && cut < floor {
                let keep = list.len().max(plan.keep).saturating_mul(MORE);
                let (whole, again) = scan_above(self, &plan.entry, (cut, keep), scratch);
                explain.stages[0].add(&again.stages[0]);
                scratch.recycle(Vec::new(), again.stages);
                floor = whole;
                // Those that are compared stay, and come not again.
                list.truncate(done);
                list.sort_unstable_by_key(|row| row.ordinal);
                let found = scratch.lists[0].iter().chain(&scratch.walked);
                for row in found {
                    if list[..done].binary_search_by_key(&row.ordinal, |row| row.ordinal).is_err() {
                        list.push(*row);
                    }
                }
                more = reached(&list[done..]);
            }
            if more == 0 {
                break;
            }
            next = done + more.min(done.max(FIRST));
        }
        if let [stage] = &mut explain.stages[..] {
            stage.rows_out = list.len() as u64;
        }
        let found = self.best_of(&scored, scratch.found())?;
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("re-rank full, {}", self.view.schema.stored())),
            dims: self.dims,
            rows_in: scored.len() as u64,
            rows_out: found.len() as u64,
            bytes: scored.len() as u64 * scorer.row_bytes() as u64,
            time: start.elapsed(),
        });
        explain.recall = Some(ExpectedRecall::new(plan.share, plan.noise.check(plan.share)));
        let listed = scored.len();
        scratch.scored = scored;
        Ok(Answer { found, explain, listed, depth: 0 })
    }

    /// Compares rows of the shortlist, in the order they lie on disk.
    fn compare_some(
        &self,
        rows: &mut [Scored],
        scorer: &Scorer,
        scored: &mut Vec<Scored>,
    ) -> Result<()> {
        self.request(rows);
        self.each_score(rows, scorer, |row, score| {
            scored.push(Scored { score, ..*row });
            Ok(())
        })
    }

    /// The estimate down to which rows are compared. Puts the best scores first.
    fn cut(&self, plan: &Calibrated, scored: &mut [Scored]) -> f32 {
        let k = self.limit.min(scored.len());
        if k < self.limit {
            return f32::NEG_INFINITY;
        }
        scored.select_nth_unstable_by(k - 1, |a, b| b.score.total_cmp(&a.score));
        let step = k.div_ceil(SCORES);
        let mut best = [(0.0, 0.0); SCORES];
        let rows = scored[..k].iter().step_by(step);
        let count = rows.len();
        for (place, row) in best.iter_mut().zip(rows) {
            *place = (row.score, self.unit(row.ordinal, row.score));
        }
        cut(&best[..count], &plan.noise, 1.0 - plan.share)
    }

    /// What the error of an estimated score is counted in.
    pub(super) fn unit(&self, position: u32, score: f32) -> f32 {
        let metric = self.view.schema.metric();
        if metric == Metric::Cosine {
            return sine(score);
        }
        let (part, row) = locate(self.view, self.bases, position);
        let (norm, query) = (part.rows.norms()[row.index()], self.reference_norm());
        let product = (norm * query).max(f32::MIN_POSITIVE);
        match metric {
            Metric::L2 => {
                2.0 * product * sine((norm * norm + query * query + score) / (2.0 * product))
            }
            _ => product * sine(score / product),
        }
    }

    fn best_of(&self, scored: &[Scored], found: Vec<Found>) -> Result<Vec<Found>> {
        let mut best = self.rank(self.dims, found).best;
        for row in scored {
            let (part, at) = locate(self.view, self.bases, row.ordinal);
            best.offer(row.score, row.ordinal, || part.rows.id(at))?;
        }
        Ok(best.into_sorted())
    }
}

/// Puts the best `count` rows first, in no order.
fn best_first(list: &mut [Scored], count: usize) {
    if (1..list.len()).contains(&count) {
        list.select_nth_unstable_by(count - 1, Scored::best_first);
    }
}

/// The highest estimate below which at most the share `lost` of rows with such scores (and
/// units of error) lies.
fn cut(best: &[(f32, f32)], noise: &Noise, lost: f64) -> f32 {
    let fold = |pick: fn(f32, f32) -> f32, first: f32, values: &mut dyn Iterator<Item = f32>| {
        values.fold(first, pick)
    };
    let unit = fold(f32::max, 0.0, &mut best.iter().map(|b| b.1)) * noise.scale;
    let lowest = noise.quantiles[0].min(0.0) * 4.0 * unit;
    let highest = noise.quantiles[noise.quantiles.len() - 1].max(0.0) * unit;
    let mut low = fold(f32::min, f32::MAX, &mut best.iter().map(|b| b.0)) + lowest;
    let mut high = fold(f32::max, f32::MIN, &mut best.iter().map(|b| b.0)) + highest;
    for _ in 0..HALVINGS {
        let middle = low + (high - low) / 2.0;
        let below = |&(score, unit): &(f32, f32)| noise.share_below((middle - score) / unit);
        let share = best.iter().map(below).sum::<f64>() / best.len() as f64;
        if share <= lost {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}
