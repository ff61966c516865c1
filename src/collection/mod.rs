//! The handle of a collection, and the only place with locks and an order of
//! commits.
//!
//! ```text
//!   options.rs  how a collection is opened
//!   batch.rs    changes that are committed as one
//!   apply.rs    a commit's operations -> the next view
//!   writer.rs   log, flush, clean close
//!   open.rs     create, open, recovery
//!   info.rs     sizes, verify
//! ```

mod apply;
mod batch;
mod info;
pub(crate) mod open;
mod options;
mod writer;

use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

pub use batch::Batch;
pub use info::{Info, Verified};
pub use options::{Durability, Options};

use crate::error::{Error, Result};
use crate::payload::Payload;
use crate::query::Search;
use crate::schema::Schema;
use crate::types::RowId;
use crate::vfs::Vfs;
use crate::view::View;
use writer::Writer;

/// A collection of rows in a folder: cheap to clone, safe to share.
///
/// Any number of searches run while one batch at a time commits; each search
/// sees the rows as they were when it began. The folder stays locked until the
/// last clone is dropped.
///
/// ```
/// use matryo::{Collection, Schema, json};
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("photos.matryo");
/// let photos = Collection::create(&path, Schema::builder(3).build()?)?;
/// photos.upsert(7, &[0.1, 0.9, 0.2], json!({"title": "harbour"}))?;
/// let hits = photos.search(&[0.0, 1.0, 0.0]).limit(5).run()?.hits;
/// assert_eq!(hits[0].id, 7.into());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Collection {
    shared: Arc<Shared>,
}

struct Shared {
    vfs: Arc<dyn Vfs>,
    schema: Arc<Schema>,
    options: Options,
    view: RwLock<Arc<View>>,
    /// None in a collection that is open for reading only.
    writer: Option<Mutex<Writer>>,
    /// Released when the last clone is dropped.
    _lock: Box<dyn Send + Sync>,
}

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its id.
    pub id: RowId,
    /// Its vector, in the stored precision.
    pub vector: Vec<f32>,
    /// Its payload, empty if it has none.
    pub payload: Payload,
}

impl Collection {
    /// Creates a collection in a folder that does not exist yet, or is empty.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something is there.
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
    /// [`Error::NotACollection`], [`Error::Locked`] if another handle has it,
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

    /// What the collection stores.
    pub fn schema(&self) -> &Schema {
        &self.shared.schema
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.view().live_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a batch of changes.
    pub fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    /// Inserts or replaces one row: a batch of one.
    ///
    /// # Errors
    /// As [`Batch::upsert`] and [`Batch::commit`].
    pub fn upsert(
        &self,
        id: impl Into<RowId>,
        vector: &[f32],
        payload: impl Into<Value>,
    ) -> Result<()> {
        let mut batch = self.batch();
        batch.upsert(id, vector, payload)?;
        batch.commit()
    }

    /// Deletes one row: a batch of one.
    ///
    /// # Errors
    /// As [`Batch::delete`] and [`Batch::commit`].
    pub fn delete(&self, id: impl Into<RowId>) -> Result<()> {
        let mut batch = self.batch();
        batch.delete(id)?;
        batch.commit()
    }

    /// The row with this id.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id of the wrong kind, [`Error::Corrupt`] if the
    /// row is damaged.
    pub fn get(&self, id: impl Into<RowId>) -> Result<Option<Row>> {
        let id = id.into();
        id.check(self.schema().ids())?;
        let view = self.view();
        let Some((part, row)) = view.find(&id)? else { return Ok(None) };
        let rows = &view.parts[part].rows;
        let mut vector = vec![0.0; self.schema().dims()];
        self.schema().stored().decode(rows.vectors(row, 1)?, &mut vector);
        let payload = view.parts[part].payload(row)?;
        Ok(Some(Row { id, vector, payload }))
    }

    /// Begins a search over the rows as they are now.
    pub fn search(&self, query: &[f32]) -> Search {
        Search::new(self.view(), query)
    }

    /// Writes rows that are only in the log as a segment.
    ///
    /// # Errors
    /// [`Error::Io`] where a file could not be written; nothing is lost, the
    /// rows stay in the log.
    pub fn flush(&self) -> Result<()> {
        let mut writer = self.writer()?.lock();
        writer.healthy()?;
        let next = writer.flush(&*self.shared.vfs, &self.view())?;
        self.publish(next);
        Ok(())
    }

    fn view(&self) -> Arc<View> {
        self.shared.view.read().clone()
    }

    fn publish(&self, view: View) {
        *self.shared.view.write() = Arc::new(view);
    }

    fn writer(&self) -> Result<&Mutex<Writer>> {
        let why = "this collection is open for reading only";
        self.shared.writer.as_ref().ok_or_else(|| Error::invalid("write", why))
    }

    /// The commit order: log, sync, next view, publish. Readers see the batch
    /// only when it is as durable as was asked for.
    fn commit(&self, operations: u32, body: &[u8]) -> Result<()> {
        let vfs = &*self.shared.vfs;
        let mut writer = self.writer()?.lock();
        writer.healthy()?;
        let mut view = self.view();
        if writer.wants_flush(&view, &self.shared.options) {
            self.publish(writer.flush(vfs, &view)?);
            view = self.view();
        }
        writer::check_room(&view, operations)?;
        let lsn = writer.log(vfs, view.lsn, operations, body, self.shared.options.durability)?;
        let next = apply::commit(&view, lsn, operations, body);
        // The log has the commit, so the view must too: a damaged segment that
        // keeps us from finding old rows ends writing, not just this batch.
        let next = next.inspect_err(|e| writer.poison(e))?;
        self.publish(next);
        Ok(())
    }
}

impl Drop for Shared {
    /// A clean close: the log's length goes into the manifest. If that fails
    /// nothing is lost, the next open recovers as after a crash.
    fn drop(&mut self) {
        if let Some(writer) = &mut self.writer {
            let _ = writer.get_mut().close(&*self.vfs);
        }
    }
}
