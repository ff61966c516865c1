//! New vectors for the rows there are: another model, or another version of it.
//!
//! The vectors are gathered in a **shadow**, an ordinary collection in a folder
//! beside this one, so what was embedded outlives a crash and the next run goes on
//! from there:
//!
//! ```text
//!   without the lock   embed what the shadow lacks, each batch durable
//!   with the lock      embed what was written meanwhile
//!                      write the shadow's rows as a segment of this collection
//!                      one manifest: the new schema and that segment, nothing else
//!   then               remove the shadow
//! ```
//!
//! The manifest is the switch. Before it the collection is the old one, whatever
//! happens; after it, the new one. A row counts as embedded if the shadow has it
//! with the same payload, and the payload is all that a vector may be made of: that
//! makes it safe to go on with a shadow of any age. A row that is left out is in no
//! shadow; a run remembers those that it tried, the next one tries them again.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod run;

use super::{Collection, Options, Progress, open};
use crate::codec::header::FileKind;
use crate::encoding::{Precision, StageCode};
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::payload::Payload;
use crate::schema::{EmbedderId, Metric, Schema};
use crate::sown::{Bug, sown};
use crate::types::RowId;
use crate::vfs::Vfs;
use crate::vfs::disk::{Disk, LOCK_NAME, RESERVE_NAME, TEMP_PREFIX};
use crate::view::View;
use run::Run;

/// What a row is embedded from; see [`Collection::reembed`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SourceRow {
    /// Its id.
    pub id: RowId,
    /// Its payload, empty if it has none.
    pub payload: Payload,
}

/// What a collection becomes by [`Collection::reembed`]. Ids, payloads and declared
/// fields stay what they are.
#[derive(Debug, Clone)]
pub struct ReembedOptions {
    dims: usize,
    embedder: EmbedderId,
    granularities: Vec<usize>,
    metric: Option<Metric>,
    stored: Option<Precision>,
    stages: Option<Vec<StageCode>>,
    batch: usize,
    restart: bool,
    skip_unfit: bool,
    open: Options,
}

/// What [`Collection::reembed`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reembedded {
    /// Rows of the collection now.
    pub rows: u64,
    /// Vectors that this run made and stored. The others a run before it had made already.
    pub embedded: u64,
    /// Rows that were left out; see [`ReembedOptions::skip_unfit`].
    pub skipped: u64,
}

impl ReembedOptions {
    /// Rows that are embedded, and made durable, at a time, unless told otherwise.
    pub const BATCH: usize = 256;

    /// Vectors of `dims` dimensions, made by `embedder`. With the feature `embed`
    /// options are made `From` an embedder, with its granularities.
    pub fn new(dims: usize, embedder: impl Into<EmbedderId>) -> Self {
        Self {
            dims,
            embedder: embedder.into(),
            granularities: Vec::new(),
            metric: None,
            stored: None,
            stages: None,
            batch: Self::BATCH,
            restart: false,
            skip_unfit: false,
            open: Options::new(),
        }
    }

    /// Granularities of the new vectors. Default: the full dimension alone.
    #[must_use]
    pub fn granularities(mut self, dims: impl IntoIterator<Item = usize>) -> Self {
        self.granularities = dims.into_iter().collect();
        self
    }

    /// How the new vectors are compared. Default: as the old ones.
    #[must_use]
    pub fn metric(mut self, metric: Metric) -> Self {
        self.metric = Some(metric);
        self
    }

    /// Precision of the new vectors. Default: that of the old ones.
    #[must_use]
    pub fn stored(mut self, precision: Precision) -> Self {
        self.stored = Some(precision);
        self
    }

    /// Stage codes. Default: those of a new collection with these granularities.
    #[must_use]
    pub fn stages(mut self, stages: impl IntoIterator<Item = StageCode>) -> Self {
        self.stages = Some(stages.into_iter().collect());
        self
    }

    /// Rows that are embedded at a time; fewer where they take more than 8 MiB
    /// together. A crash loses the vectors of one batch. 0 is refused by
    /// [`Collection::reembed`]. Default: [`Self::BATCH`].
    #[must_use]
    pub fn batch(mut self, rows: usize) -> Self {
        self.batch = rows;
        self
    }

