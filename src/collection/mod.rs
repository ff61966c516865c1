//! The handle of a collection: the order of commits, and the locks that keep it.
//!
//! ```text
//!   options.rs  how a collection is opened
//!   progress.rs what long work tells its caller
//!   batch.rs    changes that are committed as one
//!   bulk.rs     many rows at once, without the log
//!   newest.rs   of rows with one id in several parts, which live
//!   encode.rs   a row as given -> a row as stored
//!   commit.rs   the order of a commit; commits that share a sync
//!   apply.rs    a commit's operations -> the next view
//!   writer.rs   log, flush, clean close
//!   files.rs    new files, and the manifest that will name them
//!   flush.rs    a flush in the background
//!   reserve.rs  room that is kept for what frees room
//!   compact.rs  segments are merged, dead rows reclaimed
//!   open.rs     create, open, recovery
//!   load.rs     what a manifest names, read and checked
//!   follow.rs   handles that only read, beside a writer
//!   delete.rs   rows that pass a filter are deleted
//!   snapshot.rs the rows at one moment
//!   listing.rs  some of them, one after another
//!   residency.rs what is kept in RAM
//!   graph.rs    graphs of segments: build, drop, open
//!   calibrate.rs what the stage codes' estimates are worth; again when rows have changed
//!   info.rs     sizes
//!   verify.rs   every byte is read and compared
//!   backup.rs   a copy of the files, while they are in use
//!   copy.rs     copies of fewer dimensions, another precision or more declared fields
//!   reembed/    new vectors for all rows, by another model
//!   repair/     what can be saved of a damaged folder
//! ```

mod apply;
mod backup;
mod batch;
mod bulk;
mod calibrate;
mod commit;
mod compact;
mod copy;
mod delete;
mod encode;
mod files;
mod flush;
mod follow;
mod graph;
mod info;
mod listing;
mod load;
mod newest;
pub(crate) mod open;
mod options;
mod progress;
pub(crate) mod reembed;
pub(crate) mod repair;
mod reserve;
mod residency;
mod snapshot;
mod verify;
mod writer;

use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

pub use backup::Copied;
pub use batch::{Batch, Committed};
pub use bulk::Bulk;
pub use compact::Compacted;
pub use copy::CopyOptions;
pub use graph::Graphs;
pub use info::Info;
pub use listing::{Ids, Rows};
pub use options::{Durability, Options};
pub use progress::Progress;
pub use reembed::{ReembedOptions, Reembedded, SourceRow};
pub use repair::{RepairOptions, Repaired};
pub use residency::{ColumnInfo, Placement};
pub use snapshot::{Row, Snapshot};
pub use verify::Verified;

use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::query::{self, PreparedSearch, Search, SearchBatch};
use crate::schema::{EmbedderId, Schema};
use crate::sown::{Bug, sown};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock};
use crate::types::RowId;
use crate::vfs::Vfs;
use crate::view::View;
use follow::Follower;
use residency::Residency;
use writer::Writer;

/// A collection of rows in a folder: cheap to clone, safe to share.
///
/// Any number of searches run while one batch at a time commits; each search
/// sees the rows as they were when it began. The folder stays locked for other
/// writers until the last clone is dropped, or closed ([`Collection::close`]);
/// handles that only read, here or in other processes, come and go beside it
/// ([`Options::read_only`]).
///
/// ```
/// use matryo::{Collection, Schema, json};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("photos.matryo");
/// let photos = Collection::create(&path, Schema::builder(3).build()?)?;
/// photos.upsert(7, &[0.1, 0.9, 0.2], json!({"title": "harbour"}))?;
/// let hits = photos.search(&[0.0, 1.0, 0.0]).limit(5).run()?.hits;
/// assert_eq!(hits[0].id, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Collection {
    handle: Arc<Handle>,
}

impl fmt::Debug for Collection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.handle.vfs.path("");
        f.debug_struct("Collection")
            .field("path", &path)
            .field("rows", &self.len())
            .finish_non_exhaustive()
    }
}

