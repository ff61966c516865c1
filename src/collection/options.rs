//! How a collection is opened.

use std::time::Duration;

/// When a commit counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// When it survives power loss, on a drive that honours a flush.
    #[default]
    Full,
    /// When it survives the death of the process. Power loss may take the last
    /// commits since the last [`Collection::sync`](super::Collection::sync), never one
    /// from the middle.
    Buffered,
}

/// RAM from which on rows that are loaded or copied need not wait for more of them.
const ENOUGH: usize = 1 << 20;

/// How many bytes of rows are gathered for a segment where a load or a copy may gather `memory`
/// and has `written` so many: an eighth of these at least, so that segments are few whatever
/// is asked for, and [`ENOUGH`] always will do.
pub(super) fn spill_at(memory: usize, written: usize) -> usize {
    memory.max((written / 8).min(ENOUGH))
}

/// Options of [`Collection::open_with`](super::Collection::open_with).
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches that have nothing to do with each other"
)]
pub struct Options {
    pub(crate) durability: Durability,
    pub(crate) memtable_bytes: usize,
    pub(crate) read_only: bool,
    pub(crate) background: bool,
    pub(crate) allow_unsafe_fs: bool,
    pub(crate) lock_timeout: Duration,
    pub(crate) max_dims: Option<usize>,
    pub(crate) ram_budget: Option<u64>,
    pub(crate) reserve: u64,
    pub(crate) file_mode: u32,
    pub(crate) mapped: bool,
    pub(crate) graph_min_rows: u64,
    pub(crate) recalibrate: bool,
}

impl Options {
    /// RAM for rows that are not in a segment yet, unless told otherwise.
    pub const MEMTABLE_BYTES: usize = 64 << 20;

