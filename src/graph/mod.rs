//! The graph index of a segment: each row's links to rows near it, and a walk along them.
//!
//! A scan reads the code of every row. A walk reads that of a few thousand, whatever the
//! number of rows, and so wins above some number of them. What a graph holds, row by row:
//!
//! ```text
//!   codes    1 bit x up to 1024 dimensions (or 8 bits of fewer)   whole cache lines
//!   factors  what makes a dot with the code a cosine              f32, in RAM
//!   links    up to 48 rows                                        u32
//! ```
//!
//! * It is a derived structure: it lies in a file of its own, which can be made, dropped
//!   and made again; without it searches are slower, never wrong.
//! * It is one flat layer, as in Vamana (Subramanya et al., `DiskANN`, `NeurIPS` 2019), not the
//!   hierarchy of HNSW: a walk begins at the best of some hundred rows that are always
//!   scored, which costs a few microseconds and replaces all upper layers.
//! * A walk ranks by estimated cosines, and hands on a shortlist as a scan does: what is
//!   among the hits is decided by full vectors.
//!
//! ```text
//!   code.rs    a row -> its code; a query -> what is multiplied with codes
//!   walk.rs    the walk: which rows are visited, in which order, and when it ends
//!   build.rs   rows -> links, in parallel, the same on every machine
//!   prune.rs   which of many near rows become links
//!   connect.rs no row is left without a way to it
//!   read.rs    a graph in a file, whose bytes nobody trusts
//!   attached.rs  the graph of a segment, usable or damaged
//! ```

mod attached;
mod build;
mod code;
mod connect;
mod prune;
mod read;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use attached::Attached;
pub(crate) use build::{Built, Vectors, build};
pub(crate) use code::{RowCode, RowQuery};
pub(crate) use read::{Graph, Meta};
#[cfg(feature = "testing")]
pub(crate) use read::{MAX_ENTRIES, graph_meta};
pub(crate) use walk::{Beam, Walk};

/// Most links of a row: what is on disk for each, used or not.
///
/// Measured on 100 000 text vectors of 1024 dimensions (`benches/graph.rs` shows the whole):
/// 64 links, with a wider search for them, find what 48 find with a tenth fewer rows scored,
/// take a third more bytes and nearly twice the time to build.
pub(crate) const DEGREE: usize = 48;

/// Most links a file may have for a row: what a walk has room for.
pub(crate) const MAX_DEGREE: usize = 64;

/// No row: where links end.
pub(crate) const NONE: u32 = u32::MAX;

/// Rows that are scored first, for a walk to begin at the best of them.
pub(crate) const ENTRIES: usize = 512;

/// Rows of which a part has fewer are always scanned: a graph of them is not built.
pub(crate) const MIN_ROWS: u32 = 2;
