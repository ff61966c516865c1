//! Runs a plan.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::Hit;
use super::entry::Entry;
use super::explain::{Explain, StageName, StageReport};
use super::funnel::FunnelStage;
use super::graph::{Walked, Walker};
use super::group::{Groups, Labels};
use super::plan::Plan;
use super::scan::{reference_norm, scan};
use super::score::{Best, Found, Rank, Scorer};
use super::select::Selection;
use crate::encoding::{BoundQuery, ScanScratch, StageQuery};
use crate::error::Result;
use crate::kernel::BLOCK;
use crate::kernel::topk::{Scored, TopK};
use crate::schema::Metric;
use crate::view::View;

/// A list that is mostly of one: then it takes no allocation.
pub(super) type Few<T> = SmallVec<[T; 1]>;

/// Buffers that searches use one after another.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) scan: ScanScratch,
    pub(super) tops: Vec<TopK>,
    /// The k best of each scan, beside all that is kept.
    pub(super) best: Vec<TopK>,
    /// A query for each scan.
    pub(super) queries: Vec<StageQuery>,
    pub(super) bounds: Vec<BoundQuery>,
    /// A shortlist for each query.
    pub(super) lists: Vec<Vec<Scored>>,
    /// The estimate down to which each is whole.
    pub(super) floors: Vec<f32>,
    /// What a second scan has found.
    pub(super) again: Vec<Scored>,
    /// What walks found of a shortlist, where other parts were scanned.
    pub(super) walked: Vec<Scored>,
    pub(super) scored: Vec<Scored>,
    /// Lists of rows that were compared, of calibrated plans.
    pub(super) compared: Vec<Vec<Scored>>,
    pub(super) walker: Walker,
    /// Of answers that were handed on.
    found: Vec<Vec<Found>>,
    stages: Vec<Vec<StageReport>>,
}

/// Longest list that a thread keeps between searches.
const MOST_ROWS_KEPT_IN_SCRATCH: usize = 1 << 16;

impl Scratch {
    /// An empty list of rows.
    pub(super) fn found(&mut self) -> Vec<Found> {
        self.found.pop().unwrap_or_default()
    }

    /// A report without stages yet.
    pub(super) fn explain(&mut self, exact: bool) -> Explain {
        Explain { stages: self.stages.pop().unwrap_or_default(), exact, recall: None }
    }

    /// Takes the buffers of what is no longer needed.
    pub(super) fn recycle(&mut self, mut found: Vec<Found>, mut stages: Vec<StageReport>) {
        found.clear();
        stages.clear();
        self.found.extend(Some(found).filter(|found| found.capacity() > 0));
        self.stages.extend(Some(stages).filter(|stages| stages.capacity() > 0));
    }

    /// Gives the memory of very long lists back.
    fn trim(&mut self) {
        let lists = self
            .lists
            .iter()
            .chain(&self.compared)
            .chain([&self.scored, &self.again, &self.walked])
            .map(Vec::capacity);
        let longest = lists.chain(self.found.iter().map(Vec::capacity));
        let longest = longest.chain([self.walker.walk.capacity()]).max();
        if longest.is_some_and(|rows| rows > MOST_ROWS_KEPT_IN_SCRATCH) {
            *self = Self::default();
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends the buffers of this thread.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        scratch.trim();
        done
    })
}

/// What is looked for: the best `limit` rows over the first `dims` dimensions, for each of some
/// queries.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) queries: &'a [&'a [f32]],
    pub(super) dims: usize,
    pub(super) limit: usize,
    /// The number of hits that shortlists are made for: more than `limit` where groups pass over
    /// rows.
    pub(super) shortlist_for: usize,
    /// The score that hits must reach.
    pub(super) least: f32,
    /// What hits are grouped by.
    pub(super) labels: Option<&'a Labels>,
}

impl<'a> Wanted<'a> {
    /// The nearest rows, and nothing else asked of them.
    pub(super) fn nearest(queries: &'a [&'a [f32]], dims: usize, limit: usize) -> Self {
        let least = f32::NEG_INFINITY;
        Self { queries, dims, limit, shortlist_for: limit, least, labels: None }
    }
}