    /// Discards what an earlier run left that was not finished, and begins anew.
    /// Default: no, its vectors are used; where it was to make others, that is an
    /// error.
    #[must_use]
    pub fn restart(mut self, yes: bool) -> Self {
        self.restart = yes;
        self
    }

    /// Leaves out rows that have no vector in the new form: the model makes all zeros
    /// of them (many do of an empty text, those of word vectors of a text without a word
    /// they know) and the metric is cosine, a component is too large for the precision,
    /// or there is nothing to embed. **The collection does not have these rows afterwards**;
    /// [`Reembedded::skipped`] counts them, and if it would be left without any row
    /// nothing is changed. Default: no, the first such row is an error.
    #[must_use]
    pub fn skip_unfit(mut self, yes: bool) -> Self {
        self.skip_unfit = yes;
        self
    }

    /// How the folders are opened: how long to wait for the lock, permission bits,
    /// file systems. Default: [`Options::new`].
    #[must_use]
    pub fn open(mut self, options: Options) -> Self {
        self.open = options;
        self
    }

    /// What is to make the vectors.
    pub fn embedder(&self) -> &EmbedderId {
        &self.embedder
    }

    /// Whether [`Self::skip_unfit`] was asked for.
    #[cfg(feature = "embed")]
    pub(crate) fn skips_unfit(&self) -> bool {
        self.skip_unfit
    }

    /// The schema of the collection afterwards.
    fn schema(&self, from: &Schema) -> Result<Schema> {
        let schema = Schema::builder(self.dims)
            .granularities(self.granularities.iter().copied())
            .metric(self.metric.unwrap_or(from.metric()))
            .stored(self.stored.unwrap_or(from.stored()))
            .ids(from.ids())
            .fields_of(from)
            .embedder(&self.embedder);
        match &self.stages {
            Some(stages) => schema.stages(stages.iter().copied()).build(),
            None => schema.build(),
        }
    }

    /// No search runs over these handles, so nothing is taken into RAM for one.
    fn opening(&self, read_only: bool) -> Options {
        let options = self.open.clone().read_only(read_only).background(false);
        options.ram_budget(0).graph_min_rows(u64::MAX)
    }
}

/// Rows -> a vector of each that has one.
pub(crate) type Embed<'w> = dyn FnMut(&[SourceRow]) -> Result<Vec<Option<Vec<f32>>>> + 'w;

/// What the caller embeds by, in that form.
pub(crate) fn optional<V: Into<Option<Vec<f32>>>>(
    mut embed: impl FnMut(&[SourceRow]) -> Result<Vec<V>>,
) -> impl FnMut(&[SourceRow]) -> Result<Vec<Option<Vec<f32>>>> {
    move |rows| Ok(embed(rows)?.into_iter().map(Into::into).collect())
}

/// What a run works with.
pub(crate) struct Work<'w> {
    pub(crate) options: &'w ReembedOptions,
    pub(crate) embed: &'w mut Embed<'w>,
    pub(crate) progress: &'w dyn Fn(Progress) -> bool,
}

impl Collection {
    /// Gives every row of the collection at `path` a new vector, made of its
    /// payload by `embed`: for a change of the model, where payloads keep what was
    /// embedded (a text, a path of a picture). `embed` gets some rows and returns a
    /// vector for each, in their order; or an `Option` of one, `None` for a row that has
    /// nothing to embed, which [`ReembedOptions::skip_unfit`] leaves out.
    ///
    /// The vectors are gathered in a folder beside the collection, named as it is with
    /// `.reembed-` and the random name in its files behind: that of another collection
    /// is never touched, nor a link followed. Readers go on meanwhile, and so may a writer: only the
    /// end needs the writer's lock ([`Error::Locked`] where somebody has it; see
    /// [`Options::lock_timeout`]). What was written until then is embedded too, and
    /// then one atomic step replaces vectors and schema. Handles that only read keep
    /// the old rows; their [`Self::refresh`] says that the collection must be opened
    /// again.
    ///
    /// Whatever interrupts it, the collection is the old one or the new one, whole,
    /// and the next call with the same options goes on where this one was. Both forms
    /// need room on the disk, the new one twice for a moment.
    ///
    /// ```
    /// use matryo::{Collection, EmbedderId, ReembedOptions, Schema, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("words");
    /// let words = Collection::create(&path, Schema::builder(2).build()?)?;
    /// words.upsert(1, &[0.3, 0.4], json!({"text": "river"}))?;
    /// drop(words);
    ///
    /// // What stands for a model here: how often the first vowels occur in a text.
    /// let count = |text: &str, c| text.matches(c).count() as f32;
    /// let model = |text: &str| ['a', 'e', 'i'].map(|c| count(text, c)).to_vec();
    /// let options = ReembedOptions::new(3, EmbedderId::new("vowels", [7; 32]));
    /// Collection::reembed(&path, &options, |rows| {
    ///     Ok(rows.iter().map(|row| model(row.payload["text"].as_str().unwrap_or(""))).collect())
    /// })?;
    /// assert_eq!(Collection::open(&path)?.get(1)?.expect("kept").vector, [0.0, 1.0, 1.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// That of `embed` (of another type, [`Error::other`] makes it one of this); [`Error::Invalid`] for options that make no schema, a row that
    /// has no vector or one that cannot be stored (it is named), or the vectors of an earlier run
    /// by another model; [`Error::Locked`], [`Error::Corrupt`], [`Error::Io`]. The
    /// collection is as it was then.
    pub fn reembed<V: Into<Option<Vec<f32>>>>(
        path: impl AsRef<Path>,
        options: &ReembedOptions,
        embed: impl FnMut(&[SourceRow]) -> Result<Vec<V>>,
    ) -> Result<Reembedded> {
        Self::reembed_with(path, options, embed, |_| true)
    }

