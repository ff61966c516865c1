//! What our own tests and benches may see of the inside. No stability is promised.
#![expect(missing_debug_implementations, reason = "for our own tests")]

use std::sync::Arc;

use crate::collection::reembed::{Work, optional, reembed};
use crate::vfs::Vfs;
use crate::{
    Collection, Compacted, Copied, CopyOptions, Options, Progress, ReembedOptions, Reembedded,
    RepairOptions, Repaired, Result, Schema, SourceRow,
};

/// What makes the vectors of rows.
type Embed<'e, V> = &'e mut dyn FnMut(&[SourceRow]) -> Result<Vec<V>>;

/// A collection's folder that lives in RAM and can be tampered with. Nothing runs
/// in the background, so what is written does not depend on threads.
#[derive(Clone, Default)]
pub struct Folder(crate::vfs::mem::Mem);

impl Folder {
    /// Creates a collection in it.
    ///
    /// # Errors
    /// As [`Collection::create_with`].
    pub fn create(&self, schema: Schema, options: Options) -> Result<Collection> {
        crate::collection::open::create(Arc::new(self.0.clone()), schema, options.background(false))
    }

    /// As [`Self::create`], with a background thread where `options` asks for one.
    ///
    /// # Errors
    /// As [`Collection::create_with`].
    pub fn create_threaded(&self, schema: Schema, options: Options) -> Result<Collection> {
        crate::collection::open::create(Arc::new(self.0.clone()), schema, options)
    }

    /// Opens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::open_with`].
    pub fn open(&self, options: Options) -> Result<Collection> {
        crate::collection::open::open(Arc::new(self.0.clone()), options.background(false))
    }

    /// Backs a collection up into it.
    ///
    /// # Errors
    /// As [`Collection::backup_with`].
    pub fn back_up(
        &self,
        collection: &Collection,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        collection.back_up(&self.0, progress)
    }

    /// Repairs the collection in it.
    ///
    /// # Errors
    /// As [`Collection::repair_with`].
    pub fn repair(&self, options: &RepairOptions) -> Result<Repaired> {
        crate::collection::repair::repair(&self.0, options)
    }

    /// Shortens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::rewrite_with`].
    pub fn drop_tier(
        &self,
        options: &CopyOptions,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        self.open(Options::new())?.shorten(options, progress)
    }

    /// Embeds the collection in it again, by way of a shadow in `beside`.
    ///
    /// # Errors
    /// As [`Collection::reembed_with`].
    pub fn reembed<V: Into<Option<Vec<f32>>>>(
        &self,
        beside: &Self,
        options: &ReembedOptions,
        embed: Embed<'_, V>,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Reembedded> {
        reembed_in(Arc::new(self.0.clone()), beside, options, embed, progress)
    }

    /// Names of its files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.list().expect("a folder in RAM can be listed")
    }

    /// The bytes of a file.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        self.0.bytes(name)
    }

    /// Puts bytes there as an outsider would.
    pub fn write(&self, name: &str, bytes: Vec<u8>) {
        self.0.set(name, bytes);
    }

    /// Removes a file as an outsider would.
    pub fn remove(&self, name: &str) {
        self.0.remove(name).expect("a file in RAM can be removed");
    }

    /// From here on its files have at most this many bytes together.
    pub fn limit(&self, capacity: Option<u64>) {
        self.0.limit(capacity);
    }

    /// Removes the reserve as an outsider would.
    pub fn release_reserve(&self) {
        self.0.release(crate::vfs::disk::RESERVE_NAME).expect("a reserve in RAM can be removed");
    }

    /// Bytes that its files take, and the reserve.
    pub fn used(&self) -> u64 {
        self.0.used()
    }

    /// From here on this is a process that was forked off with all its handles.
    pub fn enter_fork(&self) {
        self.0.enter_fork();
    }

    /// A copy that shares nothing with this folder: what another process would
    /// find if this one died now.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self(self.0.fork())
    }
}

