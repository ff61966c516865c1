//! A search that is asked with one query after another.

use super::result::SearchResult;
use super::run::Scratch;
use super::search::{Prepared, Search};
use crate::error::{Error, Result};
use std::fmt;

/// A search with everything settled but the query: [`Collection::prepare`] makes it.
///
/// It sees the rows as they were then, as a snapshot does; its filter was evaluated once and its
/// plan made once. The hits are those of [`Search::run`]. Once it has answered a query, another
/// like it **allocates nothing**: the answer is written over the one before, in buffers that go
/// when this does. (Hits of longer string ids, payloads, vectors and groups are the exceptions, and
/// walks over more than 65 536 rows.)
///
/// [`Collection::prepare`]: crate::Collection::prepare
#[must_use = "a search does nothing until it is run"]
pub struct PreparedSearch {
    search: Search,
    prepared: Prepared,
    scratch: Box<Scratch>,
    result: SearchResult,
}

impl fmt::Debug for PreparedSearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedSearch").field("search", &self.search).finish_non_exhaustive()
    }
}

impl PreparedSearch {
    /// The search that is to be prepared, which has no query yet.
    pub(crate) fn new(search: Search) -> Result<Self> {
        if !search.query.is_empty() || search.without.is_some() {
            let why = "expected the search that was given, without a query; got one with a query \
                       of its own";
            return Err(Error::invalid("prepare", why));
        }
        let dims = search.checked_dims()?;
        let prepared = search.plan_all(dims)?;
        let result = SearchResult::none(search.view.schema.metric());
        Ok(Self { search, prepared, scratch: Box::default(), result })
    }

    /// Answers the search for a query. The result is there until the next.
    ///
    /// # Errors
    /// As [`Search::run`], of what can be wrong with a query or with the rows it reads; another
    /// query may be asked after.
    pub fn run(&mut self, query: &[f32]) -> Result<&SearchResult> {
        let Self { search, prepared, scratch, result } = self;
        search.check(query, prepared.dims)?;
        let mut answers = search.answers(prepared, &[query], scratch)?;
        let answer = answers.pop().expect("one answer for one query");
        search.fill(prepared, answer, result, scratch)?;
        Ok(result)
    }
}
