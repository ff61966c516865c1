//! The first stage of most searches: estimates of the scores of all rows, by a stage code.
//!
//! What is kept of them is either a number of rows ([`scan`]), or those within a margin of the
//! k-th best estimate ([`scan_near`]): calibration knows how far below it a true near row can be
//! estimated, so the list is short where the nearest rows stand out and long in a crowd.

use std::time::{Duration, Instant};

use super::entry::Entry;
use super::explain::{Explain, StageReport};
use super::plan::Calibrated;
use super::run::{Few, QueryRun, Scratch};
use crate::encoding::{Scan, ScanScratch, StageQuery};
use crate::kernel::Isa;
use crate::kernel::topk::{Collect, Near, Scored, TopK};

/// Estimates the score of every row that may be found, and keeps the best `keep`, best first. The
/// first list for each query becomes its shortlist.
pub(super) fn scan(
    runs: &[QueryRun],
    plan: &Entry,
    keep: usize,
    scratch: &mut Scratch,
) -> Few<Explain> {
    let start = Instant::now();
    let count = runs.len();
    prepare(runs, plan, scratch);
    let Scratch { scan, tops, queries, lists, .. } = &mut *scratch;
    tops[..count].iter_mut().for_each(|top| top.reset(keep));
    let rows = scan_parts(runs, plan, &queries[..count], scan, &mut tops[..count]);
    for (list, top) in lists.iter_mut().zip(&mut tops[..count]) {
        list.clear();
        top.sorted_into(list);
    }
    report(runs, plan, rows, start, scratch)
}

/// As [`scan`], but keeps, in no order, the rows within the plan's margin of the k-th best
/// estimate, and for each query the estimate down to which its list is whole.
pub(super) fn scan_near(
    runs: &[QueryRun],
    plan: &Calibrated,
    scratch: &mut Scratch,
) -> Few<Explain> {
    let start = Instant::now();
    let count = runs.len();
    prepare(runs, &plan.entry, scratch);
    let Scratch { scan, tops, best, queries, lists, floors, .. } = &mut *scratch;
    tops[..count].iter_mut().for_each(|top| top.reset(plan.keep));
    let margin = plan.margin();
    let pairs = runs.iter().zip(best).zip(tops);
    let mut nears: Few<_> = pairs
        .map(|((run, best), top)| {
            best.reset(run.wanted.shortlist_for);
            let floor = move |kth: Scored| kth.score - margin * run.unit(kth.ordinal, kth.score);
            Near::new(best, top, floor)
        })
        .collect();
    let rows = scan_parts(runs, &plan.entry, &queries[..count], scan, &mut nears);
    for (near, (list, floor)) in nears.iter_mut().zip(lists.iter_mut().zip(floors)) {
        list.clear();
        *floor = near.finish_into(list);
    }
    drop(nears);
    report(runs, &plan.entry, rows, start, scratch)
}

/// Puts rows whose estimate is `floor` or above, at most `keep`, into `scratch.again`, in no order;
/// the estimate down to which it is whole.
pub(super) fn scan_above(
    run: &QueryRun,
    plan: &Entry,
    (floor, keep): (f32, usize),
    scratch: &mut Scratch,
) -> (f32, StageReport) {
    let start = Instant::now();
    let runs = std::slice::from_ref(run);
    prepare(runs, plan, scratch);
    let Scratch { scan, tops, queries, again, .. } = &mut *scratch;
    let top = &mut tops[..1];
    top[0].reset(keep);
    top[0].raise(floor);
    let rows = scan_parts(runs, plan, &queries[..1], scan, top);
    again.clear();
    let floor = top[0].unsorted_into(again);
    (floor, run.scan_report(plan, rows, again.len(), start.elapsed()))
}

/// Makes a buffer for each query, and the prepared queries themselves.
fn prepare(runs: &[QueryRun], plan: &Entry, scratch: &mut Scratch) {
    let Scratch { tops, best, queries, lists, floors, .. } = scratch;
    for (n, run) in runs.iter().enumerate() {
        match queries.get_mut(n) {
            Some(query) => query.set(plan.code, run.query, plan.dims),
            None => queries.push(StageQuery::new(plan.code, run.query, plan.dims)),
        }
    }
    let all = tops.len().max(runs.len());
    tops.resize_with(all, || TopK::new(0));
    best.resize_with(all, || TopK::new(0));
    lists.resize_with(all, Vec::new);
    floors.resize(all, f32::NEG_INFINITY);
}

/// Offers the rows of all parts that are to be scanned; how many were scored.
fn scan_parts(
    runs: &[QueryRun],
    plan: &Entry,
    queries: &[StageQuery],
    scratch: &mut ScanScratch,
    tops: &mut [impl Collect],
) -> u64 {
    let Some(first) = runs.first() else { return 0 };
    let queries: Few<_> = queries.iter().zip(runs.iter().map(|run| run.reference)).collect();
    let parts = 0..first.view.parts.len();
    parts.map(|at| first.scan_part(at, plan, &queries, scratch, tops)).sum()
}

/// What was read and kept, for each query.
fn report(
    runs: &[QueryRun],
    plan: &Entry,
    rows: u64,
    start: Instant,
    scratch: &mut Scratch,
) -> Few<Explain> {
    let time = start.elapsed() / runs.len().max(1) as u32;
    let explain = |(n, run): (usize, &QueryRun)| {
        let stage = run.scan_report(plan, rows, scratch.lists[n].len(), time);
        let mut explain = scratch.explain(false);
        explain.stages.push(stage);
        explain
    };
    runs.iter().enumerate().map(explain).collect()
}

impl QueryRun<'_> {
    fn scan_report(&self, plan: &Entry, rows: u64, kept: usize, time: Duration) -> StageReport {
        StageReport {
            name: self.scan_name(plan),
            dims: plan.dims,
            rows_in: rows,
            rows_out: kept as u64,
            bytes: rows * plan.code.scanned_bytes_per_row(plan.dims) as u64,
            time,
        }
    }

    /// Scans a part for all queries and their norms, if it is to be scanned; how many rows were scored.
    fn scan_part(
        &self,
        at: usize,
        plan: &Entry,
        queries: &[(&StageQuery, f32)],
        scratch: &mut ScanScratch,
        tops: &mut [impl Collect],
    ) -> u64 {
        let part = &self.view.parts[at];
        if self.beam(plan, at).is_some() {
            return 0;
        }
        let alive = self.selection.map_or_else(|| part.alive(), |some| some.mask(at, part));
        let scans = queries.iter().map(|&(query, query_norm)| {
            let (view, scoring) = (part.rows.code(plan.stage), self.scoring(at, query_norm));
            Scan { view, query, scoring, alive, base: self.view.base(at) }
        });
        let scans: Few<Scan> = scans.collect();
        Scan::run_all(&scans, Isa::detect(), scratch, tops)
    }
}
