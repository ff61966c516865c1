//! The write-ahead log: one frame per commit, durable before it is visible.
//!
//! A log file belongs to one generation of the memtable. Frames are only ever
//! appended; damage in the middle is told apart from a torn end (see
//! [`reader`]). What a frame's operations mean is [`ops`].

pub(crate) mod format;
pub(crate) mod ops;
pub(crate) mod reader;
pub(crate) mod writer;
