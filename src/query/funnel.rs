//! What the caller asks for; `query/plan.rs` makes a plan of it.

use super::explain::ExpectedRecall;

/// Recall a search aims at where the caller does not say.
pub const DEFAULT_RECALL: f64 = 0.95;

/// How a search goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Funnel(pub(super) Kind);

/// The ways to ask for a search.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// This recall.
    Recall(f64),
    /// This recall, by graphs where there are any.
    Walked(f64),
    /// The true nearest rows.
    Exact,
    /// Stages written by hand.
    Stages(Vec<FunnelStage>),
    /// A walk that keeps this many rows, and the stages behind it.
    Graph(usize, Vec<FunnelStage>),
}

/// One stage of a hand-written funnel: rank by the first `dims` dimensions and
/// keep the best `keep` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FunnelStage {
    /// Dimensions to rank by.
    pub(super) dims: usize,
    /// Rows to keep.
    pub(super) keep: usize,
}

impl Funnel {
    /// Aims at this share of the true nearest rows, 0 to 1; 1 is
    /// [`Funnel::exact`]. Once the collection has been calibrated
    /// ([`Collection::calibrate`](crate::Collection::calibrate)) each query compares as many
    /// vectors as it needs for that, or all where that finds too little or, under dot and l2, the
    /// dimensions searched are no granularity or all that the query has of more; before, fewer than
    /// 20 000 rows are searched exactly, and of more the recall chooses a fixed shortlist
    /// (docs/SEARCH.md, "Shortlists"). [`Explain::recall`](crate::Explain::recall) says which.
    pub fn recall(recall: f64) -> Self {
        Self(Kind::Recall(recall))
    }

    /// Always the true nearest rows: every stored vector is compared with the query, or proven to be
    /// too far by the bounds of a stage code (`explain` says which).
    pub fn exact() -> Self {
        Self(Kind::Exact)
    }

    /// A hand-written funnel of stages, each `(dims, keep)`: rank by the first `dims` dimensions and
    /// keep the best `keep` rows. The first stage scans all rows, the others rank
    /// what the one before kept. The first ranks by the estimates of a stage code: of the codes
    /// kept in RAM the shortest that holds its dimensions, else the longest, and then by as many
    /// dimensions as that has. The others rank by the stored vectors, and the result is always
    /// ranked by all dimensions searched. `[(16, 200)]` is adaptive retrieval with a shortlist of 200 from
    /// 16 dimensions, `[(8, 200), (16, 100), (32, 50)]` the cascade of Kusupati
    /// et al., "Matryoshka Representation Learning" (`NeurIPS` 2022), section 4.3.
    pub fn stages(stages: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let stages = stages.into_iter().map(|(dims, keep)| FunnelStage { dims, keep });
        Self(Kind::Stages(stages.collect()))
    }

    /// A hand-written funnel that begins with a walk over the graph of each segment and
    /// keeps `width` rows of it; the stages after it are as in [`Funnel::stages`], and
    /// there may be none. Segments without a graph are scanned, and `width` rows kept of all.
    /// The graph cannot be used for a search over fewer than half of the dimensions it knows.
    pub fn graph(width: usize, stages: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let stages = stages.into_iter().map(|(dims, keep)| FunnelStage { dims, keep });
        Self(Kind::Graph(width, stages.collect()))
    }

    /// As [`Funnel::recall`], but every segment that has a graph is walked, where the other
    /// chooses the quicker one of walk and scan: to compare them. What is searched exactly
    /// walks nothing.
    pub fn graph_recall(recall: f64) -> Self {
        Self(Kind::Walked(recall))
    }

    /// What an answer found without a calibration, and without certainty, says of itself.
    pub(super) fn uncalibrated(&self, exact: bool) -> Option<ExpectedRecall> {
        match self.0 {
            Kind::Recall(asked) | Kind::Walked(asked) if !exact => {
                Some(ExpectedRecall { asked, measured: None })
            }
            _ => None,
        }
    }
}

impl Default for Funnel {
    fn default() -> Self {
        Self::recall(DEFAULT_RECALL)
    }
}
