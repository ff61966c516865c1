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
/// ([`field`] for one that the payload holds).
///
/// # Errors
/// As [`Collection::reembed_with`], and those of `text`;
/// [`Error::OtherEmbedder`] for options of another embedder.
pub fn texts(
    path: impl AsRef<Path>,
    embedder: &Embedder,
    options: &ReembedOptions,
    mut text: impl FnMut(&SourceRow) -> Result<String>,
    progress: impl Fn(Progress) -> bool,
) -> Result<Reembedded> {
    options.embedder().check(&EmbedderId::from(embedder))?;
    let embed = |rows: &[SourceRow]| {
        let texts = rows.iter().map(|row| short_enough(row, text(row)?));
        embedder.embed_documents(&texts.collect::<Result<Vec<_>>>()?)
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
/// the path of a file). A few are in memory at a time, whatever
/// [`ReembedOptions::batch`] says.
///
/// # Errors
/// As [`Collection::reembed_with`], and those of `picture`;
/// [`Error::OtherEmbedder`] for options of another embedder.
#[cfg(feature = "image")]
pub fn pictures(
    path: impl AsRef<Path>,
    embedder: &impl PictureEmbedder,
    options: &ReembedOptions,
    mut picture: impl FnMut(&SourceRow) -> Result<Image>,
    progress: impl Fn(Progress) -> bool,
) -> Result<Reembedded> {
    options.embedder().check(&embedder.id())?;
    let embed = |rows: &[SourceRow]| {
        let mut vectors = Vec::with_capacity(rows.len());
        for some in rows.chunks(PICTURES) {
            let found = some.iter().map(&mut picture).collect::<Result<Vec<_>>>()?;
            vectors.append(&mut embedder.embed(&found)?);
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
    move |row| {
        let opened = Image::open(root.join(path(row)?));
        opened.map_err(|e| Error::invalid("reembed", format!("row {}: {e}", row.id)))
    }
}
