//! Runs a plan.

use std::cell::RefCell;
use std::time::Instant;

use super::Hit;
use super::explain::{Explain, StageReport};
use super::funnel::{Entry, FunnelStage, Plan};
use super::score::{Best, Found, Scorer};
use super::select::Selection;
use crate::encoding::{Precision, Scan, ScanScratch, Scoring, StageQuery};
use crate::error::Result;
use crate::graph::Walk;
use crate::kernel::topk::{Scored, TopK};
use crate::kernel::{BLOCK, Isa, row};
use crate::schema::Metric;
use crate::types::Ordinal;
use crate::view::{Part, View};

/// Buffers that are kept between the searches of a thread.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) scan: ScanScratch,
    top: Option<TopK>,
    pub(super) shortlist: Vec<Scored>,
    pub(super) walk: Walk,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What is looked for: the best `limit` rows over the first `dims` dimensions.
pub(super) struct Wanted<'a> {
    pub(super) query: &'a [f32],
    pub(super) dims: usize,
    pub(super) limit: usize,
}

/// The rows that are wanted, of those selected, and how they were found.
pub(super) fn run(
    view: &View,
    wanted: &Wanted,
    selection: Option<Selection>,
    plan: &Plan,
) -> Result<(Vec<Found>, Explain)> {
    let &Wanted { query, dims, limit } = wanted;
    let run = Run { view, query, dims, limit, bases: view.bases(), selection };
    let (found, mut explain) = match plan {
        Plan::Exact => run.exact(),
        Plan::Proven { stage, entry } => {
            SCRATCH.with_borrow_mut(|scratch| run.prove(*stage, entry, scratch))
        }
        Plan::Funnel { entry, keep, reranks } => {
            SCRATCH.with_borrow_mut(|scratch| run.funnel(entry, *keep, reranks, scratch))
        }
        Plan::Calibrated(plan) => SCRATCH.with_borrow_mut(|scratch| run.adapt(plan, scratch)),
    }?;
    if let Some(selection) = run.selection {
        explain.stages.insert(0, selection.report);
    }
    Ok((found, explain))
}

/// Looks up what a hit shows of a row.
pub(super) fn hit(view: &View, bases: &[u32], found: Found, payloads: bool) -> Result<Hit> {
    let (part, row) = locate(view, bases, found.position);
    let payload = if payloads { Some(part.payload(row)?) } else { None };
    Ok(Hit { id: found.id, score: found.score, payload })
}

/// Which row stands at a position of the view.
pub(super) fn locate<'v>(view: &'v View, bases: &[u32], position: u32) -> (&'v Part, Ordinal) {
    let at = bases.partition_point(|base| *base <= position) - 1;
    // Parts without rows share their base with the next one: the last wins, and
    // it is the one that has the row.
    (&view.parts[at], Ordinal(position - bases[at]))
}

/// Most selected rows of a part that are asked for before the first is touched;
/// of more, the first would be forgotten again before they are read.
const REQUESTED: u64 = 1 << 16;

pub(super) struct Run<'a> {
    pub(super) view: &'a View,
    pub(super) query: &'a [f32],
    pub(super) dims: usize,
    pub(super) limit: usize,
    pub(super) bases: Vec<u32>,
    /// Rows that may be found, if not all.
    pub(super) selection: Option<Selection>,
}