    /// As [`Self::reembed`], telling how far it is, in rows. When `progress` returns
    /// false it ends early: the collection is as it was, and the next call goes on.
    ///
    /// # Errors
    /// As [`Self::reembed`]; [`Error::Cancelled`] if `progress` ended it: the next run goes on from
    /// there.
    pub fn reembed_with<V: Into<Option<Vec<f32>>>>(
        path: impl AsRef<Path>,
        options: &ReembedOptions,
        embed: impl FnMut(&[SourceRow]) -> Result<Vec<V>>,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Reembedded> {
        let path = path.as_ref();
        let vfs = open::folder(path, &options.opening(false))?;
        let beside = shadow_path(path, &manifest::load_installed(&*vfs)?)?;
        let folder = shadow_folder(&beside, &options.open)?;
        let shadow: Arc<dyn Vfs> = Arc::new(folder.clone());
        let mut embed = optional(embed);
        let mut work = Work { options, embed: &mut embed, progress: &progress };
        // Where there is no shadow yet, its folder is nothing to go on with.
        let done = reembed(vfs, &shadow, &mut work).inspect_err(|_| folder.unmake())?;
        // Where it cannot be removed it stays, empty but for what is not ours.
        let _ = std::fs::remove_dir(&beside);
        Ok(done)
    }
}

/// The folder beside a collection: of this one, and of none that lay or will lie there.
/// No link changes its name.
fn shadow_path(path: &Path, source: &Manifest) -> Result<PathBuf> {
    let found = path.canonicalize().map_err(|e| Error::io("find", path, e))?;
    let why = || Error::invalid("reembed", format!("nothing can lie beside {}", path.display()));
    let mut name = found.file_name().ok_or_else(why)?.to_owned();
    let random: Vec<_> = source.collection.iter().map(|byte| format!("{byte:02x}")).collect();
    name.push(format!(".reembed-{}", random.concat()));
    Ok(found.with_file_name(name))
}

/// The folder of the shadow, made if there is none. Rows are deleted in it and files
/// removed, so no link may lead to it.
fn shadow_folder(path: &Path, options: &Options) -> Result<Disk> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(found) => {
            let kind = if found.is_symlink() { "a link" } else { "no folder" };
            let why = format!("{} is {kind}: expected a folder, or nothing", path.display());
            return Err(Error::invalid("reembed", why));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let made = Disk::create(path, options.file_mode, &|_, _| Ok(()))?;
            if made.is_new() {
                return made.with(options.file_mode, options.mapped);
            }
        }
        Err(e) => return Err(Error::io("inspect", path, e)),
    }
    // Somebody may have put a link there since.
    Disk::open_unlinked(path)?.with(options.file_mode, options.mapped)
}

