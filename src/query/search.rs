//! A search being put together, planned and answered.

use std::fmt;
use std::sync::Arc;

use super::entry::needs_norms;
use super::funnel::Funnel;
use super::group::{self, Labels};
use super::plan::{Candidates, Plan, Planner};
use super::result::{Hit, SearchResult};
use super::run::{Answer, Few, Scratch, Wanted, with_scratch};
use super::score::Found;
use super::select::{self, Selection};
use super::{exec, widen};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::payload::Payload;
use crate::rows::Column;
use crate::schema::Metric;
use crate::types::RowId;
use crate::view::View;

/// Hits returned where [`Search::limit`] does not say otherwise.
pub const DEFAULT_LIMIT: usize = 10;

/// A search being put together; [`Search::run`] answers it.
#[must_use = "a search does nothing until it is run"]
pub struct Search {
    pub(super) view: Arc<View>,
    pub(super) query: Vec<f32>,
    /// Most dimensions a search can have.
    most_dims: usize,
    limit: usize,
    /// Hits that are left out before the first.
    offset: usize,
    dims: Option<usize>,
    funnel: Funnel,
    payloads: bool,
    vectors: bool,
    filter: Option<Filter>,
    predicates: Vec<select::Predicate>,
    within: Option<f32>,
    /// A field, and most hits for each of its values.
    group: Option<(String, usize)>,
    /// A row that is not to be found.
    pub(super) without: Option<RowId>,
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, offset, dims, funnel, filter, .. } = self;
        let mut shown = f.debug_struct("Search");
        shown.field("limit", limit).field("offset", offset);
        shown.field("dims", dims).field("funnel", funnel);
        shown.field("filter", filter).finish_non_exhaustive()
    }
}

impl Search {
    pub(crate) fn new(view: Arc<View>, query: &[f32], most_dims: usize) -> Self {
        Self {
            view,
            most_dims,
            query: query.to_vec(),
            limit: DEFAULT_LIMIT,
            offset: 0,
            dims: None,
            funnel: Funnel::default(),
            payloads: false,
            vectors: false,
            filter: None,
            predicates: Vec::new(),
            within: None,
            group: None,
            without: None,
        }
    }

    /// A search for what is like a row.
    pub(crate) fn like(view: Arc<View>, id: RowId, most_dims: usize) -> Result<Self> {
        id.check(view.schema.ids())?;
        let Some((part, row)) = view.find(&id)? else {
            return Err(Error::NoSuchRow { id: id.to_string() });
        };
        let query = view.vector(&view.parts[part], row)?;
        Ok(Self { without: Some(id), ..Self::new(view, &query, most_dims) })
    }

    /// Whether a search that began with
    /// [`Collection::search_like`](crate::Collection::search_like) finds the row itself as well.
    /// Default: no. Of other searches it changes nothing.
    pub fn with_itself(mut self, wanted: bool) -> Self {
        if wanted {
            self.without = None;
        }
        self
    }

    /// Finds only rows whose score is `score` or above: a search by range. The limit still
    /// holds; for all rows in range set it to [`usize::MAX`]. With [`Self::exact`] none is missed,
    /// and the score is the floor by which bounds leave out rows, so few vectors are read where
    /// few rows are in range. With [`Self::recall`] and a limit, the hits of that search are cut.
    pub fn within(mut self, score: f32) -> Self {
        self.within = Some(score);
        self
    }

