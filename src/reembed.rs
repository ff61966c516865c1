//! Collections that keep what their vectors were made of, embedded again by another
//! model: [`Collection::reembed`] with an [`Embedder`] (feature `embed`).
//!
//! ```no_run
//! use matryo::embed::Embedder;
//! use matryo::{ReembedOptions, reembed};
//! let embedder = Embedder::open("models/the-next-one")?;
//! let options = ReembedOptions::from(&embedder);
//! let done = reembed::texts("books.matryo", &embedder, &options, reembed::field("text"), |p| {
//!     eprintln!("{} of {}", p.done, p.total);
//!     true
//! })?;
//! println!("{} rows", done.rows);
//! # Ok::<(), matryo::Error>(())
//! ```

use std::path::Path;
#[cfg(feature = "image")]
use std::path::PathBuf;

use serde_json::Value;

use crate::collection::{Collection, Progress, ReembedOptions, Reembedded, SourceRow};
use crate::embed::{Embedder, MAX_TEXT_BYTES};
#[cfg(feature = "image")]
use crate::embed::{Image, ImageEmbedder};
use crate::error::{Error, Result};
use crate::payload;
use crate::schema::EmbedderId;

/// Pictures in memory at a time.
#[cfg(feature = "image")]
const PICTURES: usize = 32;

impl From<&Embedder> for ReembedOptions {
    fn from(embedder: &Embedder) -> Self {
        let options = Self::new(embedder.dims(), embedder);
        options.granularities(embedder.granularities().iter().copied())
    }
}

#[cfg(feature = "image")]
impl From<&ImageEmbedder> for ReembedOptions {
    fn from(embedder: &ImageEmbedder) -> Self {
        let options = Self::new(embedder.dims(), embedder);
        options.granularities(embedder.granularities().iter().copied())
    }
}

/// Embeds texts again, as documents: `text` makes that of a row from its payload
/// ([`field`] for one that the payload holds). It may return an `Option` of a text
/// ([`optional_field`]); rows without any, and texts too long to be taken, are left out
/// by [`ReembedOptions::skip_unfit`] and errors without it, as rows are whose vector is
/// all zeros.
///
/// # Errors
/// As [`Collection::reembed_with`], and those of `text`;
/// [`Error::OtherEmbedder`] for options of another embedder.
pub fn texts<S: Into<Option<String>>>(
    path: impl AsRef<Path>,
    embedder: &Embedder,
    options: &ReembedOptions,
    mut text: impl FnMut(&SourceRow) -> Result<S>,
    progress: impl Fn(Progress) -> bool,
) -> Result<Reembedded> {
    options.embedder().check(&EmbedderId::from(embedder))?;
    let skip = options.skips_unfit();
    let mut text = |row: &SourceRow| match text(row)?.into() {
        Some(text) if text.len() > MAX_TEXT_BYTES && skip => Ok(None),
        Some(text) => short_enough(row, text).map(Some),
        None => Ok(None),
    };
    let embed = |rows: &[SourceRow]| {
        let texts = rows.iter().map(&mut text).collect::<Result<Vec<_>>>()?;
        of_those_there(texts, |texts| embedder.embed_documents(texts))
    };
    Collection::reembed_with(path, options, embed, progress)
}

/// The embedder would name it by its place among those it was given.
fn short_enough(row: &SourceRow, text: String) -> Result<String> {
    if text.len() <= MAX_TEXT_BYTES {
        return Ok(text);
    }
    let why = format!("a text of {} bytes, at most {MAX_TEXT_BYTES} are taken", text.len());
    Err(lacks(row, &why))
}

/// Embeds what there is, and puts each vector where its source was.
fn of_those_there<S>(
    sources: Vec<Option<S>>,
    embed: impl FnOnce(&[S]) -> Result<Vec<Vec<f32>>>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let is_there: Vec<_> = sources.iter().map(Option::is_some).collect();
    let sources: Vec<_> = sources.into_iter().flatten().collect();
    // Nothing is asked of a model without need.
    let vectors = if sources.is_empty() { Vec::new() } else { embed(&sources)? };
    if vectors.len() != sources.len() {
        let (expected, got) = (sources.len(), vectors.len());
        let why = format!("expected {expected} vectors of the embedder, got {got}");
        return Err(Error::invalid("reembed", why));
    }
    let mut vectors = vectors.into_iter();
    Ok(is_there.into_iter().map(|is| if is { vectors.next() } else { None }).collect())
}

