//! Brings a collection up to date with the pictures.
//!
//! A row is a picture; its id is the picture's name. It also says of which content
//! and which set of pictures it was made, so that nothing but the collection has to
//! be kept. Which model made the vectors the collection knows by itself.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use matryo::embed::{Embedder, Image};
use matryo::{Collection, Error as StoreError, RowId, Value, json};

use super::pictures::{CHUNK, Picture};
use super::support;

/// What a run found and did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) embedded: usize,
    pub(crate) unchanged: usize,
    pub(crate) gone: usize,
    /// Pictures that could not be read, and why.
    pub(crate) skipped: Vec<String>,
}

/// The collection at `path`. One of the same pictures that another model has filled is
/// made anew: its vectors cannot be compared with those of this model. The message
/// says so.
pub(crate) fn open_or_create(
    path: &Path,
    embedder: &Embedder,
    set: &str,
) -> Result<(Collection, Option<String>), Box<dyn Error>> {
    let schema = support::schema(embedder)?;
    if support::is_free(path)? {
        return Ok((Collection::create(path, schema)?, None));
    }
    let collection = Collection::open(path)?;
    // Only what this program has made of the same pictures is changed.
    contents(&collection, set)?;
    match collection.check_embedder(embedder) {
        Ok(()) => Ok((collection, None)),
        Err(other @ StoreError::OtherEmbedder { .. }) => {
            drop(collection);
            fs::remove_dir_all(path)?;
            Ok((Collection::create(path, schema)?, Some(other.to_string())))
        }
        Err(e) => Err(e.into()),
    }
}

/// The content of each picture in the collection, by its name.
fn contents(collection: &Collection, set: &str) -> Result<HashMap<String, String>, Box<dyn Error>> {
    let mut all = HashMap::new();
    for row in collection.snapshot().iter() {
        let row = row?;
        let field = |name: &str| row.payload.get(name).and_then(Value::as_str);
        match (&row.id, field("content"), field("set")) {
            (RowId::Str(name), Some(content), Some(of)) if of == set => {
                all.insert(name.to_string(), content.to_owned());
            }
            (id, _, of) => {
                let of = of.unwrap_or("something else");
                let why = format!("the collection was made of {of} (row {id}), not of {set}");
                return Err(format!("{why}: choose another with --db").into());
            }
        }
    }
    Ok(all)
}

/// Embeds the pictures that are new or changed, and deletes those that are gone.
pub(crate) fn update(
    collection: &Collection,
    embedder: &Embedder,
    (set, pictures): (&str, &[Picture]),
) -> Result<Report, Box<dyn Error>> {
    let mut report = Report::default();
    let mut known = contents(collection, set)?;
    let mut fresh = Vec::new();
    for picture in pictures {
        match picture.content() {
            Ok(content) if known.get(&picture.name) == Some(&content) => {
                known.remove(&picture.name);
                report.unchanged += 1;
            }
            Ok(content) => fresh.push((picture, content)),
            Err(e) => report.skipped.push(e.to_string()),
        }
    }
    let style =
        ProgressStyle::with_template("embedding {bar:40} {pos}/{len} pictures, {eta} left")?;
    let bar = ProgressBar::new(fresh.len() as u64).with_style(style);
    for chunk in fresh.chunks(CHUNK) {
        let mut loaded: Vec<(&Picture, &str, Image)> = Vec::with_capacity(chunk.len());
        for (picture, content) in chunk {
            match picture.load() {
                Ok(image) => loaded.push((picture, content, image)),
                Err(e) => report.skipped.push(e.to_string()),
            }
        }
        let vectors = embedder.embed_images(loaded.iter().map(|(_, _, image)| image))?;
        let mut batch = collection.batch();
        for ((picture, content, _), vector) in loaded.iter().zip(&vectors) {
            known.remove(&picture.name);
            let payload = json!({"set": set, "content": content});
            batch.upsert(picture.name.as_str(), vector, payload)?;
        }
        batch.commit()?;
        report.embedded += loaded.len();
        bar.inc(chunk.len() as u64);
    }
    // What is still in `known` was met by no picture that can be read.
    report.gone = known.len();
    let mut batch = collection.batch();
    for name in known.keys() {
        batch.delete(name.as_str())?;
    }
    batch.commit()?;
    collection.flush()?;
    bar.finish_and_clear();
    Ok(report)
}