/// A folder in RAM that remembers what was done to it, and says what power loss
/// at any moment could leave.
#[derive(Clone)]
pub struct Recorder(crate::vfs::record::Record);

/// The first half of a flush in the background: what a commit does that finds the
/// memtable full; false where a first half waits for its second.
///
/// # Errors
/// As [`Collection::flush`].
pub fn begin_flush(collection: &Collection) -> Result<bool> {
    collection.begin_flush()
}

/// The second half: what the thread does. `watch` is called while the segment is
/// written.
///
/// # Errors
/// As [`Collection::flush`].
pub fn finish_flush(collection: &Collection, watch: &dyn Fn()) -> Result<()> {
    collection.finish_flush(watch)
}

/// Merges all segments as the background would, which leaves vectors in the logs that these
/// keep. `watch` is called while the new one is written.
///
/// # Errors
/// As [`Collection::compact`].
pub fn merge_all(collection: &Collection, watch: &dyn Fn()) -> Result<Compacted> {
    collection.merge_all(watch)
}

pub use crate::sown::{Bug, sow};
pub use crate::vfs::record::{Failure, Flaw, Torn};

impl Recorder {
    /// An empty folder. With a flaw, it forgets some of what it should make durable.
    pub fn new(flaw: Option<Flaw>) -> Self {
        Self(crate::vfs::record::Record::new(crate::vfs::mem::Mem::default(), flaw))
    }

    /// Begins with the files of `folder`, all of them durable.
    pub fn over(folder: &Folder) -> Self {
        Self(crate::vfs::record::Record::new(folder.0.fork(), None))
    }

    /// Creates a collection in it.
    ///
    /// # Errors
    /// As [`Collection::create_with`].
    pub fn create(&self, schema: Schema, options: Options) -> Result<Collection> {
        crate::collection::open::create(Arc::new(self.0.clone()), schema, options.background(false))
    }

    /// As [`Self::create`], with background threads where `options` asks for them.
    ///
    /// # Errors
    /// As [`Collection::create_with`].
    pub fn create_threaded(&self, schema: Schema, options: Options) -> Result<Collection> {
        crate::collection::open::create(Arc::new(self.0.clone()), schema, options)
    }

    /// Opens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::open_with`].
    pub fn open(&self, options: Options) -> Result<Collection> {
        crate::collection::open::open(Arc::new(self.0.clone()), options.background(false))
    }

    /// Repairs the collection in it.
    ///
    /// # Errors
    /// As [`Collection::repair_with`].
    pub fn repair(&self, options: &RepairOptions) -> Result<Repaired> {
        crate::collection::repair::repair(&self.0, options)
    }

    /// Shortens the collection in it.
    ///
    /// # Errors
    /// As [`Collection::rewrite_with`].
    pub fn drop_tier(&self, options: &CopyOptions) -> Result<Copied> {
        self.open(Options::new())?.shorten(options, &|_| true)
    }

    /// Backs a collection up into it.
    ///
    /// # Errors
    /// As [`Collection::backup_with`].
    pub fn back_up(&self, collection: &Collection) -> Result<Copied> {
        collection.back_up(&self.0, &|_| true)
    }

    /// Copies a collection into it.
    ///
    /// # Errors
    /// As [`Collection::copy_with`].
    pub fn copy(&self, collection: &Collection, options: &CopyOptions) -> Result<Copied> {
        let schema = options.schema(collection.schema())?;
        collection.copy_into(&self.0, schema, options, &|_| true)
    }

    /// Embeds the collection in it again, by way of a shadow in `beside`.
    ///
    /// # Errors
    /// As [`Collection::reembed_with`].
    pub fn reembed<V: Into<Option<Vec<f32>>>>(
        &self,
        beside: &Folder,
        options: &ReembedOptions,
        embed: Embed<'_, V>,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Reembedded> {
        reembed_in(Arc::new(self.0.clone()), beside, options, embed, progress)
    }

