//! Segments: immutable files of rows. FORMAT.md, section "Segment".
//!
//! ```text
//!   header | vectors, or logs and places in them | ids | id order | norms
//!          | codes, factors (each stage) | payload | payload index | index of each field
//!          | region table | checksums | footer
//! ```
//!
//! [`writer`] makes a segment from a run of the memtable, [`reader`] opens one: it
//! is mapped and paged from disk, but for the columns that [`resident`] keeps in RAM.
//! [`parts`] is what both know of such a file before they look at rows.
//! [`graph`] is the file beside a segment that has the graph of its rows.
//! [`check`] reads a whole file, [`salvage`] what is left of a damaged one.
//! Every byte is checked against its block's checksum before its first use.

pub(crate) mod check;
pub(crate) mod coding;
pub(crate) mod format;
pub(crate) mod graph;
mod ids;
mod parts;
pub(crate) mod reader;
pub(crate) mod region;
mod resident;
pub(crate) mod salvage;
mod vectors;
pub(crate) mod writer;