    /// Finds at most `per_group` rows of each value of a declared field: what one gets by going
    /// through all rows, best first, and passing over those whose value has its hits already. The
    /// limit is the number of hits altogether; fewer come only where the values do not have so
    /// many. Rows without a value are not found. Shortlists become longer by themselves where they
    /// hold too few values.
    ///
    /// ```
    /// use matryo::{Collection, FieldKind, Schema, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("passages.matryo");
    /// let schema = Schema::builder(2).field("book", FieldKind::Keyword).build()?;
    /// let passages = Collection::create(&path, schema)?;
    /// passages.upsert(1, &[1.0, 0.1], json!({"book": "Emma"}))?;
    /// passages.upsert(2, &[1.0, 0.2], json!({"book": "Emma"}))?;
    /// passages.upsert(3, &[0.1, 1.0], json!({"book": "Walden"}))?;
    /// let found = passages.search(&[1.0, 0.0]).group_by("book", 1).limit(2).run()?;
    /// let ids: Vec<_> = found.hits.into_iter().map(|hit| hit.id).collect();
    /// assert_eq!(ids, [1, 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn group_by(mut self, field: impl Into<String>, per_group: usize) -> Self {
        self.group = Some((field.into(), per_group));
        self
    }

    /// At most this many hits. 0 gives none; more than there are rows gives all.
    pub fn limit(mut self, k: usize) -> Self {
        self.limit = k;
        self
    }

    /// Leaves out the first `n` hits: as if `n` more were asked for, and those dropped that come
    /// first. With [`Self::group_by`] hits are counted, not groups, as the limit counts them.
    ///
    /// Pages of one answer fit together if all come of one [snapshot](crate::Snapshot) and by
    /// [`Self::exact`]. By [`Self::recall`] deeper pages are searched for with longer shortlists, so
    /// a hit may turn up that belongs to a page before, which then shifts the others: some are
    /// shown twice, some never. For such searches ask once for the deepest page, and cut
    /// it. Each page costs as much as all hits up to its end.
    ///
    /// ```
    /// use matryo::{Collection, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("numbers.matryo");
    /// let numbers = Collection::create(&path, Schema::builder(2).build()?)?;
    /// (1..=9u64).try_for_each(|n| numbers.upsert(n, &[9.0, n as f32], ()))?;
    /// let snapshot = numbers.snapshot();
    /// let page = |n: usize| snapshot.search(&[1.0, 0.0]).exact().limit(4).offset(4 * n).run();
    /// let ids = |n: usize| page(n).map(|page| page.into_iter().map(|hit| hit.id).collect::<Vec<_>>());
    /// assert_eq!(ids(1)?, [5, 6, 7, 8]);
    /// assert_eq!(ids(2)?, [9]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offset(mut self, n: usize) -> Self {
        self.offset = n;
        self
    }

    /// Hits that are looked for.
    fn depth(&self) -> usize {
        if self.limit == 0 { 0 } else { self.limit.saturating_add(self.offset) }
    }

    /// Searches as if the collection had only its first `dims` dimensions: any
    /// number from 1 to all of them. The query may have `dims` dimensions or all; under dot and l2
    /// a calibrated collection compares every row where it has not all ([`Funnel::recall`]).
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
    pub fn recall(self, recall: f64) -> Self {
        self.funnel(Funnel::recall(recall))
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

    /// Whether hits carry their vectors, as they are stored and of all dimensions; of the rows as
    /// they were when the search began. Default: no.
    pub fn vectors(mut self, wanted: bool) -> Self {
        self.vectors = wanted;
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
    /// assert_eq!(late.hits[0].id, 2);
    /// let others = Filter::parse("year < 2000 OR year > 2030")?;
    /// assert_eq!(books.count(&others)?, 1);
    /// assert_eq!(books.search(&[0.0, 1.0]).filter(&others).run()?.hits.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn filter(mut self, filter: impl Into<Filter>) -> Self {
        let filter = filter.into();
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
    /// components, or all zeros in the dimensions searched under cosine; [`Error::Invalid`] for dimensions
    /// or a funnel that the collection cannot have, a score to be within that is NaN, a field to
    /// group by that it does not declare, or a filter on fields that it
    /// does not declare, with values of another kind, or beyond the limits;
    /// [`Error::Corrupt`] where a
    /// row that had to be read is damaged.
    pub fn run(self) -> Result<SearchResult> {
        let dims = self.checked_dims()?;
        self.check(&self.query, dims)?;
        let prepared = self.plan_all(dims)?;
        let mut results = self.answer(&prepared, &[&self.query])?;
        Ok(results.pop().expect("one result for one query"))
    }

    pub(super) fn checked_dims(&self) -> Result<usize> {
        let dims = self.dims.unwrap_or(self.most_dims);
        if (1..=self.most_dims).contains(&dims) {
            return Ok(dims);
        }
        let opened =
            if self.most_dims < self.view.schema.dims() { " as it was opened" } else { "" };
        let why = format!("expected 1 to {}{opened}, got {dims}", self.most_dims);
        Err(Error::invalid("dims", why))
    }

    /// Checks a query of a search over `dims` dimensions.
    pub(super) fn check(&self, query: &[f32], dims: usize) -> Result<()> {
        self.view.schema.check_query(query, dims)
    }

    /// What does not depend on the query.
    pub(super) fn plan_all(&self, dims: usize) -> Result<Prepared> {
        let schema = &self.view.schema;
        if self.within.is_some_and(f32::is_nan) {
            return Err(Error::invalid("within", "expected a score, got NaN"));
        }
        let group = |(name, most): &(String, usize)| -> Result<Labels> {
            Ok(Labels::new(self.view.clone(), group::field(schema, name, *most)?, *most))
        };
        let labels = self.group.as_ref().map(group).transpose()?;
        let selection = self.select()?;
        let all = self.view.live_rows();
        let rows = selection.as_ref().map_or(all, Selection::rows);
        let candidates = Candidates { rows, all };
        let plan = self.plan(dims, self.depth(), candidates)?;
        let stage = plan.entry().map(|entry| Column::Stage(entry.stage));
        for column in stage.into_iter().chain(needs_norms(schema, dims).then_some(Column::Norms)) {
            self.view.parts.iter().try_for_each(|part| part.rows.ready(column))?;
        }
        Ok(Prepared { dims, labels, selection, candidates, plan })
    }

    /// The plan for `limit` hits.
    fn plan(&self, dims: usize, limit: usize, candidates: Candidates) -> Result<Plan> {
        let View { schema, calibration, .. } = &*self.view;
        let planner = Planner {
            schema,
            dims,
            limit,
            candidates,
            calibration: calibration.as_deref(),
            grouped: self.group.is_some(),
            ranged: self.within.is_some(),
        };
        planner.plan(&self.funnel)
    }

    /// The results of some queries that were checked, in their order.
    pub(super) fn answer(
        &self,
        prepared: &Prepared,
        queries: &[&[f32]],
    ) -> Result<Vec<SearchResult>> {
        with_scratch(|scratch| {
            let answers = self.answers(prepared, queries, scratch)?;
            let result = |answer| {
                let mut result = SearchResult::none(self.view.schema.metric());
                self.fill(prepared, answer, &mut result, scratch)?;
                Ok(result)
            };
            answers.into_iter().map(result).collect()
        })
    }

    /// What was found for each query.
    pub(super) fn answers(
        &self,
        prepared: &Prepared,
        queries: &[&[f32]],
        scratch: &mut Scratch,
    ) -> Result<Few<Answer>> {
        let cut = queries.iter().filter(|query| self.is_cut(query)).count();
        if (1..queries.len()).contains(&cut) {
            let alone = |query| self.answers(prepared, std::slice::from_ref(query), scratch);
            return queries.iter().map(alone).map(|few| Ok(few?.remove(0))).collect();
        }
        let Prepared { dims, candidates, plan, .. } = prepared;
        let plan = if cut > 0 { &Plan::Exact } else { plan };
        let (selection, labels) = (prepared.selection.as_ref(), prepared.labels.as_ref());
        let (limit, least) = (self.depth(), self.within.unwrap_or(f32::NEG_INFINITY));
        let wanted = Wanted { queries, dims: *dims, limit, shortlist_for: limit, least, labels };
        if labels.is_none() || !matches!(plan, Plan::Funnel { .. }) {
            return exec::run(&self.view, &wanted, selection, plan, scratch);
        }
        let plan_for = |hits| self.plan(*dims, hits, *candidates);
        // Shortlists become longer query by query.
        let one = |query: &&[f32]| {
            let wanted = Wanted { queries: std::slice::from_ref(query), ..wanted };
            widen::run(&self.view, &wanted, selection, plan, &plan_for, scratch)
        };
        queries.iter().map(one).collect()
    }

    /// Whether a query has fewer dimensions than the collection, and calibration, which measures
    /// with whole ones, says nothing of it: how rows shrink to a prefix is told by how the query does.
    fn is_cut(&self, query: &[f32]) -> bool {
        let View { schema, calibration, .. } = &*self.view;
        let by_recall = self.funnel.uncalibrated(false).is_some();
        let cut = query.len() < schema.dims() && schema.metric() != Metric::Cosine;
        cut && by_recall && calibration.is_some()
    }

    /// Writes what was found over another result, in its buffers.
    pub(super) fn fill(
        &self,
        prepared: &Prepared,
        answer: Answer,
        result: &mut SearchResult,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let Answer { mut found, explain, .. } = answer;
        result.hits.clear();
        result.hits.reserve_exact(found.len().saturating_sub(self.offset));
        for found in found.drain(..).skip(self.offset) {
            result.hits.push(self.hit(found)?);
        }
        let before = std::mem::replace(&mut result.explain, explain);
        if let Some(selection) = &prepared.selection {
            result.explain.stages.insert(0, selection.report.clone());
        }
        let uncalibrated = || self.funnel.uncalibrated(result.explain.exact);
        result.explain.recall = result.explain.recall.or_else(uncalibrated);
        scratch.recycle(found, before.stages);
        Ok(())
    }

    /// Looks up what a hit shows of a row.
    fn hit(&self, found: Found) -> Result<Hit> {
        let (part, row) = self.view.locate(found.position);
        let payload = self.payloads.then(|| part.payload(row)).transpose()?;
        let vector = self.vectors.then(|| self.view.vector(part, row)).transpose()?;
        Ok(Hit { id: found.id, score: found.score, payload, vector })
    }

    fn select(&self) -> Result<Option<Selection>> {
        let without = self.without.as_ref();
        if self.filter.is_none() && self.predicates.is_empty() && without.is_none() {
            return Ok(None);
        }
        select::select(&self.view, self.filter.as_ref(), &self.predicates, without).map(Some)
    }
}

/// What the queries of a batch share.
pub(super) struct Prepared {
    pub(super) dims: usize,
    labels: Option<Labels>,
    pub(super) selection: Option<Selection>,
    candidates: Candidates,
    plan: Plan,
}
