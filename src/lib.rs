//! matryo: an embedded vector database for Matryoshka embeddings.

mod codec;
mod collection;
#[cfg(feature = "embed")]
pub mod embed;
mod encoding;
mod error;
mod filter;
mod index;
mod kernel;
mod manifest;
mod memtable;
mod payload;
mod query;
mod rows;
mod schema;
mod segment;
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
pub use filter::{FieldRef, Filter, MAX_FILTER_DEPTH, MAX_FILTER_NODES, field};
pub use payload::Payload;
pub use query::{
    DEFAULT_LIMIT, DEFAULT_RECALL, Explain, Funnel, FunnelStage, Hit, Search, SearchResult,
    StageReport,
};
pub use schema::{
    Field, FieldKind, MAX_DIMS, MAX_FIELD_NAME, MAX_FIELDS, MAX_TIERS, Metric, Schema,
    SchemaBuilder,
};
pub use serde_json::{Value, json};
pub use types::{IdKind, MAX_ID_BYTES, RowId};
