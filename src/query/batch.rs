//! Many queries at once.
//!
//! ```text
//!   check every query; filter and plan once
//!   groups of up to 8 queries, each group to the next free thread:
//!       scan:    a few blocks of codes at a time, for one query of the group after the other
//!       request: the rows of all shortlists of the group, before the first is scored
//!       score:   query by query
//! ```
//!
//! A search of one query is a group of one, so both go through the same code, and what a query is
//! offered, and in which order, does not depend on the others.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use super::funnel::Funnel;
use super::result::SearchResult;
use super::search::{Prepared, Search};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::payload::Payload;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{on_threads, thread};
use crate::types::RowId;
use crate::view::View;

/// Most queries that are answered together. Of eight, codes are read from memory an eighth as
/// often, and what is kept for each fits the core's cache beside them; and there are groups
/// enough for all threads.
const QUERIES_TOGETHER: usize = 8;

/// A search for several queries with the same options; [`SearchBatch::run`] answers it.
#[must_use = "a search does nothing until it is run"]
pub struct SearchBatch {
    queries: Vec<Vec<f32>>,
    search: Search,
    threads: Option<usize>,
}

impl fmt::Debug for SearchBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SearchBatch");
        shown.field("queries", &self.queries.len()).field("search", &self.search);
        shown.finish_non_exhaustive()
    }
}

impl SearchBatch {
    pub(crate) fn new<Q: AsRef<[f32]>>(
        view: Arc<View>,
        queries: impl IntoIterator<Item = Q>,
        most_dims: usize,
    ) -> Self {
        let queries = queries.into_iter().map(|query| query.as_ref().to_vec()).collect();
        Self { queries, search: Search::new(view, &[], most_dims), threads: None }
    }

    /// As [`Search::limit`], for each query.
    pub fn limit(self, k: usize) -> Self {
        self.with(|search| search.limit(k))
    }

    /// As [`Search::offset`], for each query.
    pub fn offset(self, n: usize) -> Self {
        self.with(|search| search.offset(n))
    }

    /// As [`Search::dims`].
    pub fn dims(self, dims: usize) -> Self {
        self.with(|search| search.dims(dims))
    }

    /// As [`Search::funnel`].
    pub fn funnel(self, funnel: Funnel) -> Self {
        self.with(|search| search.funnel(funnel))
    }

    /// As [`Search::recall`].
    pub fn recall(self, recall: f64) -> Self {
        self.with(|search| search.recall(recall))
    }

    /// As [`Search::exact`].
    pub fn exact(self) -> Self {
        self.with(Search::exact)
    }

    /// As [`Search::payloads`].
    pub fn payloads(self, wanted: bool) -> Self {
        self.with(|search| search.payloads(wanted))
    }

    /// As [`Search::vectors`].
    pub fn vectors(self, wanted: bool) -> Self {
        self.with(|search| search.vectors(wanted))
    }

    /// As [`Search::filter`]; evaluated once for all queries.
    pub fn filter(self, filter: impl Into<Filter>) -> Self {
        self.with(|search| search.filter(filter))
    }

    /// As [`Search::filter_fn`]; each row is asked about once for all queries.
    pub fn filter_fn(
        self,
        passes: impl Fn(&RowId, &Payload) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.with(|search| search.filter_fn(passes))
    }

    /// As [`Search::within`].
    pub fn within(self, score: f32) -> Self {
        self.with(|search| search.within(score))
    }

    /// As [`Search::group_by`].
    pub fn group_by(self, field: impl Into<String>, per_group: usize) -> Self {
        self.with(|search| search.group_by(field, per_group))
    }

    /// Maximum number of threads, including the calling one; capped by the number of queries and by
    /// the threads that the system grants. Default: the available parallelism.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Answers all queries: one result for each, in their order, with the same hits as if it had
    /// been searched for alone. All see the rows as they were when the batch began.
    ///
    /// # Errors
    /// As [`Search::run`], but [`Error::Query`] names the first query that cannot be searched for.
    /// All are checked before work begins; after an error there are no results at all.
    pub fn run(self) -> Result<Vec<SearchResult>> {
        let threads = self.checked_threads()?;
        let dims = self.search.checked_dims()?;
        for (at, query) in self.queries.iter().enumerate() {
            self.search.check(query, dims).map_err(|e| Error::Query { at, source: e.into() })?;
        }
        let mut prepared = self.search.plan_all(dims)?;
        let Some(most) = NonZero::new(self.queries.len()) else { return Ok(Vec::new()) };
        if let Some(selection) = &mut prepared.selection {
            selection.report.time /= most.get() as u32;
        }
        let queries: Vec<&[f32]> = self.queries.iter().map(Vec::as_slice).collect();
        let size = most.get().div_ceil(threads).min(QUERIES_TOGETHER);
        let groups: Vec<_> = queries.chunks(size).collect();
        let threads = threads.min(groups.len());
        let mut done = self.answer(&prepared, &groups, threads)?;
        done.sort_unstable_by_key(|(at, _)| *at);
        Ok(done.into_iter().flat_map(|(_, results)| results).collect())
    }

    /// The results of all groups by their number, in any order.
    fn answer(
        &self,
        prepared: &Prepared,
        groups: &[&[&[f32]]],
        threads: usize,
    ) -> Result<Vec<Results>> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Results>> {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(group) = groups.get(at) else { return Ok(done) };
                match self.search.answer(prepared, group) {
                    Ok(results) => done.push((at, results)),
                    Err(error) => {
                        // Nobody needs the others now.
                        next.store(groups.len(), Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
        };
        on_threads(threads, &work)
    }

    fn checked_threads(&self) -> Result<usize> {
        match self.threads {
            Some(0) => Err(Error::invalid("threads", "expected at least 1, got 0")),
            Some(threads) => Ok(threads),
            None => Ok(thread::available_parallelism().map_or(1, NonZero::get)),
        }
    }

    fn with(self, change: impl FnOnce(Search) -> Search) -> Self {
        Self { search: change(self.search), ..self }
    }
}

/// The number of a group of queries, and their results.
type Results = (usize, Vec<SearchResult>);
