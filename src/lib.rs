//! matryo: an embedded vector database for Matryoshka embeddings.
//!
//! A Matryoshka model puts a coarse description of its input into the first
//! dimensions of a vector and refines it with the later ones. matryo stores each
//! vector once, in full, and searches it as a funnel that begins with a small
//! code of its first dimensions.
//!
//! ```
//! use matryo::{Collection, Schema, json};
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("colours.matryo");
//!
//! // 4 dimensions; the first 2 are an embedding of their own.
//! let schema = Schema::builder(4).granularities([2]).build()?;
//! let colours = Collection::create(&path, schema)?;
//! let mut batch = colours.batch();
//! batch.upsert(1, &[0.9, 0.1, 0.3, 0.1], json!({"name": "red"}))?;
//! batch.upsert(2, &[0.1, 0.9, 0.2, 0.2], json!({"name": "blue"}))?;
//! batch.commit()?; // durable when this returns
//! drop(colours);
//!
//! let colours = Collection::open(&path)?;
//! let found = colours.search(&[0.8, 0.2, 0.3, 0.0]).limit(1).payloads(true).run()?;
//! assert_eq!(found.hits[0].id, 1);
//! assert_eq!(found.hits[0].payload.as_ref().unwrap()["name"], json!("red"));
//! println!("{}", found.explain); // what each stage read
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Concepts
//!
//! * A **collection** ([`Collection`]) is a folder of rows. A row has an id, a
//!   vector and a JSON payload. What a collection stores is fixed by its
//!   [`Schema`]. One writer commits a [`Batch`] at a time; searches never wait
//!   for it, and each sees the rows as they were when it began. A commit is durable
//!   when it returns, unless [`Durability::Buffered`] leaves that to
//!   [`Collection::sync`]; dropping the last handle closes, and
//!   [`Collection::close`] says whether that worked.
//! * A **granularity** is a prefix length that the model was trained at. Its
//!   embedding is that many first dimensions of the vector; [`Search::dims`]
//!   searches by it, or by any other number of dimensions.
//! * A **stage code** ([`StageCode`]) is a small copy of the first dimensions of
//!   all rows, 1, 4 or 8 bits each, in the order a scan reads it. Those of 1 and 8
//!   bits are kept in RAM. From 128 dimensions on there is one of 4 bits of all
//!   dimensions, for exact searches, which is read from disk as the system caches it.
//! * A **funnel** ([`Funnel`]) is how a search goes about it: scan a stage code,
//!   keep a shortlist, rank that by full vectors. [`Search::recall`] says how much
//!   of the truth to look for; [`Explain`] tells what each stage did.
//! * An **exact** search ([`Search::exact`]) finds the true nearest rows. Bounds from
//!   the 4-bit codes prove of most rows that their vectors need not be read; without
//!   such codes it compares every vector.
//!
//! A hit's score is computed from the stored vector under the collection's
//! [`Metric`], over the dimensions searched; it is never an estimate.
//!
//! # Features
//!
//! * `embed` (default): the module `embed`, text to vectors through ONNX Runtime,
//!   which is loaded at run time.
//! * `image` (default): pictures to vectors, in the same module.
//! * `cli` (default): the program `matryo`.
//! * `cuda`: lets the embedder ask ONNX Runtime for CUDA.
//! * `testing`: for matryo's own tests; no stability guarantee. `shuttle`, for one of them,
//!   replaces locks and threads with those of a scheduler.
//!
//! docs/GUIDE.md covers loading, sizes and errors, docs/SEARCH.md how a search works; ARCHITECTURE.md
//! and FORMAT.md say how matryo is built and what is on disk.

mod calibration;
pub mod classify;
mod codec;
mod collection;
#[cfg(feature = "embed")]
pub mod embed;
mod encoding;
mod error;
mod filter;
mod graph;
mod index;
mod kernel;
mod manifest;
mod memtable;
mod payload;
mod query;
mod random;
#[cfg(feature = "embed")]
pub mod reembed;
mod rows;
mod schema;
mod segment;
mod sown;
mod sync;
mod types;
mod vfs;
mod view;
mod wal;

#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod testing;

pub use calibration::{CalibratedPlan, Calibration};
pub use collection::{
    Batch, Bulk, Collection, ColumnInfo, Committed, Compacted, Copied, CopyOptions, Durability,
    Graphs, Ids, Info, Options, Placement, Progress, ReembedOptions, Reembedded, RepairOptions,
    Repaired, Row, Rows, Snapshot, SourceRow, Verified,
};
pub use encoding::{Bits, Precision, StageCode};
pub use error::{Corruption, Error, Result, VectorError};
pub use filter::{FieldRef, Filter, MAX_FILTER_DEPTH, MAX_FILTER_NODES, field};
pub use payload::Payload;
pub use query::{
    DEFAULT_LIMIT, DEFAULT_RECALL, ExpectedRecall, Explain, Funnel, Hit, MeasuredRecall,
    PreparedSearch, Search, SearchBatch, SearchResult, StageName, StageReport,
};
pub use schema::{
    EmbedderId, Field, FieldKind, MAX_DIMS, MAX_EMBEDDER_PARTS, MAX_FIELD_NAME, MAX_FIELDS,
    MAX_GRANULARITIES, MAX_STAGES, Metric, Schema, SchemaBuilder,
};
pub use serde_json::{Value, json};
pub use types::{IdKind, MAX_ID_BYTES, RowId};

#[cfg(feature = "embed")]
use std::path::Path;

#[cfg(feature = "embed")]
impl From<&embed::Embedder> for EmbedderId {
    /// Named after the directory that was opened, and after the graph where that is not
    /// the usual one, as those of other precisions are not.
    fn from(embedder: &embed::Embedder) -> Self {
        let (dir, weights) = embedder.files();
        embedder_id(dir, weights, embedder.fingerprint()).dims(embedder.dims())
    }
}

#[cfg(feature = "image")]
impl From<&embed::ImageEmbedder> for EmbedderId {
    /// Named as those of an `Embedder` are.
    fn from(embedder: &embed::ImageEmbedder) -> Self {
        let (dir, graph) = embedder.files();
        embedder_id(dir, graph, embedder.fingerprint()).dims(embedder.dims())
    }
}

#[cfg(feature = "embed")]
fn embedder_id(dir: &Path, weights: &Path, print: &embed::Fingerprint) -> EmbedderId {
    let last = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    // `.` and `a/..` do not end with a name.
    let named = || last(&dir.canonicalize().ok()?);
    let mut name = last(dir).or_else(named).unwrap_or_default();
    if !["model.onnx", "model.safetensors"].iter().any(|usual| weights.ends_with(usual)) {
        name = format!("{name}, {}", last(weights).unwrap_or_default());
    }
    name.truncate(name.floor_char_boundary(255));
    let add = |id: EmbedderId, (part, hash): (&str, &embed::Hash)| id.part(part, *hash);
    print.parts().fold(EmbedderId::new(name, print.hash()), add)
}

/// The Rust code of the documents, so that it is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "embed"))]
#[doc = include_str!("../docs/EMBEDDING.md")]
struct EmbeddingModels;

#[cfg(doctest)]
#[doc = include_str!("../docs/GUIDE.md")]
struct Guide;
