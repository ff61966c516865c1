//! Copies in another form: fewer dimensions, another precision, more declared fields.
//!
//! Rows are read one after another, cut and rounded, and written as new segments
//! whenever the RAM allowed is used up. Nothing else of the collection is needed,
//! so a copy is also a collection that was merged and left its dead rows behind.

use std::path::Path;
use std::sync::Arc;

use super::backup::{Copied, claim};
use super::files::Change;
use super::open;
use super::options::spill_at;
use super::{Collection, Options, Progress};
use crate::encoding::{Precision, StageCode};
use crate::error::{Error, Result, VectorError};
use crate::index;
use crate::manifest::Manifest;
use crate::memtable::RunBuilder;
use crate::rows::ReadAhead;
use crate::schema::{FieldKind, Schema};
use crate::types::{Ordinal, RowId};
use crate::vfs::Vfs;
use crate::vfs::disk::Disk;
use crate::view::{Part, View};

/// What a copy keeps, or a collection that is rewritten; see [`Collection::copy_to`] and
/// [`Collection::rewrite`].
#[derive(Debug, Clone)]
pub struct CopyOptions {
    dims: Option<usize>,
    stored: Option<Precision>,
    /// Declared in the copy: name, kind, whether it is a list.
    fields: Vec<(String, FieldKind, bool)>,
    skip_unfit: bool,
    memory: usize,
    open: Options,
}

impl CopyOptions {
    /// All dimensions in the precision they have.
    pub fn new() -> Self {
        let (memory, open) = (Options::MEMTABLE_BYTES, Options::new());
        Self { dims: None, stored: None, fields: Vec::new(), skip_unfit: false, memory, open }
    }

    /// Keeps the first `dims` dimensions of every vector: any number from 1 to
    /// all. Granularities and stage codes that are longer end there too.
    #[must_use]
    pub fn dims(mut self, dims: usize) -> Self {
        self.dims = Some(dims);
        self
    }

    /// Stores vectors in this precision.
    #[must_use]
    pub fn stored(mut self, precision: Precision) -> Self {
        self.stored = Some(precision);
        self
    }