/// What the clones of a collection share. Dropping it stops the background
/// thread first, so that the lock is free when the last clone is gone.
struct Handle {
    engine: Arc<Engine>,
    /// The thread that writes, or has written, the runs frozen last.
    flush: Mutex<Option<JoinHandle<()>>>,
}

/// What the background threads share with the handle: of a collection, all but its public face.
struct Engine {
    vfs: Arc<dyn Vfs>,
    schema: Arc<Schema>,
    options: Options,
    view: RwLock<Arc<View>>,
    residency: Residency,
    /// None in a collection that is open for reading only.
    writer: Option<Mutex<Writer>>,
    /// None in one that is open for writing.
    follower: Option<Mutex<Follower>>,
    queue: commit::Queue,
    /// The process that opened the collection.
    process: u32,
    /// Held while segments are merged: one merge at a time.
    compacting: Mutex<()>,
    /// Waited for, with the writer's lock, by those whom a flush in the
    /// background keeps from going on.
    flushed: Condvar,
    /// The thread that merges segments.
    merges: Mutex<Merges>,
    /// Bytes of the last batch that was committed.
    batch_bytes: AtomicUsize,
    closing: AtomicBool,
    /// Whether somebody has searched since the last calibration in the background.
    searched: AtomicBool,
    /// Why a background thread last gave up.
    background_errors: Mutex<BackgroundErrors>,
    /// Of a handle that writes; released when the last clone is dropped.
    _lock: Option<Box<dyn Send + Sync>>,
}

impl Collection {
    /// Creates a collection in a folder that does not exist yet, or is empty.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something is there, [`Error::NotFound`] if the folder around
    /// it is missing.
    pub fn create(path: impl AsRef<Path>, schema: Schema) -> Result<Self> {
        Self::create_with(path, schema, Options::new())
    }

    /// As [`Self::create`], with options.
    ///
    /// # Errors
    /// As [`Self::create`]; [`Error::Invalid`] for read-only options.
    pub fn create_with(path: impl AsRef<Path>, schema: Schema, options: Options) -> Result<Self> {
        open::create_on_disk(path.as_ref(), schema, options)
    }