    /// Operations so far: a moment to cut the power at lies before each of them,
    /// and one behind the last.
    pub fn operations(&self) -> usize {
        self.0.operations()
    }

    /// What happened so far, to cut the power in.
    pub fn replay(&self) -> Replay {
        Replay(self.0.replay())
    }

    /// Lets the operations counted so fail.
    pub fn fail(&self, operations: std::ops::Range<usize>, how: Failure) {
        self.0.fail(operations, how);
    }

    /// Operations tried so far, failed ones and those that only read included.
    pub fn tried(&self) -> usize {
        self.0.tried()
    }

    /// Syncs so far: of files, of the folder.
    pub fn syncs(&self) -> (usize, usize) {
        self.0.syncs()
    }
}

/// A recording, run up to some operation.
pub struct Replay(crate::vfs::record::Replay);

/// Embeds the collection in `folder` again, by way of a shadow in `beside`.
fn reembed_in<V: Into<Option<Vec<f32>>>>(
    folder: Arc<dyn Vfs>,
    beside: &Folder,
    options: &ReembedOptions,
    embed: Embed<'_, V>,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Reembedded> {
    let mut embed = optional(embed);
    let work = &mut Work { options, embed: &mut embed, progress };
    let beside: Arc<dyn Vfs> = Arc::new(beside.0.clone());
    reembed(folder, &beside, work)
}

impl Replay {
    /// Runs one more operation; false at the end.
    pub fn step(&mut self) -> bool {
        self.0.step()
    }

    /// The operation that comes next, for messages.
    pub fn describe(&self) -> String {
        self.0.describe()
    }

    /// How many operations are not durable.
    pub fn pending(&self) -> usize {
        self.0.pending()
    }

    /// Bytes of the last write if it is not durable.
    pub fn last_write(&self) -> Option<usize> {
        self.0.last_write()
    }

    /// What power loss now leaves: of the pending operations those that `keep`
    /// says, of the last write what `torn` says.
    pub fn folder(&self, keep: impl Fn(usize) -> bool, torn: Option<Torn>) -> Folder {
        Folder(self.0.folder(&keep, torn))
    }
}

/// Reads every file of a model directory that an embedder reads, without ONNX
/// Runtime, and tokenizes some texts; returns the number of tokens.
///
/// # Errors
/// As opening an embedder and embedding with it.
#[cfg(feature = "embed")]
pub fn read_model_directory(dir: &std::path::Path, texts: &[&str]) -> Result<usize> {
    crate::embed::dry_run::read(dir, texts)
}

/// Scan and row kernels, and the collector of the best rows.
pub mod kernel {
    pub use crate::kernel::row;
    pub use crate::kernel::topk::{Collect, Near, Scored, TopK};
    pub use crate::kernel::{
        BLOCK, BitPlanes, ByteLanes, Isa, QUERIES_PER_PASS, bit_dots, byte_dots, byte_squares,
        nibble_dots, nibble_dots_of_four,
    };
}

/// Stage codes and stored precisions.
pub mod encoding {
    pub use crate::encoding::{
        Bits, BoundQuery, Precision, Scan, ScanScratch, Scoring, StageBuilder, StageCode,
        StageQuery, StageView,
    };

    /// Appends a vector as a row stores it.
    ///
    /// # Errors
    /// The index of the first component that is too large.
    pub fn encode(precision: Precision, vector: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        precision.encode(vector, out)
    }

    /// Bytes of the code of `rows` rows, without the numbers beside it.
    pub fn code_bytes(code: StageCode, rows: usize) -> usize {
        code.code_bytes(rows)
    }

    /// Bytes of the numbers beside the code of `rows` rows.
    pub fn scalar_bytes(code: StageCode, rows: usize) -> usize {
        code.scalar_bytes(rows)
    }

