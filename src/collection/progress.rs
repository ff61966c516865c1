//! What long work tells its caller.

/// How far a compaction or a copy is, in rows; a backup or a verification, in bytes; a calibration,
/// in queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Copied, read or answered so far.
    pub done: u64,
    /// To be copied, read or answered.
    pub total: u64,
}
