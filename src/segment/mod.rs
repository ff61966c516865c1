//! Segments: immutable files of rows. FORMAT.md, section "Segment".
//!
//! ```text
//!   header | ids | id order | norms | codes, factors (each stage) | vectors | payload
//!          | payload index | index of each field | region table | checksums | footer
//! ```
//!
//! [`writer`] makes a segment from a run of the memtable, [`reader`] opens one:
//! codes, factors and norms are read into RAM, the rest is paged from disk.
//! [`graph`] is the file beside a segment that has the graph of its rows.
//! [`check`] reads a whole file, [`salvage`] what is left of a damaged one.
//! Every byte is checked against its block's checksum before its first use.

pub(crate) mod check;
pub(crate) mod format;
pub(crate) mod graph;
mod ids;
pub(crate) mod reader;
pub(crate) mod region;
pub(crate) mod salvage;
pub(crate) mod writer;
