//! What a search finds.

use super::explain::Explain;
use crate::payload::Payload;
use crate::schema::Metric;
use crate::types::RowId;

/// A row that was found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// Its id.
    pub id: RowId,
    /// Its score under the collection's metric, over the dimensions searched;
    /// higher is better. Computed from the stored vector, never estimated.
    pub score: f32,
    /// Its payload, if [`Search::payloads`](crate::Search::payloads) asked for it.
    pub payload: Option<Payload>,
    /// Its vector as it is stored, of all dimensions, if
    /// [`Search::vectors`](crate::Search::vectors) asked for it.
    pub vector: Option<Vec<f32>>,
}

/// The answer to a search.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SearchResult {
    /// Best first; equal scores by ascending id.
    pub hits: Vec<Hit>,
    /// What the scores mean.
    pub metric: Metric,
    /// How the answer was found.
    pub explain: Explain,
}

impl SearchResult {
    /// Without hits.
    pub(super) fn none(metric: Metric) -> Self {
        Self { hits: Vec::new(), metric, explain: Explain::default() }
    }

    /// The hits, best first; `for hit in &result` is the same.
    pub fn iter(&self) -> std::slice::Iter<'_, Hit> {
        self.hits.iter()
    }
}

/// The hits, best first.
impl IntoIterator for SearchResult {
    type Item = Hit;
    type IntoIter = std::vec::IntoIter<Hit>;

    fn into_iter(self) -> Self::IntoIter {
        self.hits.into_iter()
    }
}

/// The hits, best first.
impl<'r> IntoIterator for &'r SearchResult {
    type Item = &'r Hit;
    type IntoIter = std::slice::Iter<'r, Hit>;

    fn into_iter(self) -> Self::IntoIter {
        self.hits.iter()
    }
}