    /// Declares a field, after those that the collection has, so that filters can ask about it: in
    /// the copy, or by [`Collection::rewrite`] in place. A row whose payload has a value of
    /// another kind there does not fit, as [`SchemaBuilder::field`](crate::SchemaBuilder::field)
    /// says.
    ///
    /// ```
    /// use matryo::{Collection, CopyOptions, FieldKind, Schema, field, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = |name: &str| dir.path().join(name);
    /// let books = Collection::create(path("books"), Schema::builder(2).build()?)?;
    /// books.upsert(1, &[0.1, 0.9], json!({"year": 1999}))?;
    /// assert!(books.count(&field("year").lt(2000)).is_err(), "not declared");
    ///
    /// let options = CopyOptions::new().field("year", FieldKind::Integer);
    /// books.copy_to(path("copy"), &options)?;
    /// assert_eq!(Collection::open(path("copy"))?.count(&field("year").lt(2000))?, 1);
    ///
    /// // In place: the collection must not be open.
    /// books.close()?;
    /// Collection::rewrite(path("books"), &options)?;
    /// assert_eq!(Collection::open(path("books"))?.count(&field("year").lt(2000))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, kind: FieldKind) -> Self {
        self.fields.push((name.into(), kind, false));
        self
    }

    /// As [`Self::field`], for a field whose values are arrays.
    #[must_use]
    pub fn list_field(mut self, name: impl Into<String>, kind: FieldKind) -> Self {
        self.fields.push((name.into(), kind, true));
        self
    }

    /// Leaves out rows that cannot be stored so: under cosine a prefix of zeros, a component too
    /// large for the precision, a value of another kind in a field that is declared now. They are
    /// counted in [`Copied::skipped`]. Default: no, the first such row is an error.
    #[must_use]
    pub fn skip_unfit(mut self, yes: bool) -> Self {
        self.skip_unfit = yes;
        self
    }

    /// RAM for rows before they are written; about twice as much is used at the
    /// peak. Default: [`Options::MEMTABLE_BYTES`]. Of less than 1 MiB small segments are made at
    /// first only, as [`Options::memtable_bytes`] says of bulk loads.
    #[must_use]
    pub fn memory(mut self, bytes: usize) -> Self {
        self.memory = bytes;
        self
    }

    /// How [`Collection::rewrite`] opens the collection: how long to wait for the lock,
    /// permission bits, unsafe file systems. [`Collection::copy_to`] opens none and makes no use of
    /// it: a copy has the permission bits of the handle that is copied, and may be on an unsafe
    /// file system if that may.
    #[must_use]
    pub fn open(mut self, options: Options) -> Self {
        self.open = options;
        self
    }

    /// The schema of the copy.
    pub(crate) fn schema(&self, from: &Schema) -> Result<Schema> {
        let dims = self.dims.unwrap_or(from.dims());
        if !(1..=from.dims()).contains(&dims) {
            let why = format!("expected 1 to {} dimensions, got {dims}", from.dims());
            return Err(Error::invalid("copy", why));
        }
        let shorter = from.granularities().iter().copied().filter(|g| *g < dims);
        let mut stages: Vec<StageCode> = Vec::new();
        for code in from.stages() {
            let code = StageCode { dims: code.dims.min(dims), ..*code };
            // Of several codes that now end at the same dimension, those that grow sharper.
            let rank = |code: &StageCode| (code.dims, code.bits.count());
            if stages.last().is_none_or(|last| rank(last) < rank(&code)) {
                stages.push(code);
            }
        }
        let schema = Schema::builder(dims)
            .granularities(shorter)
            .metric(from.metric())
            .stored(self.stored.unwrap_or(from.stored()))
            .ids(from.ids())
            .fields_of(from)
            .stages(stages);
        let schema = self.fields.iter().fold(schema, |schema, (name, kind, list)| {
            if *list { schema.list_field(name, *kind) } else { schema.field(name, *kind) }
        });
        match from.embedder() {
            Some(embedder) => schema.embedder(embedder).build(),
            None => schema.build(),
        }
    }
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Collection {
    /// Copies all rows into a new collection with fewer dimensions, another
    /// precision or more declared fields, in a new folder or an empty one. The copy
    /// has a life of its own; this collection is not changed, and goes on meanwhile.
    ///
    /// ```
    /// use matryo::{Collection, CopyOptions, Precision, Schema};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = |name: &str| dir.path().join(name);
    /// let large = Collection::create(path("large"), Schema::builder(4).build()?)?;
    /// large.upsert(1, &[0.5, 0.5, 0.1, 0.7], ())?;
    /// large.copy_to(path("small"), &CopyOptions::new().dims(2).stored(Precision::F16))?;
    /// let small = Collection::open(path("small"))?;
    /// assert_eq!(small.get(1)?.expect("copied").vector, [0.5, 0.5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something is there; [`Error::Invalid`] for
    /// dimensions the collection has not, a field that is declared already, and for a row that
    /// does not fit, unless [`CopyOptions::skip_unfit`]; [`Error::Corrupt`], [`Error::Io`]. What was
    /// written is removed then, and the folder if it was made for it; one that was there keeps
    /// an empty file `LOCK`.
    pub fn copy_to(&self, path: impl AsRef<Path>, options: &CopyOptions) -> Result<Copied> {
        self.copy_with(path, options, |_| true)
    }

    /// As [`Self::copy_to`], telling how far it is, in rows: before the first, every 1024, and once
    /// more when all are written. When `progress` returns false, the last time too, the copy ends
    /// with an error, and leaves what an error leaves.
    ///
    /// # Errors
    /// As [`Self::copy_to`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn copy_with(
        &self,
        path: impl AsRef<Path>,
        options: &CopyOptions,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Copied> {
        let schema = options.schema(self.schema())?;
        let write = |to: &Disk| self.copy_into(to, schema, options, &progress);
        open::in_folder_of_a_copy(path.as_ref(), &self.handle.options, write)
    }

    /// Copies into a folder without a collection.
    pub(crate) fn copy_into(
        &self,
        to: &dyn Vfs,
        schema: Schema,
        options: &CopyOptions,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        let _lock = claim(to)?;
        let view = self.view();
        let mut next = Manifest::new(to.entropy()?, schema);
        next.lsn = view.lsn;
        let mut change = Change::from_nothing(to, next);
        let copied = rewrite(&view, &mut change, options, progress)?.measured(to, &change)?;
        change.finish()?;
        Ok(copied)
    }

    /// Shortens every vector of a collection that nobody has open to its first
    /// `dims` dimensions, in place: [`Self::rewrite`] with nothing else changed.
    ///
    /// **The dimensions beyond are gone for good** when this returns: keep a
    /// [backup](Self::backup_to) if they may be wanted again. Queries and new rows want `dims`
    /// dimensions from then on (of an embedder that was opened with `.dims(dims)`); rows are cut,
    /// not scaled, which matters under dot and l2.
    ///
    /// # Errors
    /// As [`Self::rewrite`].
    pub fn drop_tier(path: impl AsRef<Path>, dims: usize) -> Result<Copied> {
        Self::rewrite(path, &CopyOptions::new().dims(dims))
    }

    /// Gives a collection that nobody has open another form, in place: more declared fields
    /// ([`CopyOptions::field`]), another precision, fewer dimensions. What [`Self::copy_to`] makes
    /// beside a collection this puts into its place.
    ///
    /// What the new form leaves out **is gone for good** when this returns: keep a
    /// [backup](Self::backup_to) if it may be wanted again. Until then the folder needs room
    /// for both forms. A crash leaves the one or the other, whole.
    ///
    /// ```
    /// use matryo::{Collection, CopyOptions, FieldKind, Schema, field, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("books");
    /// let books = Collection::create(&path, Schema::builder(2).build()?)?;
    /// books.upsert(1, &[0.1, 0.9], json!({"year": 1999}))?;
    /// books.close()?;
    /// Collection::rewrite(&path, &CopyOptions::new().field("year", FieldKind::Integer))?;
    /// assert_eq!(Collection::open(&path)?.count(&field("year").lt(2000))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::copy_to`]; nothing was changed then.
    pub fn rewrite(path: impl AsRef<Path>, options: &CopyOptions) -> Result<Copied> {
        Self::rewrite_with(path, options, |_| true)
    }

    /// As [`Self::rewrite`], telling how far it is, as [`Self::copy_with`] does. When `progress`
    /// returns false, the last time too, nothing is changed.
    ///
    /// # Errors
    /// As [`Self::rewrite`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn rewrite_with(
        path: impl AsRef<Path>,
        options: &CopyOptions,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Copied> {
        // Nothing is searched, so nothing is taken into RAM for searches.
        let opening = options.open.clone().background(false).ram_budget(0);
        let collection = open::open_on_disk(path.as_ref(), opening)?;
        collection.shorten(options, &progress)
    }

    /// Replaces all segments by shortened ones, with one manifest. The handle
    /// must be the only one: its schema is wrong afterwards.
    pub(crate) fn shorten(
        self,
        options: &CopyOptions,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        let schema = options.schema(self.schema())?;
        self.flush()?;
        let vfs = &*self.handle.vfs;
        let mut writer = self.handle.lock_writer()?;
        writer.vouch(vfs)?;
        writer.change(vfs, |change| {
            change.next.schema = schema;
            change.next.segments.clear();
            change.next.graphs.clear();
            change.next.calibration = None;
            rewrite(&self.view(), change, options, progress)?.measured(vfs, change)
        })
    }
}