/// The text that the payload of a row holds under this name; dots go into nested
/// objects, as in the names of declared fields.
pub fn field(name: impl Into<String>) -> impl Fn(&SourceRow) -> Result<String> {
    let name = name.into();
    move |row| match payload::at(&row.payload, &name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => {
            let kind = match other {
                Value::Null => "null",
                Value::Bool(_) => "a bool",
                Value::Number(_) => "a number",
                Value::Array(_) => "an array",
                _ => "an object",
            };
            Err(lacks(row, &format!("text in {name:?} to embed, got {kind}")))
        }
        None => Err(lacks(row, &format!("text in {name:?} to embed, got none"))),
    }
}

/// As [`field`], where rows may hold no text under the name.
pub fn optional_field(name: impl Into<String>) -> impl Fn(&SourceRow) -> Result<Option<String>> {
    let name = name.into();
    move |row| {
        let found = payload::at(&row.payload, &name).and_then(Value::as_str);
        Ok(found.map(str::to_owned))
    }
}

fn lacks(row: &SourceRow, why: &str) -> Error {
    Error::invalid("reembed", format!("row {}: expected {why}", row.id))
}

/// What embeds pictures: an [`ImageEmbedder`], or an [`Embedder`] with a vision tower.
#[cfg(feature = "image")]
pub trait PictureEmbedder {
    /// What tells it from others.
    fn id(&self) -> EmbedderId;

    /// A vector of each picture.
    ///
    /// # Errors
    /// As [`ImageEmbedder::embed_images`].
    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>>;
}

#[cfg(feature = "image")]
impl PictureEmbedder for Embedder {
    fn id(&self) -> EmbedderId {
        self.into()
    }

    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed_images(pictures)
    }
}

#[cfg(feature = "image")]
impl PictureEmbedder for ImageEmbedder {
    fn id(&self) -> EmbedderId {
        self.into()
    }

    fn embed(&self, pictures: &[Image]) -> Result<Vec<Vec<f32>>> {
        self.embed_images(pictures)
    }
}

/// Embeds pictures again: `picture` finds that of a row by its payload ([`file()`] for
/// the path of a file), or `None` as for [`texts`]. A few are in memory at a time, whatever
/// [`ReembedOptions::batch`] says.
///
/// # Errors
/// As [`Collection::reembed_with`], and those of `picture`;
/// [`Error::OtherEmbedder`] for options of another embedder.
#[cfg(feature = "image")]
pub fn pictures<P: Into<Option<Image>>>(
    path: impl AsRef<Path>,
    embedder: &(impl PictureEmbedder + ?Sized),
    options: &ReembedOptions,
    mut picture: impl FnMut(&SourceRow) -> Result<P>,
    progress: impl Fn(Progress) -> bool,
) -> Result<Reembedded> {
    options.embedder().check(&embedder.id())?;
    let embed = |rows: &[SourceRow]| {
        let mut vectors = Vec::with_capacity(rows.len());
        for some in rows.chunks(PICTURES) {
            let found = some.iter().map(|row| Ok(picture(row)?.into()));
            let found = found.collect::<Result<Vec<_>>>()?;
            vectors.append(&mut of_those_there(found, |pictures| embedder.embed(pictures))?);
        }
        Ok(vectors)
    };
    Collection::reembed_with(path, options, embed, progress)
}

/// The picture in the file whose path the payload holds under this name, as
/// [`field`] finds it; a relative path begins at `root`.
#[cfg(feature = "image")]
pub fn file(
    name: impl Into<String>,
    root: impl Into<PathBuf>,
) -> impl Fn(&SourceRow) -> Result<Image> {
    let (path, root) = (field(name), root.into());
    move |row| open(row, root.join(path(row)?))
}

/// As [`file()`], where rows may hold no path under the name. A file that cannot be
/// opened is an error all the same: it may be back another time.
#[cfg(feature = "image")]
pub fn optional_file(
    name: impl Into<String>,
    root: impl Into<PathBuf>,
) -> impl Fn(&SourceRow) -> Result<Option<Image>> {
    let (path, root) = (optional_field(name), root.into());
    move |row| path(row)?.map(|path| open(row, root.join(path))).transpose()
}

#[cfg(feature = "image")]
fn open(row: &SourceRow, path: PathBuf) -> Result<Image> {
    Image::open(path).map_err(|e| Error::invalid("reembed", format!("row {}: {e}", row.id)))
}
