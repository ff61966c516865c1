//! One query over a view: what is wanted, the buffers that are used for it, and the answer.

use std::cell::RefCell;

use smallvec::SmallVec;

use super::best::{Best, Rank};
use super::explain::{Explain, StageReport};
use super::group::{Groups, Labels};
use super::score::{Found, Scorer};
use super::select::Selection;
use crate::calibration::sine;
use crate::encoding::{BoundQuery, ScanScratch, Scoring, StageQuery};
use crate::error::Result;
use crate::graph::{RowQuery, Walk};
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
    /// The estimate down to which each shortlist is whole.
    pub(super) floors: Vec<f32>,
    /// What a second scan has found.
    pub(super) again: Vec<Scored>,
    /// What walks found of a shortlist, where other parts were scanned.
    pub(super) walked: Vec<Scored>,
    pub(super) scored: Vec<Scored>,
    /// Lists of rows that were compared, of calibrated plans.
    pub(super) compared: Vec<Vec<Scored>>,
    pub(super) walker: Walker,
    /// Buffers of answers that were handed on.
    found: Vec<Vec<Found>>,
    stages: Vec<Vec<StageReport>>,
}

/// Buffers of walks, to be used again.
#[derive(Default)]
pub(super) struct Walker {
    pub(super) walk: Walk,
    pub(super) row_query: RowQuery,
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
    /// Rows among those listed that reach the last hit, or all that could be a hit if more are
    /// wanted.
    pub(super) depth: usize,
}

impl Answer {
    pub(super) fn none(explain: Explain) -> Self {
        Self { found: Vec::new(), explain, listed: 0, depth: 0 }
    }
}

/// One query over a view. Queries of a group differ in nothing else.
pub(super) struct QueryRun<'a> {
    pub(super) view: &'a View,
    pub(super) query: &'a [f32],
    /// Rows that may be found, if not all.
    pub(super) selection: Option<&'a Selection>,
    /// Norm to estimate dot products and distances with; 0 under cosine, which needs none.
    pub(super) reference: f32,
    /// What all queries want.
    pub(super) wanted: Wanted<'a>,
}

impl<'a> QueryRun<'a> {
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

    /// Offers the row at a position of the view, which has this score.
    pub(super) fn offer(&self, position: u32, score: f32, best: &mut Best) -> Result<()> {
        best.offer(score, position, || {
            let (part, row) = self.view.locate(position);
            part.rows.id(row)
        })
    }

    /// How an estimated cosine of a row of a part becomes its score.
    pub(super) fn scoring(&self, at: usize, query_norm: f32) -> Scoring<'_> {
        // Only where they are needed were they made ready.
        let norms = || self.view.parts[at].rows.norms();
        match self.view.schema.metric() {
            Metric::Cosine => Scoring::Cosine,
            Metric::Dot => Scoring::Dot { norms: norms(), query_norm },
            Metric::L2 => Scoring::L2 { norms: norms(), query_norm },
        }
    }

    /// What the error of an estimated score is counted in.
    pub(super) fn unit(&self, position: u32, score: f32) -> f32 {
        let metric = self.view.schema.metric();
        if metric == Metric::Cosine {
            return sine(score);
        }
        let (part, row) = self.view.locate(position);
        let (norm, query) = (part.rows.norms()[row.index()], self.reference);
        let product = (norm * query).max(f32::MIN_POSITIVE);
        match metric {
            Metric::L2 => {
                2.0 * product * sine((norm * norm + query * query + score) / (2.0 * product))
            }
            _ => product * sine(score / product),
        }
    }
}

/// Norm to estimate dot products and distances with, of a query of which `dims` are compared of
/// the `all` that rows have.
///
/// Row norms are those of full vectors. Over a prefix both sides shrink; we
/// take the rows to shrink as the query does (or, if only its prefix is
/// known, as the number of dimensions), and since `|x|^2 s^2 - 2 |x| s |q| c`
/// ranks as `|x|^2 - 2 |x| (|q| / s) c`, it is the query that is stretched.
fn reference_norm(all: usize, query: &[f32], dims: usize) -> f32 {
    let square = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let prefix = square(&query[..dims]);
    let share = match square(query) {
        whole if query.len() == all && whole > 0.0 => prefix / whole,
        _ => dims as f64 / all as f64,
    };
    (prefix / share.max(f64::MIN_POSITIVE)).sqrt() as f32
}