/// Embeds the collection in `vfs` again, by way of the one in `beside`.
pub(crate) fn reembed(
    vfs: Arc<dyn Vfs>,
    beside: &Arc<dyn Vfs>,
    work: &mut Work,
) -> Result<Reembedded> {
    if work.options.batch == 0 {
        return Err(Error::invalid("reembed", "expected at least one row at a time, got 0"));
    }
    let reader = open::open(vfs.clone(), work.options.opening(true))?;
    let schema = work.options.schema(reader.schema())?;
    if *reader.schema() == schema {
        // Done before; perhaps the shadow outlived that.
        remove_shadow_of(&schema, beside, work.options)?;
        return Ok(Reembedded { rows: reader.len(), ..Reembedded::default() });
    }
    let shadow = begin(beside, &schema, reader.schema(), work.options)?;
    let seen = reader.view();
    let mut run = Run::new(&shadow, work);
    run.catch_up(&seen)?;
    drop(reader);
    let collection = open::open(vfs, run.options().opening(false))?;
    if *collection.schema() != *seen.schema {
        let why = "the collection was given another schema meanwhile: begin again";
        return Err(Error::invalid("reembed", why));
    }
    let now = collection.view();
    // Even at the same LSN rows can be others: what was taken back where the disk was
    // full had the LSN of the commit that came next.
    if !sown(Bug::ReembedOnePass) {
        run.catch_up(&now)?;
    }
    let new = shadow.view();
    let done = run.finished(&now, &new)?;
    switch(&collection, &new)?;
    drop((collection, shadow, new));
    // The switch is made. What cannot be removed now is removed by the next run.
    let _ = remove_shadow(beside);
    Ok(done)
}

/// The shadow: one that an earlier run began for the same, or a new one.
fn begin(
    vfs: &Arc<dyn Vfs>,
    schema: &Schema,
    old: &Schema,
    options: &ReembedOptions,
) -> Result<Collection> {
    let opening = options.opening(false);
    if !options.restart && Manifest::load(&**vfs)?.is_some() {
        let shadow = open::open(vfs.clone(), opening.clone())?;
        if shadow.schema() == schema {
            return Ok(shadow);
        }
        // One in which nothing is lost, or that of a run that was finished, but for
        // removing it.
        if !shadow.is_empty() && shadow.schema() != old {
            let made = shadow.schema().embedder().map_or("?".into(), ToString::to_string);
            let why = format!(
                "{} holds {} rows that an earlier run embedded by {made}, of {} dimensions: let \
                 that one go on with its options, or discard them with `restart`",
                vfs.path("").display(),
                shadow.len(),
                shadow.schema().dims()
            );
            return Err(Error::invalid("reembed", why));
        }
    }
    remove_shadow(vfs)?;
    open::create(vfs.clone(), schema.clone(), opening)
}

/// Removes the shadow of a run for `schema` that was finished before.
fn remove_shadow_of(schema: &Schema, vfs: &Arc<dyn Vfs>, options: &ReembedOptions) -> Result<()> {
    let of_another = |left: Manifest| left.schema != *schema;
    if !options.restart && Manifest::load(&**vfs)?.is_some_and(of_another) {
        return Ok(());
    }
    remove_shadow(vfs)
}

/// Removes the files of a shadow. The manifest goes first: a shadow of which a part
/// is gone is none.
fn remove_shadow(vfs: &Arc<dyn Vfs>) -> Result<()> {
    let lock = vfs.lock(Duration::ZERO)?;
    vfs.remove(manifest::NAME)?;
    vfs.sync_dir()?;
    for name in vfs.list()? {
        if FileKind::parse(&name).is_some() || name.starts_with(TEMP_PREFIX) {
            vfs.remove(&name)?;
        }
    }
    vfs.release(RESERVE_NAME)?;
    vfs.remove(LOCK_NAME)?;
    drop(lock);
    Ok(())
}

/// The switch: replaces all segments by one with the rows of `new`, and the schema by
/// theirs, with one manifest. The handle's own schema is wrong afterwards.
fn switch(collection: &Collection, new: &View) -> Result<()> {
    collection.flush()?;
    let vfs = &*collection.handle.vfs;
    let mut writer = collection.handle.lock_writer()?;
    writer.vouch(vfs)?;
    writer.change(vfs, |change| {
        change.next.schema = (*new.schema).clone();
        change.next.segments.clear();
        change.next.calibration = None;
        if new.live_rows() > 0 {
            change.segment(&new.parts, &[], &|_| Ok(()))?;
        }
        Ok(())
    })
}
