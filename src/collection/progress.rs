//! What long work tells its caller.

/// How far a compaction or a copy is, in rows; a backup, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Copied so far.
    pub done: u64,
    /// To copy.
    pub total: u64,
}
