//! Searching: a query runs as a funnel over the stages of a collection.
//!
//! ```text
//!   search.rs    a search being put together; what it finds: result.rs
//!   batch.rs     many queries at once, on several threads
//!   prepared.rs  one query after another, with nothing allocated between
//!
//!   funnel.rs    what the caller asks for
//!   plan.rs      the plan made of it
//!   entry.rs     the stage code it begins with, and the columns it reads
//!   select.rs    filter -> the rows of each part that may be found
//!   mask.rs      those rows as a scan wants them
//!
//!   run.rs       one query over a view, its buffers, its answer
//!   exec.rs      plan -> one of the next four:
//!   sieve.rs     every row compared, few of them scored by the definition
//!   exact.rs     the true nearest rows by bounds, where a code has them
//!   shortlist.rs scan of a stage code -> shortlist -> full vectors
//!   adapt.rs     a calibrated plan: how far down the shortlist to compare vectors
//!   scan.rs      estimates from a stage code, of all rows
//!   graph.rs     which parts are walked, how far
//!   vectors.rs   full vectors of a shortlist, read ahead
//!   score.rs     what a score is
//!   best.rs      the best hits, ties broken by id
//!   group.rs     at most some hits for each value of a field
//!   widen.rs     which shortlists are too short for that
//!   explain.rs   rows, bytes and time of each stage
//!
//!   calibrate.rs measures how wrong the estimates are
//!   margins.rs   measures how far walks over graphs must go
//! ```
//!
//! `tests/layering.rs` has the order in which they may import each other.

mod adapt;
mod batch;
mod best;
pub(crate) mod calibrate;
mod entry;
mod exact;
mod exec;
mod explain;
mod funnel;
mod graph;
mod group;
mod margins;
mod mask;
mod plan;
mod prepared;
mod result;
mod run;
mod scan;
mod score;
mod search;
mod select;
mod shortlist;
mod sieve;
mod vectors;
mod widen;

pub use batch::SearchBatch;
pub(crate) use entry::columns;
pub use explain::{ExpectedRecall, Explain, MeasuredRecall, StageName, StageReport};
pub use funnel::{DEFAULT_RECALL, Funnel};
pub(crate) use plan::EXACT_BELOW_ROWS;
pub use prepared::PreparedSearch;
pub use result::{Hit, SearchResult};
pub use search::{DEFAULT_LIMIT, Search};
pub(crate) use select::{count, passing};