impl Run<'_> {
    /// Compares every row that may be found.
    fn exact(&self) -> Result<(Vec<Found>, Explain)> {
        let start = Instant::now();
        let scorer = self.scorer(self.dims);
        let mut best = Best::new(self.limit);
        let mut rows = 0;
        if self.limit > 0 {
            for at in 0..self.view.parts.len() {
                rows += self.compare(at, &scorer, &mut best)?;
            }
        }
        let found = best.into_sorted();
        let stage = StageReport {
            name: match self.selection {
                Some(_) => format!("selected vectors, {}", self.view.schema.stored()),
                None => format!("all vectors, {}", self.view.schema.stored()),
            },
            dims: self.dims,
            rows_in: rows,
            rows_out: found.len() as u64,
            bytes: rows * scorer.row_bytes() as u64,
            time: start.elapsed(),
        };
        Ok((found, Explain { stages: vec![stage], exact: true, recall: None }))
    }

    pub(super) fn funnel(
        &self,
        entry: &Entry,
        keep: usize,
        reranks: &[FunnelStage],
        scratch: &mut Scratch,
    ) -> Result<(Vec<Found>, Explain)> {
        if self.limit == 0 {
            return Ok((Vec::new(), Explain { exact: true, ..Explain::default() }));
        }
        let mut explain = Explain::default();
        let scanned = self.scan(entry, keep, scratch);
        let walked = self.walk(entry, scratch)?;
        explain.stages.extend(walked.iter().all(|_| scanned.rows_in > 0).then_some(scanned));
        explain.stages.extend(walked);
        for stage in reranks {
            explain.stages.push(self.rerank(*stage, &mut scratch.shortlist)?);
        }
        let (found, last) = self.finish(&mut scratch.shortlist)?;
        explain.stages.push(last);
        Ok((found, explain))
    }

    pub(super) fn scorer(&self, dims: usize) -> Scorer<'_> {
        let schema = &self.view.schema;
        Scorer::new(schema.metric(), schema.stored(), &self.query[..dims])
    }

    /// Stage 0: estimates the score of every row that may be found from its code.
    pub(super) fn scan(&self, plan: &Entry, keep: usize, scratch: &mut Scratch) -> StageReport {
        let start = Instant::now();
        let query = StageQuery::new(plan.code, self.query, plan.dims);
        let top = scratch.top.get_or_insert_with(|| TopK::new(keep));
        top.reset(keep);
        let query_norm = self.reference_norm();
        let mut rows = 0;
        for (at, part) in self.view.parts.iter().enumerate() {
            if self.beam(plan, at).is_some() {
                continue;
            }
            let mask = self.selection.as_ref().map(|some| some.mask(at, part.rows.len()));
            let norms = part.rows.norms();
            let scoring = match self.view.schema.metric() {
                Metric::Cosine => Scoring::Cosine,
                Metric::Dot => Scoring::Dot { norms, query_norm },
                Metric::L2 => Scoring::L2 { norms, query_norm },
            };
            let view = part.rows.code(plan.stage);
            let scan = Scan {
                view,
                query: &query,
                scoring,
                alive: mask.as_deref().or_else(|| part.alive()),
                base: self.bases[at],
            };
            scan.run(Isa::detect(), &mut scratch.scan, top);
            rows += u64::from(part.rows.len());
        }
        scratch.shortlist.clear();
        top.sorted_into(&mut scratch.shortlist);
        StageReport {
            name: format!("scan {}", plan.code),
            dims: plan.dims,
            rows_in: rows,
            rows_out: scratch.shortlist.len() as u64,
            bytes: rows * plan.code.scanned_bytes_per_row(plan.dims) as u64,
            time: start.elapsed(),
        }
    }

    /// Norm to estimate dot products and distances with.
    ///
    /// Row norms are those of full vectors. Over a prefix both sides shrink; we
    /// take the rows to shrink as the query does (or, if only its prefix is
    /// known, as the number of dimensions), and since `|x|^2 s^2 - 2 |x| s |q| c`
    /// ranks as `|x|^2 - 2 |x| (|q| / s) c`, it is the query that is stretched.
    pub(super) fn reference_norm(&self) -> f32 {
        let square = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        let prefix = square(&self.query[..self.dims]);
        let all = self.view.schema.dims();
        let share = match square(self.query) {
            whole if self.query.len() == all && whole > 0.0 => prefix / whole,
            _ => self.dims as f64 / all as f64,
        };
        (prefix / share.max(f64::MIN_POSITIVE)).sqrt() as f32
    }

    /// A middle stage: ranks the shortlist by a longer prefix.
    fn rerank(&self, stage: FunnelStage, shortlist: &mut Vec<Scored>) -> Result<StageReport> {
        let start = Instant::now();
        let scorer = self.scorer(stage.dims);
        self.request(shortlist);
        let rows_in = shortlist.len() as u64;
        for candidate in shortlist.iter_mut() {
            let (part, row) = locate(self.view, &self.bases, candidate.ordinal);
            candidate.score = scorer.score(part.rows.vector(row)?, None);
        }
        shortlist
            .sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.ordinal.cmp(&b.ordinal)));
        shortlist.truncate(stage.keep);
        Ok(StageReport {
            name: "re-rank by prefix".into(),
            dims: stage.dims,
            rows_in,
            rows_out: shortlist.len() as u64,
            bytes: rows_in * scorer.row_bytes() as u64,
            time: start.elapsed(),
        })
    }

    /// The last stage: full vectors. A quick pass in `f32` finds who can be
    /// among the best; those are scored by the definition.
    fn finish(&self, shortlist: &mut Vec<Scored>) -> Result<(Vec<Found>, StageReport)> {
        let start = Instant::now();
        let scorer = self.scorer(self.dims);
        let rows_in = shortlist.len() as u64;
        self.request(shortlist);
        let whole = self.dims == self.view.schema.dims();
        // For halves the definition itself is the quicker one (`benches/kernels.rs`).
        if whole && self.view.schema.stored() == Precision::F32 {
            self.quick_pass(shortlist)?;
        }
        let mut best = Best::new(self.limit);
        for candidate in shortlist.iter() {
            let (part, row) = locate(self.view, &self.bases, candidate.ordinal);
            let norm = whole.then(|| part.rows.norms()[row.index()]);
            let score = scorer.score(part.rows.vector(row)?, norm);
            best.offer(score, candidate.ordinal, || part.rows.id(row))?;
        }
        let found = best.into_sorted();
        let report = StageReport {
            name: format!("re-rank full, {}", self.view.schema.stored()),
            dims: self.dims,
            rows_in,
            rows_out: found.len() as u64,
            bytes: rows_in * scorer.row_bytes() as u64,
            time: start.elapsed(),
        };
        Ok((found, report))
    }

    /// Cuts the shortlist to twice the hits wanted, and some, by simsimd's dot
    /// products. Their error is far below the gap that this margin spans.
    fn quick_pass(&self, shortlist: &mut Vec<Scored>) -> Result<()> {
        let keep = self.limit.saturating_mul(2).saturating_add(16);
        if shortlist.len() <= keep {
            return Ok(());
        }
        let schema = &self.view.schema;
        let query = row::RerankQuery::new(schema.stored(), self.query);
        let query2 = self.query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
        for candidate in shortlist.iter_mut() {
            let (part, row) = locate(self.view, &self.bases, candidate.ordinal);
            let dot = row::rerank_dot(&query, part.rows.vector(row)?);
            let norm = f64::from(part.rows.norms()[row.index()]);
            let score = match schema.metric() {
                Metric::Cosine if norm == 0.0 => 0.0,
                Metric::Cosine => dot / norm,
                Metric::Dot => dot,
                Metric::L2 => 2.0 * dot - norm * norm - query2,
            };
            candidate.score = score as f32;
        }
        shortlist.select_nth_unstable_by(keep, |a, b| b.score.total_cmp(&a.score));
        shortlist.truncate(keep);
        Ok(())
    }

    /// Asks for all rows of a shortlist before the first is touched, in the
    /// order they lie on disk.
    pub(super) fn request(&self, shortlist: &mut [Scored]) {
        shortlist.sort_unstable_by_key(|c| c.ordinal);
        for candidate in shortlist {
            let (part, row) = locate(self.view, &self.bases, candidate.ordinal);
            part.rows.will_need(row);
        }
    }

    /// Offers the scores of all rows of a part that may be found; how many.
    pub(super) fn compare(&self, at: usize, scorer: &Scorer, best: &mut Best) -> Result<u64> {
        match &self.selection {
            Some(selection) => self.score_some(at, selection, scorer, best),
            None => self.score_all(at, scorer, best),
        }
    }

    /// Offers the score of the rows of a part that may be found; how many.
    fn score_some(
        &self,
        at: usize,
        selection: &Selection,
        scorer: &Scorer,
        best: &mut Best,
    ) -> Result<u64> {
        let (part, base, rows) = (&self.view.parts[at], self.bases[at], selection.of_part(at));
        let whole = self.dims == self.view.schema.dims();
        if rows.len() <= REQUESTED {
            rows.iter().for_each(|row| part.rows.will_need(Ordinal(row)));
        }
        for row in rows {
            let row = Ordinal(row);
            let norm = whole.then(|| part.rows.norms()[row.index()]);
            let score = scorer.score(part.rows.vector(row)?, norm);
            best.offer(score, base + row.0, || part.rows.id(row))?;
        }
        Ok(rows.len())
    }

    /// Offers the score of every living row of a part; how many.
    fn score_all(&self, at: usize, scorer: &Scorer, best: &mut Best) -> Result<u64> {
        let (part, base) = (&self.view.parts[at], self.bases[at]);
        let rows = part.rows.len();
        let whole = self.dims == self.view.schema.dims();
        for first in (0..rows).step_by(BLOCK) {
            let count = (rows - first).min(BLOCK as u32);
            let alive = part.alive().map_or(u64::MAX, |words| words[first as usize / BLOCK]);
            if alive == 0 {
                continue;
            }
            let norms = &part.rows.norms()[first as usize..];
            for lane in (0..count).filter(|lane| alive >> lane & 1 == 1) {
                let row = Ordinal(first + lane);
                let norm = whole.then(|| norms[lane as usize]);
                let score = scorer.score(part.rows.vector(row)?, norm);
                best.offer(score, base + row.0, || part.rows.id(row))?;
            }
        }
        Ok(part.live_rows())
    }
}
