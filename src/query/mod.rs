//! Searching: a query runs as a funnel over the stages of a collection.
//!
//! ```text
//!   funnel.rs   what the caller asks for, and the plan made of it
//!   select.rs   filter -> the rows of each part that may be found
//!   mask.rs     those rows as a scan wants them
//!   adapt.rs    a calibrated plan: how far down the shortlist to compare vectors
//!   calibrate.rs measures how wrong the estimates are
//!   graph.rs    which parts are walked, how far
//!   exec.rs     plan -> scan of a stage code -> shortlist -> full vectors -> hits
//!   exact.rs    the true nearest rows by bounds, where a code has them
//!   score.rs    what a score is; the best hits, ties broken by id
//!   explain.rs  rows, bytes and time of each stage
//! ```

mod adapt;
pub(crate) mod calibrate;
mod exact;
mod exec;
mod explain;
mod funnel;
mod graph;
mod mask;
mod score;
mod select;

use std::sync::Arc;

pub use explain::{ExpectedRecall, Explain, StageReport};
pub use funnel::{DEFAULT_RECALL, Funnel, FunnelStage};

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::payload::Payload;
use crate::rows::Column;
use crate::schema::{Metric, Schema};
use crate::types::RowId;
use crate::view::View;
use funnel::{Candidates, Entry, Plan};
use select::Selection;

/// Hits returned where [`Search::limit`] does not say otherwise.
pub const DEFAULT_LIMIT: usize = 10;

/// A search being put together; [`Search::run`] answers it.
#[must_use = "a search does nothing until it is run"]
pub struct Search {
    view: Arc<View>,
    query: Vec<f32>,
    /// Most dimensions a search can have.
    most_dims: usize,
    limit: usize,
    dims: Option<usize>,
    funnel: Funnel,
    payloads: bool,
    filter: Option<Filter>,
    predicates: Vec<select::Predicate>,
}

/// A row that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// Its id.
    pub id: RowId,
    /// Its score under the collection's metric, over the dimensions searched;
    /// higher is better. Computed from the stored vector, never estimated.
    pub score: f32,
    /// Its payload, if [`Search::payloads`] asked for it.
    pub payload: Option<Payload>,
}

/// The answer to a search.
#[derive(Debug, Clone)]
pub struct SearchResult {
    /// Best first; equal scores by ascending id.
    pub hits: Vec<Hit>,
    /// What the scores mean.
    pub metric: Metric,
    /// How the answer was found.
    pub explain: Explain,
}

impl Search {
    pub(crate) fn new(view: Arc<View>, query: &[f32], most_dims: usize) -> Self {
        Self {
            view,
            most_dims,
            query: query.to_vec(),
            limit: DEFAULT_LIMIT,
            dims: None,
            funnel: Funnel::default(),
            payloads: false,
            filter: None,
            predicates: Vec::new(),
        }
    }

    /// At most this many hits. 0 gives none; more than there are rows gives all.
    pub fn limit(mut self, k: usize) -> Self {
        self.limit = k;
        self
    }

    /// Searches as if the collection had only its first `dims` dimensions: any
    /// number from 1 to all of them. The query may have `dims` dimensions or all.
    /// Default: all, or [`Options::max_dims`](crate::Options::max_dims).
    pub fn dims(mut self, dims: usize) -> Self {
        self.dims = Some(dims);
        self
    }

    /// How much of the truth to look for. Default: [`Funnel::default`].
    pub fn funnel(mut self, funnel: Funnel) -> Self {
        self.funnel = funnel;
        self
    }

    /// Expects a share of the true nearest rows: [`Funnel::recall`].
    pub fn recall(self, share: f64) -> Self {
        self.funnel(Funnel::recall(share))
    }

    /// Finds the true nearest rows: [`Funnel::exact`].
    pub fn exact(self) -> Self {
        self.funnel(Funnel::exact())
    }

    /// Whether hits carry their payloads. Default: no.
    pub fn payloads(mut self, wanted: bool) -> Self {
        self.payloads = wanted;
        self
    }