    /// Opens a collection for reading and writing, and recovers what an unclean
    /// stop left behind.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotACollection`], [`Error::Locked`] if another handle writes to it,
    /// [`Error::Corrupt`] where bytes are damaged, [`Error::UnsupportedFormat`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Options::new())
    }

    /// As [`Self::open`], with options.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        open::open_on_disk(path.as_ref(), options)
    }

    /// Opens the collection at `path`, or creates it with this schema where there is nothing.
    /// Stage codes are compared where [`SchemaBuilder::stages`](crate::SchemaBuilder::stages) named
    /// them: a collection keeps those that an earlier version chose. In which order fields are
    /// declared makes no difference.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::create`]; [`Error::OtherSchema`], which names the part and
    /// what can be done, if the collection that is there has another schema, or
    /// [`Error::OtherEmbedder`] if its vectors are another model's.
    pub fn open_or_create(path: impl AsRef<Path>, schema: Schema) -> Result<Self> {
        Self::open_or_create_with(path, schema, Options::new())
    }

    /// As [`Self::open_or_create`], with options. A handle that only reads creates nothing.
    ///
    /// # Errors
    /// As [`Self::open_or_create`].
    #[expect(clippy::needless_pass_by_value, reason = "as `create_with` takes it")]
    pub fn open_or_create_with(
        path: impl AsRef<Path>,
        schema: Schema,
        options: Options,
    ) -> Result<Self> {
        let path = path.as_ref();
        let opened = match Self::open_with(path, options.clone()) {
            Err(Error::NotFound { .. } | Error::NotACollection { .. }) if !options.read_only => {
                match Self::create_with(path, schema.clone(), options.clone()) {
                    // Somebody else was quicker, or it is no empty folder: which one, an open says.
                    Err(Error::AlreadyExists { .. }) => Self::open_with(path, options)?,
                    created => return created,
                }
            }
            opened => opened?,
        };
        opened.schema().check_same(&schema)?;
        Ok(opened)
    }

    /// What the collection stores.
    pub fn schema(&self) -> &Schema {
        &self.handle.schema
    }

    /// Compares what is about to embed queries or rows with what made the vectors of
    /// this collection. With the feature `embed`, `check_embedder(&embedder)`. Vectors of
    /// another length are refused too, where the id says theirs ([`EmbedderId::dims`]; that
    /// of an embedder does): a collection that was shortened to 256 dimensions wants an
    /// embedder that was opened with `.dims(256)`.
    ///
    /// # Errors
    /// [`Error::OtherEmbedder`], which names the parts that differ;
    /// [`Error::Invalid`] for vectors of another length; [`Error::NoEmbedder`] where the
    /// collection records none ([`Schema::embedder`]).
    pub fn check_embedder(&self, embedder: impl Into<EmbedderId>) -> Result<()> {
        self.schema().check_embedder(&embedder.into())
    }

    /// Most dimensions a search of this handle can have: all that the schema says,
    /// or [`Options::max_dims`].
    pub fn max_dims(&self) -> usize {
        self.handle.residency.dims
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.view().live_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The collection as it is now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.searched(), self.handle.residency.dims)
    }

    /// The row with this id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id of the wrong kind, [`Error::Corrupt`] if the
    /// row is damaged.
    pub fn get(&self, id: impl Into<RowId>) -> Result<Option<Row>> {
        Snapshot::new(self.view(), self.handle.residency.dims).get(id)
    }

    /// Whether there is a row with this id.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn contains(&self, id: impl Into<RowId>) -> Result<bool> {
        Snapshot::new(self.view(), self.handle.residency.dims).contains(id)
    }

    /// Begins a search over the rows as they are now.
    pub fn search(&self, query: &[f32]) -> Search {
        Search::new(self.searched(), query, self.handle.residency.dims)
    }

    /// Begins a search for the rows most like a stored one, which is left out of the hits
    /// ([`Search::with_itself`]).
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id of the wrong kind, [`Error::NoSuchRow`] for one that no row
    /// has; [`Error::Corrupt`] if the row is damaged.
    pub fn search_like(&self, id: impl Into<RowId>) -> Result<Search> {
        Search::like(self.searched(), id.into(), self.handle.residency.dims)
    }

    /// Settles everything of a search but its query, over the rows as they are now, to ask it with
    /// one query after another ([`PreparedSearch`]). `ask` is given a search without a query
    /// and sets what is to be other than usual; a filter is evaluated here, once.
    ///
    /// ```
    /// use matryo::{Collection, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("passages.matryo");
    /// let passages = Collection::create(&path, Schema::builder(2).build()?)?;
    /// passages.upsert(1, &[1.0, 0.1], ())?;
    /// passages.upsert(2, &[0.1, 1.0], ())?;
    /// let mut nearest = passages.prepare(|search| search.limit(1))?;
    /// assert_eq!(nearest.run(&[0.9, 0.0])?.hits[0].id, 1);
    /// assert_eq!(nearest.run(&[0.0, 0.9])?.hits[0].id, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Search::run`], but for the query; [`Error::Invalid`] if `ask` returns a search that has
    /// a query of its own, as [`Self::search_like`] makes them.
    pub fn prepare(&self, ask: impl FnOnce(Search) -> Search) -> Result<PreparedSearch> {
        PreparedSearch::new(ask(self.search(&[])))
    }

    /// Begins a search for many queries at once, over the rows as they are now: faster than one
    /// after the other, with the same hits.
    ///
    /// ```
    /// use matryo::{Collection, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("photos.matryo");
    /// let photos = Collection::create(&path, Schema::builder(2).build()?)?;
    /// photos.upsert(1, &[0.1, 0.9], ())?;
    /// photos.upsert(2, &[0.9, 0.1], ())?;
    /// let results = photos.search_batch([[0.0, 1.0], [1.0, 0.0]]).limit(1).threads(2).run()?;
    /// assert_eq!(results[0].hits[0].id, 1);
    /// assert_eq!(results[1].hits[0].id, 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn search_batch<Q: AsRef<[f32]>>(
        &self,
        queries: impl IntoIterator<Item = Q>,
    ) -> SearchBatch {
        SearchBatch::new(self.searched(), queries, self.handle.residency.dims)
    }

    /// Number of rows that pass a filter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a filter on fields that the schema does not declare,
    /// with values of another kind, or beyond the limits; [`Error::Corrupt`].
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        query::count(&self.view(), filter)
    }

    /// Writes rows that are only in the log as a segment.
    ///
    /// # Errors
    /// [`Error::Io`] where a file could not be written, [`Error::Corrupt`] where a row cannot be
    /// read; nothing is lost, the rows stay in the log. [`Error::ReadOnly`] for a handle that only
    /// reads, [`Error::Poisoned`] after a write that failed, [`Error::Forked`].
    pub fn flush(&self) -> Result<()> {
        let mut writer = self.handle.idle_writer()?;
        let (vfs, view) = (&*self.handle.vfs, self.view());
        let next = writer.with_reserve(vfs, |writer| writer.flush(vfs, &view))?;
        drop(view);
        if sown(Bug::FlushPublishedLate) {
            drop(writer);
            writer = self.handle.lock_writer()?;
        }
        self.handle.publish(&mut writer, next);
        drop(writer);
        self.handle.engine.wake();
        Ok(())
    }

    /// Makes all commits so far durable. Under [`Durability::Full`] they are already, and nothing
    /// is done; under [`Durability::Buffered`] it is what a power loss cannot take any more.
    ///
    /// # Errors
    /// [`Error::Io`] if the log could not be synced: the handle refuses further writes then
    /// ([`Error::Poisoned`]), for nobody knows what is on disk. [`Error::ReadOnly`] for a handle
    /// that only reads, [`Error::Forked`].
    pub fn sync(&self) -> Result<()> {
        self.handle.lock_writer()?.sync_log()
    }

    /// Closes the handle, and says what dropping it would keep to itself. The last clone waits for
    /// the threads in the background, makes all commits durable, records how long the log is, and
    /// gives the folder back to other writers, whatever it returns. Where other clones are alive (a
    /// batch or a bulk load holds one) it does what [`Self::sync`] does, and the last of them
    /// closes. A handle that only reads, or that a fork inherited, has nothing to do.
    ///
    /// # Errors
    /// [`Error::Io`]: commits under [`Durability::Buffered`] may be lost; others are not, the next
    /// open recovers as after a crash. [`Error::Poisoned`] if an earlier write failed.
    pub fn close(self) -> Result<()> {
        if self.handle.writer.is_none() || self.handle.is_forked() {
            return Ok(());
        }
        let synced = self.sync();
        let Some(last) = Arc::into_inner(self.handle) else { return synced };
        let engine = last.engine.clone();
        // Waits for the threads in the background, which share it too.
        drop(last);
        let sealed = engine.seal();
        synced.and(sealed)
    }

    fn view(&self) -> Arc<View> {
        self.handle.view()
    }

    /// The view, for somebody who searches: what only searches need is made from now on.
    fn searched(&self) -> Arc<View> {
        if !self.handle.searched.load(Ordering::Relaxed) {
            self.handle.searched.store(true, Ordering::Relaxed);
            if calibrate::has_work(&self.handle) {
                self.handle.engine.wake();
            }
        }
        self.view()
    }
}

