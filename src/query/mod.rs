//! Searching: a query runs as a funnel over the stages of a collection.
//!
//! ```text
//!   funnel.rs   what the caller asks for, and the plan made of it
//!   exec.rs     plan -> scan of a stage code -> shortlist -> full vectors -> hits
//!   score.rs    what a score is; the best hits, ties broken by id
//!   explain.rs  rows, bytes and time of each stage
//! ```

mod exec;
mod explain;
mod funnel;
mod score;

use std::sync::Arc;

pub use explain::{Explain, StageReport};
pub use funnel::{DEFAULT_RECALL, Funnel, FunnelStage};

use crate::error::{Error, Result};
use crate::payload::Payload;
use crate::schema::Metric;
use crate::types::RowId;
use crate::view::View;

/// Hits returned where [`Search::limit`] does not say otherwise.
pub const DEFAULT_LIMIT: usize = 10;

/// A search being put together; [`Search::run`] answers it.
#[must_use = "a search does nothing until it is run"]
pub struct Search {
    view: Arc<View>,
    query: Vec<f32>,
    limit: usize,
    dims: Option<usize>,
    funnel: Funnel,
    payloads: bool,
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
    pub(crate) fn new(view: Arc<View>, query: &[f32]) -> Self {
        Self {
            view,
            query: query.to_vec(),
            limit: DEFAULT_LIMIT,
            dims: None,
            funnel: Funnel::default(),
            payloads: false,
        }
    }

    /// At most this many hits. 0 gives none; more than there are rows gives all.
    pub fn limit(mut self, k: usize) -> Self {
        self.limit = k;
        self
    }

    /// Searches as if the collection had only its first `dims` dimensions: any
    /// number from 1 to all of them. The query may have `dims` dimensions or all.
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

    /// Answers the search.
    ///
    /// # Errors
    /// [`Error::Vector`] for a query of the wrong length, with NaN or infinite
    /// components, or all zeros under cosine; [`Error::Invalid`] for dimensions
    /// or a funnel that the collection cannot have; [`Error::Corrupt`] where a
    /// row that had to be read is damaged.
    pub fn run(self) -> Result<SearchResult> {
        let schema = &self.view.schema;
        let dims = self.dims.unwrap_or(schema.dims());
        if !(1..=schema.dims()).contains(&dims) {
            let why = format!("expected 1 to {}, got {dims}", schema.dims());
            return Err(Error::invalid("dims", why));
        }
        let whole = self.query.len() == schema.dims();
        schema.check_vector(&self.query, if whole { schema.dims() } else { dims })?;
        schema.check_vector(&self.query[..dims], dims)?;
        let plan = self.funnel.plan(schema, dims, self.limit, self.view.live_rows())?;
        let (found, explain) = exec::run(&self.view, &self.query, dims, self.limit, &plan)?;
        let hits = found.into_iter().map(|f| exec::hit(&self.view, f, self.payloads));
        Ok(SearchResult { hits: hits.collect::<Result<_>>()?, metric: schema.metric(), explain })
    }
}