/// The rows found for a query, and how.
pub(super) struct Answer {
    pub(super) found: Vec<Found>,
    pub(super) explain: Explain,
    /// Rows of the shortlist that were scored.
    pub(super) listed: usize,
    /// Of these, rows that reach the last hit, or all that could be a hit if more are wanted.
    pub(super) depth: usize,
}

impl Answer {
    pub(super) fn none(explain: Explain) -> Self {
        Self { found: Vec::new(), explain, listed: 0, depth: 0 }
    }
}

/// The rows that are wanted, of those selected, and how they were found: an answer for each
/// query, the same as if it were alone. All begins again where a walk comes upon damage.
pub(super) fn run(
    view: &View,
    wanted: &Wanted,
    selection: Option<&Selection>,
    plan: &Plan,
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    let queries = wanted.queries.iter();
    let runs: Few<Run> = queries.map(|query| Run::new(view, query, wanted, selection)).collect();
    view.while_graphs_hold(|| match plan {
        Plan::Exact => exact(&runs, scratch),
        Plan::Proven { stage, entry } => super::exact::prove(&runs, *stage, entry, scratch),
        Plan::Funnel { entry, keep, reranks } => funnel(&runs, entry, *keep, reranks, scratch),
        Plan::Calibrated(plan) => super::adapt::adapt(&runs, plan, scratch),
    })
}

/// Looks up what a hit shows of a row.
pub(super) fn hit(view: &View, found: Found, payloads: bool) -> Result<Hit> {
    let (part, row) = view.locate(found.position);
    let payload = if payloads { Some(part.payload(row)?) } else { None };
    Ok(Hit { id: found.id, score: found.score, payload })
}

/// One query over a view. Queries of a group differ in nothing else.
pub(super) struct Run<'a> {
    pub(super) view: &'a View,
    pub(super) query: &'a [f32],
    /// Rows that may be found, if not all.
    pub(super) selection: Option<&'a Selection>,
    /// Norm to estimate dot products and distances with; 0 under cosine, which needs none.
    pub(super) reference: f32,
    /// What all queries want.
    pub(super) wanted: Wanted<'a>,
}