    /// Finds only rows that pass. The answer is exact with respect to the filter:
    /// no row outside of it, and never fewer hits than rows pass (up to the limit).
    /// Of several filters a row must pass all.
    ///
    /// ```
    /// use matryo::{Collection, FieldKind, Filter, Schema, field, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("books.matryo");
    /// let schema = Schema::builder(2).field("year", FieldKind::Integer).build()?;
    /// let books = Collection::create(&path, schema)?;
    /// books.upsert(1, &[0.1, 0.9], json!({"year": 1999}))?;
    /// books.upsert(2, &[0.2, 0.8], json!({"year": 2021}))?;
    /// let late = books.search(&[0.0, 1.0]).filter(field("year").ge(2020)).run()?;
    /// assert_eq!(late.hits[0].id, 2.into());
    /// assert_eq!(books.count(&Filter::parse("year < 2000 OR year > 2030")?)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(match self.filter {
            Some(before) => before.and(filter),
            None => filter,
        });
        self
    }

    /// Finds only rows that a closure lets through. Slow: it reads and parses the
    /// payload of every row that passes the [`Self::filter`]s, or of all rows.
    pub fn filter_fn(
        mut self,
        passes: impl Fn(&RowId, &Payload) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.predicates.push(Box::new(passes));
        self
    }

    /// Answers the search.
    ///
    /// # Errors
    /// [`Error::Vector`] for a query of the wrong length, with NaN or infinite
    /// components, or all zeros under cosine; [`Error::Invalid`] for dimensions
    /// or a funnel that the collection cannot have, or a filter on fields that it
    /// does not declare, with values of another kind, or beyond the limits;
    /// [`Error::Corrupt`] where a
    /// row that had to be read is damaged.
    pub fn run(self) -> Result<SearchResult> {
        let schema = &self.view.schema;
        let dims = self.dims.unwrap_or(self.most_dims);
        if !(1..=self.most_dims).contains(&dims) {
            let opened = if self.most_dims < schema.dims() { " as it was opened" } else { "" };
            let why = format!("expected 1 to {}{opened}, got {dims}", self.most_dims);
            return Err(Error::invalid("dims", why));
        }
        let whole = self.query.len() == schema.dims();
        schema.check_vector(&self.query, if whole { schema.dims() } else { dims })?;
        schema.check_vector(&self.query[..dims], dims)?;
        let selection = self.select()?;
        let all = self.view.live_rows();
        let rows = selection.as_ref().map_or(all, Selection::rows);
        let known = self.view.calibration.as_deref();
        let plan = self.funnel.plan(schema, dims, self.limit, Candidates { rows, all }, known)?;
        let stage = match &plan {
            Plan::Exact => None,
            Plan::Funnel { entry, .. } | Plan::Proven { entry, .. } => {
                Some(Column::Stage(entry.stage))
            }
            Plan::Calibrated(plan) => Some(Column::Stage(plan.entry.stage)),
        };
        for column in stage.into_iter().chain(needs_norms(schema, dims).then_some(Column::Norms)) {
            self.view.parts.iter().try_for_each(|part| part.rows.ready(column))?;
        }
        let wanted = exec::Wanted { query: &self.query, dims, limit: self.limit };
        let (found, mut explain) = exec::run(&self.view, &wanted, selection, &plan)?;
        explain.recall = explain.recall.or_else(|| self.funnel.uncalibrated(explain.exact));
        let bases = self.view.bases();
        let hits = found.into_iter().map(|f| exec::hit(&self.view, &bases, f, self.payloads));
        Ok(SearchResult { hits: hits.collect::<Result<_>>()?, metric: schema.metric(), explain })
    }

    fn select(&self) -> Result<Option<Selection>> {
        if self.filter.is_none() && self.predicates.is_empty() {
            return Ok(None);
        }
        select::select(&self.view, self.filter.as_ref(), &self.predicates).map(Some)
    }
}

/// Whether a search over so many dimensions reads the norms of full vectors.
fn needs_norms(schema: &Schema, dims: usize) -> bool {
    dims == schema.dims() || schema.metric() != Metric::Cosine
}

/// The columns that searches over at most `dims` dimensions can read, those first
/// that a search over all of them reads.
pub(crate) fn columns(schema: &Schema, dims: usize) -> Vec<Column> {
    let stage = |dims| Column::Stage(Entry::choose(schema, dims).stage);
    let norms = (1..=dims).any(|dims| needs_norms(schema, dims)).then_some(Column::Norms);
    let mut columns: Vec<Column> = [stage(dims)].into_iter().chain(norms).collect();
    for column in (1..dims).rev().map(stage) {
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    columns
}

/// Number of living rows that pass a filter.
pub(crate) fn count(view: &View, filter: &Filter) -> Result<u64> {
    Ok(select::select(view, Some(filter), &[])?.rows())
}
