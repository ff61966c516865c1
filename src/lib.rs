//! matryo: an embedded vector database for Matryoshka embeddings.

mod codec;
mod collection;
#[cfg(feature = "embed")]
pub mod embed;
mod encoding;
mod error;
mod kernel;
mod manifest;
mod memtable;
mod payload;
mod query;
mod rows;
mod schema;
mod segment;
mod sown;
mod types;
mod vfs;
mod view;
mod wal;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use collection::{
    Batch, Bulk, Collection, Compacted, Durability, Info, Options, Progress, Row, Snapshot,
    Verified,
};
pub use encoding::{Bits, Precision, StageCode};
pub use error::{Corruption, Error, Result, VectorError};
pub use payload::Payload;
pub use query::{
    DEFAULT_LIMIT, DEFAULT_RECALL, Explain, Funnel, FunnelStage, Hit, Search, SearchResult,
    StageReport,
};
pub use schema::{MAX_DIMS, MAX_TIERS, Metric, Schema, SchemaBuilder};
pub use serde_json::{Value, json};
pub use types::{IdKind, MAX_ID_BYTES, RowId};
