//! A batch of changes that is committed as one.

use serde_json::Value;
use std::fmt;

use super::encode::RowEncoder;
use super::{Collection, commit};
use crate::error::{Error, Result};
use crate::sync::atomic::Ordering;
use crate::types::{MAX_ID_BYTES, RowId};
use crate::wal::format::{Frame, MAX_BODY};

/// Changes that become visible and durable together, or not at all. Dropping a
/// batch without [`Batch::commit`] forgets it.
///
/// Of several changes to one id the last one counts.
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch<'c> {
    collection: &'c Collection,
    /// With the operations, as the log will hold them.
    frame: Frame,
    encoder: RowEncoder,
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("operations", &self.len()).finish_non_exhaustive()
    }
}

impl Collection {
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

    /// Gives a row another payload, and leaves its vector as it is stored: a commit by itself.
    /// False where there is no row with this id.
    ///
    /// ```
    /// use matryo::{Collection, Schema, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("photos.matryo");
    /// let photos = Collection::create(&path, Schema::builder(2).build()?)?;
    /// photos.upsert(7, &[0.1, 0.9], json!({"title": "harbour"}))?;
    /// assert!(photos.set_payload(7, json!({"title": "harbour", "seen": true}))?);
    /// assert!(!photos.set_payload(8, ())?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Batch::upsert`] and [`Batch::commit`]; [`Error::Corrupt`] if the vector cannot be read.
    pub fn set_payload(&self, id: impl Into<RowId>, payload: impl Into<Value>) -> Result<bool> {
        let (id, mut encoder) = (id.into(), RowEncoder::default());
        id.check(self.schema().ids())?;
        encoder.check_payload(self.schema(), payload.into())?;
        commit::replace(&self.handle, |view| {
            let Some((part, row)) = view.find(&id)? else { return Ok(None) };
            let stored = view.parts[part].rows.vector(row)?;
            let put = |out: &mut Vec<u8>| {
                out.extend_from_slice(stored);
                Ok::<_, Error>(())
            };
            let mut frame = Frame::for_body(stored.len() + encoder.payload.len() + MAX_ID_BYTES);
            frame.upsert(&id, put, &encoder.payload)?;
            Ok(Some(frame))
        })
    }
}

impl<'c> Batch<'c> {
    fn new(collection: &'c Collection) -> Self {
        // Often as long as the last: then it need not be moved while it grows.
        let last = collection.handle.batch_bytes.load(Ordering::Relaxed);
        let (frame, encoder) = (Frame::for_body(last), RowEncoder::default());
        Self { collection, frame, encoder }
    }

    /// The same for rows that are stored in another collection with the same fields.
    pub(super) fn of_stored(mut self) -> Self {
        self.encoder.stored = true;
        self
    }

    /// Most bytes that one batch can take.
    pub const MAX_BYTES: usize = MAX_BODY;

    /// Number of changes so far.
    pub fn len(&self) -> u64 {
        self.frame.operations().into()
    }

    /// Bytes that the changes take, in RAM and in the log: by them a long load is cut into batches.
    ///
    /// ```
    /// use matryo::{Collection, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("numbers.matryo");
    /// let numbers = Collection::create(&path, Schema::builder(2).build()?)?;
    /// let mut batch = numbers.batch();
    /// for n in 0..100_000u64 {
    ///     batch.upsert(n, &[1.0, n as f32], ())?;
    ///     if batch.bytes() >= 1 << 20 {
    ///         std::mem::replace(&mut batch, numbers.batch()).commit()?;
    ///     }
    /// }
    /// batch.commit()?;
    /// assert_eq!(numbers.len(), 100_000);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn bytes(&self) -> usize {
        self.frame.body_len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Inserts a row, or replaces the one with this id.
    ///
    /// `vector` has all dimensions of the schema; `payload` is a JSON object or
    /// `null` for none.
    ///
    /// # Errors
    /// [`Error::Vector`] for a vector that cannot be stored, [`Error::Invalid`]
    /// for an id of the wrong kind, a payload that is no object or has a value of
    /// another kind in a declared field; [`Error::BatchFull`] where it would outgrow
    /// [`Self::MAX_BYTES`] (an empty batch has room for any row). The batch stays as it was.
    pub fn upsert(
        &mut self,
        id: impl Into<RowId>,
        vector: &[f32],
        payload: impl Into<Value>,
    ) -> Result<&mut Self> {
        let id = id.into();
        let schema = self.collection.schema();
        self.encoder.check(schema, &id, vector, payload.into())?;
        self.room(schema.vector_bytes() + self.encoder.payload.len() + MAX_ID_BYTES)?;
        let RowEncoder { payload, wide, .. } = &mut self.encoder;
        let put = |out: &mut Vec<u8>| RowEncoder::put_vector(wide, schema, vector, out);
        self.frame.upsert(&id, put, payload)?;
        Ok(self)
    }

    /// Deletes a row; an id that is not there is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an id of the wrong kind, [`Error::BatchFull`] as for
    /// [`Self::upsert`]. The batch stays as it was.
    pub fn delete(&mut self, id: impl Into<RowId>) -> Result<&mut Self> {
        let id = id.into();
        id.check(self.collection.schema().ids())?;
        self.room(MAX_ID_BYTES)?;
        self.frame.delete(&id);
        Ok(self)
    }

    /// Makes the changes durable (as far as the [`Durability`](super::Durability)
    /// asks) and then visible to new searches.
    ///
    /// # Errors
    /// [`Error::Io`] if the log could not be written: nothing of the batch is
    /// visible then. Where there was just no room (on the disk, or for another
    /// open file) nothing of it is on disk either, and there may be room for the
    /// next one; a batch that only deletes may use
    /// [`Options::reserve`](super::Options::reserve). After any other failure to write the
    /// handle refuses further writes ([`Error::Poisoned`]). [`Error::Corrupt`] if the place of a
    /// row it replaces or deletes cannot be read: nothing of the batch is written then, and
    /// other batches go on. [`Error::TooManyRows`]. [`Error::ReadOnly`] for a handle that only
    /// reads, [`Error::Forked`], even where the batch is empty.
    pub fn commit(self) -> Result<()> {
        if self.is_empty() {
            // Nothing to do, but one that could do nothing is told.
            return self.collection.handle.lock_writer().map(drop);
        }
        self.collection.handle.batch_bytes.store(self.frame.body_len(), Ordering::Relaxed);
        commit::commit(&self.collection.handle, self.frame)
    }

    /// Whether `more` bytes fit (16 cover the fixed fields of an operation).
    fn room(&self, more: usize) -> Result<()> {
        let len = self.frame.body_len() + more + 16;
        if len <= MAX_BODY {
            return Ok(());
        }
        Err(Error::BatchFull { bytes: len, most: MAX_BODY })
    }
}