    /// Widens a stored row into `out`.
    pub fn decode(precision: Precision, row: &[u8], out: &mut [f32]) {
        precision.decode(row, out);
    }
}

/// The fixed structures of the file format, for the test of FORMAT.md.
pub mod format {
    /// A structure: its name, its length, and (name, offset, size) of its fields.
    pub type Layout = (&'static str, usize, &'static [(&'static str, usize, usize)]);

    macro_rules! layouts {
        ($($path:path as $name:ident),* $(,)?) => {
            &[$({ use $path as $name; (stringify!($name), $name::LEN, $name::FIELDS) }),*]
        };
    }

    /// Every structure that FORMAT.md has an offset table of.
    pub const LAYOUTS: &[Layout] = layouts![
        crate::codec::header::file_header as file_header,
        crate::manifest::manifest_body as manifest_body,
        crate::manifest::segment_entry as segment_entry,
        crate::manifest::log_entry as log_entry,
        crate::manifest::graph_entry as graph_entry,
        crate::calibration::calibration as calibration,
        crate::calibration::calibration_noise as calibration_noise,
        crate::calibration::calibration_reach as calibration_reach,
        crate::wal::format::wal_frame as wal_frame,
        crate::segment::format::region_entry as region_entry,
        crate::segment::format::segment_footer as segment_footer,
        crate::segment::format::place_entry as place_entry,
        crate::index::field_index as field_index,
        crate::graph::graph_meta as graph_meta,
    ];

    /// Numbers that FORMAT.md states.
    pub const NUMBERS: &[(&str, u64)] = &[
        ("FORMAT_MAJOR", crate::codec::header::FORMAT_MAJOR as u64),
        ("FORMAT_MINOR", crate::codec::header::FORMAT_MINOR as u64),
        ("MAX_COUNTER", crate::codec::header::MAX_COUNTER),
        ("PAGE", crate::segment::format::PAGE as u64),
        ("SMALL_BLOCK", crate::segment::format::SMALL_BLOCK as u64),
        ("LARGE_BLOCK", crate::segment::format::LARGE_BLOCK as u64),
        ("IGNORABLE", crate::segment::format::IGNORABLE as u64),
        ("BLOCK", crate::kernel::BLOCK as u64),
        ("FRAME_ALIGN", crate::wal::format::ALIGN as u64),
        ("MAX_FRAME_BODY", crate::wal::format::MAX_BODY as u64),
        ("MAX_LOG", crate::manifest::MAX_LOG),
        ("MAX_MANIFEST", crate::manifest::MAX_LEN),
        ("MAX_ROWS", crate::manifest::MAX_ROWS),
        ("MAX_DIMS", crate::MAX_DIMS as u64),
        ("MAX_GRANULARITIES", crate::MAX_GRANULARITIES as u64),
        ("MAX_STAGES", crate::MAX_STAGES as u64),
        ("MAX_ID_BYTES", crate::MAX_ID_BYTES as u64),
        ("MAX_PAYLOAD", crate::wal::ops::MAX_PAYLOAD as u64),
        ("MAX_PAYLOAD_DEPTH", crate::payload::MAX_DEPTH as u64),
        ("MAX_FIELDS", crate::MAX_FIELDS as u64),
        ("MAX_FIELD_NAME", crate::MAX_FIELD_NAME as u64),
        ("MAX_EMBEDDER_PARTS", crate::MAX_EMBEDDER_PARTS as u64),
        ("MAX_DEGREE", crate::graph::MAX_DEGREE as u64),
        ("MAX_ENTRIES", crate::graph::MAX_ENTRIES as u64),
        ("MAX_KEYWORD", crate::index::MAX_KEYWORD as u64),
        ("MOST_BITMAPS", crate::index::MOST_BITMAPS as u64),
        ("PAYLOAD_ALIGN", crate::payload::block::ALIGN as u64),
        ("PAYLOAD_TARGET", crate::payload::block::TARGET as u64),
    ];
}
