//! How a collection is opened.

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it survives power loss, on a drive that honours a flush.
    #[default]
    Full,
    /// When it survives the death of the process. Power loss may take the last
    /// commits, never one from the middle.
    Buffered,
}

/// Options of [`Collection::open_with`](super::Collection::open_with).
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) memtable_bytes: usize,
    pub(crate) read_only: bool,
    pub(crate) background: bool,
    pub(crate) allow_unsafe_fs: bool,
    pub(crate) graph_min_rows: u64,
}

impl Options {
    /// RAM for rows that are not in a segment yet, unless told otherwise.
    pub const MEMTABLE_BYTES: usize = 64 << 20;

    /// Rows from which on a segment gets a graph, unless told otherwise: with fewer, a
    /// scan is as quick (`benches/graph.rs`).
    pub const GRAPH_MIN_ROWS: u64 = 200_000;

    /// The defaults: full durability, [`Self::MEMTABLE_BYTES`], read and write.
    pub fn new() -> Self {
        Self {
            durability: Durability::default(),
            memtable_bytes: Self::MEMTABLE_BYTES,
            read_only: false,
            background: true,
            allow_unsafe_fs: false,
            graph_min_rows: Self::GRAPH_MIN_ROWS,
        }
    }

    /// When a commit counts as done.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// RAM for rows that are not in a segment yet. When it is used up they are
    /// written as a segment, so larger means fewer, larger segments.
    #[must_use]
    pub fn memtable_bytes(mut self, bytes: usize) -> Self {
        self.memtable_bytes = bytes;
        self
    }

    /// Whether a thread merges segments while the collection is in use. Default:
    /// yes, one thread, which runs only while there is something to merge.
    #[must_use]
    pub fn background(mut self, yes: bool) -> Self {
        self.background = yes;
        self
    }

    /// Rows from which on a segment gets a [graph](crate::Collection::build_graphs) by
    /// itself, in the background or by `compact`. `u64::MAX`: none does.
    #[must_use]
    pub fn graph_min_rows(mut self, rows: u64) -> Self {
        self.graph_min_rows = rows;
        self
    }

    /// Allows writing on network and user-space file systems (NFS, SMB, FUSE, 9P,
    /// ...), which may not keep what a sync promises and may not know locks of
    /// other machines. Default: writing there is refused.
    #[must_use]
    pub fn allow_unsafe_fs(mut self, yes: bool) -> Self {
        self.allow_unsafe_fs = yes;
        self
    }

    /// Opens for reading only. Any number of processes may do so at once, while
    /// none has the collection open for writing; nothing on disk is changed.
    #[must_use]
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}
