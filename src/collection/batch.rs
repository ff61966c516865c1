//! A batch of changes that is committed as one.

use serde_json::Value;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;

use super::Collection;
use super::commit;
use super::encode::RowEncoder;
use crate::codec::FormatError;
use crate::error::{Error, Result};
use crate::sync::atomic::Ordering;
use crate::types::{MAX_ID_BYTES, RowId};
use crate::view::View;
use crate::wal::format::{Frame, MAX_BODY};
use crate::wal::ops::{self, Operation};

/// Changes that become visible and durable together, or not at all. Dropping a
/// batch without [`Batch::commit`] forgets it.
///
/// Of several changes to one id the last one counts.
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    collection: Collection,
    /// With the operations, as the log will hold them.
    frame: Frame,
    /// Payloads for vectors that are looked up when the batch is committed.
    payloads: Vec<NewPayload>,
    /// Bytes of the operations that these will be, about and at most.
    payload_bytes: usize,
    encoder: RowEncoder,
}

/// These cover the fixed fields of an operation.
const FIXED_BYTES: usize = 16;

/// Another payload for a row.
struct NewPayload {
    /// How many operations of the frame come before it.
    before: usize,
    id: RowId,
    /// As JSON text.
    text: String,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Committed {
    /// How many of its deletes found a row.
    pub deleted: u64,
    /// How many payloads were for ids without a row, and set nothing ([`Batch::set_payload`]).
    pub missing: u64,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("operations", &self.len()).finish_non_exhaustive()
    }
}

impl Collection {
    /// Begins a batch of changes. It holds a clone of the handle, so it may be kept beside it.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
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
        batch.commit().map(drop)
    }

    /// Deletes one row: a batch of one. False where there was no row with this id.
    ///
    /// # Errors
    /// As [`Batch::delete`] and [`Batch::commit`].
    pub fn delete(&self, id: impl Into<RowId>) -> Result<bool> {
        let mut batch = self.batch();
        batch.delete(id)?;
        Ok(batch.commit()?.deleted > 0)
    }

    /// Gives a row another payload, and leaves its vector as it is stored: a batch of one
    /// ([`Batch::set_payload`]). False where there is no row with this id.
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
    /// As [`Batch::set_payload`] and [`Batch::commit`].
    pub fn set_payload(&self, id: impl Into<RowId>, payload: impl Into<Value>) -> Result<bool> {
        let mut batch = self.batch();
        batch.set_payload(id, payload)?;
        Ok(batch.commit()?.missing == 0)
    }
}

impl Batch {
    fn new(collection: Collection) -> Self {
        // Often as long as the last: then it need not be moved while it grows.
        let last = collection.handle.batch_bytes.load(Ordering::Relaxed);
        let (frame, encoder) = (Frame::for_body(last), RowEncoder::default());
        Self { collection, frame, payloads: Vec::new(), payload_bytes: 0, encoder }
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
        u64::from(self.frame.operations()) + self.payloads.len() as u64
    }

    /// Bytes that the changes take in the log, and at most in RAM: by them a long load is cut into
    /// batches. Of a payload that is set, the vector counts too, as if the row was there.
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
        self.frame.body_len() + self.payload_bytes
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

    /// Gives a row another payload, and leaves its vector as it is: the one that it has when the
    /// batch is committed, by this batch or by others. Nothing comes between the look at it
    /// and the commit. An id that has no row then is no error: it is passed over, and
    /// [`Committed::missing`] counts it.
    ///
    /// ```
    /// use matryo::{Collection, Schema, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("photos.matryo");
    /// let photos = Collection::create(&path, Schema::builder(2).build()?)?;
    /// photos.upsert(7, &[0.1, 0.9], ())?;
    /// let mut batch = photos.batch();
    /// batch.set_payload(7, json!({"seen": true}))?.set_payload(8, json!({"seen": true}))?;
    /// assert_eq!(batch.commit()?.missing, 1);
    /// assert_eq!(photos.get(7)?.expect("there").payload["seen"], json!(true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::upsert`], but for the vector. The batch stays as it was.
    pub fn set_payload(
        &mut self,
        id: impl Into<RowId>,
        payload: impl Into<Value>,
    ) -> Result<&mut Self> {
        let id = id.into();
        let schema = self.collection.schema();
        id.check(schema.ids())?;
        self.encoder.check_payload(schema, payload.into())?;
        let text = self.encoder.payload.clone();
        let bytes = schema.vector_bytes() + text.len();
        self.room(bytes + MAX_ID_BYTES)?;
        self.payload_bytes += bytes + ops::id_bytes(&id) + FIXED_BYTES;
        self.payloads.push(NewPayload { before: self.frame.operations() as usize, id, text });
        Ok(self)
    }