    /// Bytes of the disk that are kept for deletes, unless told otherwise.
    pub const RESERVE: u64 = 4 << 20;
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
            lock_timeout: Duration::ZERO,
            max_dims: None,
            ram_budget: None,
            reserve: Self::RESERVE,
            file_mode: crate::vfs::disk::PRIVATE,
            mapped: true,
            graph_min_rows: Self::GRAPH_MIN_ROWS,
            recalibrate: true,
        }
    }

    /// When a commit counts as done.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// RAM for rows that are not in a segment yet. When it is used up they are
    /// written as a segment, so larger means fewer, larger segments. While they are, or are
    /// loaded in bulk, their stage codes are held beside them until their vectors are written
    /// (some 650 bytes for 1024 dimensions). A merge takes codes from its sources as it writes:
    /// it lists its rows, some 36 bytes each and what longer ids take, and the values of declared
    /// fields.
    ///
    /// A bulk load that is given less than 1 MiB writes segments of that size at first only: each
    /// is an eighth at least of what was loaded before it, until 1 MiB is reached. Else a load of
    /// many rows would be as many files. A commit that finds the memtable full always writes
    /// a segment, however small; without [`Self::background`] nobody merges these but
    /// [`compact`](super::Collection::compact).
    #[must_use]
    pub fn memtable_bytes(mut self, bytes: usize) -> Self {
        self.memtable_bytes = bytes;
        self
    }

    /// Whether threads write full memtables and merge segments while the collection
    /// is in use. Default: yes, one for each, which run only while there is something
    /// to do. Without, the commit that finds the memtable full writes it. Whoever writes
    /// a large segment has up to three more threads code its rows until it is written.
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

    /// Whether the background thread [calibrates](crate::Collection::calibrate) when
    /// somebody searches: first a collection of 20 000 rows, then one whose rows have
    /// changed much since (there are half as many again or half, or a quarter was replaced) or
    /// that has got its first graph. A calibration by the caller's queries stays. Default:
    /// yes, where [`Self::background`] is.
    #[must_use]
    pub fn recalibrate(mut self, yes: bool) -> Self {
        self.recalibrate = yes;
        self
    }

    /// Allows writing on network and user-space file systems (NFS, SMB, FUSE, 9P,
    /// ...), which may not keep what a sync promises and may not know locks of
    /// other machines. Default: writing there is refused
    /// ([`Error::UnsafeFileSystem`](crate::Error::UnsafeFileSystem)).
    #[must_use]
    pub fn allow_unsafe_fs(mut self, yes: bool) -> Self {
        self.allow_unsafe_fs = yes;
        self
    }

    /// Opens the collection to be searched by at most its first `dims` dimensions,
    /// 1 to all. Stage codes that only longer searches read stay on disk, and so do
    /// the further dimensions of every vector, but for the pages that they share
    /// with the first. Queries may have `dims` dimensions or all. Rows are written
    /// and returned whole. Default: all.
    #[must_use]
    pub fn max_dims(mut self, dims: usize) -> Self {
        self.max_dims = Some(dims);
        self
    }

    /// RAM for the stage codes and norms of rows in segments. They are taken into
    /// RAM in the order searches use them, column by column and segment by
    /// segment: the code that a search over all dimensions scans, norms, the other
    /// codes. What has no room is mapped, and read from disk where the system does
    /// not have it in its cache. Answers are the same with any budget, 0 included;
    /// [`Collection::info`](super::Collection::info) says what is where. Default:
    /// all is kept in RAM.
    ///
    /// It is never exceeded; segments that snapshots still use count as long as
    /// they do. Beside it are rows that are in no segment yet
    /// ([`Self::memtable_bytes`]) and, for each segment, its payload index and two bits for
    /// each 4 KiB of the file, and for each row whose vector is in a log; of a segment with a graph,
    /// 4 bytes for each row.
    ///
    /// ```
    /// use matryo::{Collection, Options, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("a");
    /// # drop(Collection::create(&path, Schema::builder(64).granularities([16]).build()?)?);
    /// // The same folder on a small machine: 16 dimensions, at most 1 MiB of codes.
    /// let options = Options::new().read_only(true).max_dims(16).ram_budget(1 << 20);
    /// let small = Collection::open_with(&path, options)?;
    /// assert!(small.search(&[0.5; 16]).run()?.hits.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn ram_budget(mut self, bytes: u64) -> Self {
        self.ram_budget = Some(bytes);
        self
    }

    /// How long to wait where another handle or process has the collection open
    /// for writing, before [`Error::Locked`](crate::Error::Locked). Default: not
    /// at all. Who waits is not served in any order.
    #[must_use]
    pub fn lock_timeout(mut self, patience: Duration) -> Self {
        self.lock_timeout = patience;
        self
    }

    /// Bytes of the disk that are taken before the first commit, for a time when
    /// there are no others: then batches that only delete, [`flush`], [`compact`] and
    /// the recovery of a log still work, as far as these bytes reach, and new rows
    /// are refused until they could be taken again. They are a file named `RESERVE`;
    /// [`Info::reserve_bytes`](crate::Info::reserve_bytes) tells how large it is, no
    /// other size counts it. Default: [`Self::RESERVE`]; 0 for none.
    ///
    /// [`flush`]: super::Collection::flush
    /// [`compact`]: super::Collection::compact
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.reserve = bytes;
        self
    }

    /// Permission bits of the files that are created through this handle, less
    /// those that the process masks; a folder that is created has the same, and may
    /// be entered by whoever may read. Default: 0o600, so 0o700 for the folder:
    /// nobody else. Bits beyond 0o666 are ignored.
    #[must_use]
    pub fn file_mode(mut self, mode: u32) -> Self {
        self.file_mode = mode & 0o666 | 0o600;
        self
    }

    /// Whether segments are mapped: then pages that are not in RAM are read when they
    /// are touched, and another program that cuts such a file short makes the
    /// process get SIGBUS, as does a disk that cannot read. With `false` each segment
    /// is read into RAM as a whole when it is opened, and whatever happens to the file
    /// then is an error at worst; that takes its length of RAM, which
    /// [`Info::ram_bytes`](crate::Info::ram_bytes) does not count. Default: mapped.
    #[must_use]
    pub fn mapped(mut self, yes: bool) -> Self {
        self.mapped = yes;
        self
    }

    /// Opens for reading only: any number of handles and processes may, beside
    /// one that writes, and nothing on disk is changed or even locked. The handle
    /// sees the rows as they were when it was opened, and what was committed since
    /// after [`Collection::refresh`](super::Collection::refresh).
    ///
    /// On a network file system whose server knows nothing of open files (NFS) a
    /// reader can lose a segment that a writer on another machine has merged away.
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