/// Compares every row that may be found; each is read once for all queries.
fn exact(runs: &[Run], scratch: &mut Scratch) -> Result<Few<Answer>> {
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
    let answer = |(run, rank): (&Run, Rank)| {
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

/// Scan or walk, longer prefixes, full vectors. What a stage reads of the shortlists of all
/// queries is asked for before the first is scored.
pub(super) fn funnel(
    runs: &[Run],
    entry: &Entry,
    keep: usize,
    reranks: &[FunnelStage],
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    if runs.first().is_none_or(|run| run.wanted.limit == 0) {
        return Ok(runs.iter().map(|_| Answer::none(scratch.explain(true))).collect());
    }
    let mut explains = scan(runs, entry, keep, scratch);
    for (n, (run, explain)) in runs.iter().zip(&mut explains).enumerate() {
        let walked = run.walk(entry, &mut scratch.lists[n], &mut scratch.walker)?;
        let Walked::Found(walked) = walked else {
            return funnel(runs, &entry.scanned(), keep, reranks, scratch);
        };
        if walked.is_some() && explain.stages[0].rows_in == 0 {
            explain.stages.clear();
        }
        explain.stages.extend(walked);
    }
    let lists = &mut scratch.lists[..runs.len()];
    for stage in reranks {
        let asked = request(runs, lists);
        for ((run, list), explain) in runs.iter().zip(&mut *lists).zip(&mut explains) {
            explain.stages.push(run.rerank(*stage, list, asked)?);
        }
    }
    let asked = request(runs, lists);
    let mut answers = Few::new();
    for (n, (run, explain)) in runs.iter().zip(explains).enumerate() {
        let found = scratch.found();
        answers.push(run.finish(&mut scratch.lists[n], asked, found, explain)?);
    }
    Ok(answers)
}

/// Asks for the rows of all shortlists; the time of each.
fn request(runs: &[Run], lists: &mut [Vec<Scored>]) -> Duration {
    let start = Instant::now();
    runs.iter().zip(lists).for_each(|(run, list)| run.request(list));
    start.elapsed() / runs.len() as u32
}

impl<'a> Run<'a> {
    pub(super) fn new(
        view: &'a View,
        query: &'a [f32],
        wanted: &Wanted<'a>,
        selection: Option<&'a Selection>,
    ) -> Self {
        let reference = match view.schema.metric() {
            Metric::Cosine => 0.0,
            Metric::Dot | Metric::L2 => reference_norm(view.schema.dims(), query, wanted.dims),
        };
        Self { view, query, selection, reference, wanted: *wanted }
    }

    pub(super) fn scorer(&self, dims: usize) -> Scorer<'a> {
        let schema = &self.view.schema;
        Scorer::new(schema.metric(), schema.stored(), &self.query[..dims])
    }

    /// `found` is a buffer for the best rows.
    pub(super) fn rank(&self, dims: usize, found: Vec<Found>) -> Rank<'a> {
        Rank { scorer: self.scorer(dims), best: self.best(found) }
    }

    /// The best rows, in the buffer `found`.
    pub(super) fn best(&self, found: Vec<Found>) -> Best<'a> {
        let Wanted { limit, least, labels, .. } = self.wanted;
        Best::new(limit, least, labels.map(Groups::new), found)
    }

    /// A middle stage: ranks the shortlist by a longer prefix.
    fn rerank(
        &self,
        stage: FunnelStage,
        shortlist: &mut Vec<Scored>,
        asked: Duration,
    ) -> Result<StageReport> {
        let start = Instant::now();
        let scorer = self.scorer(stage.dims);
        let rows_in = shortlist.len() as u64;
        self.each_score(shortlist, &scorer, |row, score| {
            row.score = score;
            Ok(())
        })?;
        shortlist.sort_unstable_by(Scored::best_first);
        shortlist.truncate(stage.keep);
        Ok(StageReport {
            name: StageName::new(format_args!("re-rank by prefix")),
            dims: stage.dims,
            rows_in,
            rows_out: shortlist.len() as u64,
            bytes: rows_in * scorer.row_bytes() as u64,
            time: start.elapsed() + asked,
        })
    }

    /// The last stage: full vectors, scored by the definition.
    fn finish(
        &self,
        shortlist: &mut [Scored],
        asked: Duration,
        found: Vec<Found>,
        mut explain: Explain,
    ) -> Result<Answer> {
        let start = Instant::now();
        let mut rank = self.rank(self.wanted.dims, found);
        let rows_in = shortlist.len() as u64;
        let Rank { scorer, best } = &mut rank;
        self.each_score(shortlist, scorer, |row, score| {
            row.score = score;
            self.offer(row.ordinal, score, best)
        })?;
        let floor = rank.best.floor();
        let depth = shortlist.iter().filter(|row| row.score >= floor).count();
        let bytes = rows_in * rank.scorer.row_bytes() as u64;
        let found = rank.best.into_sorted();
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("re-rank full, {}", self.view.schema.stored())),
            dims: self.wanted.dims,
            rows_in,
            rows_out: found.len() as u64,
            bytes,
            time: start.elapsed() + asked,
        });
        Ok(Answer { found, explain, listed: shortlist.len(), depth })
    }

    /// Offers the row at a position of the view, which has this score.
    pub(super) fn offer(&self, position: u32, score: f32, best: &mut Best) -> Result<()> {
        best.offer(score, position, || {
            let (part, row) = self.view.locate(position);
            part.rows.id(row)
        })
    }

    /// Offers all rows of a part that may be found to all queries; how many.
    pub(super) fn compare(
        &self,
        at: usize,
        ranks: &mut [Rank],
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let part = &self.view.parts[at];
        let Some(selection) = self.selection else {
            let rows = 0..part.rows.len();
            let lives =
                |words: &[u64], row: u32| words[row as usize / BLOCK] >> (row % 64) & 1 == 1;
            let rows = rows.filter(|row| part.alive().is_none_or(|words| lives(words, *row)));
            self.sift(at, rows, part.live_rows(), ranks, scratch)?;
            return Ok(part.live_rows());
        };
        let rows = selection.of_part(at);
        self.sift(at, rows.iter(), rows.len(), ranks, scratch)?;
        Ok(rows.len())
    }
}