    /// Makes the changes durable (as far as the [`Durability`](super::Durability)
    /// asks) and then visible to new searches. A batch that sets payloads shares its sync with
    /// no other.
    ///
    /// # Errors
    /// [`Error::Io`] if the log could not be written: nothing of the batch is
    /// visible then. Where there was just no room (on the disk, or for another
    /// open file) nothing of it is on disk either, and there may be room for the
    /// next one; a batch that only deletes may use
    /// [`Options::reserve`](super::Options::reserve). After any other failure to write the
    /// handle refuses further writes ([`Error::Poisoned`]). [`Error::Corrupt`] if the place of a
    /// row it replaces or deletes, or the vector of one it gives a payload, cannot be read: nothing
    /// of the batch is written then, and other batches go on. [`Error::TooManyRows`]. [`Error::ReadOnly`] for a handle that only
    /// reads, [`Error::Forked`], even where the batch is empty.
    pub fn commit(self) -> Result<Committed> {
        let handle = &self.collection.handle;
        if self.is_empty() {
            // Nothing to do, but one that could do nothing is told.
            drop(handle.lock_writer()?);
            return Ok(Committed::default());
        }
        let bytes = self.bytes();
        handle.batch_bytes.store(bytes, Ordering::Relaxed);
        let (batch, payloads) = (self.frame, self.payloads);
        if payloads.is_empty() {
            return Ok(Committed { deleted: commit::commit(handle, batch)?, missing: 0 });
        }
        let mut missing = 0;
        let deleted = commit::replace(handle, |view| {
            let made = with_payloads(view, &batch, &payloads, bytes)?;
            missing = payloads.len() as u64 - u64::from(made.operations() - batch.operations());
            Ok(Some(made).filter(|made| made.operations() > 0))
        })?;
        Ok(Committed { deleted, missing })
    }

    /// Whether `more` bytes fit.
    fn room(&self, more: usize) -> Result<()> {
        let len = self.bytes() + more + FIXED_BYTES;
        if len <= MAX_BODY {
            return Ok(());
        }
        Err(Error::BatchFull { bytes: len, most: MAX_BODY })
    }
}

/// The operations of a batch, with an upsert for each of these payloads among them: of the vector
/// that an operation before it brings, or else of the stored one. None for rows that are not there.
fn with_payloads(
    view: &View,
    batch: &Frame,
    payloads: &[NewPayload],
    bytes: usize,
) -> Result<Frame> {
    let schema = &view.schema;
    let (ids, width) = (schema.ids(), schema.vector_bytes());
    let parsed = ops::parse(batch.body(), batch.operations(), ids, width);
    let parsed = parsed.map_err(|e: FormatError| Error::invalid("batch", e))?;
    let mut made = Frame::for_body(bytes);
    // What operations so far leave of a row: its vector, or nothing.
    let mut left: HashMap<&RowId, Option<&[u8]>> = HashMap::new();
    let mut done = 0;
    for NewPayload { before, id, text } in payloads {
        carry(&parsed[done..*before], &mut made, &mut left);
        done = *before;
        let vector = match left.get(id) {
            Some(vector) => *vector,
            None => stored(view, id)?,
        };
        left.insert(id, vector);
        if let Some(vector) = vector {
            put_upsert(&mut made, id, vector, text);
        }
    }
    carry(&parsed[done..], &mut made, &mut left);
    Ok(made)
}

/// Appends operations as they are.
fn carry<'o>(
    operations: &'o [Operation],
    frame: &mut Frame,
    left: &mut HashMap<&'o RowId, Option<&'o [u8]>>,
) {
    for operation in operations {
        match operation {
            Operation::Upsert { id, vector, payload, .. } => {
                put_upsert(frame, id, vector, payload);
                left.insert(id, Some(vector));
            }
            Operation::Delete { id } => {
                frame.delete(id);
                left.insert(id, None);
            }
        }
    }
}

fn put_upsert(frame: &mut Frame, id: &RowId, vector: &[u8], payload: &str) {
    let put = |out: &mut Vec<u8>| {
        out.extend_from_slice(vector);
        Ok::<_, Infallible>(())
    };
    let Ok(()) = frame.upsert(id, put, payload);
}

/// The vector of a row, as stored.
fn stored<'v>(view: &'v View, id: &RowId) -> Result<Option<&'v [u8]>> {
    let Some((part, row)) = view.find(id)? else { return Ok(None) };
    view.parts[part].rows.vector(row).map(Some)
}