/// Writes the rows of `view` as the next schema has them, as segments which it enters.
fn rewrite(
    view: &View,
    change: &mut Change,
    options: &CopyOptions,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Copied> {
    let schema = Arc::new(change.next.schema.clone());
    let mut shortener = Shortener::new(&view.schema, schema.clone());
    let mut run = RunBuilder::new(&schema);
    let (mut bytes, mut written) = (0, 0);
    let (mut done, total) = (0, view.live_rows());
    let tell = |done| Error::unless(progress(Progress { done, total }), "copy");
    let mut copied = Copied::default();
    for part in &view.parts {
        part.rows.distrust();
        let mut ahead = ReadAhead::default();
        for row in part.living() {
            if done % 1024 == 0 {
                tell(done)?;
            }
            ahead.before(&*part.rows, row);
            let (id, payload) = (part.rows.id(row)?, part.rows.payload(row)?);
            match shortener.shorten(part, row, &payload)? {
                Ok(vector) => {
                    run.push(&id, vector, &payload);
                    bytes += vector.len() + payload.len() + 64;
                    copied.rows += 1;
                }
                Err(_) if options.skip_unfit => copied.skipped += 1,
                Err(why) => return Err(unfit(&id, &why)),
            }
            done += 1;
            if bytes >= spill_at(options.memory, written) {
                let full = std::mem::replace(&mut run, RunBuilder::new(&schema));
                write_run(change, full)?;
                written += std::mem::take(&mut bytes);
            }
        }
    }
    if run.len() > 0 {
        write_run(change, run)?;
    }
    // While nothing is installed yet.
    tell(total)?;
    Ok(copied)
}

fn unfit(id: &RowId, why: &Error) -> Error {
    Error::invalid("copy", format!("row {id} does not fit: {why}; such rows can be skipped"))
}

fn write_run(change: &mut Change, run: RunBuilder) -> Result<()> {
    let part = Part::new(Arc::new(run.finish()), Arc::default(), None);
    change.segment(&[Arc::new(part)], &[], &|_| Ok(())).map(drop)
}

/// Turns rows as they are stored into rows of the copy.
struct Shortener {
    from: Precision,
    /// Fields that the collection declares, too; the others are the copy's.
    fields: usize,
    schema: Arc<Schema>,
    /// The vector at hand, widened, and as it will be stored.
    wide: Vec<f32>,
    stored: Vec<u8>,
}

impl Shortener {
    fn new(from: &Schema, schema: Arc<Schema>) -> Self {
        let (wide, fields) = (vec![0.0; schema.dims()], from.fields().len());
        Self { from: from.stored(), fields, schema, wide, stored: Vec::new() }
    }

    /// The row's vector in the new form, or why the row has none.
    fn shorten(&mut self, part: &Part, row: Ordinal, payload: &str) -> Result<Result<&[u8]>> {
        let added = &self.schema.fields()[self.fields..];
        if !added.is_empty()
            && let Err(why) = index::check(added, &part.parse_payload(row, payload)?.into(), false)
        {
            return Ok(Err(why));
        }
        let stored = self.schema.stored();
        self.from.decode(part.rows.vector(row)?, &mut self.wide);
        self.stored.clear();
        if let Err(at) = stored.encode(&self.wide, &mut self.stored) {
            let (value, stored) = (self.wide[at], stored.name());
            return Ok(Err(VectorError::OutOfRange { at, value, stored }.into()));
        }
        // What counts is what is kept.
        stored.decode(&self.stored, &mut self.wide);
        match self.schema.check_vector(&self.wide, self.schema.dims()) {
            Ok(()) => Ok(Ok(&self.stored)),
            Err(why @ Error::Vector(_)) => Ok(Err(why)),
            Err(other) => Err(other),
        }
    }
}