impl Engine {
    fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// Shows a view to searches that begin from now on. Only who has the writer's lock may: what
    /// is published was made of the view before.
    fn publish(&self, _locked: &mut Writer, view: View) {
        self.publish_arc(Arc::new(view));
    }

    fn publish_arc(&self, view: Arc<View>) {
        let before = std::mem::replace(&mut *self.view.write(), view);
        let view = self.view();
        if residency::same_segments(&before, &view) {
            return;
        }
        // What was merged away leaves room, if no search or snapshot holds it still.
        drop(before);
        // What cannot be read is as well where it is: a search that reads it says so.
        let _ = self.residency.settle(&view);
    }

    /// A clean close: the log's length goes into the manifest. Done once: then there is no log.
    fn seal(&self) -> Result<()> {
        match &self.writer {
            Some(writer) if !self.is_forked() => writer.lock().close(&*self.vfs),
            _ => Ok(()),
        }
    }

    /// Whether this process inherited the handle by a fork. The lock is the
    /// parent's, and so are the log and the background thread.
    fn is_forked(&self) -> bool {
        self.vfs.process() != self.process
    }

    fn writer(&self) -> Result<&Mutex<Writer>> {
        if self.is_forked() {
            return Err(Error::Forked { path: self.vfs.path("") });
        }
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly { path: self.vfs.path("") })
    }

    /// The writer, if the collection may be written and no write failed yet.
    fn lock_writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let writer = self.writer()?.lock();
        writer.healthy()?;
        Ok(writer)
    }

    /// As [`Self::lock_writer`], once no flush is going on in the background.
    fn idle_writer(&self) -> Result<MutexGuard<'_, Writer>> {
        let mut writer = self.writer()?.lock();
        while writer.flushing {
            self.flushed.wait(&mut writer);
        }
        writer.healthy()?;
        Ok(writer)
    }

    /// Starts the background thread if there is something for it to do; one that runs looks
    /// again before it ends.
    fn wake(self: &Arc<Self>) {
        if !self.options.background || self.writer.is_none() || self.is_forked() {
            return;
        }
        let mut merges = self.merges.lock();
        let running = merges.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if running && !merges.ends {
            merges.again = true;
            return;
        }
        if !(compact::has_work(&self.view()) || calibrate::has_work(self) || graph::has_work(self))
        {
            return;
        }
        let engine = self.clone();
        let work = move || {
            loop {
                let done = compact::run_policy(&engine)
                    .and_then(|()| graph::run_policy(&engine))
                    .and_then(|()| calibrate::run_policy(&engine));
                engine.background_errors.lock().merge = done.err().map(|e| e.to_string());
                let mut merges = engine.merges.lock();
                if !std::mem::take(&mut merges.again) {
                    merges.ends = true;
                    return;
                }
            }
        };
        // Forgotten, it would hold the folder's lock behind the last handle's back.
        drop(merges.thread.take().map(JoinHandle::join));
        // Without a thread segments pile up, which is slow and nothing worse.
        let thread = thread::Builder::new().name("matryo".into()).spawn(work).ok();
        *merges = Merges { thread, ..Merges::default() };
    }
}

/// The background thread that merges, builds graphs and calibrates.
#[derive(Default)]
struct Merges {
    thread: Option<JoinHandle<()>>,
    /// Somebody has found work since it looked.
    again: bool,
    /// It will not look again.
    ends: bool,
}

/// Why the last work of each background thread failed, if it did.
#[derive(Default)]
struct BackgroundErrors {
    flush: Option<String>,
    merge: Option<String>,
}

impl Deref for Handle {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.is_forked() || sown(Bug::CloseDoesNotWait) {
            return;
        }
        // A flush that has ended may have begun to merge. They may have panicked;
        // what they installed stands, the rest is strays.
        let flush = self.flush.get_mut().take();
        drop(flush.map(JoinHandle::join));
        let merges = self.merges.lock().thread.take();
        drop(merges.map(JoinHandle::join));
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Nobody is left to be told. Without it nothing that is durable is lost: the next open
        // recovers as after a crash.
        let _ = self.seal();
    }
}
